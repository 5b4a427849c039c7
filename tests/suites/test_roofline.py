"""Limits by hand, and the rows made of them; a share is never clipped or made up."""

from dataclasses import replace
from typing import Any

import pytest

from harness.artifact import Artifact
from harness.errors import UnsupportedError
from harness.results import Row
from harness.suites.peaks import Peak, Peaks
from harness.suites.roofline import (
    Limit,
    NoPeaks,
    computes_int8,
    limit,
    peak_rows,
    roofline_rows,
)
from harness.suites.work import Work, call_work, count_work

COMMON = {"recipe": "r", "baseline": "b", "target": "torch-cpu"}
METRICS = ["operations_per_call", "bytes_per_call", "limit_seconds", "share_of_limit"]
PEAKS = Peaks(
    threads=1,
    fp32=Peak(100.0, 5, "a"),
    int8=Peak(400.0, 6, "b"),
    streams={1000: Peak(50.0, 7, "c"), 4000: Peak(10.0, 8, "d")},
    random_rows={2000: Peak(20.0, 9, "e"), 8000: Peak(2.0, 10, "f")},
)
NARROW = replace(PEAKS, streams={1: Peak(1e9, 3, "g")}, random_rows={1: Peak(1e9, 3, "h")})
"""The same machine with bandwidth in plenty: all is bound by arithmetic."""


def work(
    operations: int, dense: int, gathered: tuple[tuple[int, int], ...] = ((1500, 10),)
) -> Work:
    return Work(operations, dense, gathered, 0, 0)


def test_limits_by_hand() -> None:
    # 1000 / 100 = 10 s of arithmetic, 100 / 50 = 2 s of reading, 10 / 20 = 0.5 s of rows.
    assert limit(work(1000, 100), PEAKS, "fp32") == Limit(10.0, "compute")
    # The int8 peak takes a quarter of that: 2.5 s.
    assert limit(work(1000, 100), PEAKS, "int8") == Limit(2.5, "compute")
    # 600 / 50 = 12 s of reading.
    assert limit(work(1000, 600), PEAKS, "fp32") == Limit(12.0, "memory")
    # Rows of two tables: 100 / 20 + 40 / 2 = 25 s.
    tables = ((1500, 100), (5000, 40))
    assert limit(work(1000, 600, tables), PEAKS, "fp32") == Limit(25.0, "random rows")


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(999, 999 / 50), (1000, 20.0), (1001, 1001 / 10), (4000, 400.0), (9000, 900.0)],
)
def test_bandwidth_is_that_of_the_next_size_or_the_largest(size: int, seconds: float) -> None:
    assert limit(work(0, size, ()), PEAKS, "fp32") == Limit(pytest.approx(seconds), "memory")


@pytest.mark.parametrize(
    ("label", "is_int8"),
    [
        *(("int8", True), ("mixed int8", True)),
        *(("fp32", False), ("fp16", False), ("fp32 compute, int8 weights", False)),
    ],
)
def test_only_what_computes_in_int8_takes_its_peak(label: str, is_int8: bool) -> None:
    assert computes_int8(label) is is_int8


def test_no_limit_from_a_peak_that_is_not_known() -> None:
    peaks = replace(PEAKS, int8=Peak(None, 0, "torch: no kernel"))
    assert limit(work(1000, 100), peaks, "fp32").seconds == 10.0
    message = r"^no limit: the peak couldn't be measured \(torch: no kernel\)$"
    with pytest.raises(UnsupportedError, match=message):
        limit(work(1000, 100), peaks, "int8")
    with pytest.raises(UnsupportedError, match="no bandwidth was measured"):
        limit(work(1000, 100), replace(PEAKS, streams={}), "fp32")


def test_rows_of_the_peaks() -> None:
    peaks = replace(PEAKS, int8=Peak(None, 0, "nothing can"))
    rows = peak_rows({"recipe": "b", "baseline": "b", "target": "x", "seed": 3}, peaks)
    assert [(r.metric, r.unit, r.batch, r.value, r.n) for r in rows] == [
        ("peak_fp32", "FLOP/s", None, 100.0, 5),
        ("peak_int8", "op/s", None, None, None),
        ("stream_bandwidth", "bytes/s", 1000, 50.0, 7),
        ("stream_bandwidth", "bytes/s", 4000, 10.0, 8),
        ("random_row_bandwidth", "bytes/s", 2000, 20.0, 9),
        ("random_row_bandwidth", "bytes/s", 8000, 2.0, 10),
    ]
    assert {(r.recipe, r.baseline, r.target, r.seed) for r in rows} == {("machine", "b", None, 3)}
    assert {(r.scenario, r.threads, r.direction) for r in rows} == {("roofline", 1, "higher")}
    assert (rows[0].status, rows[0].reason) == ("ok", "best of 5 repeats: a")
    assert (rows[1].status, rows[1].reason) == ("skipped", "nothing can")


def test_peaks_that_failed_are_one_failed_row() -> None:
    (row,) = peak_rows(COMMON, NoPeaks(2, "the child was killed by SIGILL"))
    assert (row.recipe, row.target, row.threads, row.value) == ("machine", None, 2, None)
    assert (row.status, row.reason) == ("failed", "the child was killed by SIGILL")


def timed(value: float | None, **changes: Any) -> Row:
    """The variant's median at one thread, of one request of 16 rows."""
    columns: dict[str, Any] = {
        **COMMON,
        "scenario": "single",
        "region": "model_only",
        "batch": 16,
        "candidates": 16,
        "threads": 1,
        "engine": "torch-cpu",
        "engine_version": "2",
        "device": "cpu",
        "precision": "fp32",
        "n": 12,
        "metric": "latency_p50",
        "reason": None if value is not None else "the worker was killed by SIGKILL",
        **changes,
    }
    return Row(**columns, value=value)


def figures(artifact: Artifact, *rows: Row, peaks: Peaks | NoPeaks = PEAKS) -> dict[str, Row]:
    """Rows of the only point that there is, by metric."""
    made = roofline_rows(COMMON, artifact, peaks, rows)
    assert [row.metric for row in made] == METRICS
    return {row.metric: row for row in made}


def test_rows_of_a_point(tiny_artifact: Artifact) -> None:
    done = call_work(count_work(tiny_artifact), requests=1, candidates=16)
    compute = 2 * 16 * tiny_artifact.macs / 100
    found = figures(tiny_artifact, timed(2 * compute, noise="load"), peaks=NARROW)
    assert found["operations_per_call"].value == done.operations
    assert found["bytes_per_call"].value == done.bytes
    assert found["limit_seconds"].value == compute
    share = found["share_of_limit"]
    assert (share.value, share.verdict, share.n, share.noise) == (0.5, "compute", 12, "load")
    for row, unit in zip(found.values(), ("count", "bytes", "s", "share"), strict=True):
        assert (row.unit, row.scenario, row.region) == (unit, "roofline", "model_only")
        assert (row.batch, row.candidates, row.threads) == (16, 16, 1)
        assert (row.engine, row.precision, row.device) == ("torch-cpu", "fp32", "cpu")


def test_a_share_above_one_is_told_as_it_is(tiny_artifact: Artifact) -> None:
    compute = 2 * 16 * tiny_artifact.macs / 100
    share = figures(tiny_artifact, timed(compute / 3), peaks=NARROW)["share_of_limit"]
    assert share.value == pytest.approx(3.0)


def test_a_sweep_has_a_request_a_row(tiny_artifact: Artifact) -> None:
    done = call_work(count_work(tiny_artifact), requests=16, candidates=1)
    found = figures(tiny_artifact, timed(1.0, scenario="sweep", candidates=1))
    assert found["bytes_per_call"].value == done.bytes
    alone = call_work(count_work(tiny_artifact), requests=1, candidates=16)
    assert done.bytes > alone.bytes


def test_only_the_variants_closed_points_at_these_threads(tiny_artifact: Artifact) -> None:
    rows = [
        timed(1.0),
        timed(1.0, batch=64, candidates=1, scenario="sweep"),
        timed(1.0, region="end_to_end"),
        timed(1.0, scenario="offline"),
        timed(1.0, scenario="server"),
        timed(1.0, threads=2),
        timed(1.0, recipe="other"),
        timed(1.0, target="ort-cpu"),
        timed(1.0, metric="latency_p90"),
        timed(1.0, batch=None, candidates=None),
    ]
    made = roofline_rows(COMMON, tiny_artifact, PEAKS, rows)
    assert [row.batch for row in made] == [16] * 4 + [64] * 4


def test_missing_parts_leave_what_is_known(tiny_artifact: Artifact) -> None:
    def reasons(found: dict[str, Row]) -> list[str | None]:
        assert found["operations_per_call"].value == 2 * 16 * tiny_artifact.macs
        return [found[name].reason for name in METRICS[2:] if found[name].value is None]

    crashed = figures(tiny_artifact, timed(None))
    assert reasons(crashed) == ["the worker was killed by SIGKILL"]
    assert crashed["limit_seconds"].value is not None
    nothing = figures(tiny_artifact, timed(0.0))
    assert reasons(nothing) == ["no latency was measured at this point"]
    cuda = figures(tiny_artifact, timed(1.0, device="cuda"))
    assert reasons(cuda) == ["no limit: the peaks are the CPU's, the variant ran on cuda"] * 2
    unnamed = figures(tiny_artifact, timed(1.0, precision=None))
    assert reasons(unnamed) == ["no limit: the engine tells no precision"] * 2
    failed = figures(tiny_artifact, timed(1.0), peaks=NoPeaks(1, "no answer"))
    assert reasons(failed) == ["no limit: no answer"] * 2


def test_what_is_not_counted_has_rows_with_the_reason(tiny_artifact: Artifact) -> None:
    found = figures(replace(tiny_artifact, macs=0), timed(1.0))
    assert {(row.value, row.status, row.reason) for row in found.values()} == {
        (None, "skipped", "not counted: the artifact tells no multiply-accumulates")
    }


def test_a_variant_that_was_not_timed_has_no_rows(tiny_artifact: Artifact) -> None:
    assert roofline_rows(COMMON, tiny_artifact, PEAKS, []) == []
