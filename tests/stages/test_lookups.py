"""Look-ups found in graphs, their forms, and the choice among them."""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from made_lists import TIED, lists_context, save_lists
from onnx import TensorProto, helper, numpy_helper

from harness.artifact import Artifact, ModelSpec
from harness.errors import DataError, EffectError
from harness.stages.base import Context
from harness.stages.export_onnx import export_onnx
from harness.stages.graphs import load_graph
from harness.stages.lookup_forms import encode, written
from harness.stages.lookup_graphs import replace_tables, table_arrays
from harness.stages.lookup_timing import Compared, compare, lookup_call
from harness.stages.lookups import (
    check_lookups,
    chosen_by,
    count_reads,
    fields_read,
    find_lookups,
    find_tables,
    unknown_rows,
)
from harness.tables import Prepared

FUSED = '''"""A user's own model: users and items in one table, ids shifted."""

import torch
from torch import nn


class Fused(nn.Module):
    def __init__(self, n_users, n_items):
        super().__init__()
        self.rows = nn.Embedding(n_users + n_items, 7)
        self.start = n_users
        self.out = nn.Linear(14, 1)

    def forward(self, user, item):
        pair = torch.stack([user, item + self.start], -1)
        return self.out(self.rows(pair).flatten(-2)).squeeze(-1)
'''


@pytest.fixture
def fused(save_artifact: Callable[..., Artifact], make_context: Callable[..., Context]) -> Artifact:
    """A model of one table of 72 rows, exported; the first item is row 41."""
    spec = {"path": "model.py", "attribute": "Fused", "parameters": {}}
    torch_artifact = save_artifact(ModelSpec("file", spec, "model.py"), name="f", source=FUSED)
    return export_onnx(torch_artifact, make_context("exported")).artifact


def test_a_fused_table_is_read_with_computed_ids(fused: Artifact, tiny: Prepared) -> None:
    model = load_graph(fused)
    (lookup,), left = find_lookups(model, min_rows=72)
    assert (lookup.rows, lookup.dim, left) == (72, 7, {})
    assert fields_read(model, [lookup], fused, tiny) == {lookup.table: ("household", "product")}
    reads = count_reads(model, [lookup], fused, tiny)[lookup.table]
    train = tiny.splits["train"]
    np.testing.assert_array_equal(reads[:41], np.bincount(train.user_of_row, minlength=41))
    products = np.asarray(train.arrays["candidates"][:, 0])
    np.testing.assert_array_equal(reads[41:], np.bincount(products, minlength=31))
    unknown = unknown_rows(model, [lookup], fused, tiny)[lookup.table]
    np.testing.assert_array_equal(unknown, [0, 41])


def test_tables_have_fields_and_patterns_choose_them(
    onnx_artifact: Artifact, tiny: Prepared
) -> None:
    model = load_graph(onnx_artifact)
    lookups, _ = find_lookups(model, min_rows=1)
    fields = fields_read(model, lookups, onnx_artifact, tiny)
    assert sorted(fields.values()) == [("brand",), ("household",), ("product",), ("weekday",)]
    chosen = chosen_by(lookups, fields, ["pro*", "inputs.tables.0.*"])
    assert [fields[each.table] for each in chosen] == [("household",), ("product",)]
    assert chosen_by(lookups, fields, []) == lookups
    with pytest.raises(EffectError, match=r"'shop' matches no table; the tables are .*\(brand\)"):
        chosen_by(lookups, fields, ["shop"])


def test_a_tied_table_is_left_by_name(tiny_sequences: Prepared, tmp_path) -> None:
    artifact = save_lists(tiny_sequences, TIED, tmp_path / "tied")
    context = lists_context(tiny_sequences, artifact, tmp_path / "onnx")
    exported = export_onnx(artifact, context).artifact
    with pytest.raises(EffectError, match=r"no embedding table to change; .*\(also read by \w+ '"):
        find_tables(load_graph(exported), exported, tiny_sequences, min_rows=1, patterns=())


def graph_of(nodes: list[onnx.NodeProto], table: np.ndarray) -> onnx.ModelProto:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    initial = [numpy_helper.from_array(table, "table")]
    return helper.make_model(helper.make_graph(nodes, "g", [ids], [out], initial))


def test_what_is_no_look_up_of_rows_is_left() -> None:
    table = np.ones((4, 3), np.float32)
    rows = helper.make_node("Gather", ["table", "ids"], ["rows"])
    columns = helper.make_node("Gather", ["table", "ids"], ["out"], name="cut", axis=1)
    assert find_lookups(graph_of([rows, columns], table), min_rows=1) == (
        [],
        {"table": "also read by Gather 'cut'"},
    )
    alone = helper.make_node("Gather", ["table", "ids"], ["out"])
    (found,), _ = find_lookups(graph_of([alone], table), min_rows=4)
    assert (found.results, found.ids, found.bytes) == (("out",), ("ids",), 48)
    assert find_lookups(graph_of([alone], table), min_rows=5)[1] == {"table": "4 rows"}
    assert find_lookups(graph_of([alone], table.astype(np.float16)), min_rows=1)[1] == {
        "table": "not in fp32"
    }
    branch = helper.make_graph(
        [helper.make_node("Identity", ["table"], ["inner"])],
        "b",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    choice = helper.make_node(
        "If", ["c"], ["other"], name="choice", then_branch=branch, else_branch=branch
    )
    _, left = find_lookups(graph_of([alone, choice], table), min_rows=1)
    assert left == {"table": "also read by If 'choice'"}


FORMS = [("plain", 8), ("block", 8), ("plain", 4), ("block", 4), ("half", 16)]


@pytest.mark.parametrize("scales", ["fp16", "fp32"])
@pytest.mark.parametrize(("form", "bits"), FORMS)
def test_every_form_gives_what_its_codes_say(
    form, bits, scales, fused: Artifact, make_context: Callable[..., Context]
) -> None:
    """On a table of odd width that is read with computed ids, some of them unknown."""
    model, context = load_graph(fused), make_context()
    (lookup,), _ = find_lookups(model, min_rows=1)
    table = table_arrays(model, [lookup], fused.folder)[lookup.table]
    coded = encode(table, form, bits=bits, scales=scales, search=True, where="t")
    replace_tables(model, {lookup: written(lookup.table, coded)})
    onnx.checker.check_model(model)
    assert check_lookups(model, {lookup: coded.decode}, fused, context) <= 1e-6
    np.testing.assert_allclose(coded.decode(np.arange(72)), table, atol=0.25)
    with pytest.raises(EffectError, match="looks up other rows than its codes say"):
        check_lookups(model, {lookup: lambda ids: coded.decode(ids) * 1.001}, fused, context)


def test_half_precision_tells_its_error_and_its_range() -> None:
    table = np.array([[1.0, 2049.0], [0.0, 0.0]], np.float32)
    made = encode(table, "half", bits=16, scales="fp32", search=False, where="t")
    np.testing.assert_allclose(made.error, [1 / np.sqrt(1 + 2049**2), 0])
    np.testing.assert_array_equal(made.decode(np.array([[0]])), [[[1, 2048]]])
    table[1, 0] = 7e4
    with pytest.raises(DataError, match="t, row 1: a value is beyond half precision; use 8 bits"):
        encode(table, "half", bits=16, scales="fp32", search=False, where="t")


def test_a_timed_call_looks_up_every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[np.ndarray]] = []
    run = onnxruntime.InferenceSession.run_with_iobinding

    def watched(session: onnxruntime.InferenceSession, binding: Any) -> None:
        run(session, binding)
        found.append(binding.copy_outputs_to_cpu())

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", watched)
    table = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    coded = encode(table, "plain", bits=8, scales="fp32", search=False, where="t")
    batches = [
        [np.array([1, 2]), np.array([3], np.int32)],
        [np.arange(5), np.arange(2, dtype=np.int32)],
    ]
    for tables in ([("a", table), ("b", table)], [("a", coded), ("a", coded)]):
        call = lookup_call(tables, batches)
        found.clear()
        for at in (1, 0, 1):
            call(at)
        decoded = table if tables[0][1] is table else coded.decode(np.arange(20))
        for rows, at in zip(found, (1, 0, 1), strict=True):
            for got, ids in zip(rows, batches[at], strict=True):
                np.testing.assert_allclose(got, decoded[ids], rtol=1e-6, atol=1e-6)


def test_forms_take_turns_and_are_compared_inside_a_round() -> None:
    """Each call advances a clock by its form's time and the round's drift, which cancels."""
    now, order = [0.0], list[tuple[str, int]]()
    spent = {"fp32": 2.0, "plain": 5.0, "block": 3.0}
    drift = count(1)

    def call(name: str) -> Callable[[int], object]:
        def run(at: int) -> None:
            if len(order) % 3 == 0:
                now.append(float(next(drift)))
            order.append((name, at))
            now[0] += spent[name] * now[-1]

        return run

    found = compare(
        {name: call(name) for name in spent}, batches=2, rounds=6, warm=2, clock=lambda: now[0]
    )
    assert found.ratios == {"plain": pytest.approx(2.5), "block": pytest.approx(1.5)}
    assert found.quickest == "block"
    rounds = [order[at : at + 3] for at in range(0, len(order), 3)]
    assert len(rounds) == 8
    assert all({name for name, _ in each} == set(spent) for each in rounds)
    assert all(len({at for _, at in each}) == 1 for each in rounds)
    assert {each[0][0] for each in rounds} == set(spent)  # each is first at times
    assert {each[0][1] for each in rounds} == {0, 1}


def test_smaller_but_slower_is_said() -> None:
    slow = Compared({"plain": 2.0, "block": 1.25}, 10e-6).notes(ids=512, tables=2)
    assert slow == (
        "512 ids of 2 tables, onnxruntime on one thread: fp32 took 10.0 us, of its time plain "
        "2.00x, block 1.25x; block was kept",
        "smaller but slower: look-ups take 1.25x the time of fp32's Gather",
    )
    assert len(Compared({"plain": 0.9}, 10e-6).notes(ids=512, tables=2)) == 1
