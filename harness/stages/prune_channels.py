"""Structured pruning: whole channels of hidden Linear layers are removed (Torch-Pruning).

Queries, keys and values of an attention lose as many channels in every head: heads get smaller and
stay as many, since their number is a part of the model's code, not of its weights.

Widths are worked out here, always from the original width, and Torch-Pruning is asked for an exact
set of channels: its own ratios compound over steps, jump when rounded and do nothing near 1.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import torch
import torch_pruning
from torch import nn

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.modules import linear_widths, load_module, save_module
from harness.params import Count, Names, Ratio, Share
from harness.registry import suggest
from harness.stages.base import Context, Outcome, require_effect, stage
from harness.stages.channel_groups import (
    Feeds,
    Layout,
    find_groups,
    group_of,
    linear,
    random_feeds,
    scores_of,
    trace,
)
from harness.tasks import TASKS
from harness.training import objective_of

_TAYLOR_BATCH = 2048
"""Rows at once; of next items the training's batch, in which a user has many positions."""


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
    frozen = _frozen(module, ignore=ignore, layers=layers)
    feeds = [
        random_feeds(artifact.inputs, context.data.schema, requests=r, candidates=c)
        for r, c in ((2, 3), (5, 4))
    ]
    layout = find_groups(module, feeds, frozen=frozen)
    before = linear_widths(module)
    widths = {
        root: _target(before[root][0], ratio, math.lcm(round_to, heads))
        for root, heads in layout.heads.items()
    }
    if ratio > 0:
        rows = taylor_rows if importance == "taylor" else None
        _cut(module, artifact, context, plan=_Plan(layout, widths, steps, rows), feeds=feeds)
    effects = _width_effects(before, linear_widths(module), layout, ratio)
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


def _frozen(module: nn.Module, *, ignore: Names, layers: Names) -> set[str]:
    hidden = linear_widths(module)
    everything = [name for name, _ in module.named_modules() if name]
    ignored = {name for pattern in ignore for name in _matches("ignore", pattern, everything)}
    chosen = {name for pattern in layers for name in _matches("layers", pattern, hidden)}
    return {name for name in hidden if name in ignored or (layers and name not in chosen)}


def _matches(parameter: str, pattern: str, names: Iterable[str]) -> list[str]:
    """Names that match, or lie inside a module that does."""
    names = list(names)
    found = [name for name in names if any(fnmatchcase(name[:end], pattern) for end in _ends(name))]
    if not found:
        raise EffectError(
            f"prune_channels: {parameter}: pattern {pattern!r} matches no layer"
            f"{suggest(pattern, names)}"
        )
    return found


def _ends(name: str) -> list[int]:
    return [at for at, letter in enumerate(name) if letter == "."] + [len(name)]


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
            _gradients(module, artifact, context, rows=plan.taylor_rows)
        for root, final in plan.widths.items():
            heads = plan.layout.heads[root]
            gone = (start[root] - final) // heads * step // plan.steps  # of each head so far
            kept = (start[root] // heads - gone, heads)
            _shrink(graph, module, root, kept=kept, taylor=plan.taylor_rows is not None)
        module.zero_grad(set_to_none=True)
        context.progress(f"pruning step {step}/{plan.steps}", step / plan.steps)
    _check_runs(module, feeds)


def _shrink(
    graph: Any, module: nn.Module, root: str, *, kept: tuple[int, int], taylor: bool
) -> None:
    """Remove the least important channels of ``root`` until ``kept`` = (channels of each head,
    heads) are left.
    """
    size, heads = kept
    current = linear(module, root).out_features
    if size * heads >= current:
        return
    # Scores are compared inside one group only, so they need no normalising.
    scorer = (
        torch_pruning.importance.GroupTaylorImportance(normalizer=None)
        if taylor
        else torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    )
    scores = scorer(group_of(graph, module, root, range(current)))  # (channels,)
    order = torch.argsort(scores.reshape(heads, -1), dim=1, stable=True)  # (heads, channels each)
    weakest = order[:, : order.shape[1] - size]
    starts = torch.arange(heads).unsqueeze(1) * order.shape[1]
    group_of(graph, module, root, sorted((weakest + starts).flatten().tolist())).prune()


def _gradients(module: nn.Module, artifact: Artifact, context: Context, *, rows: int) -> None:
    """Leave the gradient of the mean loss over a seeded sample of training rows in ``module``; of
    a model that learns from whole sequences, over a sample of users.
    """
    objective = objective_of(
        module, context.data, artifact.inputs, context.training, seed=context.seed
    )
    examples = objective.examples
    random = np.random.default_rng(context.seed)
    sample = np.sort(random.choice(examples, min(rows, examples), replace=False))
    lists = TASKS[context.data.schema.task].lists
    batch = context.training.batch_size if lists else _TAYLOR_BATCH
    torch.set_num_threads(context.threads)
    module.zero_grad(set_to_none=True)
    for first in range(0, len(sample), batch):
        part = sample[first : first + batch]
        loss = objective.loss(module, part)
        (loss * (len(part) / len(sample))).backward()  # type: ignore[no-untyped-call]


def _check_runs(module: nn.Module, feeds: Iterable[Feeds]) -> None:
    with torch.no_grad():
        for feed in feeds:
            try:
                scores = scores_of(module(**feed))
            except RuntimeError as error:
                raise EffectError(
                    f"prune_channels: the pruned model no longer runs ({error}); name its gates "
                    "and joined layers in `ignore`"
                ) from error
            if not torch.isfinite(scores).all():
                raise EffectError(
                    "prune_channels: the pruned model gives scores that aren't finite"
                )


def _width_effects(
    before: Mapping[str, tuple[int, ...]],
    after: Mapping[str, tuple[int, ...]],
    layout: Layout,
    ratio: float,
) -> tuple[Effect, ...]:
    names = [name for group in layout.groups.values() for name in group]
    return tuple(
        Effect(
            f"width:{name}",
            before[name][0],
            after[name][0],
            asked=before[name][0] * (1 - ratio),
            unit="channels",
        )
        for name in before
        if name in names
    )


def _check_effects(
    effects: tuple[Effect, ...], layout: Layout, *, ratio: float, tolerance: float
) -> None:
    if all(effect.before == effect.after for effect in effects):
        widths = ", ".join(f"{e.name.partition(':')[2]} stayed {e.after:g}" for e in effects)
        kept = "; ".join(f"{name}: {reason}" for name, reason in layout.kept.items())
        kept = kept or "the model has no Linear layer"
        raise EffectError(
            f"prune_channels: nothing removed, asked for {ratio:.0%} of the channels "
            f"({widths or 'no layer can be pruned: ' + kept}); change ratio, round_to or layers"
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
    smallest = [e.name.partition(":")[2] for e in effects if e.after == 1 < e.before]
    cut = (f"{', '.join(smallest)} cut to the smallest width, 1",) if smallest else ()
    after = {e.name.partition(":")[2]: int(e.after) for e in effects}
    heads = [
        f"{', '.join(layout.groups[root])}: {number} heads of {after[root] // number} channels each"
        for root, number in layout.heads.items()
        if number > 1
    ]
    return (
        *cut,
        *heads,
        *(f"{name} kept its width: {reason}" for name, reason in layout.kept.items()),
    )
