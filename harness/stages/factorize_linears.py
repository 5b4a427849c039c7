"""torch -> torch: Linears as products of two smaller ones, nearest to them in what they give.

Of a Linear's outputs y = W x those directions are kept that hold most of E|y|^2 over training rows:
W becomes U (U^T W), U being the first left singular vectors of W C^1/2 and C = E[x x^T]. That is
the best product of its rank for these inputs (as SVD-LLM's whitening, Wang et al. 2024,
arXiv:2403.07378, with nothing to invert); with C = 1 it is the truncated SVD of W.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.modules import load_module
from harness.params import Count, Flag, Names, Ratio, Share
from harness.stages.base import Context, Outcome, stage
from harness.stages.export_onnx import module_outputs
from harness.stages.graphs import draw_rows, row_batches
from harness.stages.layer_forms import matching, put_layers, replaceable, save_layers, sizes
from harness.stages.low_rank import rank_of

ENERGY = 0.95
"""Of the outputs' square that stays, where nothing is asked for."""


@dataclass(frozen=True)
class Factors:
    """A weight as a product: ``up`` (outputs, rank) by ``down`` (rank, inputs), float64, the share
    of the outputs' square that it keeps, and what the root of the rest is of them.
    """

    up: torch.Tensor
    down: torch.Tensor
    energy: float

    @property
    def rank(self) -> int:
        """Channels between the two."""
        return int(self.down.shape[0])

    @property
    def error(self) -> float:
        """Root mean square of what the outputs lack, as a share of theirs."""
        return float(max(0.0, 1.0 - self.energy) ** 0.5)


@stage(accepts="torch", produces="torch", technique="open_like")
def factorize_linears(
    artifact: Artifact,
    context: Context,
    *,
    energy: Share | None = None,
    ratio: Ratio | None = None,
    weighting: Literal["inputs", "none"] = "inputs",
    calibration_rows: Count = 4096,
    min_weights: Count = 1024,
    layers: Names = (),
    ignore: Names = (),
    keep_output: Flag = True,
) -> Outcome:
    """Put two Linears in the place of each one whose weights become fewer by it: of the least rank
    that keeps the share ``energy`` of its outputs' square (0.95 if neither is given), or of the
    largest that takes the share ``ratio`` of its weights away.

    ``weighting`` says for which inputs the product is nearest: those of ``calibration_rows``
    training rows, or all directions alike. Layers below ``min_weights``, those that match a pattern
    of ``ignore`` or none of ``layers`` (when given) and those tied to tables or read otherwise stay
    as they are, and so does one that scores the whole catalogue unless ``keep_output`` is false.
    Raises ``EffectError`` when none is left, ``UnsupportedError`` when both limits are given.
    """
    if energy is not None and ratio is not None:
        raise UnsupportedError("factorize_linears: give energy or ratio, not both")
    module = load_module(artifact)
    names, left = replaceable(module, (nn.Linear,), artifact, context)
    left |= {
        n: f"{size} weights" for n in names if (size := _weight(module, n).numel()) < min_weights
    }
    left |= _unwanted(module, names, context, layers=layers, ignore=ignore, output=keep_output)
    names = [name for name in names if name not in left]
    moments: Mapping[str, torch.Tensor] = {}
    if names and weighting == "inputs":
        context.progress(f"reading the inputs of {len(names)} layers", 0.1)
        moments = input_moments(module, names, artifact, context, rows=calibration_rows)
    share = ENERGY if energy is None and ratio is None else energy
    chosen, grown = _smaller(module, names, moments, energy=share, ratio=ratio)
    left |= grown
    if not chosen:
        told = "; ".join(_left_notes(left)) or "the model has no Linear"
        raise EffectError(f"factorize_linears had no effect; {told}")
    asked = _asked(module, chosen, artifact, ratio=ratio)
    effects = _effects(module, chosen, energy=share, ratio=ratio)
    for name, factors in chosen.items():
        _replace(module, name, factors)
    forms = {name: ("low_rank_linear", {"rank": each.rank}) for name, each in chosen.items()}
    made = save_layers(module, forms, artifact, context)
    parameters, macs = sizes(artifact, made)
    whole = Effect(parameters.name, parameters.before, parameters.after, asked=asked)
    return Outcome(made, (whole, macs, *effects), _left_notes(left))


def _weight(module: nn.Module, name: str) -> torch.Tensor:
    return module.get_parameter(f"{name}.weight").detach()


def _unwanted(
    module: nn.Module,
    names: Sequence[str],
    context: Context,
    *,
    layers: Names,
    ignore: Names,
    output: bool,
) -> dict[str, str]:
    """The layers that the recipe leaves out, by name."""
    wanted = matching(names, layers, parameter="layers") if layers else set(names)
    wanted -= matching(names, ignore, parameter="ignore")
    left = {name: "left out by the recipe" for name in names if name not in wanted}
    schema = context.data.schema
    if output and schema.task == "next_item":
        items = schema.field(schema.item).cardinality
        scoring = [name for name in wanted if len(_weight(module, name)) == items]
        left |= dict.fromkeys(scoring, "it scores the whole catalogue (keep_output)")
    return left


def _smaller(
    module: nn.Module,
    names: Sequence[str],
    moments: Mapping[str, torch.Tensor],
    *,
    energy: float | None,
    ratio: float | None,
) -> tuple[dict[str, Factors], dict[str, str]]:
    """The products of fewer weights than their layers, and why other layers have none."""
    found, left = dict[str, Factors](), dict[str, str]()
    for name in names:
        weight = _weight(module, name)
        rank = None if ratio is None else rank_within(weight, ratio)
        if rank == 0:
            left[name] = f"no product has so few weights ({tuple(weight.shape)})"
            continue
        made = factorize(weight, moments.get(name), energy=energy, rank=rank)
        if made.rank * sum(weight.shape) < weight.numel():
            found[name] = made
        else:
            left[name] = f"rank {made.rank} of {min(weight.shape)} wouldn't shrink it"
    return found, left


def rank_within(weight: torch.Tensor, ratio: float) -> int:
    """The largest rank whose two matrices have at most (1 - ``ratio``) of the weights of ``weight``
    (outputs, inputs); 0: none.
    """
    return int((1 - ratio) * weight.numel() / sum(weight.shape) + 1e-9)


def input_moments(
    module: nn.Module, names: Sequence[str], artifact: Artifact, context: Context, *, rows: int
) -> dict[str, torch.Tensor]:
    """E[x x^T] (inputs, inputs) float64 of what each layer reads, over a seeded sample of training
    rows. Raises ``DataError`` for numbers that aren't finite.
    """
    sums, counts = dict[str, torch.Tensor](), dict.fromkeys(names, 0)

    def watch(name: str) -> Any:
        def hook(part: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            x = given[0].reshape(-1, given[0].shape[-1]).double()  # (vectors, inputs)
            sums[name] = sums.get(name, torch.zeros(())) + x.T @ x
            counts[name] += len(x)

        return module.get_submodule(name).register_forward_pre_hook(hook)

    torch.set_num_threads(context.threads)
    hooks = [watch(name) for name in names]
    split = context.data.splits["train"]
    drawn = draw_rows(split, count=rows, seed=context.seed)
    for batch in row_batches(context.data, split, drawn, artifact.inputs):
        module_outputs(module, batch)
    for hook in hooks:
        hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}


def factorize(
    weight: torch.Tensor,
    moments: torch.Tensor | None,
    *,
    energy: float | None,
    rank: int | None,
) -> Factors:
    """The product nearest to ``weight`` (outputs, inputs) for inputs of those second ``moments``
    (inputs, inputs), or for all alike: of ``rank``, or of the least that keeps ``energy``.
    """
    full = weight.double()
    seen = full
    if moments is not None:
        squares, directions = torch.linalg.eigh(moments)
        seen = full @ (directions * squares.clamp(min=0).sqrt())  # W C^1/2, turned
    left, values, _ = torch.linalg.svd(seen, full_matrices=False)
    power = values.square()
    kept = rank_of(power.numpy(), energy=energy, rank=rank)
    up = left[:, :kept]
    total = float(power.sum())
    return Factors(up, up.T @ full, float(power[:kept].sum()) / total if total else 1.0)


def _replace(module: nn.Module, name: str, factors: Factors) -> None:
    before = module.get_submodule(name)
    put_layers(module, {name: ("low_rank_linear", {"rank": factors.rank})})
    layer = module.get_submodule(name)
    with torch.no_grad():
        layer.get_parameter("up.weight").copy_(factors.up)
        layer.get_parameter("down.weight").copy_(factors.down)
        if before.bias is not None:
            layer.get_parameter("up.bias").copy_(before.get_parameter("bias"))


def _asked(
    module: nn.Module, chosen: Mapping[str, Factors], artifact: Artifact, *, ratio: float | None
) -> float | None:
    """Parameters that should stay, where ``ratio`` says so."""
    if ratio is None:
        return None
    return artifact.parameters - ratio * sum(_weight(module, name).numel() for name in chosen)


def _effects(
    module: nn.Module,
    chosen: Mapping[str, Factors],
    *,
    energy: float | None,
    ratio: float | None,
) -> tuple[Effect, ...]:
    weights = {name: _weight(module, name) for name in chosen}
    least = min(each.energy for each in chosen.values())
    unit = "share of the outputs' square, the least of any layer"
    return (
        Effect("energy", 1.0, least, asked=energy, unit=unit),
        *(
            Effect(
                f"rank:{name}",
                min(weights[name].shape),
                each.rank,
                asked=None if ratio is None else rank_within(weights[name], ratio),
                unit="channels",
            )
            for name, each in chosen.items()
        ),
        *(
            Effect(f"output_error:{name}", 0.0, each.error, unit="share of the outputs' size")
            for name, each in chosen.items()
        ),
    )


def _left_notes(left: Mapping[str, str]) -> tuple[str, ...]:
    told = ", ".join(f"{name} ({reason})" for name, reason in left.items())
    return (f"layers left alone: {told}",) if told else ()
