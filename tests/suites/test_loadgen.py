"""The cross-check with MLPerf LoadGen: its log, the rows, and what goes wrong in its process.
Nothing about speed is asserted but that figures are there, finite and positive."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifact import Artifact
from harness.errors import DataError
from harness.results import Row
from harness.suites import loadgen_worker as child
from harness.suites.arms import Arm
from harness.suites.loadgen import Compared, CrossCheck, Settings, cross_check, loadgen_rows
from harness.suites.points import Point, draw_rows, write_feeds
from harness.tables import Prepared

POINTS = MappingProxyType(
    {
        "single": Point("single", 1, 16, 1),
        "offline": Point("offline", 32, 1, 1, "end_to_end"),
    }
)
COMMON = MappingProxyType({"recipe": "r", "baseline": "b", "target": "t"})
WARM = MappingProxyType({"seconds": 0.0, "window_calls": 3, "window_seconds": 0.001, "cap": 0.02})
BRIEF = Settings(pairs=3, seconds=0.01, calls=5, rate=200.0, warm=WARM)

needs_package = pytest.mark.skipif(
    find_spec("mlperf_loadgen") is None, reason="the extra 'loadgen' isn't installed"
)


@pytest.fixture
def feeds(tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path) -> dict[str, Path]:
    split = tiny.splits["test"]
    return {
        name: write_feeds(
            tmp_path / f"{name}.npz",
            tiny.schema,
            split,
            draw_rows(split, point, seed=1),
            tiny_artifact.inputs,
        )
        for name, point in POINTS.items()
    }


@pytest.fixture
def arm(tiny_artifact: Artifact) -> Arm:
    return Arm("plain", "torch-cpu", tiny_artifact.folder)


def planted(code: str) -> tuple[str, ...]:
    """The child with a fault planted in it."""
    start = "from harness.suites import loadgen_worker as child\n"
    return (sys.executable, "-c", f"{start}{code}\nchild.main()")


# The log.


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """``log(*lines)``: a detail log; a pair is an entry, a text a line as it stands."""

    def write(*lines: Any) -> Path:
        path = tmp_path / child.LOG
        path.write_text("\n".join(map(entry, lines)) + "\n")
        return path

    return write


def entry(line: Any) -> str:
    if isinstance(line, str):
        return line
    key, value, *error = line
    told = {"key": key, "value": value, "metadata": {"is_error": bool(error)}}
    return f":::MLLOG {json.dumps(told)}"


P50 = "result_50.00_percentile_latency_ns"


def test_a_figure_is_found_among_others(log: Callable[..., Path]) -> None:
    path = log(
        ("loadgen_version", "6"), "a plain line", (P50, 1500), ("result_validity", "INVALID")
    )
    assert child.read_figure(path, P50) == 1500
    assert child.read_figure(log((P50, 1), (P50, 2.5)), P50) == 2.5  # the last one counts


@pytest.mark.parametrize("value", ["fast", None, True, 0, -3, math.nan, math.inf, [1]])
def test_a_figure_that_is_no_positive_number_names_its_line(
    log: Callable[..., Path], value: Any
) -> None:
    path = log(("a", 1), (P50, value))
    with pytest.raises(DataError, match=rf"detail\.txt:2: {P50} is .*expected a positive number"):
        child.read_figure(path, P50)


def test_a_missing_figure_names_the_end_of_the_log(log: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=rf"detail\.txt:2: the log ends without '{P50}'"):
        child.read_figure(log(("a", 1), ("b", 2)), P50)


@pytest.mark.parametrize("rest", ['{"key": "result', "[1]", "7", '{"key": 1, "metadata": 3}'])
def test_a_broken_line_is_named(log: Callable[..., Path], rest: str) -> None:
    with pytest.raises(DataError, match=r"detail\.txt:2: not an entry of a LoadGen log"):
        child.read_figure(log((P50, 1), f":::MLLOG {rest}"), P50)


def test_an_error_that_loadgen_reports_is_not_read_over(log: Callable[..., Path]) -> None:
    path = log((P50, 1), ("error_runtime", "Ending early", True))
    with pytest.raises(DataError, match="txt:2: LoadGen reports error_runtime: 'Ending early'"):
        child.read_figure(path, P50)


def test_no_log_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt:0: LoadGen wrote no log"):
        child.read_figure(tmp_path / "none.txt", P50)


# Arrivals.


def test_arrivals_are_those_of_a_standard_mersenne_twister() -> None:
    """mt19937 seeded with 5489 gives 3499211612 and 581869302 first (Matsumoto and Nishimura 1998,
    and the C++ standard's default seed)."""
    due = child.their_arrivals(child.Task("server", 2, rate=2.0, seed=5489))
    uniform = (3499211612 + 581869302 * 2**32) / 2**64
    assert due.tolist() == [0, int(-math.log(1 - uniform) / 2.0 * 1e9)]


@given(rate=st.floats(0.5, 1e5), count=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_arrivals_ascend_from_the_start(rate: float, count: int, seed: int) -> None:
    due = child.their_arrivals(child.Task("server", count, rate=rate, seed=seed))
    assert due.shape == (count,)
    assert due[0] == 0
    assert (np.diff(due) >= 0).all()
    twice = child.their_arrivals(child.Task("server", count, rate=2 * rate, seed=seed))
    np.testing.assert_allclose(due, 2 * twice, atol=2 * count)


def test_other_arrivals_than_those_replayed_are_refused(log: Callable[..., Path]) -> None:
    task = child.Task("server", 4, rate=10.0)
    path = log((child.SCHEDULED_KEY, 11.0), (P50, 1), ("result_99.00_percentile_latency_ns", 2))
    with pytest.raises(child.LoadGenError, match="scheduled 11 requests/s, where the arrivals"):
        child._result(path, task)


# Real runs.


@needs_package
def test_a_real_check_has_rows_of_all_three_scenarios(arm: Arm, feeds: dict[str, Path]) -> None:
    check = cross_check(arm, feeds, threads=1, settings=BRIEF, timeout=120)

    assert (check.status, check.reason) == ("ok", None)
    assert set(check.compared) == {"single", "server", "offline"}
    for compared in check.compared.values():
        assert len(compared.ours) == len(compared.loadgen) == 3
        assert compared.count >= 5
        assert compared.count % 2 == 1
    assert check.compared["single"].rows == 16
    assert check.compared["offline"].rows == 32
    assert len(check.compared["server"].spun) == 3

    rows = {row.metric: row for row in loadgen_rows(COMMON, POINTS, check)}
    assert set(rows) == {"single_latency_p50", "server_latency_p50", "offline_rows_per_second"}
    for row in rows.values():
        assert (row.scenario, row.threads, row.n, row.status) == ("loadgen", 1, 3, "ok")
        assert (row.engine, row.device, row.precision) == ("torch-cpu", "cpu", "fp32")
        figures = (row.value, row.ratio, row.ratio_low, row.ratio_high)
        assert all(figure is not None and 0 < figure < math.inf for figure in figures)
        assert row.verdict in ("agrees", "differs", "inconclusive")
    assert rows["server_latency_p50"].offered_rate == 200.0
    assert rows["single_latency_p50"].offered_rate is None
    assert (rows["single_latency_p50"].batch, rows["single_latency_p50"].candidates) == (16, 16)
    assert (rows["offline_rows_per_second"].batch, rows["offline_rows_per_second"].unit) == (
        32,
        "rows/s",
    )
    regions = {metric: row.region for metric, row in rows.items()}
    assert regions.pop("single_latency_p50") == "model_only"
    assert set(regions.values()) == {"end_to_end"}


RAISES = """
real = child.theirs
def theirs(call, inputs, task):
    calls = []
    def broken(batch):
        calls.append(batch)
        if len(calls) == 3:
            raise FloatingPointError("lost a digit")
        return call(batch)
    return real(broken, inputs, task)
child.theirs = theirs
"""


@needs_package
def test_an_exception_in_a_callback_gives_a_failed_row(arm: Arm, feeds: dict[str, Path]) -> None:
    command = planted(RAISES)
    check = cross_check(arm, feeds, threads=1, settings=BRIEF, timeout=120, command=command)
    row = only(loadgen_rows(COMMON, POINTS, check))
    assert (row.status, row.value, row.verdict) == ("failed", None, None)
    assert "LoadGen single: call 3: FloatingPointError: lost a digit" in str(row.reason)


HANGS = """
child.Worker.load = child.Worker.point = lambda self, **request: {}
child.Worker.facts = lambda self: {"threads": 1}
child.plan = lambda worker, scenario, settings: child.Task("single", 5)
child.Worker.timed_call = lambda worker: (lambda batch: None, [0, 1, 2])
child.ours = lambda worker, task, spin=False: child.Figure(1.0)
child.Sut.complete = lambda self, sample: None
"""


@needs_package
def test_a_sample_that_is_never_completed_is_ended_in_time(
    arm: Arm, feeds: dict[str, Path]
) -> None:
    command = planted(HANGS)
    check = cross_check(arm, feeds, threads=1, settings=BRIEF, timeout=3, command=command)
    row = only(loadgen_rows(COMMON, POINTS, check))
    assert (row.status, row.value) == ("failed", None)
    assert "plain: cross-check gave no answer within 3 s" in str(row.reason)


@needs_package
def test_a_crash_gives_a_failed_row(arm: Arm, feeds: dict[str, Path]) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    check = cross_check(
        arm, feeds, threads=1, timeout=60, command=(sys.executable, "-c", f"input(); {crash}")
    )
    row = only(loadgen_rows(COMMON, POINTS, check))
    assert row.status == "failed"
    assert "the worker was killed by SIGSEGV during cross-check" in str(row.reason)


def test_without_the_package_the_row_is_skipped_and_says_how_to_get_it(
    arm: Arm, feeds: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    check = cross_check(
        arm, feeds, threads=1, command=(sys.executable, "-c", "raise SystemExit(7)")
    )
    row = only(loadgen_rows(COMMON, POINTS, check))
    assert (row.status, row.value, row.engine) == ("skipped", None, "torch-cpu")
    assert "MLPerf LoadGen is not installed" in str(row.reason)
    assert "[loadgen]" in str(row.reason)


@needs_package
def test_another_thread_count_than_asked_fails(arm: Arm, feeds: dict[str, Path]) -> None:
    code = 'input(); print(\'{"ok": true, "facts": {"threads": 7}, "scenarios": {}}\')'
    check = cross_check(arm, feeds, threads=1, timeout=60, command=(sys.executable, "-c", code))
    assert (check.status, check.reason) == (
        "failed",
        "plain: asked for 1 threads, torch-cpu has 7",
    )


# The callback.


def sut(call: Callable[[Any], object]) -> tuple[child.Sut, list[int]]:
    made, done = child.Sut(call, ["a", "b", "c"]), list[int]()
    made.complete = done.append  # type: ignore[method-assign]
    return made, done


def samples(*indices: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(id=100 + at, index=index) for at, index in enumerate(indices)]


@needs_package
def test_every_sample_is_one_call_on_its_own_inputs() -> None:
    seen: list[Any] = []
    made, done = sut(seen.append)
    made.issue(samples(2, 0, 2))
    assert seen == ["c", "a", "c"]
    assert (made.calls, made.errors, done) == (3, [], [100, 101, 102])


@needs_package
def test_all_samples_are_completed_also_after_an_error() -> None:
    def call(batch: str) -> None:
        raise KeyError(batch)

    made, done = sut(call)
    made.issue(samples(1, 0))
    made.issue(samples(7))
    assert (made.calls, made.errors) == (0, ["KeyError: 'b'"])
    assert done == [100, 101, 100]


# Rows of made-up figures, worked out by hand.


def made_up(*ratios: float, **changes: Any) -> Compared:
    return replace(Compared(ratios, (1.0,) * len(ratios), count=25, rows=16), **changes)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ((1.01, 1.0, 0.99, 1.015), "agrees"),
        ((0.98, 1.02), "agrees"),
        ((1.03, 1.04, 1.05), "differs"),
        ((0.5, 0.6, 0.97), "differs"),
        ((1.0, 1.0, 1.2, 1.2), "inconclusive"),
        ((0.9, 1.1), "inconclusive"),
        ((1.0,), "inconclusive"),  # one pair has no interval
    ],
)
def test_verdicts(ratios: tuple[float, ...], verdict: str) -> None:
    assert made_up(*ratios).verdict == verdict


def test_disagreeing_figures_are_told_in_their_row() -> None:
    facts = {"engine": "ort-cpu", "version": "1", "device": "cpu", "precision": "int8"}
    compared = made_up(ours=(0.006, 0.006), loadgen=(0.005, 0.005), rate=40.0)
    check = CrossCheck("ort-cpu", 1, "ok", None, facts, {"server": compared})
    row = only(loadgen_rows(COMMON, POINTS, check))
    assert (row.value, row.ratio, row.verdict) == (0.005, pytest.approx(1.2), "differs")
    assert (row.offered_rate, row.precision, row.engine_version) == (40.0, "int8", "1")
    assert row.reason == "ours 0.006; 25 calls a run"


def test_tails_stand_side_by_side_only_where_they_are_proven() -> None:
    facts = {"engine": "ort-cpu", "version": "1", "device": "cpu", "precision": "fp32"}
    tails = {"ours_p99": (0.02, 0.02), "loadgen_p99": (0.03, 0.03), "spun": (0.99, 0.99)}

    def reason(count: int) -> str:
        compared = made_up(1.0, 1.0, count=count, **tails)
        check = CrossCheck("ort-cpu", 1, "ok", None, facts, {"server": compared})
        return str(only(loadgen_rows(COMMON, POINTS, check)).reason)

    assert "p99" not in reason(458)
    assert "p99 0.02 s, LoadGen's 0.03 s (not judged)" in reason(459)
    assert "with the short spin of the server rows instead, the ratio is 0.9900" in reason(459)


def only(rows: list[Row]) -> Row:
    (row,) = rows
    assert row.scenario == "loadgen"
    return row
