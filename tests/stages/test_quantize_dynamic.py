"""Dynamic int8: which nodes, what stays, and the probe for saturating kernels."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from harness.artifact import Artifact
from harness.errors import EffectError
from harness.registry import ValidationError, bind
from harness.stages import saturation
from harness.stages.base import Context
from harness.stages.graphs import ort_scores, random_feeds
from harness.stages.quantize_dynamic import quantize_dynamic


def test_weighted_layers_become_integer_and_the_interaction_does_not(
    onnx_artifact: Artifact,
    make_context: Callable[..., Context],
    file_hashes: Callable[..., object],
) -> None:
    before = file_hashes(onnx_artifact.folder)
    outcome = quantize_dynamic(onnx_artifact, make_context("int8"))
    assert file_hashes(onnx_artifact.folder) == before
    made, quantised = outcome.artifact, outcome.effects[0]
    assert (quantised.name, quantised.after, quantised.asked) == ("quantised_ops", 4, 4)
    operators = [node.op_type for node in onnx.load(made.file).graph.node]
    assert operators.count("MatMulInteger") == 4
    assert operators.count("MatMul") == 2
    assert made.precision == "int8"
    assert made.macs == onnx_artifact.macs
    assert outcome.notes == (
        "dynamic int8: the scores of a row depend on the batch it is in",
        # 2 x 16, 16 x 8, 18 x 32 and 32 x 16 weights
        f"int8: bottom.0, bottom.2, top.0, top.2 ({1248 / onnx_artifact.parameters:.1%} of the "
        "numbers)",
        "kept in fp32: top.4",
        f"embedding tables stay fp32 ({onnx_artifact.embedding_parameters:,} numbers)",
    )
    feeds = random_feeds(made, make_context("x").data, sizes=(20, 10), seed=3)
    exact, rounded = ort_scores(onnx_artifact.file)(feeds), ort_scores(made.file)(feeds)
    assert 0 < np.sqrt(np.mean((exact - rounded) ** 2)) < 0.05 * exact.std()


def test_the_last_layer_too_where_asked(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    outcome = quantize_dynamic(onnx_rec, make_context("a"), keep_last=False, per_channel=False)
    assert outcome.effects[0].after == 3
    assert (outcome.artifact.folder / "model.py").is_file()


def test_nothing_quantised_is_a_failure(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(EffectError, match="nothing to quantise: of 0 MatMul nodes"):
        quantize_dynamic(onnx_rec, make_context("a"), ops=("MatMul",))
    with pytest.raises(EffectError, match="'tower' matches no layer; the layers are f1, f2, out"):
        quantize_dynamic(onnx_rec, make_context("b"), exclude=("tower",))


def test_tables_are_no_choice_here() -> None:
    with pytest.raises(ValidationError, match="'MatMul' or 'Gemm'"):
        bind("stages", "quantize_dynamic", {"ops": ["Gather"]})


def test_kernels_that_saturate_fail_the_variant(
    onnx_rec: Artifact, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = saturation.exact_scores
    monkeypatch.setattr(saturation, "exact_scores", lambda *given: real(*given) * 1.5)
    with pytest.raises(EffectError, match=r"int8 sums saturate on this machine: scores are \d+%"):
        quantize_dynamic(onnx_rec, make_context("a"))
