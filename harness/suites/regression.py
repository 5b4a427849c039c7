"""Is a candidate slower than what it replaces? The verdict on one paired measurement.

Never judged on stored times: candidate and reference take turns in one job, beside a second copy of
the reference that shows what the machine's noise does to a ratio.
"""

from dataclasses import dataclass
from typing import Literal

from harness.suites.arms import Arm
from harness.suites.paired import Measured

AA_BOUNDS = (0.95, 1.05)
WARN, FAIL, FAIL_LONG, LONG_CALL = 1.05, 1.08, 1.10, 0.050

Outcome = Literal["passed", "warning", "failed", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Regression:
    """How many times the reference's time the candidate takes (above 1 is slower), and what that
    means. ``low`` and ``high`` bound the median's ratio.
    """

    outcome: Outcome
    p10: float
    median: float
    low: float
    high: float
    aa: float
    pairs: int

    def __str__(self) -> str:
        return (
            f"{self.outcome}: {self.median:.3f} times the reference's time "
            f"[{self.low:.3f}, {self.high:.3f}], p10 {self.p10:.3f}, A/A {self.aa:.3f}, "
            f"{self.pairs} pairs"
        )


def judge_regression(measured: Measured, candidate: Arm, reference: Arm) -> Regression:
    """Fails when paired p10 and paired median are both above 1.08 (1.10 for calls over 50 ms);
    warns when the interval lies above 1 and p10 above 1.05; says nothing when the A/A arm, or
    either arm, is unusable.
    """
    usable = {candidate.name, reference.name} <= set(measured.series)
    aa = measured.aa_ratio(reference, "p10") if usable else None
    if aa is None:
        return Regression("inconclusive", 1.0, 1.0, 1.0, 1.0, 1.0, 0)
    found = measured.speedup(reference, candidate)  # time of candidate / time of reference
    p10 = measured.speedup(reference, candidate, "p10").value
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert p10 is not None
    call = float(measured.series[reference.name].block_values("median").min())
    outcome = _outcome(found.value, found.low, p10, aa, FAIL_LONG if call > LONG_CALL else FAIL)
    return Regression(outcome, p10, found.value, found.low, found.high, aa, found.n)


def _outcome(median: float, low: float, p10: float, aa: float, fail: float) -> Outcome:
    if not AA_BOUNDS[0] <= aa <= AA_BOUNDS[1]:
        return "inconclusive"
    if median > fail and p10 > fail:
        return "failed"
    return "warning" if low > 1.0 and p10 > WARN else "passed"
