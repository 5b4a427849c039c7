"""Rows of the scenarios beyond the timed points, by construction: load, cold start, cost, limits,
and the checks on the harness.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.results import Row

PLACE = ("recipe", "target", "scenario", "region", "batch", "candidates", "threads", "offered_rate")
SLA = 0.002
RATES = (0.2, 0.4, 0.8, 1.6, 1.2, 1.0, 0.9)
"""Probes, as shares of the rate at which the model is always busy."""


def tail(seconds: float, busy: float) -> float:
    """A p99 that grows as a queue's does, and without end (here 50 s) past the full load."""
    return seconds * (1.5 + 2.0 * busy / (1 - busy)) if busy < 1 else 50.0 * seconds * busy**4


def loaded_rows(base: Row, *, seconds: float, gain: float | None) -> list[Row]:
    """Every new scenario's rows of one variant, a request of which takes ``seconds``."""
    place = {"region": "end_to_end", "batch": 256, "candidates": 256, "threads": 1}
    plain = replace(base, ci_low=None, ci_high=None, n=None, direction="lower", **place)
    return [
        *_server_rows(replace(plain, scenario="server"), seconds),
        *_search_rows(replace(plain, scenario="qps_at_sla"), seconds, gain),
        *_cold_rows(replace(plain, scenario="cold"), seconds),
        *_resource_rows(replace(plain, scenario="resources"), seconds),
        *_limit_rows(replace(plain, scenario="roofline", region="model_only"), seconds),
        *_check_rows(plain, seconds),
    ]


def _metrics(base: Row, unit: str, **values: float | None) -> Iterator[Row]:
    for metric, value in values.items():
        reason = "counters of energy can't be read here" if value is None else None
        yield replace(base, metric=metric, unit=unit, value=value, reason=reason)


def _server_rows(base: Row, seconds: float) -> Iterator[Row]:
    for busy in (0.3, 0.6):
        rate = busy / seconds
        load = replace(base, offered_rate=rate, n=2000)
        yield from _metrics(
            load,
            "s",
            latency_p50=seconds * (1 + busy / 2),
            latency_p90=seconds * (1.2 + busy),
            service_p50=seconds,
            floor_p99=0.00004,
        )
        low = tail(seconds, busy) < 0.00012
        verdict = "not ranked" if low else None
        (row,) = _metrics(load, "s", latency_p99=tail(seconds, busy))
        yield replace(row, verdict=verdict)
        yield from _metrics(load, "requests/s", achieved_rate=rate * 0.998)
        yield from _metrics(load, "share", achieved_share=0.998, utilisation=busy)
        yield from _metrics(load, "count", backlog_max=7.0)


def _search_rows(base: Row, seconds: float, gain: float | None) -> Iterator[Row]:
    shares = [share for share in RATES if tail(seconds, share) <= SLA]
    best = max(shares)
    failing = min(share for share in RATES if share > best)
    paired: dict[str, Any] = {}
    if gain is not None:
        paired = {"ratio": gain, "ratio_low": gain * 0.98, "ratio_high": gain * 1.02}
    (row,) = _metrics(base, "requests/s", qps_at_sla=best / seconds)
    yield replace(row, direction="higher", n=3000, reason="p99 1 ms, SLA 2 ms", **paired)
    yield from _metrics(base, "s", sla=SLA)
    proven = replace(base, offered_rate=best / seconds, n=3000)
    yield from _metrics(proven, "s", latency_p99=tail(seconds, best))
    yield from _metrics(proven, "share", utilisation=best)
    yield from _metrics(base, "requests/s", failing_rate=failing / seconds)
    for share in RATES:
        late = tail(seconds, share) > SLA
        probe = replace(base, offered_rate=share / seconds, n=1000)
        (row,) = _metrics(probe, "s", probe_p99=tail(seconds, share))
        reason = "p99 is over the SLA" if late else "p99 is within the SLA"
        yield replace(row, verdict="failed" if late else "passed", reason=reason)


def _cold_rows(base: Row, seconds: float) -> Iterator[Row]:
    figures = _metrics(
        replace(base, n=5),
        "s",
        cold_start=0.9,
        cold_import=0.6,
        cold_load=0.2,
        cold_first_call=0.011,
        cold_calls_2_to_10=seconds,
    )
    yield from (replace(row, reason="files were in the page cache") for row in figures)


def _resource_rows(base: Row, seconds: float) -> Iterator[Row]:
    yield from _metrics(base, "s", cpu_seconds_per_1000_requests=seconds * 1020)
    yield from _metrics(base, "J", joules_per_1000_requests=None)
    (made,) = _metrics(base, "s", making_cpu_seconds=118.0)
    yield replace(made, reason="prune, retrain, export")
    (cost,) = _metrics(base, "EUR", cost_per_million_requests=seconds * 1e6 * 0.36 / 3600)
    yield replace(cost, reason="at the rate of one request after the other")
    yield from _metrics(replace(base, threads=None), "EUR/h", price_per_hour=0.36)


def _limit_rows(base: Row, seconds: float) -> Iterator[Row]:
    for batch, candidates in ((1, 1), (64, 1), (1024, 1), (256, 256)):
        point = replace(base, batch=batch, candidates=candidates)
        yield from _metrics(point, "count", operations_per_call=2.4e6 * batch)
        yield from _metrics(point, "bytes", bytes_per_call=2.0**20 + 4096 * batch)
        yield from _metrics(point, "s", limit_seconds=seconds * 0.25 * batch / 256)
        share = 0.02 if batch == 1 else 0.25
        (row,) = _metrics(point, "share", share_of_limit=share)
        yield replace(row, verdict="random rows" if batch == 1 else "compute")


def _check_rows(base: Row, seconds: float) -> Iterator[Row]:
    check = replace(base, scenario="loadgen", n=9)
    for metric, unit, value, verdict in (
        ("single_latency_p50", "s", seconds, "agrees"),
        ("offline_rows_per_second", "rows/s", 256 / seconds, "agrees"),
        ("server_latency_p50", "s", seconds * 1.2, "inconclusive"),
    ):
        (row,) = _metrics(check, unit, **{metric: value})
        yield replace(
            row,
            ratio=1.0042,
            ratio_low=0.9911,
            ratio_high=1.0173,
            verdict=verdict,
            reason="512 calls",
        )
    for batch, worst in ((64, 2.4e-7), (256, -0.0)):
        outputs = replace(base, scenario="parity", batch=batch)
        yield from _metrics(outputs, "logit", timed_max_abs_difference=abs(worst))
        yield from _metrics(outputs, "share", timed_auc_difference=-worst)


def machine_rows(base: Row) -> list[Row]:
    """Rows about the machine: peaks, the load generator, its health, at 1 and 2 threads."""
    plain = replace(base, recipe="machine", technique=None, target=None, n=None)
    plain = replace(plain, ci_low=None, ci_high=None, batch=None, candidates=None)
    found = list(
        _metrics(
            replace(plain, scenario="server", threads=1), "requests/s", generator_rate=61_234.0
        )
    )
    for threads in (1, 2):
        limits = replace(plain, scenario="roofline", threads=threads)
        (fp32,) = _metrics(replace(limits, n=5), "FLOP/s", peak_fp32=8.1e10 * threads)
        found.append(replace(fp32, reason="best of 5 repeats: a library"))
        found += _metrics(limits, "op/s", peak_int8=2.9e11 * threads)
        for size in (2**20, 2**26):
            sized = replace(limits, batch=size)
            speed = 4e10 if size == 2**20 else 1.2e10
            found += _metrics(
                sized, "bytes/s", stream_bandwidth=speed, random_row_bandwidth=speed / 4
            )
        health = replace(plain, scenario="health", threads=threads, n=640, noise="steal 4 %")
        found += _metrics(health, "share", noisy_blocks=0.031, pressure=0.012, steal=0.0)
        found += _metrics(health, "s", throttled=0.0)
        found += _metrics(health, "count", load=1.25)
        found += _metrics(health, "MHz", mhz=2495.0)
    return found


def write_latencies(folder: Path, rows: Iterable[Row]) -> Path:
    """A distribution for each single point and each server load: 101 shares from half the p50 to
    three times it, whose middle is the p50.
    """
    shares = np.linspace(0, 1, 101)
    times = np.where(shares < 0.5, 0.5 + shares, 1 + (2 * shares - 1) ** 8 * 2)
    frames = [
        pd.DataFrame(
            {
                **{name: getattr(row, name) for name in PLACE},
                "quantile": shares,
                "seconds": (row.value or 0.0) * times,
                "n": 2000,
            }
        )
        for row in rows
        if row.metric == "latency_p50" and row.scenario in ("single", "server")
    ]
    path = folder / "demo-latencies.parquet"
    pd.concat(frames).to_parquet(path, index=False)
    return path
