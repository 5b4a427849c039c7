"""Int8 of next-item models: what makes the score stays fp32, the rest is named or refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_lists import lists_context, save_lists
from onnx import TensorProto, helper

from harness.artifact import Artifact, ModelSpec
from harness.errors import EffectError
from harness.stages.base import Context, Outcome
from harness.stages.export_onnx import export_onnx
from harness.stages.graphs import last_nodes, load_graph, ort_outputs, row_batches, weighted_nodes
from harness.stages.left_alone import left_alone
from harness.stages.quantize_aware import quantize_aware
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.stages.quantize_static import quantize_static
from harness.stages.reference import reference_scores
from harness.tables import Prepared

SPECS = {
    "sasrec": ModelSpec("sasrec", {"dim": 16, "heads": 2, "blocks": 1, "hidden": 24, "top": 20}),
    "chunks": ModelSpec("sasrec", {"dim": 16, "heads": 2, "blocks": 1, "top": 20, "chunk": 50}),
    "mf_ranking": ModelSpec("mf_ranking", {"dim": 8, "top": 20}),
}
LINEARS = ("query", "key", "value", "out", "widen", "narrow")
Make = Callable[[str], tuple[Artifact, Artifact]]


@pytest.fixture(scope="session")
def exported(tiny_sequences: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """``exported(name)``: a model of ``SPECS`` and its ONNX file, made once."""
    folder, known = tmp_path_factory.mktemp("quantised"), dict[str, tuple[Artifact, Artifact]]()

    def make(name: str) -> tuple[Artifact, Artifact]:
        if name not in known:
            artifact = save_lists(tiny_sequences, SPECS[name], folder / name)
            context = lists_context(tiny_sequences, artifact, folder / f"{name}-onnx")
            known[name] = artifact, export_onnx(artifact, context).artifact
        return known[name]

    return make


@pytest.fixture
def context(exported: Make, tiny_sequences: Prepared, tmp_path: Path) -> Context:
    return lists_context(tiny_sequences, exported("sasrec")[0], tmp_path / "out")


def effect(outcome: Outcome, name: str) -> tuple[float, float | None]:
    found = next(each for each in outcome.effects if each.name == name)
    return found.after, found.asked


def served(artifact: Artifact, data: Prepared) -> np.ndarray:
    """Scores (200, top) of test requests."""
    batch = next(row_batches(data, data.splits["test"], np.arange(200), artifact.inputs))
    scores: np.ndarray = ort_outputs(artifact.file)(batch)[0]
    return scores


@pytest.mark.parametrize("name", ["sasrec", "chunks"])
@pytest.mark.parametrize("stage", [quantize_dynamic, quantize_static])
def test_every_linear_is_quantised_and_scores_stay_apart(
    name: str,
    stage: Callable[..., Outcome],
    exported: Make,
    context: Context,
    tiny_sequences: Prepared,
) -> None:
    written = exported(name)[1]
    outcome = stage(written, context)
    assert effect(outcome, "quantised_ops") == (len(LINEARS), len(LINEARS))
    scores, exact = (served(each, tiny_sequences) for each in (outcome.artifact, written))
    places = [len(np.unique(row)) for row in scores]
    assert np.mean(places) > 19.5  # of 20
    assert np.abs(scores - exact).max() < 0.1 * exact.std()
    assert np.abs(scores - exact).max() > 0


def test_the_item_table_is_quantised_on_request(
    exported: Make, context: Context, tiny_sequences: Prepared
) -> None:
    written = exported("sasrec")[1]
    rounded = quantize_static(written, context, keep_last=False, exclude=("blocks.*",))
    assert effect(rounded, "quantised_ops") == (1, 1)
    assert "is stored twice: fp32 to look up, int8 to score with" in rounded.notes[-1]
    gap = np.abs(served(rounded.artifact, tiny_sequences) - served(written, tiny_sequences))
    assert 0 < gap.max() < 0.1


@pytest.mark.parametrize("name", ["sasrec", "chunks", "mf_ranking"])
def test_what_makes_the_score_is_the_product_with_the_items(name: str, exported: Make) -> None:
    model = load_graph(exported(name)[1])
    last = last_nodes(model, weighted_nodes(model, ("MatMul", "Gemm")))
    nodes = {node.name: node for node in model.graph.node}
    assert not any(name.startswith("blocks.") for name in last)
    assert len(last) == (3 if name == "chunks" else 1)
    items = [dim for tensor in model.graph.initializer for dim in tensor.dims if dim == 121]
    assert items
    assert {nodes[each].op_type for each in last} == {"Gemm"}


def test_recurrent_layers_are_said_to_stay() -> None:
    nodes = [
        helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=2),
        helper.make_node("MatMul", ["y", "m"], ["z"], name="out"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "recurrent", [], []))
    assert left_alone(model, kept=["out"]) == ("kept in fp32: out", "GRU layers stay fp32")


@pytest.mark.parametrize("stage", [quantize_dynamic, quantize_static, quantize_aware])
def test_a_model_without_layers_has_nothing_to_quantise(
    stage: Callable[..., Outcome], exported: Make, context: Context
) -> None:
    artifact, written = exported("mf_ranking")
    with pytest.raises(EffectError, match="nothing to quantise: of 1 MatMul or Gemm nodes"):
        stage(artifact if stage is quantize_aware else written, context)


def test_training_with_rounding_moves_every_scale(
    exported: Make, context: Context, tiny_sequences: Prepared
) -> None:
    artifact = exported("sasrec")[0]
    outcome = quantize_aware(artifact, replace(context, seed=3), epochs=1)
    count = len(LINEARS)
    assert effect(outcome, "quantised_ops") == (count, count)
    assert effect(outcome, "learned_scales") == (count, count)
    assert np.mean([len(np.unique(row)) for row in served(outcome.artifact, tiny_sequences)]) > 19.5


def test_the_reference_gathers_and_scatters_in_long_rows() -> None:
    """Rows of 100 numbers: three are overwritten, then the second to last is looked up."""
    graph = helper.make_graph(
        [
            helper.make_node("ScatterElements", ["x", "at", "by"], ["y"], axis=1),
            helper.make_node("GatherElements", ["y", "get"], ["z"], axis=1),
        ],
        "long",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 100]),
            helper.make_tensor_value_info("at", TensorProto.INT64, [2, 3]),
            helper.make_tensor_value_info("by", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("get", TensorProto.INT64, [2, 4]),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    feeds = {
        "x": np.arange(200, dtype=np.float32).reshape(2, 100),
        "at": np.array([[0, 98, 99], [1, 1, 50]]),
        "by": np.array([[-1, -2, -3], [-4, -4, -5]], np.float32),
        "get": np.array([[98, 0, 40, 97], [1, 50, 99, 0]]),
    }
    expected = [[-2, -1, 40, 97], [-4, -5, 199, 100]]
    assert reference_scores(model)(feeds).tolist() == expected
