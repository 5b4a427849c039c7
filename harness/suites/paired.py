"""Paired timing: all arms take turns, block by block, and what counts is the ratio inside a round.

Machines drift and have neighbours; two blocks a few milliseconds apart share that, two runs don't.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.suites.arms import Arm, Loaded, Session
from harness.suites.points import Point
from harness.suites.statistics import Interval, median_interval

Progress = Callable[[str, float], None]
Statistic = Literal["median", "p10", "rate"]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How long is measured. A block is at least ``block_seconds`` and ``block_calls`` long, but no
    call is begun after ``block_cap`` seconds. There are ``pairs`` rounds, or fewer (at least
    ``min_pairs``) once a point has used ``arm_seconds`` per arm. Warm-up: see ``Worker._warm``.
    """

    pairs: int = 40
    min_pairs: int = 12
    arm_seconds: float = 0.5
    block_seconds: float = 0.012
    block_calls: int = 3
    block_cap: float = 0.1
    warm_seconds: float = 0.1
    warm_window_calls: int = 3
    warm_window_seconds: float = 0.03
    warm_cap: float = 0.6
    level: float = 0.99
    batches: tuple[int, ...] = (1, 64, 1024)
    candidates: int = 256

    @property
    def block(self) -> dict[str, float]:
        """A block's length as the worker takes it."""
        return {
            "seconds": self.block_seconds,
            "calls": self.block_calls,
            "cap": self.block_cap,
        }

    @property
    def warm(self) -> dict[str, float]:
        """The warm-up's settings as the worker takes them."""
        return {
            "seconds": self.warm_seconds,
            "window_calls": self.warm_window_calls,
            "window_seconds": self.warm_window_seconds,
            "cap": self.warm_cap,
        }


PROFILES: Mapping[str, Protocol] = {
    "ci": Protocol(
        pairs=20, min_pairs=8, arm_seconds=0.15, block_calls=2, warm_seconds=0.05, warm_cap=0.25
    ),
    "default": Protocol(),
    "publish": Protocol(
        pairs=200,
        min_pairs=40,
        arm_seconds=15.0,
        block_cap=2.0,
        warm_seconds=0.5,
        warm_window_calls=20,
        warm_window_seconds=0.1,
        warm_cap=10.0,
    ),
}


@dataclass(frozen=True)
class Series:
    """All blocks of one arm at one point, one entry a round; seconds."""

    latencies: tuple[np.ndarray, ...]
    """Of each round, (calls,)."""
    wall: np.ndarray  # (rounds,) of all calls of the block
    cpu: np.ndarray  # (rounds,) CPU time of the worker's threads in the block
    place: np.ndarray  # (rounds,) which turn of the round it was, from 0

    @property
    def calls(self) -> np.ndarray:
        """Calls in each block, (rounds,)."""
        return np.array([len(block) for block in self.latencies])

    def block_values(self, statistic: Statistic) -> np.ndarray:
        """One time per round, (rounds,): the block's median or p10 latency, or wall per call."""
        if statistic == "rate":
            return np.asarray(self.wall / self.calls)
        q = 0.5 if statistic == "median" else 0.1
        return np.array([np.quantile(block, q) for block in self.latencies])


@dataclass(frozen=True)
class Measured:
    """One point: every arm's series, or why it has none."""

    point: Point
    arms: tuple[Arm, ...]
    series: Mapping[str, Series]
    failures: Mapping[str, str]
    loaded: Mapping[str, Loaded]
    warm: Mapping[str, Mapping[str, Any]]
    level: float = 0.99

    def reference(self, arm: Arm) -> Arm | None:
        """The reference arm of an arm's engine, if it was measured."""
        own = (a for a in self.arms if a.role == "reference" and a.engine == arm.engine)
        return next((a for a in own if a.name in self.series), None)

    def speedup(self, arm: Arm, against: Arm, statistic: Statistic = "median") -> Interval:
        """Median over rounds of time of ``against`` / time of ``arm``, with its interval."""
        ratios = self._values(against, statistic) / self._values(arm, statistic)
        return median_interval(ratios, level=self.level)

    def aa_ratio(self, arm: Arm, statistic: Statistic = "median") -> float | None:
        """The reference of the arm's engine against its own second copy; None without one."""
        copies = (a for a in self.arms if a.role == "aa" and a.engine == arm.engine)
        copy = next((a for a in copies if a.name in self.series), None)
        reference = self.reference(arm)
        if copy is None or reference is None:
            return None
        return self.speedup(copy, reference, statistic).value

    def best_fp32(self, arm: Arm) -> Arm | None:
        """The fastest fp32 reference on the arm's kind of device; None without one."""
        device = self.loaded[arm.name].facts["device"]
        rivals = [
            a
            for a in self.arms
            if a.role == "reference"
            and a.name in self.series
            and self.loaded[a.name].facts["precision"] == "fp32"
            and self.loaded[a.name].facts["device"] == device
        ]
        return min(rivals, key=lambda a: float(np.median(self._values(a, "median"))), default=None)

    def _values(self, arm: Arm, statistic: Statistic) -> np.ndarray:
        return self.series[arm.name].block_values(statistic)


def measure_point(
    session: Session,
    point: Point,
    feeds: Mapping[str, Path],
    protocol: Protocol,
    *,
    seed: int,
    progress: Progress,
) -> Measured:
    """Time all loaded arms at one point; ``feeds`` has each arm's input file.

    In every round each arm runs one block, in an order drawn anew from ``seed``.
    """
    warm = session.prepare(feeds, protocol.warm)
    blocks: dict[str, list[tuple[dict[str, Any], int]]] = {arm.name: [] for arm in session.arms}
    rng = np.random.default_rng([seed, point.rows, point.threads])
    start, budget = time.monotonic(), protocol.arm_seconds * len(session.alive)
    for round_ in range(protocol.pairs):
        if round_ >= protocol.min_pairs and time.monotonic() - start > budget:
            break
        order = [session.alive[i] for i in rng.permutation(len(session.alive))]
        for place, arm in enumerate(order):
            block = session.block(arm, **protocol.block)
            if block is not None:
                blocks[arm.name].append((block, place))
        progress(_label(point), (round_ + 1) / protocol.pairs)
    series = {arm.name: _series(blocks[arm.name]) for arm in session.alive}
    return Measured(
        point,
        session.arms,
        series,
        dict(session.failures),
        dict(session.loaded),
        warm,
        protocol.level,
    )


def _label(point: Point) -> str:
    return f"{point.scenario} {point.requests}x{point.candidates}, {point.threads} threads"


def _series(blocks: list[tuple[dict[str, Any], int]]) -> Series:
    return Series(
        latencies=tuple(np.array(block["latencies"]) / 1e9 for block, _ in blocks),
        wall=np.array([block["wall"] for block, _ in blocks]) / 1e9,
        cpu=np.array([block["cpu"] for block, _ in blocks]) / 1e9,
        place=np.array([place for _, place in blocks]),
    )


def measure(
    arms: tuple[Arm, ...],
    point: Point,
    feeds: Mapping[str, Path],
    protocol: Protocol,
    *,
    seed: int,
    progress: Progress,
) -> Measured:
    """Time arms at one point in fresh processes of their own; what gates and tests call."""
    with Session(arms, point.threads) as session:
        session.load(feeds, progress)
        return measure_point(session, point, feeds, protocol, seed=seed, progress=progress)
