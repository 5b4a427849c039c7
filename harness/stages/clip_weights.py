"""Unstructured pruning: single weights of small magnitude become zero (Han et al. 2015,
arXiv:1506.02626; Zhu and Gupta 2017, arXiv:1710.01878).

A mask only: the zeros are stored and multiplied as any other number.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from harness.artifact import Artifact, Effect
from harness.clipped import matrices
from harness.errors import EffectError
from harness.modules import load_module, save_module
from harness.params import Names, Ratio
from harness.registry import suggest
from harness.stages.base import Context, Outcome, stage


@stage(accepts="torch", produces="torch", technique="open_like")
def clip_weights(
    artifact: Artifact,
    context: Context,
    *,
    ratio: Ratio,
    layers: Names = (),
    scope: Literal["global", "layer"] = "layer",
) -> Outcome:
    """Set the share ``ratio`` of the weights of every matrix to zero, the smallest magnitudes
    first; ``scope: global`` compares the weights of all matrices with each other.

    Only a mask: file and time stay as they are, and the outcome says so. ``layers`` are patterns
    of modules or parameters (none: every matrix, tables too; biases and norms never), tied ones
    count once. Stages that train afterwards keep the zeros. Raises ``EffectError`` for a ratio of
    0 or 1, a pattern that matches nothing and when no weight changes.
    """
    if not 0 < ratio < 1:
        raise EffectError(
            f"clip_weights: ratio {ratio:g} would clip {'every weight' if ratio else 'nothing'}; "
            "give a share above 0 and below 1"
        )
    module = load_module(artifact)
    chosen = _chosen(module, layers)
    context.progress(f"clipping {len(chosen)} matrices", 0.2)
    before = {name: _zeros(weight) for name, weight in chosen.items()}
    groups = [list(chosen.values())] if scope == "global" else [[w] for w in chosen.values()]
    asked = sum(_clip(group, ratio) for group in groups)
    after = {name: _zeros(weight) for name, weight in chosen.items()}
    numbers = sum(weight.numel() for weight in chosen.values())
    made = save_module(module, artifact, context.folder)
    effects = (
        Effect("zero_weights", sum(before.values()), sum(after.values()), asked=asked),
        Effect("parameters", artifact.parameters, made.parameters),
        Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes"),
        *(Effect(f"zeros:{name}", before[name], after[name]) for name in chosen),
    )
    if before == after:
        raise EffectError(
            f"clip_weights had no effect: {sum(after.values()):,} of {numbers:,} weights are zero "
            "already; raise ratio"
        )
    return Outcome(made, effects, _notes(sum(after.values()), numbers, artifact, made))


def _notes(zeros: int, numbers: int, artifact: Artifact, made: Artifact) -> tuple[str, ...]:
    size = (
        f"the file keeps its {made.bytes:,} bytes"
        if made.bytes == artifact.bytes
        else f"the file has {made.bytes:,} bytes after {artifact.bytes:,}"
    )
    return (
        f"mask only: {zeros:,} zeros are stored as numbers ({zeros / numbers:.1%} of the matrices)"
        f"; {size}, and products take the time they took",
        "stages that train this model keep its zeros",
    )


def _chosen(module: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """The matrices that a pattern matches, by parameter or by module, under any of its names."""
    weights = matrices(module)
    if not weights:
        raise EffectError("clip_weights: the model has no weight matrix")
    names: Mapping[str, list[str]] = {name: [] for name in weights}
    first = {id(weight): name for name, weight in weights.items()}
    for name, weight in module.named_parameters(remove_duplicate=False):
        if id(weight) in first:
            ends = [at for at, letter in enumerate(name) if letter == "."]
            names[first[id(weight)]] += [name, *(name[:at] for at in ends)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for own in names.values() for name in own):
            raise EffectError(
                f"clip_weights: layers: pattern {pattern!r} matches no weight matrix"
                f"{suggest(pattern, weights)}"
            )
    return {
        name: weight
        for name, weight in weights.items()
        if not patterns or any(fnmatchcase(own, p) for own in names[name] for p in patterns)
    }


def _zeros(weight: torch.Tensor) -> int:
    return weight.numel() - int(torch.count_nonzero(weight))


def _clip(weights: Sequence[nn.Parameter], ratio: float) -> int:
    """Set the smallest magnitudes of some matrices, together, to zero; gives how many were asked
    for. Of equal ones the first go.
    """
    numbers = sum(weight.numel() for weight in weights)
    asked = round(ratio * numbers)
    if asked == 0:
        return 0
    flat = torch.cat([weight.detach().abs().reshape(-1) for weight in weights])
    limit = torch.kthvalue(flat, asked).values
    gone = flat < limit
    ties = torch.nonzero(flat == limit).reshape(-1)
    gone[ties[: asked - int(gone.sum())]] = True
    with torch.no_grad():
        parts = torch.split(gone, [weight.numel() for weight in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight[part.reshape(weight.shape)] = 0.0
    return asked
