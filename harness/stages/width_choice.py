"""Which widths save enough time at the least loss of importance: a knapsack with one choice of each
group, as in Shen et al. 2022 (HALP, arXiv:2110.10811).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 2000
"""Parts that the time to be saved is counted in; a choice's own is rounded down to whole ones."""


@dataclass(frozen=True)
class Choices:
    """What a group can be: ``widths`` (choices,), the present one first, then narrower ones;
    ``saved`` is the time saved by each (share of the present time, 0 for the first) and ``lost``
    the importance of what goes.
    """

    widths: np.ndarray
    saved: np.ndarray
    lost: np.ndarray


def choose(groups: Sequence[Choices], needed: float) -> tuple[int, ...]:
    """The place of each group's choice: together they save at least ``needed`` (> 0) and lose the
    least. Where nothing saves as much, those that save the most, and lose the least of these.
    """
    best = np.full(STEPS + 1, np.inf)  # (saved,): least importance lost, all beyond the end in one
    best[0] = 0.0
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    for group in groups:
        parts = np.minimum(np.floor(group.saved / needed * STEPS + 1e-9), STEPS).astype(int)
        found, choice = np.full(STEPS + 1, np.inf), np.zeros(STEPS + 1, int)
        source = np.arange(STEPS + 1)
        for at, (part, lost) in enumerate(zip(parts, group.lost, strict=True)):
            start = STEPS - part  # states from here on save enough with this choice
            enough = start + int(np.argmin(best[start:]))
            moved = np.append(best[:start], best[enough]) + lost  # to part ... STEPS
            origin = np.append(np.arange(start), enough)
            better = np.flatnonzero(moved < found[part:])
            found[part + better] = moved[better]
            choice[part + better], source[part + better] = at, origin[better]
        best = found
        taken.append((choice, source))
    state, picked = int(np.flatnonzero(np.isfinite(best))[-1]), list[int]()
    for choice, source in reversed(taken):
        picked.append(int(choice[state]))
        state = int(source[state])
    return tuple(reversed(picked))
