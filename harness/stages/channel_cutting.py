"""What stages that remove channels share: which layers may be cut, how much each channel matters,
cutting the least important ones, and the check that the model still runs.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import nn

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.modules import linear_widths
from harness.params import Names
from harness.registry import suggest
from harness.stages.base import Context
from harness.stages.channel_groups import Feeds, Layout, group_of, linear, random_feeds, scores_of
from harness.tasks import TASKS
from harness.training import objective_of

_TAYLOR_BATCH = 2048
"""Rows at once; of next items the training's batch, in which a user has many positions."""


def example_inputs(artifact: Artifact, context: Context) -> list[dict[str, torch.Tensor]]:
    """Random legal inputs of two sizes: what is right at one size only is found out."""
    return [
        random_feeds(artifact.inputs, context.data.schema, requests=r, candidates=c)
        for r, c in ((2, 3), (5, 4))
    ]


def frozen_layers(module: nn.Module, *, ignore: Names, layers: Names, stage: str) -> set[str]:
    """Linear layers that keep their width: those that a pattern of ``ignore`` matches and, where
    ``layers`` are given, all that none of those matches. Raises ``EffectError`` for a pattern
    without a match.
    """
    hidden = linear_widths(module)
    everything = [name for name, _ in module.named_modules() if name]
    ignored = {n for pattern in ignore for n in _matches(f"{stage}: ignore", pattern, everything)}
    chosen = {n for pattern in layers for n in _matches(f"{stage}: layers", pattern, hidden)}
    return {name for name in hidden if name in ignored or (layers and name not in chosen)}


def _matches(where: str, pattern: str, names: Iterable[str]) -> list[str]:
    """Names that match, or lie inside a module that does."""
    names = list(names)
    found = [name for name in names if any(fnmatchcase(name[:end], pattern) for end in _ends(name))]
    if not found:
        raise EffectError(f"{where}: pattern {pattern!r} matches no layer{suggest(pattern, names)}")
    return found


def _ends(name: str) -> list[int]:
    return [at for at, letter in enumerate(name) if letter == "."] + [len(name)]


def gradients(module: nn.Module, artifact: Artifact, context: Context, *, rows: int) -> None:
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


def channel_scores(
    graph: Any, module: nn.Module, root: str, *, heads: int, taylor: bool
) -> torch.Tensor:
    """How much each channel of ``root``'s group matters, (heads, channels of each): the norm of its
    weights, or with ``taylor`` what the loss changes by to first order without it (Molchanov et al.
    2019), which needs ``gradients``.
    """
    # Not normalised: scores of a group are compared to each other, and Taylor's are in the loss's
    # own unit.
    scorer = (
        torch_pruning.importance.GroupTaylorImportance(normalizer=None)
        if taylor
        else torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    )
    current = linear(module, root).out_features
    scores: torch.Tensor = scorer(group_of(graph, module, root, range(current)))  # (channels,)
    return scores.reshape(heads, -1)


def shrink(
    graph: Any, module: nn.Module, root: str, *, kept: tuple[int, int], taylor: bool
) -> None:
    """Remove the least important channels of ``root`` until ``kept`` = (channels of each head,
    heads) are left.
    """
    size, heads = kept
    if size * heads >= linear(module, root).out_features:
        return
    scores = channel_scores(graph, module, root, heads=heads, taylor=taylor)
    order = torch.argsort(scores, dim=1, stable=True)  # (heads, channels each)
    weakest = order[:, : order.shape[1] - size]
    starts = torch.arange(heads).unsqueeze(1) * order.shape[1]
    group_of(graph, module, root, sorted((weakest + starts).flatten().tolist())).prune()


def check_runs(module: nn.Module, feeds: Iterable[Feeds], *, stage: str) -> None:
    """Raise ``EffectError`` when a model no longer runs, or gives scores that aren't finite."""
    with torch.no_grad():
        for feed in feeds:
            try:
                scores = scores_of(module(**feed))
            except RuntimeError as error:
                raise EffectError(
                    f"{stage}: the pruned model no longer runs ({error}); name its gates "
                    "and joined layers in `ignore`"
                ) from error
            if not torch.isfinite(scores).all():
                raise EffectError(f"{stage}: the pruned model gives scores that aren't finite")


def width_effects(
    before: Mapping[str, tuple[int, ...]],
    after: Mapping[str, tuple[int, ...]],
    layout: Layout,
    *,
    ratio: float | None = None,
) -> tuple[Effect, ...]:
    """Each layer that could be cut: its width before and after, and what ``ratio`` asked for."""
    names = {name for group in layout.groups.values() for name in group}
    return tuple(
        Effect(
            f"width:{name}",
            before[name][0],
            after[name][0],
            asked=None if ratio is None else before[name][0] * (1 - ratio),
            unit="channels",
        )
        for name in before
        if name in names
    )


def width_notes(effects: tuple[Effect, ...], layout: Layout) -> tuple[str, ...]:
    """What is worth saying of the widths: the smallest ones, heads, and what kept its width."""
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


def kept_reasons(layout: Layout) -> str:
    """Why each other layer can't be cut, in words."""
    told = "; ".join(f"{name}: {reason}" for name, reason in layout.kept.items())
    return told or "the model has no Linear layer"
