"""Paired timing: all arms take turns, block by block, and what counts is the ratio inside a round.

Machines drift and have neighbours; two blocks a few milliseconds apart share that, two runs don't.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.profile import Protocol
from harness.suites.arms import Arm, Loaded, Session
from harness.suites.gpu_health import GpuSample, gpu_noise
from harness.suites.health import Health, health, mhz, point_noise, sample
from harness.suites.points import Point
from harness.suites.statistics import Interval, median_interval

__all__ = ["Measured", "Protocol", "Series", "measure", "measure_point"]

Progress = Callable[[str, float], None]
CHECK_EVERY = 4
"""Rounds between two looks at the intervals."""
Statistic = Literal["median", "p10", "rate", "cpu"]


@dataclass(frozen=True)
class Series:
    """All blocks of one arm at one point, one entry a block; seconds."""

    latencies: tuple[np.ndarray, ...]
    """Of each block, (calls,)."""
    wall: np.ndarray  # (blocks,) of all calls of the block
    cpu: np.ndarray  # (blocks,) CPU time of the worker's threads in the block
    place: np.ndarray  # (blocks,) which turn of the round it was, from 0
    round: np.ndarray  # (blocks,) the round, from 0
    switches: np.ndarray  # (blocks,) times the worker was put off its core
    health: tuple[Health, ...] = ()
    """What the host did meanwhile."""
    gpu: tuple[GpuSample, ...] = ()
    """The GPU right after each block; nothing for an arm that runs on none."""

    @property
    def calls(self) -> np.ndarray:
        """Calls in each block, (blocks,)."""
        return np.array([len(block) for block in self.latencies])

    def block_values(self, statistic: Statistic) -> np.ndarray:
        """One time per block, (blocks,): its median or p10 latency, wall or CPU time per call."""
        if statistic == "rate":
            return np.asarray(self.wall / self.calls)
        if statistic == "cpu":
            return np.asarray(self.cpu / self.calls)
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
    precision: float = 0.02
    noise: str | None = None
    """Why the host counts as noisy while this was measured."""
    mhz: tuple[float, ...] = ()
    """Of the fastest core, before the first and after the last round."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why arms can't be timed in the point's region; elsewhere they go on."""

    def reference(self, arm: Arm) -> Arm | None:
        """The reference arm of an arm's engine, if it was measured."""
        own = (a for a in self.arms if a.role == "reference" and a.engine == arm.judge)
        return next((a for a in own if a.name in self.series), None)

    def speedup(self, arm: Arm, against: Arm, statistic: Statistic = "median") -> Interval:
        """Median over rounds of time of ``against`` / time of ``arm``, with its interval; only
        rounds in which both had their turn count.
        """
        return median_interval(self._ratios(arm, against, statistic), level=self.level)

    def _ratios(self, arm: Arm, against: Arm, statistic: Statistic) -> np.ndarray:
        ours, theirs = self.series[arm.name], self.series[against.name]
        _, here, there = np.intersect1d(ours.round, theirs.round, return_indices=True)
        times = (theirs.block_values(statistic)[there], ours.block_values(statistic)[here])
        return np.asarray(times[0] / times[1])  # (rounds,)

    def converged(self, arm: Arm) -> bool:
        """Whether the primary figure's interval is as narrow as asked, to either side: of the
        paired ratio to the reference (of the A/A ratio, for a reference); of the latency itself,
        for an arm without one.
        """
        reference = self.reference(arm)
        copies = [a for a in self.arms if a.role == "aa" and a.engine == arm.judge]
        pair = next((a for a in copies if a.name in self.series), None)
        if arm.role != "reference":
            pair = reference
        if pair is None or reference is None:
            found = median_interval(self._values(arm, "median"), level=self.level)
        else:
            found = self.speedup(
                arm, pair, "rate" if self.point.scenario == "offline" else "median"
            )
        return is_precise(found, self.precision)

    def aa_ratio(self, arm: Arm, statistic: Statistic = "median") -> float | None:
        """The reference of the arm's engine against its own second copy; None without one."""
        copies = (a for a in self.arms if a.role == "aa" and a.engine == arm.judge)
        copy = next((a for a in copies if a.name in self.series), None)
        reference = self.reference(arm)
        if copy is None or reference is None:
            return None
        return self.speedup(copy, reference, statistic).value

    def unfinished(self) -> tuple[Arm, ...]:
        """The arms that still need rounds: those not converged, their references and the copies."""
        wide = [arm for arm in self.arms if arm.name in self.series and not self.converged(arm)]
        engines = {arm.judge for arm in wide}
        needed = [a for a in self.arms if a.engine in engines and a.role in ("reference", "aa")]
        return tuple(a for a in self.arms if a.name in self.series and (a in wide or a in needed))

    def best_fp32(self, arm: Arm) -> Arm | None:
        """The fastest fp32 reference on the arm's kind of device; None without one."""
        rivals = self._beside(arm, ("fp32",))
        return self._fastest([rival for rival in rivals if rival.role == "reference"])

    def best_half(self, arm: Arm) -> Arm | None:
        """The fastest fp16 or bf16 arm on the arm's kind of device; None without one."""
        return self._fastest(self._beside(arm, ("fp16", "bf16")))

    def _beside(self, arm: Arm, precisions: tuple[str, ...]) -> list[Arm]:
        """The measured arms of these precisions on the arm's kind of device."""
        device = self.loaded[arm.name].facts["device"]
        facts = {a.name: self.loaded[a.name].facts for a in self.arms if a.name in self.series}
        return [
            a
            for a in self.arms
            if a.role != "aa"
            and a.name in facts
            and facts[a.name]["precision"] in precisions
            and facts[a.name]["device"] == device
        ]

    def _fastest(self, arms: Sequence[Arm]) -> Arm | None:
        return min(arms, key=lambda a: float(np.median(self._values(a, "median"))), default=None)

    def _values(self, arm: Arm, statistic: Statistic) -> np.ndarray:
        return self.series[arm.name].block_values(statistic)


def is_precise(found: Interval, precision: float) -> bool:
    """Whether an interval reaches at most ``precision`` of its value to either side."""
    if found.value is None or found.low is None or found.high is None:
        return False
    return found.high - found.low <= 2 * precision * found.value * (1 + 1e-9)


def measure_point(
    session: Session,
    point: Point,
    feeds: Mapping[str, Path],
    protocol: Protocol,
    *,
    seed: int,
    progress: Progress,
) -> Measured:
    """Time the arms in ``feeds`` (each arm's input file, by name) at one point.

    In every round each arm runs one block, in an order drawn anew from ``seed``: engine by engine,
    so that what is paired is as near in time as can be. An arm whose interval is narrow enough
    leaves; references stay as long as any of their engine's arms.
    """
    warm = session.prepare(feeds, protocol.warm, region=point.region)
    refused = {name: told["refused"] for name, told in warm.items() if "refused" in told}
    arms = tuple(a for a in session.arms if a.name in feeds)
    taken = _Taken(session, point, arms, protocol, refused=refused)
    rng = np.random.default_rng([seed, point.rows, point.threads])
    clocks, start = [mhz()], time.monotonic()
    active, round_ = taken.alive, 0
    while active and round_ < protocol.max_pairs:
        elapsed = time.monotonic() - start
        enough = round_ >= protocol.min_pairs and elapsed >= protocol.min_seconds
        if enough and elapsed >= protocol.max_seconds:
            break
        if enough and round_ % CHECK_EVERY == 0:
            active = taken.measured(warm).unfinished()
        for place, arm in enumerate(_turns(active, rng)):
            taken.block(arm, round_, place)
        active = tuple(arm for arm in active if arm in taken.alive)
        round_ += 1
        progress(point.label, min(1.0, round_ / protocol.max_pairs))
    progress(point.label, 1.0)
    clocks.append(mhz())
    return taken.measured(warm, tuple(value for value in clocks if value is not None))


def _turns(arms: Sequence[Arm], rng: np.random.Generator) -> Iterator[Arm]:
    """The arms of a round: engines in random order, and the arms of each in random order; those
    that are compared with another engine's reference run with that engine's.
    """
    engines = list(dict.fromkeys(arm.judge for arm in arms))
    for engine in rng.permutation(len(engines)):
        own = [arm for arm in arms if arm.judge == engines[engine]]
        yield from (own[at] for at in rng.permutation(len(own)))


@dataclass
class _Taken:
    """The blocks taken so far at one point."""

    session: Session
    point: Point
    arms: tuple[Arm, ...]
    protocol: Protocol
    blocks: dict[str, list[tuple[dict[str, Any], int, int, Health]]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def alive(self) -> tuple[Arm, ...]:
        out = {*self.session.failures, *self.refused}
        return tuple(arm for arm in self.arms if arm.name not in out)

    def block(self, arm: Arm, round_: int, place: int) -> None:
        before = sample()
        block = self.session.block(arm, **self.protocol.block)
        if block is not None:
            switches = block["switches"] if self.session.threads == 1 else None
            told = (block, round_, place, health(before, sample(), switches=switches))
            self.blocks.setdefault(arm.name, []).append(told)

    def measured(self, warm: Mapping[str, Any], clocks: tuple[float, ...] = ()) -> Measured:
        series = {a.name: _series(self.blocks[a.name]) for a in self.alive if a.name in self.blocks}
        healths = [health for one in series.values() for health in one.health]
        gpus = [gpu for one in series.values() for gpu in one.gpu]
        failures = self.session.failures
        return Measured(
            self.point,
            self.arms,
            series,
            {arm.name: failures[arm.name] for arm in self.arms if arm.name in failures},
            dict(self.session.loaded),
            warm,
            self.protocol.level,
            self.protocol.precision,
            point_noise(healths, clocks) or gpu_noise(gpus),
            clocks,
            self.refused,
        )


def _series(blocks: list[tuple[dict[str, Any], int, int, Health]]) -> Series:
    return Series(
        latencies=tuple(np.array(block["latencies"]) / 1e9 for block, *_ in blocks),
        wall=np.array([block["wall"] for block, *_ in blocks]) / 1e9,
        cpu=np.array([block["cpu"] for block, *_ in blocks]) / 1e9,
        round=np.array([round_ for _, round_, _, _ in blocks]),
        place=np.array([place for _, _, place, _ in blocks]),
        switches=np.array([block["switches"] for block, *_ in blocks]),
        health=tuple(health for *_, health in blocks),
        gpu=tuple(GpuSample(**block["gpu"]) for block, *_ in blocks if "gpu" in block),
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
        session.pin()
        return measure_point(session, point, feeds, protocol, seed=seed, progress=progress)
