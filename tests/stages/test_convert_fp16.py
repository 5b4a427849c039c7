"""FP16 graphs: what is halved, what is kept, and overflow that a CPU would hide."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from harness.artifact import Artifact
from harness.errors import EffectError, UnsupportedError
from harness.stages.base import Context
from harness.stages.convert_fp16 import convert_fp16
from harness.stages.graphs import ort_scores, random_feeds
from harness.stages.quantize_static import quantize_static


def scaled(artifact: Artifact, name: str, factor: float) -> Artifact:
    """The artifact with one initialiser multiplied."""
    model = onnx.load(artifact.file)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, artifact.file)
    return artifact


def test_weights_are_halved_and_scores_stay(
    onnx_artifact: Artifact,
    make_context: Callable[..., Context],
    file_hashes: Callable[..., object],
) -> None:
    before = file_hashes(onnx_artifact.folder)
    outcome = convert_fp16(onnx_artifact, make_context("fp16"))
    assert file_hashes(onnx_artifact.folder) == before
    made = outcome.artifact
    assert (made.precision, made.inputs) == (
        "fp16",
        onnx_artifact.inputs,
    )
    halves = next(effect for effect in outcome.effects if effect.name == "fp16_parameters")
    assert halves.after == onnx_artifact.parameters - 17  # the last layer, 16 weights and a bias
    model = onnx.load(made.file)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    assert types["user"] == types["candidates"] == TensorProto.INT64
    assert (
        types["user_values"]
        == model.graph.output[0].type.tensor_type.elem_type
        == TensorProto.FLOAT
    )
    assert "the layer that makes the score is kept in fp32" in outcome.notes
    feeds = random_feeds(made, make_context("x").data, sizes=(9, 5), seed=2)
    found = ort_scores(made.file)(feeds)
    assert np.allclose(found, ort_scores(onnx_artifact.file)(feeds), atol=0.02)
    assert not np.array_equal(found, found.astype(np.float16).astype(np.float32))


def test_overflow_is_found_though_the_cpu_hides_it(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    large = scaled(scaled(onnx_rec, "f1.weight", 3e4), "f2.weight", 3e4)
    with pytest.raises(EffectError, match=r"FP16 overflows: \d+ of 129 scores are not finite"):
        convert_fp16(large, make_context("fp16"))


def test_drift_above_the_tolerance_is_refused(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(EffectError, match=r"of their spread away from fp32, tolerance 0\.00%"):
        convert_fp16(onnx_rec, make_context("fp16"), tolerance=1e-9)


def test_the_score_layer_too_where_asked(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    outcome = convert_fp16(onnx_rec, make_context("fp16"), keep_score=False)
    assert outcome.effects[0].after == onnx_rec.parameters


def test_a_graph_with_nothing_to_convert_or_already_quantised_is_refused(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    int8 = quantize_static(onnx_rec, make_context("int8")).artifact
    with pytest.raises(UnsupportedError, match=r"dialect: tensorrt\), this one isn't: Quantize"):
        convert_fp16(int8, make_context("a"))
    fp16 = convert_fp16(onnx_rec, make_context("b")).artifact
    with pytest.raises(EffectError, match="in half precision already"):
        convert_fp16(fp16, make_context("c"))
