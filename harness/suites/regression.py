"""Is a candidate slower than what it replaces? Its timing beside the reference, and the verdict.

Never judged on stored times: candidate and reference take turns in one job, beside a second copy of
the reference that shows what the machine's noise does to a ratio.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from harness.outcomes import MIN_PAIRS, aa_trouble
from harness.profile import Profile, Protocol
from harness.suites.arms import Arm, Session
from harness.suites.paired import Measured, Series, measure_point
from harness.suites.plan import Plan, feed_files
from harness.suites.points import Point
from harness.tables import Prepared
from harness.tasks import TASKS

Progress = Callable[[str, float], None]
Feeds = Mapping[Point, Mapping[str, Path]]
"""The input file of each arm, by its name, at each point."""
Verdict = Literal["passed", "warning", "failed", "inconclusive"]

WARN, FAIL, FAIL_LONG, LONG_CALL = 1.05, 1.08, 1.10, 0.050
"""Times of the reference's; the longer limit is for calls over ``LONG_CALL`` seconds."""
CHANCES = 3
"""How often noise that leaves a comparison undecided is measured again."""
CONTROL = 1.25
"""The planted slowdown that a gate must fail, or it is blind."""

POINTS = (Point("sweep", 64, 1, 1), Point("single", 1, 256, 1))
"""Where artifacts are gated: 64 rows at once, and a request of 256 candidates; on one thread."""
LIST_POINTS = (Point("sweep", 64, 1, 1), Point("single", 1, 1, 1))
"""Where they are, when a request is answered with a list: its candidates are the catalogue."""
PROTOCOL = Protocol(min_pairs=40, max_pairs=40, min_seconds=0.001, max_seconds=60.0)
"""40 rounds, whatever they show: what a comparison can see is the same for all."""
SEED = 7


def point_name(point: Point) -> str:
    """A gate's point as files and sentences call it, such as ``64x1``."""
    return f"{point.requests}x{point.candidates}"


@dataclass(frozen=True, slots=True)
class Regression:
    """How many times the reference's time the candidate takes (above 1 is slower), and what that
    means. ``low`` and ``high`` bound the median's ratio; what couldn't be measured is None, for
    the ``reason``.
    """

    outcome: Verdict
    p10: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None
    aa: float | None = None
    pairs: int = 0
    reason: str | None = None

    @property
    def figures(self) -> str:
        """What was measured, without the verdict."""
        if self.median is None:
            return self.reason or "not measured"
        told = (
            f"{self.median:.3f} times the reference's time [{self.low:.3f}, {self.high:.3f}], "
            f"p10 {self.p10:.3f}, A/A {self.aa:.3f}, {self.pairs} pairs"
        )
        return f"{told}; {self.reason}" if self.reason else told

    def __str__(self) -> str:
        return f"{self.outcome}: {self.figures}"


def judge_regression(measured: Measured, candidate: Arm, reference: Arm) -> Regression:
    """Fails when paired p10 and paired median are both above 1.08 (1.10 for calls over 50 ms), or
    when the candidate couldn't be measured at all; warns when the interval lies above 1 and p10
    above 1.05; says nothing when the A/A arm or the reference is unusable, or with fewer than 5
    rounds. At more than one thread nothing is failed.
    """
    if reference.name not in measured.series:
        return Regression("inconclusive", reason=_why(measured, reference))
    if candidate.name not in measured.series:
        return Regression("failed", reason=_why(measured, candidate))
    rounds = len(measured.series[reference.name].latencies)
    if rounds < MIN_PAIRS:
        reason = f"{rounds} rounds, at least {MIN_PAIRS} are needed"
        return Regression("inconclusive", pairs=rounds, reason=reason)
    if not all(_is_time(series) for series in measured.series.values()):
        return Regression("inconclusive", reason="the clock gave a call no time, or no number")
    aa = measured.aa_ratio(reference, "p10")
    if aa is None:
        copy = next((arm for arm in measured.arms if arm.role == "aa"), None)
        return Regression(
            "inconclusive", reason=_why(measured, copy) if copy else "no A/A ratio was measured"
        )
    return _judged(measured, candidate, reference, aa)


def _is_time(series: Series) -> bool:
    calls = np.concatenate(series.latencies)  # (calls,)
    return bool(np.isfinite(calls).all() and (calls > 0).all())


def _why(measured: Measured, arm: Arm) -> str:
    return measured.failures.get(arm.name, f"{arm.name} wasn't measured")


def _judged(measured: Measured, candidate: Arm, reference: Arm, aa: float) -> Regression:
    found = measured.speedup(reference, candidate)  # time of candidate / time of reference
    p10 = measured.speedup(reference, candidate, "p10").value
    assert found.value is not None
    assert found.low is not None
    assert p10 is not None
    trouble = aa_trouble(aa, found.n)
    call = float(measured.series[reference.name].block_values("median").min())
    outcome = _outcome(found.value, found.low, p10, FAIL_LONG if call > LONG_CALL else FAIL)
    if trouble:
        outcome = "inconclusive"
    elif measured.point.threads != 1 and outcome == "failed":
        outcome, trouble = "warning", "more than 1 thread: report only"
    reason = "; ".join(filter(None, (trouble, measured.noise))) or None
    return Regression(outcome, p10, found.value, found.low, found.high, aa, found.n, reason)


def _outcome(median: float, low: float, p10: float, fail: float) -> Verdict:
    if median > fail and p10 > fail:
        return "failed"
    return "warning" if low > 1.0 and p10 > WARN else "passed"


def settled(first: Regression, again: Callable[[], Regression]) -> Regression:
    """The verdict that counts: noise is given three more chances, and a failure is confirmed once;
    ``again`` measures in fresh processes.
    """
    found = _decided(first, again)
    return _decided(again(), again) if found.outcome == "failed" else found


def _decided(found: Regression, again: Callable[[], Regression]) -> Regression:
    for _ in range(CHANCES):
        if found.outcome != "inconclusive":
            break
        found = again()
    return found


def rivals(
    engine: str, reference: Path, candidate: Path, *, slowdown: float = 1.0
) -> tuple[Arm, Arm, Arm]:
    """The reference, its second copy and the candidate, by artifact folder; the candidate's calls
    take ``slowdown`` times as long.
    """
    return (
        Arm("reference", engine, reference, role="reference"),
        Arm("copy", engine, reference, role="aa"),
        Arm("candidate", engine, candidate, slowdown=slowdown),
    )


def gate_feeds(arms: Sequence[Arm], data: Prepared, folder: Path) -> Feeds:
    """Inputs of every arm at the gates' points, written to ``folder``."""
    plan = Plan(Profile(name="gate", protocol=PROTOCOL), (1,), SEED)
    points = LIST_POINTS if TASKS[data.schema.task].lists else POINTS
    return {point: feed_files(arms, data, point, plan, folder) for point in points}


def time_arms(
    arms: tuple[Arm, ...], feeds: Feeds, *, seed: int, progress: Progress
) -> dict[Point, Measured]:
    """Arms timed at every point of ``feeds``, in fresh processes of their own."""
    points = tuple(feeds)
    with Session(arms, points[0].threads) as session:
        session.load(feeds[points[0]], progress)
        session.pin()
        return {
            point: measure_point(session, point, feed, PROTOCOL, seed=seed, progress=progress)
            for point, feed in feeds.items()
        }


Time = Callable[[tuple[Arm, ...], Feeds], Mapping[Point, Measured]]
"""Times arms at points in fresh processes; what tests put a made-up clock in place of."""


def compare(arms: tuple[Arm, ...], feeds: Feeds, time: Time) -> dict[Point, Regression]:
    """The settled verdict on the arm ``candidate`` against ``reference`` at every point."""
    named = {arm.name: arm for arm in arms}

    def judged(measured: Measured) -> Regression:
        return judge_regression(measured, named["candidate"], named["reference"])

    def again(point: Point) -> Regression:
        return judged(time(arms, {point: feeds[point]})[point])

    first = time(arms, feeds)
    return {point: settled(judged(first[point]), partial(again, point)) for point in feeds}
