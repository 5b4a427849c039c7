"""The int8 scan of a catalogue: the exact lists, ties by id, masks, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_lists import CATALOGUES, ITEMS, TOP, all_pasts, lists_context
from onnx import TensorProto, helper, numpy_helper

from harness.artifact import Artifact
from harness.engines.base import Engine
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.engines.probing import probe_engine
from harness.errors import EffectError, UnsupportedError
from harness.stages import list_check as check_module
from harness.stages import scan_nodes
from harness.stages.base import Context, Outcome
from harness.stages.catalogue_graph import find_scoring
from harness.stages.catalogue_scan import insert_scan
from harness.stages.convert_fp16 import convert_fp16
from harness.stages.exact_lists import exact_lists, list_overlap
from harness.stages.graphs import load_graph, ort_outputs, sort_nodes
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.stages.quantize_static import quantize_static
from harness.stages.scan_catalogue import scan_catalogue
from harness.tables import Prepared

Make = Callable[[str], tuple[Artifact, Artifact]]


@pytest.fixture
def room(catalogues: Make, tiny_sequences: Prepared, tmp_path: Path) -> Callable[[str], Context]:
    """``room(name)``: a context with a new folder of that name."""
    return lambda name: lists_context(tiny_sequences, catalogues("factors")[0], tmp_path / name)


def effects(outcome: Outcome) -> dict[str, tuple[float, float, float | None]]:
    return {each.name: (each.before, each.after, each.asked) for each in outcome.effects}


def run(kind: type[Engine], artifact: Artifact, batch: dict[str, np.ndarray]) -> np.ndarray:
    if kind is OpenVinoCpu and not (probe := probe_engine("openvino-cpu")).ok:
        pytest.skip(probe.sentence)
    with kind(artifact, threads=1) as engine:
        return engine.score(batch)


@pytest.mark.parametrize("kind", [OrtCpu, OpenVinoCpu])
@pytest.mark.parametrize("name", CATALOGUES)
def test_lists_are_the_exact_ones_on_every_engine(
    name: str,
    kind: type[Engine],
    catalogues: Make,
    room: Callable[[str], Context],
    tiny_sequences: Prepared,
) -> None:
    _, written = catalogues(name)
    outcome = scan_catalogue(written, room("out"))
    batch = all_pasts(written, tiny_sequences)
    expected, found = run(OrtCpu, written, batch), run(kind, outcome.artifact, batch)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    np.testing.assert_array_equal(found["item"], expected["item"])
    assert (found["item"][1] == 0).all()
    assert sorted(found["item"][2])[-3:] == [0, ITEMS - 2, ITEMS - 1]
    assert not np.isin(found["item"][3:], np.arange(1, 30)).any()


@pytest.mark.parametrize("name", CATALOGUES)
def test_the_effects_say_what_was_done(
    name: str, catalogues: Make, room: Callable[[str], Context]
) -> None:
    _, written = catalogues(name)
    outcome = scan_catalogue(written, room("out"), oversample=3)
    told = effects(outcome)
    chunks = 3 if name == "chunks" else 1
    assert told["scanned_chunks"] == (0, chunks, chunks)
    assert told["candidates"] == (TOP, 60, 60)
    assert told["list_overlap"] == (1.0, 1.0, 0.999)
    assert told["model_bytes"][:2] == (written.bytes, outcome.artifact.bytes)
    model = load_graph(outcome.artifact)
    assert told["nodes"][1] == len(model.graph.node)
    assert outcome.artifact.precision == "int8"
    assert outcome.artifact.macs == written.macs + 60 * (4 if name == "factors" else 8)
    rows = [t for t in model.graph.initializer if ITEMS in t.dims and len(t.dims) == 2]
    exact = [t.name for t in rows if t.data_type == TensorProto.FLOAT]
    # The biased model looks histories up in another table than it scores with.
    assert len(exact) == (2 if name == "biased" else 1)
    codes = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and t.dims[1:]]
    assert sum(t.dims[1] for t in codes) == ITEMS
    growth = outcome.artifact.bytes - written.bytes
    # As exported, chunks this small are stored beside the table; their codes take their place.
    assert (growth > 0) == (name != "chunks")
    told = f"the file is {growth:,} bytes larger" if growth > 0 else "the file isn't larger"
    assert told in outcome.notes[0]


def test_more_candidates_than_items_are_capped_and_said(
    catalogues: Make, room: Callable[[str], Context]
) -> None:
    outcome = scan_catalogue(catalogues("chunks")[1], room("out"), oversample=10)
    assert effects(outcome)["candidates"] == (TOP, ITEMS, 200)
    assert "candidates are capped at the catalogue's 121 rows" in outcome.notes[1]


def test_too_small_an_overlap_fails_by_name(
    catalogues: Make, room: Callable[[str], Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = check_module.exact_lists

    def other(queries: np.ndarray, table: np.ndarray, *given, **more):
        scores, items = real(queries, table, *given, **more)
        items[:, 0], scores[:, 0] = ITEMS + 5, scores[:, 0] + 1
        return scores, items

    monkeypatch.setattr(check_module, "exact_lists", other)
    with pytest.raises(
        EffectError, match=r"hold 95\.000% of the exact lists' items with oversampl"
    ):
        scan_catalogue(catalogues("sasrec")[1], room("out"))
    told = scan_catalogue(catalogues("sasrec")[1], room("lenient"), overlap=0.94)
    assert effects(told)["list_overlap"] == (1.0, pytest.approx(0.95), 0.94)


def test_codes_that_are_too_coarse_lose_items(
    catalogues: Make, room: Callable[[str], Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three codes a number and no item to spare the scan can't be right."""
    monkeypatch.setattr("harness.stages.catalogue_scan.LIMIT", 1)
    with pytest.raises(EffectError, match=r"with oversample 1 \(20 candidates\).*raise oversample"):
        scan_catalogue(catalogues("sasrec")[1], room("out"), oversample=1)


def test_scores_that_are_not_the_exact_ones_fail(
    catalogues: Make, room: Callable[[str], Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = check_module.exact_lists

    def other(*given, **more):
        scores, items = real(*given, **more)
        return scores + np.float32(0.01), items

    monkeypatch.setattr(check_module, "exact_lists", other)
    with pytest.raises(
        EffectError, match=r"scores of items differ from the exact ones by \d\.\de-03 \(rel"
    ):
        scan_catalogue(catalogues("sasrec")[1], room("out"))


def test_a_row_model_is_refused(onnx_artifact: Artifact, room: Callable[[str], Context]) -> None:
    with pytest.raises(UnsupportedError, match="model 'dlrm' scores rows and has no catalogue"):
        scan_catalogue(onnx_artifact, room("out"))


def test_a_second_scan_is_refused(catalogues: Make, room: Callable[[str], Context]) -> None:
    once = scan_catalogue(catalogues("factors")[1], room("once")).artifact
    with pytest.raises(EffectError, match="scanned in int8 already"):
        scan_catalogue(once, room("twice"))


def test_scores_that_are_int8_already_are_refused(
    catalogues: Make, room: Callable[[str], Context]
) -> None:
    quantised = quantize_dynamic(catalogues("sasrec")[1], room("int8"), keep_last=False).artifact
    with pytest.raises(UnsupportedError, match=r"is made by a \w+ \(.*\) where Gemm or MatMul was"):
        scan_catalogue(quantised, room("out"))


@pytest.mark.parametrize(
    ("stage", "scan_first"),
    [(quantize_dynamic, False), (quantize_static, False), (quantize_static, True)],
)
def test_int8_layers_and_the_scan_go_together(
    stage: Callable[..., Outcome],
    scan_first: bool,
    catalogues: Make,
    room: Callable[[str], Context],
    tiny_sequences: Prepared,
) -> None:
    order = [scan_catalogue, stage] if scan_first else [stage, scan_catalogue]
    artifact = catalogues("sasrec")[1]
    for step in order:
        artifact = step(artifact, room(step.__name__)).artifact
    items = run(OrtCpu, artifact, all_pasts(artifact, tiny_sequences))["item"]
    assert (items[1] == 0).all()
    assert (items[3:] >= 30).all()


def test_half_precision_after_the_scan_is_refused(
    catalogues: Make, room: Callable[[str], Context]
) -> None:
    scanned = scan_catalogue(catalogues("sasrec")[1], room("out")).artifact
    with pytest.raises(UnsupportedError, match=r"convert_fp16 takes .* dialect .*, this one isn't"):
        convert_fp16(scanned, room("half"))


def hand_graph(
    parts: list[np.ndarray], *, top: int, bias: np.ndarray | None = None, form: str = "Gemm"
) -> onnx.ModelProto:
    """The scoring of a catalogue alone, as the export writes it: inputs queries and seen."""
    node, nodes = helper.make_node, list[onnx.NodeProto]()
    first, stored = 0, {"zero": np.array(0), "pads": np.array([0, 1, 0, 0]), "top": np.array([top])}
    stored["half"] = np.array(-5000, np.float32)
    nodes.append(node("Pad", ["seen", "pads", "zero"], ["pad"]))
    stored["pad_column"] = np.array([0, 0, 0, 1])
    stored |= {"axis": np.array([1]), "start": np.array([0])}
    masked = numpy_helper.from_array(np.array([-1e4], np.float32))
    for at, part in enumerate(parts):
        size, stored[f"first{at}"] = len(part), np.array(first)
        stored |= {
            f"t{at}": part,
            f"size{at}": np.array(size),
            f"k{at}": np.array([min(top, size)]),
        }
        stored |= {f"end{at}": np.array([size])}
        inputs = ["queries", f"t{at}"]
        if form == "MatMul":
            stored[f"t{at}"] = np.ascontiguousarray(part.T)
            nodes.append(node("MatMul", inputs, [f"product{at}"], f"p{at}"))
        elif form == "Slice":  # of one table, as large catalogues are, and turned
            stored |= {"table": np.concatenate(parts), f"from{at}": np.array([first])}
            stored |= {f"to{at}": np.array([first + size]), "rows": np.array([0])}
            del stored[f"t{at}"]
            cut = ["table", f"from{at}", f"to{at}", "rows"]
            nodes.append(node("Slice", cut, [f"part{at}"]))
            nodes.append(node("Transpose", [f"part{at}"], [f"t{at}"], perm=[1, 0]))
            nodes.append(node("MatMul", inputs, [f"product{at}"], f"p{at}"))
        else:
            if bias is not None:
                stored[f"b{at}"] = bias[first : first + size]
                inputs.append(f"b{at}")
            nodes.append(node("Gemm", inputs, [f"product{at}"], f"p{at}", transB=1))
        nodes += [
            node("Sub", ["pad", f"first{at}"], [f"local{at}"]),
            node("GreaterOrEqual", [f"local{at}", "zero"], [f"ge{at}"]),
            node("Less", [f"local{at}", f"size{at}"], [f"lt{at}"]),
            node("And", [f"ge{at}", f"lt{at}"], [f"in{at}"]),
            node("Where", [f"in{at}", f"local{at}", f"size{at}"], [f"where{at}"]),
            node("Pad", [f"product{at}", "pad_column"], [f"wide{at}"]),
            node("Shape", [f"where{at}"], [f"shape{at}"]),
            node("ConstantOfShape", [f"shape{at}"], [f"updates{at}"], value=masked),
            node(
                "ScatterElements", [f"wide{at}", f"where{at}", f"updates{at}"], [f"s{at}"], axis=1
            ),
            node("Slice", [f"s{at}", "start", f"end{at}", "axis"], [f"cut{at}"]),
            node("TopK", [f"cut{at}", f"k{at}"], [f"best{at}", f"places{at}"], axis=1),
            node("Add", [f"places{at}", f"first{at}"], [f"ids{at}"]),
        ]
        first += size
    every = range(len(parts))
    nodes += [
        node("Concat", [f"best{at}" for at in every], ["cat"], axis=1),
        node("Concat", [f"ids{at}" for at in every], ["cat_ids"], axis=1),
        node("TopK", ["cat", "top"], ["scores", "place"], axis=1),
        node("GatherElements", ["cat_ids", "place"], ["found"], axis=1),
        node("Greater", ["scores", "half"], ["left"]),
        node("Where", ["left", "found", "zero"], ["items"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "catalogue",
        [
            value("queries", TensorProto.FLOAT, ["requests", parts[0].shape[1]]),
            value("seen", TensorProto.INT64, ["requests", "seen"]),
        ],
        [
            value("scores", TensorProto.FLOAT, ["requests", top]),
            value("items", TensorProto.INT64, ["requests", top]),
        ],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def scanned(model: onnx.ModelProto, *, candidates: int, reduce_range: bool = True):
    """A function from queries and seen ids to lists of the scan."""
    insert_scan(
        model,
        find_scoring(model, stage="scan_catalogue"),
        candidates=candidates,
        reduce_range=reduce_range,
    )
    sort_nodes(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return ort_outputs(model)


def by_sorting(
    queries: np.ndarray, table: np.ndarray, seen: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The lists of all scores, sorted; id 0 and -10000 where nothing is left."""
    scores = (queries.astype(np.float64) @ table.T.astype(np.float64)).astype(np.float32)
    for row, hidden in zip(scores, seen, strict=True):
        row[[0, *hidden]] = -1e4
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(scores, order, axis=1)
    return best, np.where(best > -5000, order, 0)


@settings(max_examples=40)
@given(
    items=st.integers(12, 400),
    dim=st.integers(1, 40),
    requests=st.integers(1, 5),
    chunks=st.integers(1, 4),
    form=st.sampled_from(["Gemm", "MatMul", "Slice"]),
    reduce_range=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_catalogues_of_any_size(
    items: int, dim: int, requests: int, chunks: int, form: str, reduce_range: bool, seed: int
) -> None:
    """With twice 60 candidates for 11 places the codes' rounding has room in all of them."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(items, dim)).astype(np.float32)
    queries = random.normal(size=(requests, dim)).astype(np.float32)
    seen = random.integers(0, items, size=(requests, int(random.integers(1, 2 * items))))
    model = hand_graph(np.array_split(table, chunks), top=11, form=form)
    find = scanned(model, candidates=min(items, 120), reduce_range=reduce_range)
    scores, found = find({"queries": queries, "seen": seen})
    right = by_sorting(queries, table, seen, 11)
    np.testing.assert_allclose(scores, right[0], rtol=1e-5, atol=1e-5)
    overlap = list_overlap((scores, found), right, tolerance=1e-5)
    assert (overlap[~np.isnan(overlap)] == 1).all()


@settings(max_examples=60)
@given(
    blocks=st.integers(1, 12),
    width=st.sampled_from([1, 3, 8]),
    requests=st.integers(1, 4),
    values=st.integers(1, 30),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_give_what_a_sort_of_all_gives(
    blocks: int, width: int, requests: int, values: int, share: float, seed: int
) -> None:
    """Scores of few values: equal ones go by their place, within blocks and between them."""
    random, size = np.random.default_rng(seed), blocks * width
    count = 1 + int(share * (size - 1))
    scores = random.integers(0, values, size=(requests, size)).astype(np.float32)
    graph = helper.make_graph(
        [],
        "best",
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, ["requests", size])],
        [
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["requests", count]),
            helper.make_tensor_value_info("i", TensorProto.INT64, ["requests", count]),
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_nodes, "WIDTH", width)
        patch.setattr(scan_nodes, "WORTH", 1)
        put = scan_nodes.Writer(graph)
        scan_nodes.put_best(put, "s", size, count, outputs=("v", "i"), name="best")
    graph.node.extend(put.nodes)
    assert "ReduceMax" in {node.op_type for node in graph.node}
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    best, places = ort_outputs(model)({"s": scores})
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(best, np.take_along_axis(scores, order, axis=1))


@pytest.mark.parametrize("kind", [OrtCpu, OpenVinoCpu])
@pytest.mark.parametrize("name", CATALOGUES)
def test_lists_found_by_blocks_are_the_exact_ones(
    name: str,
    kind: type[Engine],
    catalogues: Make,
    room: Callable[[str], Context],
    tiny_sequences: Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of 5 scores: 121 items are filled up to 125, chunks of 50 are whole blocks."""
    monkeypatch.setattr(scan_nodes, "WIDTH", 5)
    monkeypatch.setattr(scan_nodes, "WORTH", 1)
    _, written = catalogues(name)
    scanned = scan_catalogue(written, room("out"), oversample=2).artifact
    operators = [node.op_type for node in load_graph(scanned).graph.node]
    assert operators.count("GatherND") == {"chunks": 2, "biased": 0}.get(name, 1)
    batch = all_pasts(written, tiny_sequences)
    expected, found = run(OrtCpu, written, batch), run(kind, scanned, batch)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    np.testing.assert_array_equal(found["item"], expected["item"])


@pytest.mark.parametrize("requests", [1, 3, 8])
@pytest.mark.parametrize("dim", [1, 7, 32, 33])
@pytest.mark.parametrize("chunks", [1, 3])
def test_items_of_equal_vectors_go_by_id(requests: int, dim: int, chunks: int) -> None:
    """100 items of three vectors: the best one's 33 items fill the list, lowest ids first."""
    random = np.random.default_rng(dim)
    vectors = random.normal(size=(3, dim)).astype(np.float32)
    vectors[1:] = vectors[0] * np.array([[0.5], [0.25]], np.float32)
    table = np.concatenate([np.zeros((1, dim), np.float32), np.tile(vectors, (33, 1))])
    queries = np.tile(vectors[0], (requests, 1))
    find = scanned(hand_graph(np.array_split(table, chunks), top=11), candidates=44)
    scores, items = find({"queries": queries, "seen": np.tile([4, 0, 10], (requests, 1))})
    assert items.tolist() == [[1, 7, *range(13, 38, 3)]] * requests
    assert (scores == scores[0, 0]).all()


def test_slices_of_one_table_leave_it_the_only_one() -> None:
    table = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    model = hand_graph(np.array_split(table, 3), top=11, form="Slice")
    scanned(model, candidates=22)
    stored = {t.name: t for t in model.graph.initializer if len(t.dims) == 2}
    exact = [name for name, t in stored.items() if t.data_type == TensorProto.FLOAT]
    assert exact == ["table"]
    assert {node.op_type for node in model.graph.node if "table" in node.input} == {"Gather"}
    assert [t.dims[1] for name, t in stored.items() if name not in exact] == [20, 20, 20]


def test_a_query_of_zeros_lists_the_lowest_ids() -> None:
    table = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    find = scanned(hand_graph([table], top=11), candidates=22)
    scores, items = find({"queries": np.zeros((1, 4), np.float32), "seen": np.array([[2, 3]])})
    assert items.tolist() == [[1, *range(4, 14)]]
    assert (scores == 0).all()


def test_requests_have_the_same_list_in_every_batch() -> None:
    """A large query beside a small one: each has a scale of its own."""
    random = np.random.default_rng(1)
    table = random.normal(size=(300, 16)).astype(np.float32)
    queries = random.normal(size=(6, 16)).astype(np.float32) * 10.0 ** np.arange(-4, 2)[:, None]
    queries = queries.astype(np.float32)
    find = scanned(hand_graph([table], top=11), candidates=11)
    seen = np.zeros((6, 1), np.int64)
    together = find({"queries": queries, "seen": seen})
    for row in range(6):
        alone = find({"queries": queries[row : row + 1], "seen": seen[:1]})
        np.testing.assert_array_equal(alone[1][0], together[1][row])
        np.testing.assert_allclose(alone[0][0], together[0][row], rtol=1e-6)


def test_large_biases_decide_what_is_a_candidate() -> None:
    """Biases far larger than the products: the list is in their order."""
    random = np.random.default_rng(2)
    table = random.normal(size=(200, 4)).astype(np.float32) * np.float32(0.001)
    bias = random.permutation(200).astype(np.float32)
    queries = random.normal(size=(2, 4)).astype(np.float32)
    for parts in ([table], [table[:120], table[120:]]):
        find = scanned(hand_graph(parts, top=11, bias=bias), candidates=11)
        _, items = find({"queries": queries, "seen": np.zeros((2, 1), np.int64)})
        order = np.argsort(-bias)
        assert items.tolist() == [order[order != 0][:11].tolist()] * 2


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda g: named(g, "p0").attribute.append(helper.make_attribute("alpha", 2.0)), "scales"),
        (lambda g: named(g, "p0").input.append("zero"), "adds something else"),
        (lambda g: named(g, "p1").input.__setitem__(0, "other"), "different queries"),
        (lambda g: named(g, "p0").input.__setitem__(1, "pad"), "'pad' is made by a Pad"),
    ],
)
def test_another_form_is_refused_by_name(
    fault: Callable[[onnx.GraphProto], object], told: str
) -> None:
    table = np.ones((40, 4), np.float32)
    model = hand_graph([table[:20], table[20:]], top=11)
    fault(model.graph)
    with pytest.raises(UnsupportedError, match=told):
        find_scoring(model, stage="scan_catalogue")


def named(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


@pytest.mark.parametrize("chunk", [3, 16, 100])
def test_exact_lists_by_hand(chunk: int) -> None:
    """Scores 1, 3, 3, 2, 2, ... of items 1 and on; item 2 was seen by the second request."""
    table = np.array([[9], [1], [3], [3], [2], [2], [0], [3]], np.float32)
    queries = np.array([[1], [1], [0]], np.float32)
    seen = np.array([[0, 0], [2, 2], [0, 7]])
    scores, items = exact_lists(queries, table, seen, top=4, chunk=chunk)
    assert items.tolist() == [[2, 3, 7, 4], [3, 7, 4, 5], [1, 2, 3, 4]]
    assert scores.tolist() == [[3, 3, 3, 2], [3, 3, 2, 2], [0, 0, 0, 0]]
    everything = np.arange(8)[None, :]
    scores, items = exact_lists(queries[:1], table, everything, top=4, chunk=chunk)
    assert items.tolist() == [[0, 0, 0, 0]]
    assert (scores == -1e4).all()
    biased = exact_lists(queries[:1], table, seen[:1], top=2, bias=table[::-1, 0], chunk=chunk)
    assert (biased[1].tolist(), biased[0].tolist()) == ([[7, 2]], [[12, 5]])


def test_overlap_by_hand() -> None:
    right = np.array([[3, 2, 1.0]] * 4), np.array([[1, 2, 3], [1, 2, 3], [1, 0, 0], [0, 0, 0]])
    found = np.array([[3, 2, 1.0], [3, 2, 0.5], [3, 2, 2], [3, 2, 2]]), right[1].copy()
    found[1][:3] = [[1, 2, 9], [1, 2, 9], [1, 8, 0]]
    overlap = list_overlap(found, right, tolerance=1e-6)
    # A tied item counts, a worse one doesn't, one where nothing is left is a fault.
    np.testing.assert_array_equal(overlap, [1, 2 / 3, 1 / 2, np.nan])


def test_batches_of_the_check_are_bounded(
    catalogues: Make, room: Callable[[str], Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "SCORES", 5 * ITEMS)
    sizes = list[int]()
    real = check_module.exact_lists

    def counted(queries: np.ndarray, *given, **more):
        sizes.append(len(queries))
        return real(queries, *given, **more)

    monkeypatch.setattr(check_module, "exact_lists", counted)
    context = replace(room("out"), seed=4)
    scan_catalogue(catalogues("factors")[1], context, requests=12)
    assert sizes == [5, 5, 2]


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", CATALOGUES)
def test_our_operator_gives_the_exact_lists(
    name: str,
    bits: Literal[8, 4],
    catalogues: Make,
    room: Callable[[str], Context],
    tiny_sequences: Prepared,
) -> None:
    _, written = catalogues(name)
    outcome = scan_catalogue(written, room("out"), form="native", bits=bits)
    batch = all_pasts(written, tiny_sequences)
    expected, found = run(OrtCpu, written, batch), run(OrtCpu, outcome.artifact, batch)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    np.testing.assert_array_equal(found["item"], expected["item"])
    told = effects(outcome)
    chunks = 3 if name == "chunks" else 1
    assert told["scanned_chunks"] == (0, chunks, chunks)
    assert outcome.artifact.precision == f"int{bits}"
    model = load_graph(outcome.artifact)
    assert [node.op_type for node in model.graph.node].count("Scan") == 1
    assert not {"ScatterElements", "TopK"} & {node.op_type for node in model.graph.node}


@pytest.mark.usefixtures("native_library")
def test_options_of_the_other_form_are_refused(
    catalogues: Make, room: Callable[[str], Context]
) -> None:
    _, written = catalogues("sasrec")
    with pytest.raises(UnsupportedError, match="reduce_range is of the plain form"):
        scan_catalogue(written, room("a"), form="native", reduce_range=True)
    with pytest.raises(UnsupportedError, match="the plain form has 8 bits, not 4; ask for native"):
        scan_catalogue(written, room("b"), bits=4)
