"""Quantisation-aware training: what rounds, what is learned, and that the file holds it."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from harness.artifact import Artifact
from harness.errors import EffectError
from harness.modules import load_module
from harness.stages import quantize_aware as stage_file
from harness.stages.base import Context
from harness.stages.qdq import Scales, insert_scales
from harness.stages.quantize_aware import RoundedLinear, quantize_aware, round_linears


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
