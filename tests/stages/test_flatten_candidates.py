"""Towers as products of plain matrices: the same scores, fewer operators, told when none fits."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.artifact import Artifact
from harness.errors import EffectError
from harness.stages import graph_timing
from harness.stages.base import Context
from harness.stages.export_onnx import export_onnx
from harness.stages.flatten_candidates import _flatten, _towers, flatten_candidates
from harness.stages.graph_timing import Pair
from harness.stages.graphs import load_graph, ort_outputs, random_feeds
from harness.stages.pairing import Speedup
from harness.stages.quantize_static import quantize_static

Make = Callable[..., Context]


@pytest.fixture
def timed_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Speedup], None]:
    def set_to(speedup: Speedup) -> None:
        pair = Pair(speedup, 2e-3, 1e-3)
        monkeypatch.setattr(graph_timing, "time_pair", lambda *_, **__: pair)

    set_to(Speedup(2.0, 1.5, 2.5))
    return set_to


def operators(artifact: Artifact) -> list[str]:
    return [node.op_type for node in load_graph(artifact).graph.node]


def tower(*, opset: int = 18, squeezed: bool = True, bias: bool = True, axis: int = 2):
    """relu(x w + b) v + c over (requests, candidates, 4), and its weights."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(4, 3)).astype(np.float32),
        "b": random.normal(size=3).astype(np.float32),
        "v": random.normal(size=(3, 1 if squeezed else 2)).astype(np.float32),
        "c": random.normal(size=1 if squeezed else 2).astype(np.float32),
        "axes": np.array([axis]),
    }
    first = [helper.make_node("MatMul", ["x", "w"], ["xw"], name="first")]
    first.append(helper.make_node("Add" if bias else "Mul", ["xw", "b"], ["h"]))
    last = [
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["rv"]),
        helper.make_node("Add" if bias else "Mul", ["c", "rv"], ["s" if squeezed else "y"]),
    ]
    if squeezed:
        last.append(helper.make_node("Squeeze", ["s", "axes"], ["y"]))
    graph = helper.make_graph(
        first + last,
        "tower",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["requests", "candidates", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    domains = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8), weights


@pytest.mark.parametrize("squeezed", [True, False])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 5), (3, 0)])
def test_a_tower_gives_what_numpy_gives(squeezed: bool, sizes: tuple[int, int]) -> None:
    model, w = tower(squeezed=squeezed)
    (found,) = _towers(model)
    assert (found.start, found.rank, found.columns, found.result) == ("x", 3, 4, "y")
    assert found.outputs == (0 if squeezed else 2)
    _flatten(model, found)
    assert [node.op_type for node in model.graph.node].count("Gemm") == 2
    x = np.random.default_rng(1).normal(size=(*sizes, 4)).astype(np.float32)
    hidden = np.maximum(x @ w["w"] + w["b"], 0) @ w["v"] + w["c"]
    (given,) = ort_outputs(model)({"x": x})
    assert given.shape == (sizes if squeezed else (*sizes, 2))
    np.testing.assert_allclose(given, hidden[..., 0] if squeezed else hidden, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"opset": 13}, {"bias": False}], ids=["an older opset", "no bias"]
)
def test_what_has_no_gain_is_left_alone(changes: dict[str, object]) -> None:
    assert list(_towers(tower(**changes)[0])) == []  # type: ignore[arg-type]


def test_another_axis_squeezed_stays() -> None:
    (found,) = _towers(tower(axis=0)[0])
    assert (found.result, found.outputs) == ("s", 1)


def test_scores_stay_and_operators_go(
    onnx_artifact: Artifact, make_context: Make, timed_as: Callable[[Speedup], None]
) -> None:
    context = make_context("flat")
    outcome = flatten_candidates(onnx_artifact, context)
    before, after = operators(onnx_artifact), operators(outcome.artifact)
    assert before.count("Gemm") == 0 or after.count("Gemm") > before.count("Gemm")
    effects = {effect.name: effect for effect in outcome.effects}
    assert effects["flattened_towers"].after == effects["flattened_towers"].asked >= 1
    assert "2.00" in outcome.notes[1]
    assert "no quicker" not in outcome.notes[1]
    for sizes in ((1, 1), (3, 7)):
        feeds = random_feeds(onnx_artifact, context.data, sizes=sizes, seed=0)
        (old,), (new,) = (
            ort_outputs(each.file)(feeds) for each in (onnx_artifact, outcome.artifact)
        )
        np.testing.assert_allclose(new, old, atol=1e-5)


def test_a_graph_that_is_no_quicker_is_told_of(
    onnx_artifact: Artifact, make_context: Make, timed_as: Callable[[Speedup], None]
) -> None:
    timed_as(Speedup(0.9, 0.8, 1.1))
    outcome = flatten_candidates(onnx_artifact, make_context("flat"))
    assert outcome.notes[1].startswith("no quicker here: ")


def test_a_second_time_has_no_effect(
    onnx_artifact: Artifact, make_context: Make, timed_as: Callable[[Speedup], None]
) -> None:
    once = flatten_candidates(onnx_artifact, make_context("once")).artifact
    with pytest.raises(EffectError, match="flatten_candidates had no effect"):
        flatten_candidates(once, make_context("twice"))


def test_int8_products_are_refused(
    tiny_artifact: Artifact, make_context: Make, timed_as: Callable[[Speedup], None]
) -> None:
    plain = export_onnx(tiny_artifact, make_context("plain")).artifact
    int8 = quantize_static(plain, make_context("int8"), calibration_rows=64, keep_last=False)
    with pytest.raises(EffectError, match="before the stages that quantise"):
        flatten_candidates(int8.artifact, make_context("flat"))
