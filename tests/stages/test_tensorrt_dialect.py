"""TensorRT's dialect of int8, read from the graph, and taken by TensorRT-RTX where that is."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from made_lists import SASREC, lists_context, save_lists
from onnx import TensorProto, helper, numpy_helper

from harness import tensorrt_check
from harness.artifact import Artifact
from harness.errors import EffectError, UnsupportedError
from harness.stages.base import Context, Outcome
from harness.stages.convert_fp16 import convert_fp16
from harness.stages.export_onnx import export_onnx
from harness.stages.graphs import graph_facts, load_graph, ort_scores, random_feeds
from harness.stages.qdq import code_steps, input_scale
from harness.stages.quantize_aware import quantize_aware
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.stages.quantize_static import quantize_static
from harness.stages.tensorrt_dialect import (
    decode_tables,
    dialect_faults,
    quantised_products,
    weight_codes,
)
from harness.tables import Prepared

RTX = pytest.mark.skipif(
    tensorrt_check.installed() is None, reason="tensorrt-rtx isn't installed (its extra)"
)


def accepted(artifact: Artifact) -> tensorrt_check.Answer:
    """What TensorRT-RTX says of it."""
    return tensorrt_check.ask(artifact, axes=tensorrt_check.AXES)


def pairs(model: onnx.ModelProto) -> dict[str, list[tuple[onnx.NodeProto, list[np.ndarray]]]]:
    """Q and DQ nodes by type, each with those of its inputs that are constants."""
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found: dict[str, list[tuple[onnx.NodeProto, list[np.ndarray]]]] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            parts = [known[name] for name in node.input if name in known]
            found.setdefault(node.op_type, []).append((node, parts))
    return {kind: sorted(nodes, key=lambda n: n[0].input[1]) for kind, nodes in found.items()}


def int8(artifact: Artifact, context: Context, **options: object) -> Outcome:
    return quantize_static(artifact, context, dialect="tensorrt", **options)  # type: ignore[arg-type]


def test_codes_are_signed_around_zero_per_channel_and_biases_are_floats(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    outcome = int8(onnx_artifact, make_context("int8"))
    model = load_graph(outcome.artifact)
    found = pairs(model)
    assert len(found["QuantizeLinear"]) == 4
    for _, (scale, zero) in found["QuantizeLinear"]:
        assert (scale.dtype, scale.size) == (np.float32, 1)
        assert (zero.dtype, zero.item()) == (np.int8, 0)
    weights = [parts for _, parts in found["DequantizeLinear"] if len(parts) == 3]
    assert len(weights) == 4
    for codes, scale, zero in weights:
        assert codes.dtype == zero.dtype == np.int8
        assert not zero.any()
        assert scale.shape == codes.shape[1:]  # a scale an output
        assert np.abs(codes).max(axis=0).tolist() == [127] * codes.shape[1]
    biases = [node for node in model.graph.node if node.op_type == "Add"]
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert {types[n.input[1]] for n in biases if n.input[1] in types} == {TensorProto.FLOAT}
    assert dialect_faults(model) == []
    assert quantised_products(model) == 4
    effect = outcome.effects[0]
    assert (effect.name, effect.after, effect.asked) == ("quantised_ops", 4, 4)


def test_scores_on_the_cpu_stay_close(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    made = int8(onnx_artifact, make_context("int8"), tables=True).artifact
    feeds = random_feeds(made, make_context("x").data, sizes=(20, 10), seed=3)
    exact, rounded = ort_scores(onnx_artifact.file)(feeds), ort_scores(made.file)(feeds)
    assert 0 < np.sqrt(np.mean((exact - rounded) ** 2)) < 0.05 * exact.std()


def test_tables_are_decoded_before_they_are_looked_up(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    outcome = int8(onnx_artifact, make_context("int8"), tables=True)
    model = load_graph(outcome.artifact)
    makers = {node.output[0]: node for node in model.graph.node}
    gathers = [node for node in model.graph.node if node.op_type == "Gather"]
    tables = [makers[node.input[0]] for node in gathers if node.input[0] in makers]
    assert {node.op_type for node in tables} == {"DequantizeLinear"}
    before, after = load_graph(onnx_artifact), {t.name: t for t in model.graph.initializer}
    for node in tables:
        rows = next(t for t in before.graph.initializer if f"{t.name}.codes" == node.input[0])
        codes, scale = (numpy_helper.to_array(after[name]) for name in node.input)
        decoded = codes * scale[:, None]
        exact = numpy_helper.to_array(rows)
        assert np.abs(decoded - exact).max() <= scale.max() / 2 + 1e-7
    assert dialect_faults(model) == []
    assert outcome.artifact.embedding_parameters == graph_facts(before).embedding_parameters
    assert any(note.startswith("tables in int8, a scale a row: ") for note in outcome.notes)
    assert not any("stay fp32" in note for note in outcome.notes)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reduce_range": True}, "reduce_range: true contradicts dialect: tensorrt"),
        ({"per_channel": False}, "per_channel: false contradicts dialect: tensorrt"),
    ],
)
def test_options_that_contradict_the_dialect_are_named(
    onnx_rec: Artifact, make_context: Callable[..., Context], options: dict[str, bool], named: str
) -> None:
    with pytest.raises(UnsupportedError, match=named):
        int8(onnx_rec, make_context("a"), **options)


def test_tables_need_the_dialect_and_a_table(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(UnsupportedError, match="tables: true needs dialect: tensorrt"):
        quantize_static(onnx_rec, make_context("a"), tables=True)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    empty = helper.make_model(helper.make_graph([], "g", [value], [value]))
    with pytest.raises(EffectError, match="looks up no table"):
        decode_tables(empty)


def test_ranges_and_codes_by_hand() -> None:
    assert input_scale(-1.27, 0.5, name="x", symmetric=True) == (float(np.float32(0.01)), 0)
    assert input_scale(0.0, 2.54, name="x", symmetric=True) == (float(np.float32(0.02)), 0)
    assert code_steps(0, symmetric=True) == (-128, 127)
    assert code_steps(10, symmetric=False) == (-10, 245)
    assert weight_codes("tensorrt", reduce_range=None) == 127
    assert weight_codes("onnxruntime", reduce_range=None) == 64
    assert weight_codes("onnxruntime", reduce_range=False) == 127


def test_the_other_dialect_is_told_by_its_nodes(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    static = load_graph(quantize_static(onnx_artifact, make_context("a")).artifact)
    faults = dialect_faults(static)
    assert any("its zero point isn't 0" in fault for fault in faults)
    assert any("its codes are uint8, expected int8" in fault for fault in faults)
    dynamic = load_graph(quantize_dynamic(onnx_artifact, make_context("b")).artifact)
    assert any("MatMulInteger" in f and "doesn't have" in f for f in dialect_faults(dynamic))
    late = helper.make_graph(
        [
            helper.make_node("Gather", ["t", "i"], ["q"], name="look"),
            helper.make_node("DequantizeLinear", ["q", "s"], ["y"], name="decode"),
            helper.make_node("DequantizeLinear", ["b", "s"], ["z"], name="bias"),
        ],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["rows"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [
            numpy_helper.from_array(np.ones((9, 4), np.int8), "t"),
            numpy_helper.from_array(np.float32(0.1), "s"),
            numpy_helper.from_array(np.ones(4, np.int32), "b"),
        ],
    )
    assert dialect_faults(helper.make_model(late)) == [
        "DequantizeLinear decode: it decodes what look has looked up in a table",
        "DequantizeLinear bias: it decodes a constant of int32 (a bias?), expected int8",
    ]


def test_learned_scales_in_the_dialect(
    rec_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(UnsupportedError, match="reduce_range: true contradicts"):
        quantize_aware(rec_artifact, make_context("a"), dialect="tensorrt", reduce_range=True)
    outcome = quantize_aware(rec_artifact, make_context("b"), dialect="tensorrt", epochs=0.5)
    model = load_graph(outcome.artifact)
    assert dialect_faults(model) == []
    assert quantised_products(model) == 2
    parity = next(effect for effect in outcome.effects if effect.name == "parity_gap")
    assert parity.after < 0.02


def test_half_precision_around_int8_keeps_the_codes(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    before = int8(onnx_artifact, make_context("int8")).artifact
    outcome = convert_fp16(before, make_context("both"))
    made = outcome.artifact
    assert made.precision == "int8+fp16"
    model = load_graph(made)
    assert dialect_faults(model) == []
    assert quantised_products(model) == 4
    old, new = pairs(load_graph(before)), pairs(model)
    for kind, nodes in old.items():
        for (_, exact), (_, half) in zip(nodes, new[kind], strict=True):
            for a, b in zip(exact, half, strict=True):
                assert b.dtype == (np.float16 if a.dtype == np.float32 else np.int8)
                assert np.allclose(a, b.astype(a.dtype), rtol=1e-3)
    feeds = random_feeds(made, make_context("x").data, sizes=(9, 5), seed=2)
    exact, found = ort_scores(before.file)(feeds), ort_scores(made.file)(feeds)
    assert np.sqrt(np.mean((exact - found) ** 2)) < 0.02 * exact.std()


def test_half_precision_refuses_the_other_dialect_by_name(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    for at, stage in enumerate((quantize_static, quantize_dynamic)):
        other = stage(onnx_rec, make_context(f"int8-{at}")).artifact
        with pytest.raises(UnsupportedError, match=r"TensorRT's dialect .*, this one isn't: "):
            convert_fp16(other, make_context(f"half-{at}"))


@RTX
@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_tensorrt_parses_types_and_builds_it(
    onnx_artifact: Artifact, make_context: Callable[..., Context], tables: bool, half: bool
) -> None:
    made = int8(onnx_artifact, make_context("int8"), tables=tables).artifact
    if half:
        made = convert_fp16(made, make_context("both")).artifact
    answer = accepted(made)
    assert answer.accepted, answer
    assert answer.build_seconds is not None


@RTX
def test_tensorrt_takes_the_lists_of_sasrec(tiny_sequences: Prepared, tmp_path) -> None:
    torch = save_lists(tiny_sequences, SASREC, tmp_path / "sasrec")
    graph = export_onnx(torch, lists_context(tiny_sequences, torch, tmp_path / "onnx")).artifact
    half = convert_fp16(graph, lists_context(tiny_sequences, torch, tmp_path / "half")).artifact
    codes = int8(graph, lists_context(tiny_sequences, torch, tmp_path / "int8")).artifact
    for made in (graph, half, codes):
        assert accepted(made).accepted


@RTX
def test_tensorrt_refuses_the_other_dialects(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    static = accepted(quantize_static(onnx_artifact, make_context("a")).artifact)
    assert (static.stopped_at, static.operator) == ("parsed", "QuantizeLinear")
    assert "Non-zero zero point is not supported" in str(static.reason)
    dynamic = accepted(quantize_dynamic(onnx_artifact, make_context("b")).artifact)
    assert (dynamic.stopped_at, dynamic.operator) == ("parsed", "DynamicQuantizeLinear")
