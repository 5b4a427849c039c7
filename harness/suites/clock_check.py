"""Whether the clock waited for the device: more work must take longer, and none beats the peak.

Kernels are started and run on; a clock that is read before they are done shows the time it takes to
start them, which hardly grows with the batch and implies more operations a second than the device
can do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import UnsupportedError
from harness.results import Row
from harness.suites.peaks import Peaks
from harness.suites.roofline import compute_peak, limit
from harness.suites.work import Counts, Work, call_work

SCENARIO = "clock"
STOPPED = "the clock stopped before the device"
PAIR = (4096, 8192)
"""Rows of the two calls that are compared."""
GROWTH = 1.3
"""Least latency of the larger call over that of the smaller."""
MARGIN = 1.05
"""Times the measured peak that a call may imply: a peak is the best of few short repeats."""
REGIONS = ("model_only", "device_only")


def clock_rows(
    common: Mapping[str, Any], counts: Counts | str, peaks: Peaks, timed: Sequence[Row]
) -> list[Row]:
    """In each region that a variant was timed in on the peaks' device: what doubling the batch did
    to the latency, and the most operations a second that a call implied. A row that can't be so has
    failed, by the name ``STOPPED``; one that tells nothing (a model too small to grow, no counts,
    no such points) says so.
    """
    own = [row for row in timed if _is_latency(row, common)]
    rows = []
    for region in REGIONS:
        found = {row.batch: row for row in own if row.region == region and row.batch}
        if not found:
            continue
        some = next(iter(found.values()))
        base = {
            **common,
            **{name: getattr(some, name) for name in ("engine", "engine_version", "device")},
            **{"precision": some.precision, "threads": some.threads},
            **{"scenario": SCENARIO, "region": region, "direction": "none"},
        }
        growth = {"metric": "latency_growth", "unit": "ratio", **_growth(found, counts, peaks)}
        rate = {"metric": "implied_rate", "unit": "FLOP/s", **_rate(found, counts, peaks)}
        rows += [Row(**{**base, **growth}), Row(**{**base, **rate})]
    return rows


def struck(rows: Iterable[Row], verdicts: Iterable[Row]) -> list[Row]:
    """``rows`` without the figures that a failed verdict of ``clock_rows`` is about: those of the
    same variant and region have failed for the same reason.
    """
    faults = {
        (row.recipe, row.target, row.region): row.reason
        for row in verdicts
        if row.status == "failed"
    }
    numbers = ("value", "ci_low", "ci_high", "ratio", "ratio_low", "ratio_high", "verdict")
    found = []
    for row in rows:
        reason = faults.get((row.recipe, row.target, row.region))
        timed = row.scenario in ("sweep", "single", "roofline") and row.value is not None
        if reason and timed and row.metric not in ("operations_per_call", "bytes_per_call"):
            cleared: dict[str, Any] = dict.fromkeys(numbers)
            row = replace(row, **cleared, status="failed", reason=reason)
        found.append(row)
    return found


def _is_latency(row: Row, common: Mapping[str, Any]) -> bool:
    mine = all(getattr(row, name) == common.get(name) for name in ("recipe", "target"))
    swept = row.scenario == "sweep" and row.candidates == 1 and row.metric == "latency_p50"
    return mine and swept and bool(row.value)


def _growth(found: Mapping[int, Row], counts: Counts | str, peaks: Peaks) -> dict[str, Any]:
    small, large = (found.get(rows) for rows in PAIR)
    if small is None or large is None:
        return _untold(f"not timed at both {PAIR[0]} and {PAIR[1]} rows")
    assert small.value is not None
    assert large.value is not None
    grown = large.value / small.value
    told = {"value": grown, "n": 1}
    if grown >= GROWTH:
        return told
    if isinstance(counts, str):
        return {**told, "reason": f"it can't be told whether it had to grow: {counts}"}
    try:
        least = [limit(_work(counts, rows), peaks, small.precision or "").seconds for rows in PAIR]
    except UnsupportedError as error:
        return {**told, "reason": f"it can't be told whether it had to grow: {error}"}
    # The device needs at least so much longer for the larger call, whatever else a call takes.
    must = (least[1] - least[0]) / small.value
    if must < GROWTH - 1:
        reason = f"the model is too small to tell: twice the rows need {100 * must:.0f} % longer"
        return {**told, "reason": reason}
    reason = (
        f"{STOPPED}: {PAIR[1]} rows took {grown:.2f} times as long as {PAIR[0]}, where the device "
        f"needs {1 + must:.2f} times at least"
    )
    return {"status": "failed", "reason": reason}


def _rate(found: Mapping[int, Row], counts: Counts | str, peaks: Peaks) -> dict[str, Any]:
    if isinstance(counts, str):
        return _untold(counts)
    rates = {
        rows: _work(counts, rows).operations / row.value
        for rows, row in found.items()
        if rows and row.value
    }
    rows, most = max(rates.items(), key=lambda item: item[1])
    told = {"value": most, "n": len(rates)}
    peak = compute_peak(peaks, found[rows].precision or "").value
    if peak is None:
        return {**told, "reason": "there is no measured peak to hold it against"}
    if most > MARGIN * peak:
        reason = (
            f"{STOPPED}: {rows} rows imply {most / 1e12:.1f} TFLOP/s, the measured peak is "
            f"{peak / 1e12:.1f}"
        )
        return {"status": "failed", "reason": reason}
    return {**told, "reason": f"at {rows} rows, {100 * most / peak:.1f} % of the measured peak"}


def _work(counts: Counts, rows: int) -> Work:
    return call_work(counts, requests=rows, candidates=1)


def _untold(reason: str) -> dict[str, Any]:
    return {"status": "skipped", "reason": reason}
