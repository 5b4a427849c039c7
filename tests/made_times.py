"""Measured points with a made-up clock: times that are known by construction."""

import numpy as np

from harness.suites.arms import Arm
from harness.suites.paired import Measured, Series
from harness.suites.points import Point


def series(seconds: float, rounds: int = 40) -> Series:
    """Blocks of three equal calls; every fifth block is 0.4 % longer than the first."""
    blocks = tuple(np.full(3, seconds * (1 + 0.001 * (i % 5))) for i in range(rounds))
    wall = np.array([block.sum() for block in blocks])
    turns = np.arange(rounds)
    return Series(blocks, wall, wall, place=0 * turns, round=turns, switches=0 * turns)


def point(times: dict[Arm, float | None], at: Point, rounds: int = 40) -> Measured:
    """One point; an arm whose time is None has crashed."""
    return Measured(
        at,
        tuple(times),
        {arm.name: series(s, rounds) for arm, s in times.items() if s is not None},
        {arm.name: f"{arm.name}: crashed" for arm, s in times.items() if s is None},
        {},
        {},
    )
