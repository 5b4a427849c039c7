"""Times of calls that take turns, and how sure the ratio of two of them is."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

ROUNDS = 300
WARM = 30
LEAST = 20
"""Rounds that are timed however long they take."""
LEVEL = 0.99

Call = Callable[[int], object]
"""Does its work on one batch, by the batch's number."""


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as quick one call is as another: the median over rounds, its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def paired_times(
    calls: Mapping[str, Call],
    *,
    batches: int,
    rounds: int = ROUNDS,
    warm: int = WARM,
    seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds of each call, (rounds,) by name: each round every call once on the same batch,
    another call first each time, after ``warm`` rounds that don't count. After ``seconds`` no
    further round is begun, but ``LEAST`` are timed in any case.
    """
    names = list(calls)
    timed = {name: list[float]() for name in names}
    first = last = clock()
    for at in range(-warm, rounds):
        late = seconds is not None and last - first > seconds
        if late and not 0 <= at < LEAST:
            continue
        turn = at % len(names)
        for name in (*names[turn:], *names[:turn]):
            start = clock()
            calls[name](at % batches)
            last = clock()
            if at >= 0:
                timed[name].append(last - start)
    return {name: np.array(spent) for name, spent in timed.items()}


def speedup(reference: np.ndarray, own: np.ndarray, *, level: float = LEVEL) -> Speedup:
    """Times of a reference / own times of the same rounds, (rounds,) each: the median and the
    interval that holds it with ``level``, whatever the times' distribution.

    Its ends are order statistics, by the sign test (Conover, Practical Nonparametric Statistics,
    1999, section 3.2); 0 and infinity below the eight rounds that 99 % takes.
    """
    from scipy.stats import binom

    ratios = np.sort(reference / own)
    beyond = int(binom.ppf((1 - level) / 2, len(ratios), 0.5))
    if beyond == 0:
        return Speedup(float(np.median(ratios)), 0.0, float("inf"))
    return Speedup(float(np.median(ratios)), float(ratios[beyond - 1]), float(ratios[-beyond]))
