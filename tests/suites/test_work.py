"""The work of one call, counted by hand for small graphs and modules."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from harness.artifact import Artifact, ModelSpec
from harness.errors import UnsupportedError
from harness.modules import build_module, model_inputs, model_outputs, save_module
from harness.schema import write_schema
from harness.stages.export_onnx import export_module
from harness.suites.work import Counts, Table, call_work, count_work
from harness.tables import Prepared, TensorSpec

SASREC = ModelSpec("sasrec", {"dim": 8, "blocks": 1, "top": 20})

USER = TensorSpec("user", "int64", ("requests", 1))
ITEMS = TensorSpec("items", "int64", ("requests", "candidates", 2))
LOGITS = TensorSpec("logits", "float32", ("requests", "candidates"))
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def onnx_artifact(
    folder: Path,
    nodes: list[Any],
    weights: dict[str, np.ndarray],
    *,
    inputs: tuple[TensorSpec, ...] = (USER, ITEMS),
    **changes: Any,
) -> Artifact:
    """An artifact of a graph of these nodes and weights; 8 multiply-accumulates a row."""
    kinds = {"int64": INT64, "float32": FLOAT}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(s.name, kinds[s.dtype], list(s.shape)) for s in inputs],
        [helper.make_tensor_value_info("logits", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    columns = {"macs": 8, "embedding_parameters": 1, **changes}
    return Artifact(folder, "onnx", ModelSpec("tiny", {}), inputs, (LOGITS,), **columns)


NODES = [
    helper.make_node("Gather", ["users", "user"], ["u"]),  # (requests, 1, 4)
    helper.make_node("Gather", ["products", "items"], ["p"]),  # (requests, candidates, 2, 4)
    helper.make_node("MatMul", ["p", "w"], ["scores"]),
]
WEIGHTS = {
    "users": np.zeros((100, 4), np.float32),  # 1600 bytes, 16 a row
    "products": np.zeros((50, 4), np.float16).astype(np.float16),  # 400 bytes, 8 a row
    "w": np.zeros((4, 1), np.float32),  # 16 bytes
    "b": np.zeros(3, np.float32),  # 12 bytes
}


def test_a_graph_of_a_product_and_two_tables(tmp_path: Path) -> None:
    counts = count_work(onnx_artifact(tmp_path, NODES, WEIGHTS))
    assert counts.weight_bytes == 16 + 12
    assert counts.tables == (
        Table(1600, 16, per_call=0, per_request=1, per_row=0),
        Table(400, 8, per_call=0, per_request=0, per_row=2),
    )
    work = call_work(counts, requests=3, candidates=10)
    assert work.operations == 2 * 8 * 30
    assert work.gathered == ((1600, 3 * 16), (400, 30 * 2 * 8))
    assert work.input_bytes == 3 * 8 + 30 * 2 * 8
    assert work.output_bytes == 30 * 4
    assert work.dense_bytes == 28 + 24 + 480 + 120
    assert work.gathered_bytes == 48 + 480
    assert work.bytes == 652 + 528


def test_ids_that_are_worked_out_on_the_way(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["items", "first"], ["ids"], axis=2),  # (requests, candidates)
        helper.make_node("Gather", ["products", "ids"], ["p"]),
        helper.make_node("Gather", ["products", "fixed"], ["q"]),  # 5 rows, whatever the call
    ]
    weights = {
        "products": np.zeros((50, 4), np.float32),
        "first": np.array(0),
        "fixed": np.arange(5),
    }
    counts = count_work(onnx_artifact(tmp_path, nodes, weights))
    assert counts.tables == (Table(800, 16, per_call=5, per_request=0, per_row=1),)
    assert counts.weight_bytes == 8 + 40  # the ids: a gather of activations is no look-up
    assert call_work(counts, requests=2, candidates=3).gathered == ((800, (5 + 6) * 16),)


def test_an_int8_table_counts_its_bytes_and_scales(tmp_path: Path) -> None:
    weights = {
        "codes": np.zeros((50, 4), np.int8),
        "scale": np.ones(50, np.float32),
        "zero": np.zeros(50, np.int8),
        "w": np.zeros((4, 8), np.int8),
    }
    before = [
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["table"], axis=0),
        helper.make_node("Gather", ["table", "items"], ["p"]),
    ]
    counts = count_work(onnx_artifact(tmp_path, before, weights))
    assert counts.tables == (Table(200 + 200 + 50, 4 + 4 + 1, 0, 0, 2),)
    assert counts.weight_bytes == 32  # the int8 product's, one byte each

    after = [
        helper.make_node("Gather", ["codes", "items"], ["c"]),
        helper.make_node("Gather", ["scale", "items"], ["s"]),
    ]
    weights = {name: weights[name] for name in ("codes", "scale")}
    counts = count_work(onnx_artifact(tmp_path, after, weights, parameters=1))
    assert counts.tables == (Table(200, 4, 0, 0, 2), Table(200, 4, 0, 0, 2))


def test_a_large_weight_does_not_hide_a_shape(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["items", "flat"], ["ids"]),
        helper.make_node("Gather", ["products", "ids"], ["p"]),
    ]
    weights = {"products": np.zeros((5000, 4), np.float32), "flat": np.array([-1])}
    counts = count_work(onnx_artifact(tmp_path, nodes, weights))
    assert counts.tables == (Table(80_000, 16, 0, 0, 2),)


def test_what_cannot_be_counted_says_why(tmp_path: Path) -> None:
    good = onnx_artifact(tmp_path, NODES, WEIGHTS)
    for changes, message in (
        ({"format": "tensorrt"}, "a TensorRT plan doesn't show"),
        ({"macs": 0}, "tells no multiply-accumulates"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            count_work(replace(good, **changes))  # type: ignore[arg-type]
    hidden = onnx_artifact(tmp_path, NODES[2:], {"w": WEIGHTS["w"]}, embedding_parameters=600)
    with pytest.raises(UnsupportedError, match="no lookup in them is seen"):
        count_work(hidden)
    unknown = [
        helper.make_node("NonZero", ["items"], ["places"]),  # as many as the values say
        helper.make_node("Gather", ["products", "places"], ["p"]),
    ]
    dynamic = onnx_artifact(tmp_path, unknown, {"products": WEIGHTS["products"]})
    with pytest.raises(UnsupportedError, match="the shape of the ids 'places'"):
        count_work(dynamic)


def test_lookups_that_grow_otherwise_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["items"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["items", "turned"], ["pairs"]),  # candidates x candidates
        helper.make_node("Gather", ["products", "pairs"], ["p"]),
    ]
    with pytest.raises(UnsupportedError, match="lookups in 'products' don't grow with the rows"):
        count_work(onnx_artifact(tmp_path, nodes, {"products": WEIGHTS["products"]}))


def test_a_module_has_the_work_of_its_graph(tiny_artifact: Artifact) -> None:
    """The tiny DLRM: fields of 41, 31, 7 and 8 rows of 8 numbers; two are of the candidate."""
    counts = count_work(tiny_artifact)
    assert sorted((t.bytes, t.per_request, t.per_row) for t in counts.tables) == [
        (7 * 32, 0, 1),
        (8 * 32, 1, 0),
        (31 * 32, 0, 1),
        (41 * 32, 1, 0),
    ]
    assert {(t.row_bytes, t.per_call) for t in counts.tables} == {(32, 0)}
    numbers = tiny_artifact.parameters - tiny_artifact.embedding_parameters
    assert counts.weight_bytes == 4 * numbers
    work = call_work(counts, requests=1, candidates=16)
    assert work.operations == 2 * 16 * tiny_artifact.macs
    assert work.gathered_bytes == (1 + 1 + 16 + 16) * 32
    # ids of 2 + 16 x 2 fields at 8 bytes, numbers of 1 + 16 x 1 fields at 4
    assert work.input_bytes == 8 * (2 + 32) + 4 * (1 + 16)


def test_a_users_flat_module(rec_artifact: Artifact) -> None:
    counts = count_work(rec_artifact)
    assert [(t.bytes, t.per_request, t.per_row) for t in counts.tables] == [
        (41 * 32, 0, 1),
        (31 * 32, 0, 1),
    ]
    assert call_work(counts, requests=4, candidates=1).output_bytes == 16


def test_weights_of_several_types_are_not_told_apart(
    save_artifact: Callable[..., Artifact], rec_artifact: Artifact
) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(rec_artifact.file)
    tensors["out.weight"] = tensors["out.weight"].to(torch.float16)
    save_file(tensors, rec_artifact.file)
    with pytest.raises(UnsupportedError, match="weights of several types"):
        count_work(rec_artifact)


COUNTS = Counts(8, 28, (Table(1600, 16, 5, 1, 0), Table(400, 8, 0, 0, 2)), (USER, ITEMS), (LOGITS,))


@given(requests=st.integers(1, 1000), candidates=st.integers(1, 1000))
def test_more_rows_never_take_less(requests: int, candidates: int) -> None:
    work = call_work(COUNTS, requests=requests, candidates=candidates)
    for more in (
        call_work(COUNTS, requests=requests + 1, candidates=candidates),
        call_work(COUNTS, requests=requests, candidates=candidates + 1),
    ):
        assert more.operations > work.operations
        assert more.bytes > work.bytes
    # Together or apart, the same rows are looked up but for what each call looks up once.
    once = 5 * 16
    apart = call_work(COUNTS, requests=1, candidates=candidates).gathered_bytes
    assert work.gathered_bytes - once == requests * (apart - once)


def test_a_table_that_is_looked_up_and_multiplied_counts_whole(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["users", "user"], ["u"]),  # (requests, 1, 4)
        helper.make_node("Transpose", ["users"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["u", "columns"], ["scores"]),
    ]
    weights = {"users": WEIGHTS["users"], "b": WEIGHTS["b"]}
    counts = count_work(onnx_artifact(tmp_path, nodes, weights, inputs=(USER,)))
    assert counts.weight_bytes == 1600 + 12  # the lookups add what they gather again
    (table,) = counts.tables
    assert (table.bytes, table.row_bytes, table.per_request) == (1600, 16, 1)


@pytest.mark.parametrize("exported", [False, True])
def test_a_next_item_model_reads_its_whole_catalogue(
    tiny_sequences: Prepared, tmp_path: Path, exported: bool
) -> None:
    module = build_module(SASREC, tiny_sequences.schema, folder=tmp_path, seed=1)
    write_schema(tmp_path, tiny_sequences.schema, {})
    inputs = model_inputs(module, tiny_sequences.schema)
    start = Artifact(tmp_path, "torch", SASREC, inputs, model_outputs(module, inputs))
    artifact = save_module(module.eval(), start, tmp_path)
    numbers = sum(parameter.numel() for parameter in module.parameters())
    if exported:
        (tmp_path / "model.onnx").write_bytes(
            export_module(module, artifact, opset=18).SerializeToString()
        )
        artifact = replace(artifact, format="onnx")
    counts = count_work(artifact)
    items = tiny_sequences.schema.field(tiny_sequences.schema.item).cardinality
    # besides its weights a graph holds a few constants, such as the order of the positions
    assert 4 * numbers <= counts.weight_bytes <= 4 * numbers + 2000 * exported
    assert [(t.bytes, t.row_bytes, t.per_request) for t in counts.tables] == [
        (items * 8 * 4, 8 * 4, tiny_sequences.schema.length)
    ]
    two = call_work(counts, requests=2, candidates=1)
    one = call_work(counts, requests=1, candidates=1)
    assert two.bytes > one.bytes > items * 8 * 4
    assert two.operations == 2 * one.operations > 2 * items * 8
