"""The rule that fails a slowdown: pinned thresholds, worked by hand on made series."""

import numpy as np
import pytest

from harness.suites.arms import Arm
from harness.suites.paired import Measured, Series
from harness.suites.points import Point
from harness.suites.regression import judge_regression

REFERENCE = Arm("reference", "ort-cpu", None, role="reference")
COPY = Arm("copy", "ort-cpu", None, role="aa")
CANDIDATE = Arm("candidate", "ort-cpu", None)


def series(seconds: float, rounds: int = 40) -> Series:
    blocks = tuple(np.full(3, seconds * (1 + 0.001 * (i % 5))) for i in range(rounds))
    wall = np.array([block.sum() for block in blocks])
    return Series(blocks, wall, wall, np.zeros(rounds))


def measured(candidate: float, copy: float = 1.0, call: float = 1e-3) -> Measured:
    times = {REFERENCE: call, COPY: call * copy, CANDIDATE: call * candidate}
    return Measured(
        Point("single", 1, 256, 1),
        tuple(times),
        {arm.name: series(seconds) for arm, seconds in times.items()},
        {},
        {},
        {},
    )


@pytest.mark.parametrize(
    ("candidate", "copy", "call", "outcome"),
    [
        (1.00, 1.0, 1e-3, "passed"),
        (1.04, 1.0, 1e-3, "passed"),
        (1.06, 1.0, 1e-3, "warning"),
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
    found = judge_regression(measured(candidate, copy, call), CANDIDATE, REFERENCE)
    assert found.outcome == outcome, str(found)
    assert found.median == pytest.approx(candidate)
    assert found.p10 == pytest.approx(candidate)
    assert found.pairs == 40


def test_an_arm_that_failed_shows_nothing() -> None:
    full = measured(1.0)
    lost = {name: s for name, s in full.series.items() if name != "candidate"}
    broken = Measured(full.point, full.arms, lost, {"candidate": "crashed"}, {}, {})
    found = judge_regression(broken, CANDIDATE, REFERENCE)
    assert (found.outcome, found.pairs) == ("inconclusive", 0)


def test_a_slow_tail_alone_is_no_failure() -> None:
    """The p10 has to agree: a candidate with a heavy tail but the same floor isn't failed."""
    full = measured(1.0)
    blocks = tuple(np.array([1e-3, 1.2e-3, 1.2e-3]) for _ in range(40))
    wall = np.array([block.sum() for block in blocks])
    tail = Series(blocks, wall, wall, np.zeros(40))
    mixed = Measured(full.point, full.arms, {**full.series, "candidate": tail}, {}, {}, {})
    assert judge_regression(mixed, CANDIDATE, REFERENCE).outcome != "failed"
