"""Structured pruning to a time asked for: widths are chosen by what they were measured to save.

As NetAdapt does (Yang et al. 2018, arXiv:1804.03230) in rounds, each of which measures narrower
forms of every group in the whole graph on the target engine; within a round widths are chosen as by
Shen et al. 2022 (HALP, arXiv:2110.10811): the least importance lost at the time to be saved.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from torch import nn

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.modules import linear_widths, load_module, save_module
from harness.params import Count, Names, Positive, Ratio, Speedup
from harness.stages.base import Context, Outcome, stage
from harness.stages.channel_cutting import (
    channel_scores,
    check_runs,
    example_inputs,
    frozen_layers,
    gradients,
    kept_reasons,
    shrink,
    width_effects,
    width_notes,
)
from harness.stages.channel_groups import Feeds, Layout, find_groups, linear, trace
from harness.stages.graph_timing import Bench, Pair, bench_of, exported, resized, timed
from harness.stages.width_choice import Choices, choose

NEAR = 0.03
"""How far below what was asked a speedup still counts as met."""
LAST = 5.0
"""Times as long as the others that the last measurement takes: its interval is reported."""

SURE = 0.8
"""Level of the interval by which a group's saving counts: there are many, and each round measures
anew, so one that only looked like it does little harm.
"""


@dataclass(frozen=True, slots=True)
class _Asked:
    """``taylor`` is how many rows importance is taken from; None: from magnitudes."""

    speedup: float
    rounds: int
    round_to: int
    cap: float
    taylor: int | None


@dataclass
class _Cut:
    """A module on its way: ``start`` are its widths before, ``now`` its speedup so far."""

    module: nn.Module
    artifact: Artifact
    context: Context
    layout: Layout
    feeds: Sequence[Feeds]
    start: Mapping[str, tuple[int, ...]]
    now: float = 1.0
    notes: list[str] = field(default_factory=list)

    def width(self, root: str) -> int:
        """Of a group, as it is now."""
        return linear(self.module, root).out_features


@stage(accepts="torch", produces="torch", technique="open_like")
def prune_to_latency(
    artifact: Artifact,
    context: Context,
    *,
    speedup: Speedup,
    rows: Count | None = None,
    importance: Literal["magnitude", "taylor"] = "taylor",
    rounds: Count = 4,
    round_to: Count = 16,
    cap: Ratio = 0.9,
    seconds: Positive = 1.0,
    taylor_rows: Count = 8192,
    ignore: Names = (),
    layers: Names = (),
) -> Outcome:
    """Remove channels until the exported graph is ``speedup`` times as quick in onnxruntime on one
    CPU thread, at ``rows`` a call (256 candidates of one request; of next items 8 histories).

    In each of ``rounds`` every group of layers is timed at about 3/4 and 1/2 of its width against
    the present graph, in turns for ``seconds`` a pair, and the widths are cut that lose the least
    importance for their share of the time. Importance is as of ``prune_channels``; magnitudes count
    as shares of their group's. Widths become multiples of ``round_to`` and of the heads, no layer
    loses more than the share ``cap``, ``ignore`` and ``layers`` are as of ``prune_channels``.

    What was reached is timed on an export of its own; a miss, or a graph that became slower, is
    said. Raises ``EffectError`` when no width changes.
    """
    taylor = taylor_rows if importance == "taylor" else None
    asked = _Asked(speedup, rounds, round_to, cap, taylor)
    module = load_module(artifact)
    frozen = frozen_layers(module, ignore=ignore, layers=layers, stage="prune_to_latency")
    feeds = example_inputs(artifact, context)
    layout = find_groups(module, feeds, frozen=frozen)
    if not layout.groups:
        raise EffectError(f"prune_to_latency: no layer can be pruned: {kept_reasons(layout)}")
    cut = _Cut(module, artifact, context, layout, feeds, linear_widths(module))
    with TemporaryDirectory() as folder:
        bench = bench_of(artifact, context, Path(folder), rows=rows, seconds=seconds)
        context.progress("exporting to ONNX", 0.0)
        before = exported(module, artifact, bench, "before")
        for at in range(rounds):
            if cut.now >= speedup or not _round(cut, bench, asked, at, before):
                break
        _require_cut(cut, asked)
        check_runs(module, feeds, stage="prune_to_latency")
        context.progress("timing what was reached", 0.9)
        found = timed(before, exported(module, artifact, bench, "after"), bench, times=LAST)
    pruned = save_module(module, artifact, context.folder)
    widths = width_effects(cut.start, linear_widths(module), layout)
    effects = (
        Effect("speedup", 1.0, found.speedup.value, asked=speedup, unit=f"x, {bench.rows} a call"),
        Effect("parameters", artifact.parameters, pruned.parameters),
        Effect("macs", artifact.macs, pruned.macs),
        *widths,
    )
    notes = (_verdict(found, asked, bench), *cut.notes, *width_notes(widths, layout))
    return Outcome(pruned, effects, notes)


def _round(cut: _Cut, bench: Bench, asked: _Asked, at: int, before: Path) -> bool:
    """Cut the widths that save this round's share of the time; whether any was."""
    goal = (asked.speedup / cut.now) ** (-1 / (asked.rounds - at))  # of the present graph's time
    module = cut.module
    present = resized(module, cut.artifact, bench, "present", like=before)
    graph = trace(module, cut.feeds[0])
    if asked.taylor:
        gradients(module, cut.artifact, cut.context, rows=asked.taylor)
    choices, told = list[Choices](), list[str]()
    for number, root in enumerate(cut.layout.groups):
        widths = _widths(cut, root, asked)
        saved = _saved(cut, bench, root, widths, (before, present), told)
        lost = _lost(graph, cut, root, widths, taylor=asked.taylor is not None)
        choices.append(Choices(widths, saved, lost))
        done = (at + (number + 1) / len(cut.layout.groups)) / asked.rounds
        cut.context.progress(f"round {at + 1}/{asked.rounds}: {root} timed", 0.9 * done)
    cut.notes.append(f"round {at + 1}: of the time " + (", ".join(told) or "nothing to narrow"))
    picked = choose(choices, 1 - goal)
    for root, group, place in zip(cut.layout.groups, choices, picked, strict=True):
        heads = cut.layout.heads[root]
        kept = (int(group.widths[place]) // heads, heads)
        shrink(graph, module, root, kept=kept, taylor=asked.taylor is not None)
    module.zero_grad(set_to_none=True)
    if not any(picked):
        return False
    now = resized(module, cut.artifact, bench, "present", like=before)
    cut.now = timed(before, now, bench).speedup.value
    return True


def _widths(cut: _Cut, root: str, asked: _Asked) -> np.ndarray:
    """The present width of a group and the multiples below it, to half of it and to the cap."""
    unit, now = math.lcm(asked.round_to, cut.layout.heads[root]), cut.width(root)
    least = max(cut.start[root][0] * (1 - asked.cap), now / 2, unit)
    last = math.ceil(least / unit - 1e-9) * unit
    return np.array([now, *range((now - 1) // unit * unit, last - 1, -unit)])


def _saved(
    cut: _Cut,
    bench: Bench,
    root: str,
    widths: np.ndarray,
    files: tuple[Path, Path],
    told: list[str],
) -> np.ndarray:
    """The share of the present time that each width saves, (widths,): measured at the narrowest
    and in the middle, by straight lines between. What the interval doesn't show to save saves
    nothing; a middle that saves more than the narrowest was disturbed, and is left out.
    """
    before, present = files
    shares = {0: 0.0}
    for place in sorted({len(widths) // 2, len(widths) - 1} - {0}):
        narrow = copy.deepcopy(cut.module)
        heads = cut.layout.heads[root]
        kept = (int(widths[place]) // heads, heads)
        # Which channels go makes no difference to the time.
        shrink(trace(narrow, cut.feeds[0]), narrow, root, kept=kept, taylor=False)
        file = resized(narrow, cut.artifact, bench, "narrow", like=before)
        found = timed(present, file, bench, level=SURE).speedup
        unsure = " (unsure)" if found.low <= 1 else ""
        told.append(f"{root} at {widths[place]} takes {1 / found.value:.2f}{unsure}")
        shares[place] = 0.0 if unsure else 1 - 1 / found.value
    most = shares[max(shares)]
    places = [place for place, share in shares.items() if share <= most]
    saved: np.ndarray = np.interp(-widths, -widths[places], [shares[place] for place in places])
    return saved


def _lost(graph: Any, cut: _Cut, root: str, widths: np.ndarray, *, taylor: bool) -> np.ndarray:
    """The importance of the channels that each width goes without, (widths,)."""
    heads = cut.layout.heads[root]
    scores = channel_scores(graph, cut.module, root, heads=heads, taylor=taylor)
    ordered = np.sort(scores.numpy(), axis=1).sum(axis=0, dtype=np.float64)  # (channels of each,)
    lost = np.concatenate([[0.0], np.cumsum(ordered)])
    whole = 1.0 if taylor or lost[-1] == 0 else lost[-1]
    return np.asarray(lost[(widths[0] - widths) // heads] / whole)


def _require_cut(cut: _Cut, asked: _Asked) -> None:
    if any(cut.width(root) != cut.start[root][0] for root in cut.layout.groups):
        return
    widths = ", ".join(f"{root} stayed {cut.width(root)}" for root in cut.layout.groups)
    raise EffectError(
        f"prune_to_latency: nothing removed, asked for {asked.speedup:g}x ({widths}; "
        f"{'; '.join(cut.notes)}); change round_to, cap or layers, or distil a narrower student"
    )


def _verdict(found: Pair, asked: _Asked, bench: Bench) -> str:
    """Asked against reached, in words."""
    rate = found.speedup
    if rate.high < 1:
        word = "slower than before"
    elif rate.value < asked.speedup * (1 - NEAR):
        word = "missed"
    else:
        word = "met"
    unsure = ", no difference shown" if rate.low <= 1 <= rate.high else ""
    return (
        f"asked {asked.speedup:.2f}x, got {rate}: {word}{unsure} (onnxruntime on one thread, "
        f"{bench.rows} a call, {found.before * 1e3:.3g} ms before, {found.after * 1e3:.3g} after)"
    )
