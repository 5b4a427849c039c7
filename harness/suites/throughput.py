"""The throughput suite: arms against their baseline at every point and thread count, as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.artifact import read_artifact
from harness.results import Row
from harness.suites.arms import Arm, Loaded, Session
from harness.suites.paired import PROFILES, Measured, Progress, Protocol, Series, measure_point
from harness.suites.points import Point, draw_rows, sweep_points, write_feeds
from harness.suites.statistics import (
    Interval,
    median_interval,
    percentile,
    queries_needed,
    speed_verdict,
)
from harness.tables import Prepared

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PROFILES", "Arm", "Plan", "Point", "Protocol", "Throughput", "run_throughput"]

Common = Mapping[str, Mapping[str, Any]]
"""What the rows of each arm have in common (recipe, baseline, target ...), by arm name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a throughput run is made of: protocol, thread counts, the split its inputs come from."""

    protocol: Protocol
    threads: tuple[int, ...]
    seed: int
    split: str = "test"


@dataclass(frozen=True)
class Throughput:
    """Rows, the raw points behind them, and what workers said when loaded at the first thread
    count (their memory is what the memory suite reports).
    """

    rows: tuple[Row, ...]
    points: tuple[Measured, ...]
    loaded: Mapping[str, Loaded]
    failures: Mapping[str, str]


def run_throughput(
    arms: Sequence[Arm], data: Prepared, *, common: Common, plan: Plan, progress: Progress
) -> Throughput:
    """Time all arms at every point of the plan; an arm that fails has failed rows, the rest go on.

    Each thread count has worker processes of its own, since counts are fixed before an import.
    """
    arms, threads = tuple(arms), tuple(dict.fromkeys(plan.threads))
    points: list[Measured] = []
    loaded: dict[str, Loaded] = {}
    failures: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        for at, count in enumerate(threads):
            share = _part(progress, at / len(threads), 1 / len(threads))
            session = Session(arms, count)
            points += _run_session(session, data, plan, Path(folder), share)
            loaded = {**session.loaded, **loaded}
            failures = {**session.failures, **failures}
    rows = [row for measured in points for row in throughput_rows(common, measured)]
    return Throughput(tuple(rows), tuple(points), loaded, failures)


def _run_session(
    session: Session, data: Prepared, plan: Plan, folder: Path, progress: Progress
) -> list[Measured]:
    protocol = plan.protocol
    points = sweep_points(protocol.batches, protocol.candidates, threads=session.threads)
    measured = []
    step = 1 / (len(points) + 1)
    with session:
        first = feed_files(session.arms, data, points[-1], plan, folder)
        session.load(first, _part(progress, 0.0, step))
        for at, point in enumerate(points, start=1):
            feeds = feed_files(session.arms, data, point, plan, folder)
            share = _part(progress, at * step, step)
            measured.append(
                measure_point(session, point, feeds, protocol, seed=plan.seed, progress=share)
            )
    return measured


def _part(progress: Progress, start: float, size: float) -> Progress:
    return lambda label, share: progress(label, start + size * share)


def feed_files(
    arms: Sequence[Arm], data: Prepared, point: Point, plan: Plan, folder: Path
) -> dict[str, Path]:
    """Each arm's input file at a point, by arm name; arms that take the same inputs share one."""
    split = data.splits[plan.split]
    rows = draw_rows(split, point, seed=plan.seed)
    inputs = {arm.name: read_artifact(arm.folder).inputs for arm in arms}
    kinds = list(dict.fromkeys(inputs.values()))
    files = {}
    for at, kind in enumerate(kinds):
        path = folder / f"{point.requests}x{point.candidates}-{at}.npz"
        files[kind] = path if path.exists() else write_feeds(path, data.schema, split, rows, kind)
    return {name: files[kind] for name, kind in inputs.items()}


def throughput_rows(common: Common, measured: Measured) -> list[Row]:
    """Rows of one point: latencies, rates, CPU time, speedups of every arm but the A/A copies."""
    rows = []
    for arm in measured.arms:
        if arm.role == "aa":
            continue
        base = {**common[arm.name], **_place(measured.point), **_facts(measured, arm)}
        if arm.name in measured.series:
            rows += _arm_rows(base, measured, arm)
        else:
            reason = measured.failures[arm.name]
            failed = {"status": "failed", "reason": reason, **_METRICS["latency_p50"]}
            rows.append(Row(**{**base, "metric": "latency_p50", **failed}))
    return rows


_METRICS: Mapping[str, Mapping[str, str]] = {
    "latency_p50": {"unit": "s", "direction": "lower"},
    "latency_p90": {"unit": "s", "direction": "lower"},
    "latency_p99": {"unit": "s", "direction": "lower"},
    "rows_per_second": {"unit": "rows/s", "direction": "higher"},
    "requests_per_second": {"unit": "requests/s", "direction": "higher"},
    "cpu_seconds_per_call": {"unit": "s", "direction": "lower"},
    "speedup_vs_best_fp32": {"unit": "ratio", "direction": "higher"},
}


def _place(point: Point) -> dict[str, Any]:
    return {
        "scenario": point.scenario,
        "region": "model_only",
        "batch": point.rows,
        "candidates": point.candidates,
        "threads": point.threads,
    }


def _facts(measured: Measured, arm: Arm) -> dict[str, Any]:
    loaded = measured.loaded.get(arm.name)
    if loaded is None:
        return {"engine": arm.engine}
    facts = loaded.facts
    return {
        "engine": facts["engine"],
        "engine_version": facts["version"],
        "device": facts["device"],
        "precision": facts["precision"],
    }


def _arm_rows(base: dict[str, Any], measured: Measured, arm: Arm) -> list[Row]:
    series, point = measured.series[arm.name], measured.point
    pooled = np.concatenate(series.latencies)
    calls, rounds = {"n": len(pooled)}, {"n": len(series.wall)}
    middle = median_interval(series.block_values("median"), level=measured.level)
    values: dict[str, dict[str, Any]] = {
        "latency_p50": {**_bounds(middle), **rounds, **_ratio(measured, arm, "median")},
        **{f"latency_p{q}": {**_tail(pooled, q), **calls} for q in (90, 99)},
        "rows_per_second": {
            **_rate(series, point.rows, measured.level),
            **rounds,
            **_ratio(measured, arm, "rate"),
        },
        "requests_per_second": {**_rate(series, point.requests, measured.level), **rounds},
        "cpu_seconds_per_call": {"value": float(series.cpu.sum() / len(pooled)), **calls},
        "speedup_vs_best_fp32": _best(measured, arm),
    }
    return [
        Row(**{**base, "metric": name, **_METRICS[name], **value}) for name, value in values.items()
    ]


def _bounds(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high}


def _tail(pooled: np.ndarray, q: int) -> dict[str, Any]:
    value = percentile(pooled, q / 100)
    if value is not None:
        return {"value": value}
    return {"reason": f"{len(pooled)} calls; p{q} needs {queries_needed(q / 100)}"}


def _rate(series: Series, per_call: int, level: float) -> dict[str, Any]:
    """All that was scored over all the time it took, with the interval over resampled blocks."""
    rounds = len(series.wall)
    value = per_call * series.calls.sum() / series.wall.sum()
    if rounds < 2:
        return {"value": float(value)}
    drawn = np.random.default_rng(0).integers(0, rounds, (1000, rounds))  # (resamples, rounds)
    rates = per_call * series.calls[drawn].sum(1) / series.wall[drawn].sum(1)  # (resamples,)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return {"value": float(value), "ci_low": float(low), "ci_high": float(high)}


def _ratio(measured: Measured, arm: Arm, statistic: Any) -> dict[str, Any]:
    """Speedup against the same engine's reference and what it shows (a reference has none)."""
    aa = measured.aa_ratio(arm, statistic)
    if arm.role == "reference":
        return {"aa_ratio": aa}
    reference = measured.reference(arm)
    if reference is None:
        return {"reason": f"no ratio: {arm.engine} has no measured reference"}
    found = measured.speedup(arm, reference, statistic)
    return {
        "ratio": found.value,
        "ratio_low": found.low,
        "ratio_high": found.high,
        "aa_ratio": aa,
        "verdict": speed_verdict(found.low, found.high, aa_ratio=aa),
    }


def _best(measured: Measured, arm: Arm) -> dict[str, Any]:
    best = measured.best_fp32(arm)
    if best is None:
        return {"reason": "no fp32 reference was measured on this kind of device"}
    found = measured.speedup(arm, best)
    # Both engines' own noise counts: the A/A ratio that is further from 1 stands for the pair.
    known = [aa for a in (arm, best) if (aa := measured.aa_ratio(a)) is not None]
    aa = max(known, key=lambda value: abs(np.log(value)), default=None)
    told = {"reason": f"against {best.engine}", "n": found.n, "aa_ratio": aa}
    if best.name == arm.name:
        return {**told, "value": 1.0}
    return {
        **told,
        **_bounds(found),
        "verdict": speed_verdict(found.low, found.high, aa_ratio=aa),
    }


def samples_frame(points: Sequence[Measured]) -> "pd.DataFrame":
    """The raw blocks behind the rows, one line a block: seconds, calls, its turn in the round."""
    import pandas as pd

    lines = [
        {
            "arm": name,
            **_place(measured.point),
            "round": at,
            "turn": int(series.place[at]),
            "calls": len(series.latencies[at]),
            "median": float(np.median(series.latencies[at])),
            "p10": float(np.quantile(series.latencies[at], 0.1)),
            "wall": float(series.wall[at]),
            "cpu": float(series.cpu[at]),
        }
        for measured in points
        for name, series in measured.series.items()
        for at in range(len(series.wall))
    ]
    return pd.DataFrame(lines)
