"""The rule that fails a slowdown: pinned thresholds, worked by hand on made series."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_times import point, series

from harness.suites.arms import Arm
from harness.suites.paired import Measured
from harness.suites.points import Point
from harness.suites.regression import (
    CHANCES,
    POINTS,
    PROTOCOL,
    Regression,
    compare,
    judge_regression,
    point_name,
    rivals,
    settled,
)

REFERENCE = Arm("reference", "ort-cpu", None, role="reference")
COPY = Arm("copy", "ort-cpu", None, role="aa")
CANDIDATE = Arm("candidate", "ort-cpu", None)
AT = Point("single", 1, 256, 1)


def measured(
    candidate: float | None, copy: float = 1.0, call: float = 1e-3, rounds: int = 40
) -> Measured:
    slow = None if candidate is None else call * candidate
    return point({REFERENCE: call, COPY: call * copy, CANDIDATE: slow}, AT, rounds)


def judged(found: Measured) -> Regression:
    return judge_regression(found, CANDIDATE, REFERENCE)


@pytest.mark.parametrize(
    ("candidate", "copy", "call", "outcome"),
    [
        (1.00, 1.0, 1e-3, "passed"),
        (1.03, 1.0, 1e-3, "passed"),
        (1.04, 1.0, 1e-3, "passed"),
        (1.06, 1.0, 1e-3, "warning"),
        (1.08, 1.0, 1e-3, "warning"),
        (1.09, 1.0, 1e-3, "failed"),
        (10.0, 1.0, 1e-3, "failed"),
        (0.50, 1.0, 1e-3, "passed"),
        (1.09, 1.0, 0.060, "warning"),
        (1.11, 1.0, 0.060, "failed"),
        (1.25, 1.06, 1e-3, "inconclusive"),
        (1.00, 0.94, 1e-3, "inconclusive"),
    ],
)
def test_thresholds(candidate: float, copy: float, call: float, outcome: str) -> None:
    found = judged(measured(candidate, copy, call))
    assert found.outcome == outcome, str(found)
    assert found.median == pytest.approx(candidate)
    assert found.p10 == pytest.approx(candidate)
    assert found.pairs == 40


@given(st.floats(0.2, 5.0), st.floats(1e-5, 0.04))
def test_a_faster_candidate_never_fails_and_a_slow_one_always_does(factor, call) -> None:
    found = judged(measured(factor, call=call))
    assert (found.outcome == "failed") == (found.median > 1.08)
    assert (found.median > 1) == (factor > 1) or factor == pytest.approx(1)


def test_a_candidate_that_crashes_fails_by_name() -> None:
    found = judged(measured(None))
    assert (found.outcome, found.pairs) == ("failed", 0)
    assert str(found) == "failed: candidate: crashed"


@pytest.mark.parametrize("lost", [REFERENCE, COPY])
def test_without_reference_or_copy_nothing_is_shown(lost: Arm) -> None:
    times = dict.fromkeys((REFERENCE, COPY, CANDIDATE), 1e-3)
    found = judged(point({**times, lost: None}, AT))
    assert (found.outcome, found.reason) == ("inconclusive", f"{lost.name}: crashed")


def test_without_a_copy_at_all_nothing_is_shown() -> None:
    found = judged(point({REFERENCE: 1e-3, CANDIDATE: 2e-3}, AT))
    assert (found.outcome, found.reason) == ("inconclusive", "no A/A ratio was measured")


@pytest.mark.parametrize("rounds", [1, 4])
def test_fewer_than_five_rounds_are_refused(rounds: int) -> None:
    """One round has a spread of 0, which isn't stability."""
    for factor in (1.0, 10.0):
        found = judged(measured(factor, rounds=rounds))
        assert found.outcome == "inconclusive"
        assert "at least 5 are needed" in str(found)
    assert judged(measured(10.0, rounds=5)).outcome == "failed"


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("arm", [REFERENCE, COPY, CANDIDATE])
def test_times_of_nothing_are_never_divided_by(arm: Arm, bad: float) -> None:
    full = measured(1.0)
    broken = replace(full, series={**full.series, arm.name: series(bad)})
    assert judged(broken).outcome == "inconclusive"


def test_more_threads_are_report_only() -> None:
    found = judged(replace(measured(10.0), point=replace(AT, threads=2)))
    assert (found.outcome, found.reason) == ("warning", "more than 1 thread: report only")


def test_a_noisy_host_is_told() -> None:
    assert "by other processes" in str(judged(replace(measured(1.0), noise="by other processes")))


def test_a_slow_tail_alone_is_no_failure() -> None:
    """The p10 has to agree: a candidate with a heavy tail but the same floor isn't failed."""
    full = measured(1.0)
    blocks = tuple(np.array([1e-3, 1.2e-3, 1.2e-3]) for _ in range(40))
    tail = replace(full.series["candidate"], latencies=blocks)
    mixed = replace(full, series={**full.series, "candidate": tail})
    assert judged(mixed).outcome != "failed"


def told(*outcomes: str):
    """``again`` that gives these outcomes in turn, and the list of those still to come."""
    left = [Regression(outcome, median=1.0) for outcome in outcomes]
    return (lambda: left.pop(0)), left


@pytest.mark.parametrize(
    ("first", "later", "outcome"),
    [
        ("passed", (), "passed"),
        ("warning", (), "warning"),
        ("failed", ("failed",), "failed"),
        ("failed", ("passed",), "passed"),
        ("failed", ("warning",), "warning"),
        ("failed", ("inconclusive", "failed"), "failed"),
        ("inconclusive", ("passed",), "passed"),
        ("inconclusive", ("inconclusive", "inconclusive", "warning"), "warning"),
        ("inconclusive", ("failed", "failed"), "failed"),
        ("inconclusive", ("failed", "passed"), "passed"),
        ("inconclusive", ("inconclusive",) * CHANCES, "inconclusive"),
    ],
)
def test_a_failure_is_confirmed_once_and_noise_gets_three_chances(first, later, outcome) -> None:
    again, left = told(*later)
    assert settled(Regression(first, median=1.0), again).outcome == outcome
    assert left == []


def test_only_the_point_that_failed_is_measured_again(tmp_path) -> None:
    slow, calls = POINTS[1], []

    def time(arms, feeds):
        calls.append(tuple(feeds))
        factors = {at: 2.0 if at == slow else 1.0 for at in feeds}
        return {
            at: point({a: 1e-3 * (factors[at] if a.role == "variant" else 1) for a in arms}, at)
            for at in feeds
        }

    arms = rivals("ort-cpu", tmp_path, tmp_path)
    found = compare(arms, {at: {} for at in POINTS}, time)
    assert [found[at].outcome for at in POINTS] == ["passed", "failed"]
    assert calls == [POINTS, (slow,)]


def test_the_gate_is_what_the_protocol_says() -> None:
    assert {at.threads for at in POINTS} == {1}
    assert list(map(point_name, POINTS)) == ["64x1", "1x256"]
    assert PROTOCOL.min_pairs == PROTOCOL.max_pairs == 40
    arms = rivals("ort-cpu", "base", "head", slowdown=1.25)
    assert [(a.role, a.folder, a.slowdown) for a in arms] == [
        ("reference", "base", 1.0),
        ("aa", "base", 1.0),
        ("variant", "head", 1.25),
    ]
