"""Structured pruning: whole channels of hidden Linear layers are removed (Torch-Pruning).

Queries, keys and values of an attention lose as many channels in every head: heads get smaller and
stay as many, since their number is a part of the model's code, not of its weights.

Widths are worked out here, always from the original width, and Torch-Pruning is asked for an exact
set of channels: its own ratios compound over steps, jump when rounded and do nothing near 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.modules import linear_widths, load_module, save_module
from harness.params import Count, Names, Ratio, Share
from harness.stages.base import Context, Outcome, require_effect, stage
from harness.stages.channel_cutting import (
    check_runs,
    example_inputs,
    frozen_layers,
    gradients,
    kept_reasons,
    shrink,
    width_effects,
    width_notes,
)
from harness.stages.channel_groups import Layout, find_groups, trace


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is cut: ``widths`` gives the final width of each group's first layer."""

    layout: Layout
    widths: Mapping[str, int]
    steps: int
    taylor_rows: int | None


@stage(accepts="torch", produces="torch", technique="open_like")
def prune_channels(
    artifact: Artifact,
    context: Context,
    *,
    ratio: Ratio,
    importance: Literal["magnitude", "taylor"] = "magnitude",
    steps: Count = 1,
    round_to: Count = 1,
    tolerance: Share = 0.1,
    taylor_rows: Count = 8192,
    ignore: Names = (),
    layers: Names = (),
) -> Outcome:
    """Remove the share ``ratio`` of the channels of every hidden Linear layer.

    The least important channels go: by the norm of their weights, or by first-order Taylor
    expansion of the loss over ``taylor_rows`` training rows (Molchanov et al. 2019), ranked anew
    in each of ``steps``. Widths become multiples of ``round_to``, and of the number of heads, in
    every one of which as many channels stay. Outputs, gates and layers tied to embedding tables
    keep their width, and so do layers that match a pattern of ``ignore`` or, when ``layers`` are
    given, match none of those. Raises ``EffectError`` when nothing can be removed, or when a
    layer's removed share is further than ``tolerance`` from ``ratio``.
    """
    module = load_module(artifact)
    frozen = frozen_layers(module, ignore=ignore, layers=layers, stage="prune_channels")
    feeds = example_inputs(artifact, context)
    layout = find_groups(module, feeds, frozen=frozen)
    before = linear_widths(module)
    widths = {
        root: _target(before[root][0], ratio, math.lcm(round_to, heads))
        for root, heads in layout.heads.items()
    }
    if ratio > 0:
        rows = taylor_rows if importance == "taylor" else None
        _cut(module, artifact, context, plan=_Plan(layout, widths, steps, rows), feeds=feeds)
    effects = width_effects(before, linear_widths(module), layout, ratio=ratio)
    if ratio > 0:
        _check_effects(effects, layout, ratio=ratio, tolerance=tolerance)
    pruned = save_module(module, artifact, context.folder)
    sizes = (
        Effect("parameters", artifact.parameters, pruned.parameters),
        Effect("macs", artifact.macs, pruned.macs),
    )
    if ratio > 0:
        require_effect(sizes, stage="prune_channels")
    return Outcome(pruned, (*sizes, *effects), _notes(effects, layout, ratio))


def _target(width: int, ratio: float, round_to: int) -> int:
    """The nearest multiple of ``round_to`` to what should stay (ties go down), from ``round_to``
    (or 1) up to the width itself.
    """
    nearest = math.ceil(width * (1 - ratio) / round_to - 0.5 - 1e-9) * round_to
    return min(width, max(round_to, nearest))


def _cut(
    module: nn.Module,
    artifact: Artifact,
    context: Context,
    *,
    plan: _Plan,
    feeds: list[dict[str, torch.Tensor]],
) -> None:
    """Prune ``module`` in place to the plan's widths, in equal steps from the original ones."""
    start = {root: linear_widths(module)[root][0] for root in plan.widths}
    for step in range(1, plan.steps + 1):
        graph = trace(module, feeds[0])
        if plan.taylor_rows:
            gradients(module, artifact, context, rows=plan.taylor_rows)
        for root, final in plan.widths.items():
            heads = plan.layout.heads[root]
            gone = (start[root] - final) // heads * step // plan.steps  # of each head so far
            kept = (start[root] // heads - gone, heads)
            shrink(graph, module, root, kept=kept, taylor=plan.taylor_rows is not None)
        module.zero_grad(set_to_none=True)
        context.progress(f"pruning step {step}/{plan.steps}", step / plan.steps)
    check_runs(module, feeds, stage="prune_channels")


def _check_effects(
    effects: tuple[Effect, ...], layout: Layout, *, ratio: float, tolerance: float
) -> None:
    if all(effect.before == effect.after for effect in effects):
        widths = ", ".join(f"{e.name.partition(':')[2]} stayed {e.after:g}" for e in effects)
        raise EffectError(
            f"prune_channels: nothing removed, asked for {ratio:.0%} of the channels "
            f"({widths or 'no layer can be pruned: ' + kept_reasons(layout)}); change ratio, "
            "round_to or layers"
        )
    for effect in effects:
        removed = 1 - effect.after / effect.before
        if abs(removed - ratio) > tolerance + 1e-9:
            raise EffectError(
                f"prune_channels: {effect.name.partition(':')[2]}: asked to remove {ratio:.0%} of "
                f"its channels, {removed:.0%} went ({effect.before:g} -> {effect.after:g}, asked "
                f"{effect.asked:g}), which is more than {tolerance:.0%} apart; change round_to, "
                "ratio or tolerance"
            )


def _notes(effects: tuple[Effect, ...], layout: Layout, ratio: float) -> tuple[str, ...]:
    if ratio == 0:
        return ("ratio 0: nothing asked, nothing removed",)
    return width_notes(effects, layout)
