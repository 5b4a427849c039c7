"""Our own operators in graphs: found where they fit, the same numbers, and told when they don't."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.artifact import Artifact
from harness.errors import EffectError
from harness.native import DOMAIN, uses_operators
from harness.stages import graph_timing
from harness.stages import native_operators as module
from harness.stages.base import Context, Outcome
from harness.stages.export_onnx import export_onnx
from harness.stages.fold_tables import fold_tables
from harness.stages.fuse_tables import fuse_tables
from harness.stages.graph_timing import Pair
from harness.stages.graphs import load_graph, ort_outputs, random_feeds
from harness.stages.native_operators import native_operators
from harness.stages.native_patterns import find_matches
from harness.stages.pairing import Speedup
from harness.stages.quantize_static import quantize_static
from harness.stages.share_user import share_user
from harness.tables import Prepared

Make = Callable[..., Context]


pytestmark = pytest.mark.usefixtures("native_library")


@pytest.fixture(autouse=True)
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Pair(Speedup(2.0, 1.5, 2.5), 2e-3, 1e-3)
    monkeypatch.setattr(graph_timing, "time_pair", lambda *_, **__: found)


@pytest.fixture
def chain(make_context: Make):
    """``chain(artifact, stage, ...)``: the artifact after all of these stages."""

    def run(artifact: Artifact, *stages: Callable[..., Outcome]) -> Artifact:
        for at, stage in enumerate(stages):
            artifact = stage(artifact, make_context(f"{at}-{stage.__name__}")).artifact
        return artifact

    return run


def effects(outcome: Outcome) -> dict[str, tuple[float, float]]:
    return {effect.name: (effect.before, effect.after) for effect in outcome.effects}


def own(artifact: Artifact) -> list[str]:
    return [node.op_type for node in load_graph(artifact).graph.node if node.domain == DOMAIN]


def alike(one: Artifact, other: Artifact, data: Prepared) -> None:
    before, after = ort_outputs(one.file), ort_outputs(other.file)
    for at, sizes in enumerate(((1, 1), (3, 7), (20, 1), (1, 33))):
        batch = random_feeds(one, data, sizes=sizes, seed=at)
        np.testing.assert_allclose(after(batch)[0], before(batch)[0], rtol=0, atol=1e-5)


def test_a_dot_interaction_becomes_one_operator(
    tiny_artifact: Artifact, chain, make_context: Make, tiny: Prepared
) -> None:
    graph = chain(tiny_artifact, share_user, fuse_tables, export_onnx)
    outcome = native_operators(graph, make_context("native"))
    assert own(outcome.artifact) == ["Dots"]
    assert effects(outcome)["native_dots"] == (0, 1)
    before, after = effects(outcome)["nodes"]
    assert after < before
    # The candidates' look-up, its products and their selection are gone.
    operators = [node.op_type for node in load_graph(outcome.artifact).graph.node]
    assert operators.count("Gather") == 2  # the requests' rows, and the places of their products
    assert "2.00x [1.50, 2.50] as quick" in outcome.notes[-1]
    alike(graph, outcome.artifact, tiny)


def test_it_goes_after_int8(
    tiny_artifact: Artifact, chain, make_context: Make, tiny: Prepared
) -> None:
    graph = chain(tiny_artifact, share_user, fuse_tables, export_onnx, quantize_static)
    outcome = native_operators(graph, make_context("native"))
    assert own(outcome.artifact) == ["Dots"]
    assert outcome.artifact.precision == "int8"
    names = [node.op_type for node in load_graph(outcome.artifact).graph.node]
    assert names.count("MatMulIntegerToFloat") == effects(outcome)["native_product"][1] > 0
    before, after = ort_outputs(graph.file), ort_outputs(outcome.artifact.file)
    batch = random_feeds(graph, tiny, sizes=(20, 3), seed=0)
    expected = before(batch)[0]
    # A sum in another order may be rounded to the next code.
    assert np.abs(after(batch)[0] - expected).max() < 0.02 * np.abs(expected).max()


def test_folded_rows_are_summed_in_one(
    mlp_artifact: Artifact, chain, make_context: Make, tiny: Prepared
) -> None:
    graph = chain(mlp_artifact, fold_tables, fuse_tables, export_onnx)
    outcome = native_operators(graph, make_context("native"))
    assert set(own(outcome.artifact)) == {"FloatBag"}
    alike(graph, outcome.artifact, tiny)


def test_a_slower_graph_is_told(
    tiny_artifact: Artifact, chain, make_context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Pair(Speedup(0.9, 0.8, 0.95), 1e-3, 1.1e-3)
    monkeypatch.setattr(graph_timing, "time_pair", lambda *_, **__: slow)
    graph = chain(tiny_artifact, share_user, fuse_tables, export_onnx)
    outcome = native_operators(graph, make_context("native"))
    assert outcome.notes[-1].startswith("no quicker here: 0.90x")


def test_a_graph_without_a_place_for_them_is_refused(
    onnx_artifact: Artifact, make_context: Make
) -> None:
    with pytest.raises(EffectError, match=r"had no effect: .*share_user and fuse_tables"):
        native_operators(onnx_artifact, make_context("native"))


def test_a_second_time_is_refused(tiny_artifact: Artifact, chain, make_context: Make) -> None:
    graph = chain(tiny_artifact, share_user, fuse_tables, export_onnx, native_operators)
    assert uses_operators(graph.file)
    with pytest.raises(EffectError, match="had no effect"):
        native_operators(graph, make_context("again"))


def test_wrong_numbers_are_caught(
    tiny_artifact: Artifact, chain, make_context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator that is given other ids isn't let through."""
    graph = chain(tiny_artifact, share_user, fuse_tables, export_onnx)

    def altered(model):
        matches = find_matches(model)
        (add,) = (n for n in model.graph.node if matches[0].node.input[1] in n.output)
        matches[0].node.input[1] = add.input[0]  # ids of the fields, not of the fused table
        return matches

    monkeypatch.setattr(module, "find_matches", altered)
    with pytest.raises(EffectError, match="of its largest value"):
        native_operators(graph, make_context("native"))


def bag_graph(
    *,
    axes: list[int],
    keepdims: int = 0,
    weighted: bool = False,
    twice: bool = False,
    padded: bool = False,
):
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"])]
    last = "rows"
    if weighted:
        nodes.append(helper.make_node("Unsqueeze", ["w", "minus_one"], ["wide"]))
        nodes.append(helper.make_node("Mul", ["rows", "wide"], ["scaled"]))
        last = "scaled"
    nodes.append(helper.make_node("ReduceSum", [last, "axes"], ["y"], keepdims=keepdims))
    if twice:
        nodes.append(helper.make_node("Neg", [last], ["z"]))
    constants = {
        "table": np.array([[not padded] * 4, *[[1] * 4] * 4], np.float32),
        "axes": np.array(axes),
        "minus_one": np.array([-1]),
    }
    graph = helper.make_graph(
        nodes,
        "bag",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_bags_are_found_only_where_they_are_bags() -> None:
    (match,) = find_matches(bag_graph(axes=[-2]))
    assert (match.result, list(match.node.input)) == ("y", ["table", "ids"])
    (match,) = find_matches(bag_graph(axes=[-2], weighted=True))
    assert list(match.node.input) == ["table", "ids", "w"]
    (match,) = find_matches(bag_graph(axes=[1]))
    assert not find_matches(bag_graph(axes=[0]))
    assert not find_matches(bag_graph(axes=[-1]))
    assert not find_matches(bag_graph(axes=[-2], keepdims=1))
    assert not find_matches(bag_graph(axes=[-2], twice=True))


@pytest.mark.parametrize(("padded", "expected"), [(True, 0), (False, -1)])
def test_a_row_of_zeros_is_left_out_of_bags(padded: bool, expected: int) -> None:
    (match,) = find_matches(bag_graph(axes=[-2], padded=padded))
    (padding,) = (a.i for a in match.node.attribute if a.name == "padding")
    assert padding == expected
