"""Rows of closed-loop points: latencies, rates, CPU time and paired speedups; the raw blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.results import Row
from harness.suites.arms import Arm, Loaded
from harness.suites.gpu_health import gpu_line
from harness.suites.health import noise
from harness.suites.paired import Measured, Series, Statistic
from harness.suites.points import Point
from harness.suites.statistics import (
    Interval,
    median_interval,
    percentile,
    queries_needed,
    speed_verdict,
)

if TYPE_CHECKING:
    import pandas as pd

Common = Mapping[str, Mapping[str, Any]]
"""What the rows of each arm have in common (recipe, baseline, target ...), by arm name."""

QUANTILES = np.linspace(0, 1, 101)
PRIMARY: Mapping[str, tuple[str, Statistic]] = {
    "sweep": ("latency_p50", "median"),
    "single": ("latency_p50", "median"),
    "offline": ("rows_per_second", "rate"),
}
"""The figure that a scenario is about, and the block statistic its ratio is made of."""


def timed_rows(common: Common, measured: Measured) -> list[Row]:
    """Rows of one point: latencies, rates, CPU time, speedups of every arm but the A/A copies."""
    rows = []
    for arm in measured.arms:
        if arm.role == "aa":
            continue
        facts = engine_columns(measured.loaded, arm)
        base = {**common[arm.name], **place(measured.point), **facts}
        if arm.name in measured.series:
            rows += _arm_rows({**base, "noise": measured.noise}, measured, arm)
            rows += _rival_rows({**base, "noise": measured.noise}, common, measured, arm)
        elif arm.name in measured.refused:
            rows.append(_without(base, measured.point, "skipped", measured.refused[arm.name]))
        else:
            rows.append(_without(base, measured.point, "failed", measured.failures[arm.name]))
    return rows


def left_rows(
    common: Common, point: Point, arms: Sequence[Arm], loaded: Mapping[str, Loaded]
) -> list[Row]:
    """Rows of a point that there was no time left for."""
    reason = "the schedule's most_seconds were over before this point's turn"
    return [
        _without(
            {**common[arm.name], **place(point), **engine_columns(loaded, arm)},
            *(point, "skipped", reason),
        )
        for arm in arms
        if arm.role != "aa"
    ]


def _without(base: Mapping[str, Any], point: Point, status: str, reason: str) -> Row:
    """A point's primary figure without a value."""
    metric, _ = PRIMARY[point.scenario]
    told = {"metric": metric, "status": status, "reason": reason, **_METRICS[metric]}
    return Row(**{**base, **told})


_METRICS: Mapping[str, Mapping[str, str]] = {
    "latency_p50": {"unit": "s", "direction": "lower"},
    "latency_p90": {"unit": "s", "direction": "lower"},
    "latency_p99": {"unit": "s", "direction": "lower"},
    "rows_per_second": {"unit": "rows/s", "direction": "higher"},
    "requests_per_second": {"unit": "requests/s", "direction": "higher"},
    "cpu_seconds_per_call": {"unit": "s", "direction": "lower"},
    "speedup_vs_best_fp32": {"unit": "ratio", "direction": "higher"},
}
RIVALS: Mapping[str, str] = {
    "speedup_vs_eager": "torch-cuda",
    "speedup_vs_compiled": "torch-cuda-compiled",
}
"""Engines on a GPU that every other way of running the same variant there is held against."""


def place(point: Point) -> dict[str, Any]:
    """The row columns that say where something was measured."""
    return {
        "scenario": point.scenario,
        "region": point.region,
        "batch": point.rows,
        "candidates": point.candidates,
        "threads": point.threads,
    }


def engine_columns(loaded: Mapping[str, Loaded], arm: Arm) -> dict[str, Any]:
    """The row columns that say what really ran, as the arm's worker read it back."""
    told = loaded.get(arm.name)
    if told is None:
        return {"engine": arm.engine}
    return {
        "engine": told.facts["engine"],
        "engine_version": told.facts["version"],
        "device": told.facts["device"],
        "precision": told.facts["precision"],
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
        "cpu_seconds_per_call": {
            "value": float(series.cpu.sum() / len(pooled)),
            **rounds,
            **_ratio(measured, arm, "cpu"),
        },
        "speedup_vs_best_fp32": _best(measured, arm),
    }
    primary, _ = PRIMARY[point.scenario]
    values[primary]["converged"] = measured.converged(arm)
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


def _ratio(measured: Measured, arm: Arm, statistic: Statistic) -> dict[str, Any]:
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
    told = _against(measured, arm, best)
    if best.name == arm.name:
        return {name: told[name] for name in ("reason", "n", "aa_ratio")} | {"value": 1.0}
    return told


def _against(measured: Measured, arm: Arm, rival: Arm) -> dict[str, Any]:
    """The paired speedup against an arm of another engine, and what it shows."""
    found = measured.speedup(arm, rival)
    # Both engines' own noise counts: the A/A ratio that is further from 1 stands for the pair.
    known = [aa for a in (arm, rival) if (aa := measured.aa_ratio(a)) is not None]
    aa = max(known, key=lambda value: abs(np.log(value)), default=None)
    return {
        **{"reason": f"against {rival.engine}", "n": found.n, "aa_ratio": aa},
        **_bounds(found),
        "verdict": speed_verdict(found.low, found.high, aa_ratio=aa),
    }


def _rival_rows(base: Mapping[str, Any], common: Common, measured: Measured, arm: Arm) -> list[Row]:
    """Of an arm on a GPU: paired speedups against the same variant on the engines of ``RIVALS``;
    of an int8 one also against the fastest half precision, which int8 must beat to be of use.
    """
    facts = measured.loaded[arm.name].facts
    if facts["device"] == "cpu":
        return []
    recipe = common[arm.name]["recipe"]
    same = [
        a
        for a in measured.arms
        if a.role != "aa" and a.name in measured.series and common[a.name]["recipe"] == recipe
    ]
    found = {
        metric: next((a for a in same if a.engine == engine), None)
        for metric, engine in RIVALS.items()
        if engine != arm.engine
    }
    if "int8" in facts["precision"]:
        found["speedup_vs_best_half"] = measured.best_half(arm)
    ratio = {"unit": "ratio", "direction": "higher"}
    return [
        Row(**{**base, "metric": name, **ratio, **_against(measured, arm, rival)})
        for name, rival in found.items()
        if rival is not None
    ]


def samples_frame(points: Sequence[Measured]) -> "pd.DataFrame":
    """The raw blocks behind the rows, one line a block: seconds, calls, its turn in the round, and
    what the host did meanwhile.
    """
    import pandas as pd

    lines = [
        {"arm": name, **place(measured.point), **_block(series, at)}
        for measured in points
        for name, series in measured.series.items()
        for at in range(len(series.wall))
    ]
    return pd.DataFrame(lines)


def _block(series: Series, at: int) -> dict[str, Any]:
    health, latencies = series.health[at], series.latencies[at]
    return {
        "round": int(series.round[at]),
        "turn": int(series.place[at]),
        "calls": len(latencies),
        "median": float(np.median(latencies)),
        "p10": float(np.quantile(latencies, 0.1)),
        "wall": float(series.wall[at]),
        "cpu": float(series.cpu[at]),
        **asdict(health),
        **(gpu_line(series.gpu[at]) if series.gpu else {}),
        "switches": int(series.switches[at]),
        "noise": noise(health),
    }


def latency_lines(
    columns: Mapping[str, Any], latencies: np.ndarray, *, offered_rate: float | None = None
) -> list[dict[str, Any]]:
    """A latency distribution (seconds) as lines of ``latencies.parquet``, one a quantile."""
    names = ("recipe", "target", "scenario", "region", "batch", "candidates", "threads")
    base = {name: columns.get(name) for name in names}
    base |= {"offered_rate": offered_rate, "n": len(latencies)}
    seconds = np.quantile(latencies, QUANTILES, method="inverted_cdf")  # (quantiles,)
    return [
        {**base, "quantile": float(q), "seconds": float(value)}
        for q, value in zip(QUANTILES, seconds, strict=True)
    ]


def point_latencies(common: Common, measured: Measured) -> list[dict[str, Any]]:
    """The distributions of all arms but the A/A copies at one point."""
    return [
        line
        for arm in measured.arms
        if arm.role != "aa" and arm.name in measured.series
        for line in latency_lines(
            {**common[arm.name], **place(measured.point)},
            np.concatenate(measured.series[arm.name].latencies),
        )
    ]
