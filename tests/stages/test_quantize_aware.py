"""Quantisation-aware training: what rounds, what is learned, and that the file holds it."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from harness.artifact import Artifact, ModelSpec
from harness.errors import EffectError
from harness.modules import load_module
from harness.stages import quantize_aware as stage_file
from harness.stages.base import Context
from harness.stages.graphs import load_graph, ort_scores, random_feeds
from harness.stages.qdq import Scales, insert_scales
from harness.stages.quantize_aware import RoundedLinear, quantize_aware, round_linears
from harness.stages.quantize_tables import quantize_tables

WIDE = {"path": "model.py", "attribute": "Wide", "parameters": {}}
WIDE_SOURCE = '''"""A user's own model of widths that no kernel likes, with batch norm."""

import torch
from torch import nn


class Wide(nn.Module):
    def __init__(self, n_users, n_items, dim=20):
        super().__init__()
        self.user = nn.Embedding(n_users, dim)
        self.item = nn.Embedding(n_items, dim)
        self.f1 = nn.Linear(2 * dim, 33)
        self.n1 = nn.BatchNorm1d(33, eps=1e-2, momentum=0.3)
        self.f2 = nn.Linear(33, 7, bias=False)
        self.n2 = nn.BatchNorm1d(7)
        self.out = nn.Linear(7, 1)

    def forward(self, user, item):
        x = torch.cat([self.user(user), self.item(item)], -1)
        x = torch.relu(self.n1(self.f1(x)))
        return self.out(torch.relu(self.n2(self.f2(x)))).squeeze(-1)
'''


def initialisers(artifact: Artifact) -> dict[str, np.ndarray]:
    model = onnx.load(artifact.file)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_learned_scales_are_those_of_the_file(
    tiny_artifact: Artifact,
    make_context: Callable[..., Context],
    file_hashes: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learned: dict[str, Scales] = {}

    def keep(model: onnx.ModelProto, scales: dict[str, Scales]) -> onnx.ModelProto:
        learned.update(scales)
        return insert_scales(model, scales)

    monkeypatch.setattr(stage_file, "insert_scales", keep)
    before = file_hashes(tiny_artifact.folder)
    outcome = quantize_aware(tiny_artifact, make_context("int8"), epochs=1, learning_rate=0.01)
    assert file_hashes(tiny_artifact.folder) == before
    made = outcome.artifact
    assert (made.precision, made.format) == ("int8", "onnx")
    effects = {effect.name: effect for effect in outcome.effects}
    assert (effects["quantised_ops"].after, effects["quantised_ops"].asked) == (4, 4)
    assert effects["learned_scales"].after == 4
    assert effects["parity_gap"].after < 0.02
    assert effects["validation_loss"].after < 1.1 * effects["validation_loss"].before
    assert "kept in fp32: top.4" in outcome.notes
    assert sorted(learned) == ["bottom.0", "bottom.2", "top.0", "top.2"]
    stored = initialisers(made)
    for name, scales in learned.items():
        assert stored[f"{name}.input_scale"] == np.float32(scales.scale)
        assert stored[f"{name}.input_zero"] == scales.zero_point
        assert np.array_equal(stored[f"{name}.weight_scale"], scales.weight_scale)


def test_layers_start_from_the_ranges_of_training_rows_and_share_their_weights(
    rec_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    module = load_module(rec_artifact)
    first, context = module.get_submodule("f1"), make_context("x")
    rounded = round_linears(module, ["f1", "f2"], rec_artifact, context, limit=64)
    assert rounded["f1"].weight is first.weight
    assert module.get_submodule("f1") is rounded["f1"]
    assert rounded["f1"].zero_point > 0
    assert rounded["f2"].zero_point == 0  # its inputs come from a ReLU
    assert sum(p is first.weight for p in module.parameters()) == 1


def test_a_rounded_layer_by_hand() -> None:
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.27, -0.624]]))
        linear.bias.fill_(0.5)
    layer = RoundedLinear(linear, 0.1, 10, 127)
    # inputs: 0.26 -> code 3, 9.0 and below -1.0 are cut to -1.0; weights: 127 and -62 hundredths
    found = layer(torch.tensor([[0.26, -3.0]]))
    assert found.item() == pytest.approx(0.3 * 1.27 + (-1.0) * (-0.62) + 0.5, abs=1e-6)
    assert layer.scales().weight_scale.tolist() == pytest.approx([0.01])
    assert layer.scales().scale == pytest.approx(0.1)


def test_gradients_by_hand() -> None:
    x = torch.tensor([0.26, -3.0, 40.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    stage_file._RoundInput.apply(x, scale, -10, 245).sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert x.grad.tolist() == [1.0, 0.0, 0.0]
    # inside: round(2.6) - 2.6; outside: the limits -10 and 245
    assert scale.grad.item() == pytest.approx(0.4 - 10 + 245, abs=1e-4)


def test_scales_that_do_not_move_are_a_failure(
    rec_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(EffectError, match=r"no effect: no scale moved in \d+ steps"):
        quantize_aware(rec_artifact, make_context("a"), epochs=0.1, learning_rate=1e-30)
    with pytest.raises(EffectError, match="'top' matches no layer; the layers are f1, f2, out"):
        quantize_aware(rec_artifact, make_context("b"), exclude=("top",))


def test_a_file_that_differs_from_the_trained_module_is_refused(
    rec_artifact: Artifact, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(model: onnx.ModelProto, scales: dict[str, Scales]) -> onnx.ModelProto:
        wrong = {n: Scales(s.scale * 20, 0, s.weight_scale, s.limit) for n, s in scales.items()}
        return insert_scales(model, wrong)

    monkeypatch.setattr(stage_file, "insert_scales", other)
    with pytest.raises(EffectError, match="away from the module trained"):
        quantize_aware(rec_artifact, make_context("a"), epochs=0.2)


@pytest.fixture
def wide(save_artifact: Callable[..., Artifact]) -> Artifact:
    """A model with batch norm after each hidden layer, tables of 20 columns."""
    spec = ModelSpec("file", WIDE, source="model.py")
    return save_artifact(spec, name="wide", source=WIDE_SOURCE)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The module that was trained, after a run of the stage."""
    found, real = list[nn.Module](), stage_file._plain_graph

    def keep(module: nn.Module, *given: object) -> onnx.ModelProto:
        found.append(module)
        return real(module, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(stage_file, "_plain_graph", keep)
    return found


def test_batch_norm_stays_while_training_and_is_folded_into_the_file(
    wide: Artifact, make_context: Callable[..., Context], trained: list[nn.Module]
) -> None:
    """w' = w g / sqrt(var + eps) for each output, and b' = (b - mean) g / sqrt(var + eps) + beta.
    Codes are those of w, turned round where g is negative."""
    outcome = quantize_aware(wide, make_context("x"), epochs=2, learning_rate=0.01)
    effects = {effect.name: effect for effect in outcome.effects}
    assert (effects["quantised_ops"].after, effects["quantised_ops"].asked) == (2, 2)
    assert "kept in fp32: out" in outcome.notes
    (module,), stored = trained, initialisers(outcome.artifact)
    assert "BatchNormalization" not in {n.op_type for n in load_graph(outcome.artifact).graph.node}
    steps = int(outcome.notes[0].split()[0])
    for layer, norm, eps, momentum in (("f1", "n1", 1e-2, 0.3), ("f2", "n2", 1e-5, 0.1)):
        linear, part = module.get_submodule(layer), module.get_submodule(norm)
        assert isinstance(linear, nn.Linear)
        assert isinstance(part, nn.BatchNorm1d)
        assert (part.eps, part.momentum, int(part.num_batches_tracked or 0)) == (
            eps, momentum, steps,
        )  # fmt: skip
        state = {name: tensor.detach().numpy() for name, tensor in part.state_dict().items()}
        assert np.abs(state["running_mean"]).max() > 0
        factor = state["weight"] / np.sqrt(state["running_var"] + eps)
        weight = linear.weight.detach().numpy()
        scale = np.abs(weight).max(axis=1) / 64
        np.testing.assert_allclose(
            stored[f"{layer}.weight_scale"], scale * np.abs(factor), rtol=1e-4
        )
        codes = np.rint(weight / scale[:, None]) * np.sign(factor)[:, None]
        found = stored[f"{layer}.weight_codes"].T
        assert np.abs(found - codes).max() <= 1  # a half may round either way
        assert np.mean(found != codes) < 0.01
        bias = 0 if linear.bias is None else linear.bias.detach().numpy()
        folded = (bias - state["running_mean"]) * factor + state["bias"]
        kept = [a for n, a in stored.items() if a.shape == folded.shape and "bias" in n]
        assert any(
            np.allclose(sign * a, folded, rtol=1e-4, atol=1e-6) for a in kept for sign in (1, -1)
        )


def test_tables_are_never_rounded_with_one_scale(
    wide: Artifact, make_context: Callable[..., Context], trained: list[nn.Module]
) -> None:
    """They stay in fp32, and that is said; a stage of their own gives each row its scale, of a
    width that no block divides too."""
    made = quantize_aware(wide, make_context("x"), epochs=0.5)
    assert "embedding tables stay fp32 (1,440 numbers)" in made.notes  # 41 and 31 rows of 20
    stored = initialisers(made.artifact)
    for name in ("user", "item"):
        table = trained[0].get_submodule(name).weight
        assert isinstance(table, torch.Tensor)
        np.testing.assert_array_equal(stored[f"{name}.weight"], table.detach().numpy())
    context = make_context("rows")
    both = quantize_tables(made.artifact, context, form="plain", min_rows=20)
    assert (made.artifact.precision, both.artifact.precision) == ("int8", "int8")
    scales = {n: a.shape[0] for n, a in initialisers(both.artifact).items() if ".scale" in n}
    assert sorted(scales.values()) == [31, 41]
    feeds = random_feeds(both.artifact, context.data, sizes=(20, 10), seed=3)
    exact, rounded = (ort_scores(each.artifact.file)(feeds) for each in (made, both))
    assert 0 < np.abs(exact - rounded).max() < 0.1 * exact.std()


def test_a_layer_that_the_norm_was_folded_into_has_its_name(
    wide: Artifact, make_context: Callable[..., Context]
) -> None:
    outcome = quantize_aware(wide, make_context("x"), epochs=0.2, exclude=("f1",))
    assert "kept in fp32: f1, out" in outcome.notes
    assert any(note.startswith("int8: f2 (") for note in outcome.notes)
