"""torch -> QDQ ONNX: trained with rounded weights and inputs, so that int8 costs less quality.

Each chosen Linear rounds as the deployed file will: inputs unsigned with a learned scale (LSQ,
Esser et al. 2020, arXiv:1902.08153; here its logarithm, so that a step is relative), weights
signed, one scale per output that follows the weights. The scales go into the file as they are; a
batch norm stays one while it trains, and is folded into the weights and their scales in the file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.modules import load_module
from harness.objectives import UNITS
from harness.params import Count, Flag, Names, Positive
from harness.stages.base import Context, Outcome, stage
from harness.stages.export_onnx import export_module
from harness.stages.graphs import choose, constants, draw_rows, ort_scores, row_batches
from harness.stages.left_alone import left_alone
from harness.stages.qdq import (
    Scales,
    code_steps,
    input_scale,
    insert_scales,
    layer_weight,
    weight_scales,
)
from harness.stages.quantize_static import OPS, finish
from harness.stages.retraining import settings, validation_loss
from harness.stages.saturation import relative_gap
from harness.stages.tensorrt_dialect import weight_codes
from harness.training import fit

if TYPE_CHECKING:
    import onnx

OPSET = 18
CALIBRATION_ROWS = 2048
PARITY = 0.02
"""Largest root mean square difference of the file to the module trained, as a share of the scores'
spread: sums in another order round a few codes the other way."""


class _RoundInput(torch.autograd.Function):
    """scale * clamp(round(x / scale), low, high), with the straight-through gradient for x and
    LSQ's for the scale: code - x / scale inside the range, the limit outside.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, low: int, high: int
    ) -> torch.Tensor:
        steps = x / scale
        codes = steps.round().clamp_(low, high)
        inside = (steps >= low - 0.5) & (steps <= high + 0.5)
        ctx.save_for_backward(inside, codes - steps.mul_(inside))
        return codes.mul_(scale)

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        inside, error = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * inside, (gradient * error).sum(), None, None


def _round(x: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
    apply: Callable[..., torch.Tensor] = _RoundInput.apply
    return apply(x, scale, low, high)


class RoundedLinear(nn.Module):
    """A Linear that computes what its int8 kernel will; it shares the Linear's parameters."""

    def __init__(
        self,
        linear: nn.Linear,
        scale: float,
        zero_point: int,
        limit: int,
        *,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.zero_point, self.limit, self.symmetric = zero_point, limit, symmetric

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., outputs)."""
        low, high = code_steps(self.zero_point, symmetric=self.symmetric)
        x = _round(x, self.log_scale.exp(), low, high)  # (..., inputs)
        per_row = self.weight_scale().unsqueeze(1)  # (outputs, 1)
        rounded = (self.weight.detach() / per_row).round().mul_(per_row)  # (outputs, inputs)
        # No weight lies outside its range, so the gradient passes straight through.
        weight = self.weight + (rounded - self.weight.detach())
        return functional.linear(x, weight, self.bias)

    def weight_scale(self) -> torch.Tensor:
        """Scale of each output (outputs,), 1 where all of its weights are zero."""
        largest = self.weight.detach().abs().amax(dim=1)  # (outputs,)
        return torch.where(largest > 0, largest / self.limit, torch.ones_like(largest))

    def scales(self) -> Scales:
        """What the deployed layer takes over."""
        scale = float(self.log_scale.detach().exp())
        weight = self.weight_scale().numpy()
        return Scales(scale, self.zero_point, weight, self.limit, self.symmetric)


@stage(accepts="torch", produces="onnx", technique="open_like")
def quantize_aware(
    artifact: Artifact,
    context: Context,
    *,
    epochs: Positive = 0.2,
    learning_rate: Positive | None = None,
    batch_size: Count | None = None,
    reduce_range: Flag | None = None,
    keep_last: Flag = True,
    exclude: Names = (),
    dialect: Literal["onnxruntime", "tensorrt"] = "onnxruntime",
) -> Outcome:
    """Train for some ``epochs`` with int8 rounding in every Linear but the last, then write the
    QDQ ONNX file with the scales that were learned.

    The learning rate is a tenth of the baseline's unless given; tables, interactions and layers
    whose names ``exclude`` matches stay in fp32. ``reduce_range`` and ``dialect`` are as in
    ``quantize_static``. Raises ``UnsupportedError`` for an option that contradicts the dialect, and
    ``EffectError`` when a pattern matches nothing, no scale moves, the file differs from the module
    trained, or onnxruntime doesn't run a layer in integers.
    """
    limit, symmetric = weight_codes(dialect, reduce_range=reduce_range), dialect == "tensorrt"
    module = load_module(artifact)
    graph = export_module(module, artifact, opset=OPSET)
    chosen, kept = choose(graph, ops=OPS, exclude=exclude, keep_last=keep_last)
    names = _linears(module, chosen, kept)
    rate = context.training.learning_rate / 10 if learning_rate is None else learning_rate
    training = settings(context, epochs=epochs, learning_rate=rate, batch_size=batch_size)
    before = validation_loss(module, context, artifact.inputs, training)
    rounded = round_linears(module, names, artifact, context, limit=limit, symmetric=symmetric)
    start = {name: layer.scales().scale for name, layer in rounded.items()}
    history = fit(
        module,
        context.data,
        artifact.inputs,
        training,
        seed=context.seed,
        threads=context.threads,
        progress=context.progress,
    )
    after = validation_loss(module, context, artifact.inputs, training)
    scales = {name: layer.scales() for name, layer in rounded.items()}
    moved = sum(scales[name].scale != start[name] for name in names)
    if moved == 0:
        raise EffectError(f"quantize_aware had no effect: no scale moved in {history.steps} steps")
    expected = _sample_scores(module, artifact, context)
    plain = _plain_graph(module, rounded, artifact)
    by_node = _by_node(plain, chosen, scales)
    made = insert_scales(plain, by_node)
    left = [name for name in (*chosen, *kept) if name not in by_node]
    notes = (
        f"{history.steps} steps, {history.stopped}",
        f"learning rate {rate:g}",
        *left_alone(plain, kept=left, chosen=list(by_node)),
    )
    outcome = finish(made, artifact, context, notes=notes, dialect=dialect)
    effects = (
        *outcome.effects,
        Effect("learned_scales", 0, moved, asked=len(names)),
        Effect("validation_loss", before, after, unit=UNITS[context.data.schema.task]),
        _parity(outcome.artifact, context, expected),
    )
    return Outcome(outcome.artifact, effects, outcome.notes)


def _owner(node: str) -> str:
    """The Linear of a node; its second use is called ``name:2``."""
    return node.partition(":")[0]


def _linears(module: nn.Module, chosen: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Names of the Linears all of whose uses are chosen; raises ``EffectError`` without any."""
    there = {name for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    uses = dict.fromkeys(_owner(node) for node in chosen)
    names = [name for name in uses if name in there and name not in map(_owner, kept)]
    if not names:
        raise EffectError(
            "quantize_aware found no Linear to quantise; its layers are not nn.Linear"
        )
    return names


def round_linears(
    module: nn.Module,
    names: Sequence[str],
    artifact: Artifact,
    context: Context,
    *,
    limit: int,
    symmetric: bool = False,
) -> dict[str, RoundedLinear]:
    """Put a ``RoundedLinear`` in the place of each named Linear, its first scale from the range of
    its inputs over training rows; gives them by name.
    """
    ranges = _input_ranges(module, names, artifact, context)
    rounded = {}
    for name in names:
        told = f"the input of {name}"
        scale, zero = input_scale(*ranges[name], name=told, symmetric=symmetric)
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        rounded[name] = RoundedLinear(linear, scale, zero, limit, symmetric=symmetric)
        module.set_submodule(name, rounded[name])
    return rounded


def _input_ranges(
    module: nn.Module, names: Sequence[str], artifact: Artifact, context: Context
) -> dict[str, tuple[float, float]]:
    ranges = dict.fromkeys(names, (np.inf, -np.inf))

    def watch(name: str) -> Any:
        def hook(part: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            low, high = ranges[name]
            ranges[name] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

        return module.get_submodule(name).register_forward_pre_hook(hook)

    hooks = [watch(name) for name in names]
    split = context.data.splits["train"]
    rows = draw_rows(split, count=CALIBRATION_ROWS, seed=context.seed)
    for batch in row_batches(context.data, split, rows, artifact.inputs):
        _run(module, batch)
    for hook in hooks:
        hook.remove()
    return ranges


def _run(module: nn.Module, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
        tensors = {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in batch.items()}
        found = module(**tensors)
    scores = found[0] if isinstance(found, tuple) else found  # of lists
    flat: np.ndarray = scores.reshape(-1).numpy()
    return flat


def _plain_graph(
    module: nn.Module, rounded: Mapping[str, RoundedLinear], artifact: Artifact
) -> "onnx.ModelProto":
    """The fp32 graph of the trained weights, with Linears back in their places."""
    for name, layer in rounded.items():
        outputs, inputs = layer.weight.shape
        linear = nn.Linear(inputs, outputs, bias=layer.bias is not None)
        linear.weight, linear.bias = layer.weight, layer.bias
        module.set_submodule(name, linear)
    return export_module(module, artifact, opset=OPSET)


def _by_node(
    graph: "onnx.ModelProto", chosen: Sequence[str], scales: Mapping[str, Scales]
) -> dict[str, Scales]:
    """The scales of each node of the graph. A batch norm that was folded into a weight multiplies
    each output's weights by one number, and so their scale: the codes are those that were trained.
    """
    nodes, known = {node.name: node for node in graph.graph.node}, constants(graph)
    found = {}
    for name in chosen:
        if own := scales.get(_owner(name)):
            weight = weight_scales(layer_weight(nodes[name], known), limit=own.limit)
            found[name] = replace(own, weight_scale=weight)
    return found


def _sample(artifact: Artifact, context: Context) -> dict[str, np.ndarray]:
    split = context.data.splits["train"]
    rows = draw_rows(split, count=256, seed=context.seed + 1)
    return next(row_batches(context.data, split, rows, artifact.inputs))


def _sample_scores(module: nn.Module, artifact: Artifact, context: Context) -> np.ndarray:
    return _run(module, _sample(artifact, context))


def _parity(artifact: Artifact, context: Context, expected: np.ndarray) -> Effect:
    """The file's difference to the module that was trained; raises ``EffectError`` above
    ``PARITY``.
    """
    found = ort_scores(artifact.file)(_sample(artifact, context)).ravel()
    gap = relative_gap(found, expected)
    if not gap <= PARITY:
        raise EffectError(
            f"the int8 file's scores are {gap:.1%} of their spread away from the module trained, "
            f"at most {PARITY:.0%} is rounding"
        )
    return Effect("parity_gap", 0.0, gap, unit="share of the scores' spread")
