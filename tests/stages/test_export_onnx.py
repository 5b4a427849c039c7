"""Export to ONNX: free axes, parity, names, and what makes it fail."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from harness.artifact import Artifact, ModelSpec
from harness.errors import EffectError
from harness.modules import load_module
from harness.registry import bind, entry
from harness.schema import write_schema
from harness.stages.base import Context
from harness.stages.export_onnx import (
    check_parity,
    export_module,
    export_onnx,
    stored_twice,
)
from harness.stages.graphs import check_free_axes, ort_scores, sort_nodes, write_graph
from harness.tables import Prepared, TensorSpec

USER = (TensorSpec("user", "int64", ("rows",), ("household",)),)


class Normed(nn.Module):
    """Batch norm and dropout, which differ between training and use."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(41, 8)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.out = nn.Linear(8, 1)

    def forward(self, user: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.drop(self.norm(self.table(user)))).squeeze(-1)
        return out


class Frozen(nn.Module):
    """Takes six rows only, the size of the exporter's example."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(41, 4)

    def forward(self, user: torch.Tensor) -> torch.Tensor:
        return self.table(user).view(6, 4).sum(-1)


def flat_parent(context: Context, data: Prepared) -> Artifact:
    """The description of a model that has no catalog entry."""
    folder = context.folder.with_name("parent")
    folder.mkdir()
    write_schema(folder, data.schema, data.vocabularies)
    return Artifact(folder, "torch", ModelSpec("mlp", {}), USER, ())


def test_the_file_takes_any_size_and_equals_torch(
    tiny_artifact: Artifact, onnx_artifact: Artifact
) -> None:
    made = onnx_artifact
    assert (made.format, made.precision) == ("onnx", "fp32")
    assert made.parameters == tiny_artifact.parameters
    assert made.embedding_parameters == tiny_artifact.embedding_parameters
    assert (made.macs, made.widths) == (tiny_artifact.macs, tiny_artifact.widths)
    module = load_module(tiny_artifact)
    for requests, candidates in ((1, 1), (2, 9), (7, 3)):
        feeds = {
            "user": np.full((requests, 1), 3),
            "candidates": np.full((requests, candidates, 2), 4),
            "context": np.full((requests, 1), 5),
            "user_values": np.full((requests, 1), 0.5, np.float32),
            "candidate_values": np.full((requests, candidates, 1), -0.5, np.float32),
        }
        with torch.inference_mode():
            expected = module(**{n: torch.from_numpy(a) for n, a in feeds.items()}).numpy()
        found = ort_scores(made.file)(feeds)
        assert found.shape == (requests, candidates)
        assert np.allclose(found, expected, atol=1e-5)


def test_nodes_carry_the_names_of_the_layers_and_nothing_of_this_machine(
    onnx_artifact: Artifact,
) -> None:
    model = onnx.load(onnx_artifact.file)
    weighted = {n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm")}
    assert {"bottom.0", "bottom.2", "top.0", "top.2", "top.4"} < weighted
    assert b".py" not in onnx_artifact.file.read_bytes()
    assert [p.key for p in model.metadata_props] == ["key", "model"]
    assert [o.name for o in model.graph.output] == ["logits"]


def test_the_same_module_gives_the_same_bytes_and_its_source_goes_along(
    rec_artifact: Artifact,
    onnx_rec: Artifact,
    make_context: Callable[..., Context],
    file_hashes: Callable[..., object],
) -> None:
    before = file_hashes(rec_artifact.folder)
    outcome = export_onnx(rec_artifact, make_context("shared-rec.partial"), opset=18)
    assert file_hashes(rec_artifact.folder) == before
    assert outcome.artifact.file.read_bytes() == onnx_rec.file.read_bytes()
    assert (outcome.artifact.folder / "model.py").read_bytes() == (
        rec_artifact.folder / "model.py"
    ).read_bytes()
    effects = {effect.name: effect for effect in outcome.effects}
    assert effects["free_axes"].after == 2
    assert effects["parameters"].before == effects["parameters"].after
    assert outcome.notes[0].startswith("largest difference to torch over 6 sizes")


def test_batch_norm_and_dropout_are_exported_in_eval_mode(
    make_context: Callable[..., Context], tiny: Prepared
) -> None:
    context, module = make_context("onnx"), Normed().train()
    parent = flat_parent(context, tiny)
    written = write_graph(export_module(module, parent, opset=18), parent, context)
    assert not module.training
    assert check_parity(written, module, context, tolerance=1e-5) <= 1e-5


def test_a_frozen_axis_is_named(make_context: Callable[..., Context], tiny: Prepared) -> None:
    parent = flat_parent(make_context("onnx"), tiny)
    with pytest.raises(EffectError, match=r"input 'user', axis 0 \(rows\) is frozen to 6"):
        check_free_axes(export_module(Frozen(), parent, opset=18), USER)


def test_a_file_that_differs_from_torch_is_refused(
    rec_artifact: Artifact, onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    module = load_module(rec_artifact)
    with torch.no_grad():
        module.get_submodule("out").bias.add_(0.01)  # type: ignore[operator]
    with pytest.raises(EffectError, match=r"at 1 requests x 1 candidates .* by 1\.0e-02"):
        check_parity(onnx_rec, module, make_context("x"), tolerance=1e-4)


def test_the_opset_asked_for_is_the_one_written(
    rec_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    made = export_onnx(rec_artifact, make_context("onnx"), opset=20).artifact
    assert [e.version for e in onnx.load(made.file).opset_import if not e.domain] == [20]


def test_weights_of_large_models_go_to_one_side_file(
    onnx_rec: Artifact, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.stages.side_files.SIDE_FILE_ABOVE", 100)
    context = make_context("large")
    (context.folder / "model.onnx.data").write_bytes(b"left over")
    made = write_graph(onnx.load(onnx_rec.file), onnx_rec, context)
    side = made.folder / "model.onnx.data"
    assert made.bytes > made.file.stat().st_size + 1000
    assert made.bytes == made.file.stat().st_size + side.stat().st_size
    feeds = {"user": np.array([1, 2]), "item": np.array([3, 4])}
    assert np.array_equal(ort_scores(made.file)(feeds), ort_scores(onnx_rec.file)(feeds))


def test_nodes_are_put_in_order() -> None:
    first = onnx.helper.make_node("Relu", ["x"], ["y"], name="first")
    second = onnx.helper.make_node("Relu", ["y"], ["z"], name="second")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([second, first], "g", [value], [])
    sort_nodes(graph)
    assert [node.name for node in graph.node] == ["first", "second"]
    lost = onnx.helper.make_graph([second], "g", [value], [])
    with pytest.raises(EffectError, match="cycle or an input that nothing makes: second"):
        sort_nodes(lost)


def test_the_recipe_sees_its_parameters() -> None:
    found = entry("stages", "export_onnx")
    assert found.marks == {"accepts": "torch", "produces": "onnx", "technique": "reference"}
    assert bind("stages", "export_onnx", {}) == {"opset": 18, "tolerance": 1e-4}


def test_a_tied_matrix_that_is_stored_twice_is_named_and_nothing_else() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    matrices = {
        "table": table,
        "same": table.copy(),
        "turned": table.T.copy(),
        "other": table + 1,
        "reshaped": table.reshape(3, 4),
        "zeros": np.zeros(3, np.float32),
        "zeros_too": np.zeros(3, np.float32),
        "one": np.ones((1, 1), np.float32),
        "one_too": np.ones((1, 1), np.float32),
    }
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in matrices.items()]
    graph = onnx.helper.make_graph([], "g", [], [], initializer=tensors)
    assert stored_twice(onnx.helper.make_model(graph)) == ["same", "turned"]


def test_constants_of_a_small_graph_are_no_tied_weight(
    make_context: Callable[..., Context], tiny: Prepared
) -> None:
    """A mask, an epsilon and a shape may be more than a hundredth of a small model's numbers."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(41, 2)

        def forward(self, user: torch.Tensor) -> torch.Tensor:
            masked = self.table(user) + (user == 0).float().unsqueeze(-1) * torch.arange(-9.0, -7.0)
            return torch.softmax(masked, -1)[:, 0] * 3.0 + 1e-6

    graph = export_module(Small().eval(), flat_parent(make_context(), tiny), opset=18)
    assert stored_twice(graph) == []
