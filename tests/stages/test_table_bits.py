"""Widths of tables: the greedy choice against all choices, and what is measured of a real model."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_lists import lists_context, save_lists

from harness.artifact import Artifact, ModelSpec
from harness.engines.ort_cpu import OrtCpu
from harness.errors import DataError, EffectError, UnsupportedError
from harness.stages.base import Context
from harness.stages.export_onnx import export_onnx
from harness.stages.graphs import draw_rows, load_graph, ort_outputs, ort_scores, row_batches
from harness.stages.quantize_tables import quantize_tables
from harness.stages.table_bits import Choice, Width, choices, choose
from harness.tables import Prepared

WIDTHS = st.tuples(*(st.tuples(st.integers(1, 30), st.integers(0, 50)) for _ in range(4)))
OPTIONS = st.lists(WIDTHS, min_size=1, max_size=3).map(
    lambda tables: {
        f"t{at}": [
            Width(bits, size, float(damage))
            for bits, (size, damage) in zip((4, 8, 16, 32), widths, strict=True)
        ]
        for at, widths in enumerate(tables)
    }
)


def totals(chosen) -> tuple[int, float]:
    return sum(w.bytes for w in chosen), sum(w.damage for w in chosen)


@given(OPTIONS)
def test_no_choice_of_as_few_bytes_does_less_damage(options: dict[str, list[Width]]) -> None:
    every = [totals(chosen) for chosen in product(*options.values())]
    before = (0, math.inf)
    for step in choices(options):
        size, damage = totals(step.values())
        assert size > before[0]
        assert damage < before[1]
        assert damage == min(d for s, d in every if s <= size)
        before = (size, damage)
    assert before[1] == min(damage for _, damage in every)


@given(OPTIONS, st.integers(0, 90))
def test_a_budget_is_kept_and_the_rest_of_it_used(options, budget: int) -> None:
    def drift(chosen: Choice[str]) -> float:
        return totals(chosen.values())[1]

    least = sum(min(w.bytes for w in widths) for widths in options.values())
    if least > budget:
        with pytest.raises(EffectError, match=f"but they take {least:,} at the least; raise the"):
            choose(options, drift, most_bytes=budget, max_drift=None)
        return
    chosen, found = choose(options, drift, most_bytes=budget, max_drift=None)
    size, damage = totals(chosen.values())
    assert size <= budget
    assert damage == found
    within = [totals(step.values()) for step in choices(options)]
    assert damage <= min(d for s, d in within if s <= budget)


def by_hand() -> dict[str, list[Width]]:
    return {
        "a": [Width(4, 10, 8.0), Width(8, 20, 2.0), Width(16, 40, 1.0), Width(32, 80, 0.0)],
        "b": [Width(4, 100, 5.0), Width(8, 200, 0.0)],
    }


def test_by_hand() -> None:
    """Saved a byte: a to 8 bits 0.6, a to 16 0.05, b to 8 0.05, a to fp32 0.025."""
    told = [(step["a"].bits, step["b"].bits) for step in choices(by_hand())]
    assert told == [(4, 4), (8, 4), (16, 4), (16, 8), (32, 8)]


def test_drift_is_measured_until_it_is_small_enough() -> None:
    tried = list[tuple[int, int]]()

    def drift(chosen: Choice[str]) -> float:
        tried.append((chosen["a"].bits, chosen["b"].bits))
        return 1.5 * totals(chosen.values())[1]  # together it is more than one by one

    chosen, found = choose(by_hand(), drift, most_bytes=None, max_drift=6.5)
    assert (chosen["a"].bits, chosen["b"].bits, found) == (16, 8, 1.5)
    assert tried == [(16, 4), (16, 8)]  # 13 and 7 are beyond without being measured
    with pytest.raises(
        EffectError, match=r"max_drift: 6\.5 can't be kept within 150 bytes \(9 was"
    ):
        choose(by_hand(), drift, most_bytes=150, max_drift=6.5)
    with pytest.raises(EffectError, match=r"within 130 bytes \(none was near\)"):
        choose(by_hand(), drift, most_bytes=130, max_drift=1.0)


def facts(outcome) -> dict[str, tuple[float, float, float | None]]:
    return {e.name: (e.before, e.after, e.asked) for e in outcome.effects}


USERS, ITEMS = "bits:inputs.tables.0.weight", "bits:inputs.tables.2.weight"


def scaled(artifact: Artifact, **factors: float) -> None:
    """Multiply values of tables, by their number, so that some matter more."""
    model = load_graph(artifact)
    for tensor in model.graph.initializer:
        for number, factor in factors.items():
            if tensor.name == f"inputs.tables.{number.removeprefix('t')}.weight":
                table = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(table, tensor.name))
    onnx.save(model, artifact.file)


def test_the_table_that_matters_gets_the_bits(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    """The items' values are made so small that their rounding can't be seen. Of 8 columns 16 bits
    take what 8 bits with a scale and an offset take, 16 bytes a row, and round less.
    """
    scaled(onnx_artifact, t2=1e-3)
    outcome = quantize_tables(
        onnx_artifact, make_context("m"), bits="mixed", budget=0.4, form="plain", min_rows=20
    )
    found = facts(outcome)
    before = (41 + 31) * 8 * 4
    assert found["table_bytes"] == (before, 41 * 16 + 31 * 8, int(0.4 * before))
    assert found[USERS][1] > found[ITEMS][1] == 4
    assert 0 < found["score_drift"][1] < 1e-3
    (why,) = (note for note in outcome.notes if note.startswith("inputs.tables.0.weight: 16 bits"))
    alone = [float(word.split(" at ")[0]) for word in why.split("drift by ")[1].split(", ")]
    assert len(alone) == 3
    assert alone[0] > alone[1] > alone[2] > 0
    assert outcome.artifact.precision == "fp32 compute, int4 weights"
    with OrtCpu(outcome.artifact, threads=1) as engine:
        assert engine.describe().precision == outcome.artifact.precision


def test_the_drift_told_is_that_of_the_two_files(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    context = make_context("m")
    outcome = quantize_tables(
        onnx_artifact, context, bits="mixed", budget=0.27, sample_rows=300, min_rows=20
    )
    split = context.data.splits["train"]
    rows = draw_rows(split, count=300, seed=context.seed)
    exact, found = (
        np.concatenate(
            [
                ort_scores(each.file)(batch).ravel()
                for batch in row_batches(context.data, split, rows, each.inputs)
            ]
        ).astype(np.float64)
        for each in (onnx_artifact, outcome.artifact)
    )
    expected = np.mean((found - exact) ** 2) / np.var(exact)
    assert facts(outcome)["score_drift"][1] == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-6


@pytest.mark.parametrize("max_drift", [1e-3, 1e-6])
def test_the_fewest_bytes_within_a_drift(
    max_drift: float, onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    outcome = quantize_tables(
        onnx_artifact, make_context("m"), bits="mixed", max_drift=max_drift, min_rows=20
    )
    found = facts(outcome)
    assert found["score_drift"][1] <= found["score_drift"][2] == max_drift
    expected = {1e-3: {4, 8}, 1e-6: {16, 32}}[max_drift]
    assert {found[USERS][1], found[ITEMS][1]} <= expected


def test_values_beyond_half_precision_get_eight_bits_or_stay(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    scaled(onnx_artifact, t0=1e6)
    outcome = quantize_tables(
        onnx_artifact, make_context("m"), bits="mixed", budget=0.9, min_rows=20
    )
    assert facts(outcome)[USERS][1] in (8, 32)
    told = "inputs.tables.0.weight: 4 and 16 bits can't hold its largest value"
    assert told in outcome.notes
    scaled(onnx_artifact, t0=np.inf)
    with pytest.raises(DataError, match=r"inputs\.tables\.0\.weight, row 0: a value is not finite"):
        quantize_tables(onnx_artifact, make_context("n"), bits="mixed", budget=0.9, min_rows=20)


def test_limits_that_can_not_be_are_refused(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(UnsupportedError, match="budget, sample_rows: for bits: mixed alone; with"):
        quantize_tables(onnx_artifact, make_context("a"), bits=8, budget=0.5, sample_rows=9)
    with pytest.raises(UnsupportedError, match="bits: mixed takes a budget"):
        quantize_tables(onnx_artifact, make_context("b"), bits="mixed")
    with pytest.raises(EffectError, match="bytes for 2 tables, but they take 576 at the least"):
        quantize_tables(onnx_artifact, make_context("c"), bits="mixed", budget=0.2, min_rows=20)
    with pytest.raises(EffectError, match=r"no effect; tables left alone: .*\(worth its bytes\)"):
        quantize_tables(
            onnx_artifact, make_context("d"), bits="mixed", max_drift=1e-30, min_rows=20
        )


NEXT = '''"""A user's own model of next items: the table that is looked up isn't scored with."""

from torch import nn


class Next(nn.Module):
    def __init__(self, n_items):
        super().__init__()
        self.items = nn.Embedding(n_items, 16, padding_idx=0)
        self.out = nn.Linear(16, n_items)

    def forward(self, history):
        return self.out(self.items(history).mean(1))
'''


@pytest.mark.parametrize(("budget", "bits"), [(0.2, 4), (0.6, 16)])
def test_of_lists_the_items_that_change_are_counted(
    budget: float, bits: int, tiny_sequences: Prepared, tmp_path
) -> None:
    own = {"path": "m.py", "attribute": "Next", "parameters": {}, "top": 20}
    artifact = save_lists(
        tiny_sequences, ModelSpec("file", own, "m.py"), tmp_path / "lists", source=NEXT
    )
    exported = export_onnx(
        artifact, lists_context(tiny_sequences, artifact, tmp_path / "onnx")
    ).artifact
    context = lists_context(tiny_sequences, artifact, tmp_path / "mixed")
    outcome = quantize_tables(exported, context, bits="mixed", budget=budget, min_rows=20)
    drift = next(effect for effect in outcome.effects if effect.name == "score_drift")
    assert drift.unit == "share of the lists' items"
    split = tiny_sequences.splits["train"]
    rows = draw_rows(split, count=2048, seed=context.seed)
    missed = []
    for batch in row_batches(tiny_sequences, split, rows, exported.inputs):
        exact, found = (ort_outputs(each.file)(batch)[1] for each in (exported, outcome.artifact))
        missed += [1 - len(set(a) & set(b)) / len(a) for a, b in zip(exact, found, strict=True)]
    assert [e.after for e in outcome.effects if e.name.startswith("bits:")] == [bits]
    assert drift.after == pytest.approx(np.mean(missed), abs=1e-3)
    assert (drift.after > 0.005) == (bits == 4)
