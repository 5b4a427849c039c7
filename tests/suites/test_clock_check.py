"""A clock that stops before the device is found out, by figures worked by hand."""

from dataclasses import replace
from typing import Any

import pytest

from harness.results import Row
from harness.suites.clock_check import clock_rows, struck
from harness.suites.peaks import Peak, Peaks
from harness.suites.work import Counts

COMMON = {"recipe": "r", "baseline": "b", "target": "torch-cuda"}
FAST = Peak(1e30, 3, "no limit")
PEAKS = Peaks(
    1, Peak(1e12, 3, "a"), FAST, {1: FAST}, {1: FAST}, "cuda", {"fp16": Peak(4e12, 3, "b")}
)
COUNTS = Counts(macs=500_000, weight_bytes=0, tables=(), inputs=(), outputs=())
"""1e6 operations a row: 4096 rows need 4.096 ms at 1 TFLOP/s, 8192 rows 8.192 ms."""


def timed(rows: int, seconds: float, **changes: Any) -> Row:
    columns: dict[str, Any] = {
        **COMMON,
        **{"engine": "torch-cuda", "device": "cuda", "precision": "fp32", "threads": 1},
        **{"scenario": "sweep", "region": "model_only", "batch": rows, "candidates": 1},
        **{"metric": "latency_p50", "unit": "s", "direction": "lower"},
    }
    return Row(**{**columns, "value": seconds, **changes})


def verdicts(*rows: Row, counts: Any = COUNTS, peaks: Peaks = PEAKS) -> dict[str, Row]:
    return {row.metric: row for row in clock_rows(COMMON, counts, peaks, rows)}


def test_a_clock_that_waits_passes() -> None:
    found = verdicts(timed(4096, 0.005), timed(8192, 0.010), timed(1, 0.001))
    assert found["latency_growth"].value == pytest.approx(2.0)
    # 4096 and 8192 rows: 4.096e9 / 5 ms = 0.8192 TFLOP/s, of 1.
    assert found["implied_rate"].value == pytest.approx(8.192e11)
    assert found["implied_rate"].n == 3
    assert found["implied_rate"].reason == "at 4096 rows, 81.9 % of the measured peak"
    assert {row.status for row in found.values()} == {"ok"}


def test_a_large_model_that_does_not_grow_has_failed_by_name() -> None:
    # The device needs 4.096 ms more for the larger call, 41 % of 10 ms; it took 2 % more.
    found = verdicts(timed(4096, 0.010), timed(8192, 0.0102))["latency_growth"]
    assert (found.status, found.value) == ("failed", None)
    assert found.reason == (
        "the clock stopped before the device: 8192 rows took 1.02 times as long as 4096, where the "
        "device needs 1.41 times at least"
    )


def test_a_small_model_need_not_grow() -> None:
    # 4.096 ms of 20 ms is 20 %: less than the 30 % that would have to be seen.
    found = verdicts(timed(4096, 0.020), timed(8192, 0.021))["latency_growth"]
    assert (found.status, found.value) == ("ok", pytest.approx(1.05))
    assert found.reason == "the model is too small to tell: twice the rows need 20 % longer"


def test_more_operations_than_the_peak_allows_have_failed_by_name() -> None:
    # 8.192e9 operations in 5 ms are 1.6 TFLOP/s, of 1.
    slow, quick = timed(4096, 0.0045), timed(8192, 0.005)
    found = verdicts(slow, quick)["implied_rate"]
    assert (found.status, found.reason) == (
        "failed",
        "the clock stopped before the device: 8192 rows imply 1.6 TFLOP/s, the measured peak is "
        "1.0",
    )
    half = [replace(row, precision="fp16") for row in (slow, quick)]
    assert verdicts(*half)["implied_rate"].status == "ok"  # of 4 TFLOP/s
    # 4 % above a peak is within what a short measurement of it misses.
    assert verdicts(timed(8192, 0.008192 / 1.04))["implied_rate"].status == "ok"


def test_what_can_not_be_told_is_said() -> None:
    one = verdicts(timed(64, 0.001))["latency_growth"]
    assert (one.status, one.reason) == ("skipped", "not timed at both 4096 and 8192 rows")
    uncounted = verdicts(timed(4096, 0.01), timed(8192, 0.011), counts="not counted: a plan")
    assert uncounted["implied_rate"].reason == "not counted: a plan"
    assert "it can't be told whether it had to grow" in str(uncounted["latency_growth"].reason)
    assert verdicts(timed(8192, 0.1, region="end_to_end")) == {}
    assert verdicts(timed(8192, 0.1, recipe="other")) == {}


def test_each_region_is_judged_by_itself_and_only_its_figures_are_struck() -> None:
    wall = [timed(4096, 0.010), timed(8192, 0.0102, ci_low=0.01, ratio=2.0, verdict="faster")]
    device = [timed(n, s, region="device_only") for n, s in ((4096, 0.005), (8192, 0.01))]
    rows = [*wall, *device, timed(8192, 0.01, recipe="other")]
    found = clock_rows(COMMON, COUNTS, PEAKS, rows)
    bad = [(row.region, row.metric) for row in found if row.status == "failed"]
    assert bad == [("model_only", "latency_growth")]
    after = struck(rows, found)
    assert [row.value for row in after] == [None, None, 0.005, 0.01, 0.01]
    assert (after[1].status, after[1].ci_low, after[1].ratio, after[1].verdict) == (
        *("failed", None),
        *(None, None),
    )
    assert "the clock stopped before the device" in str(after[1].reason)
    assert struck(rows, []) == rows
