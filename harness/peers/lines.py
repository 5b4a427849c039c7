"""What is found of a contestant at one size of call, and who leads: pure figures, no clock.

Ratios are times of the reference / times of the contestant in the same round; their mean is the
geometric one, with a bootstrap interval over rounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from harness.peers.registry import Side
from harness.suites.statistics import Interval, percentile_interval

LEVEL = 0.95
RESAMPLES = 2000
Outcome = Literal["met", "not met", "not shown"]


@dataclass(frozen=True, slots=True)
class Quality:
    """``change`` against the reference in ``metric`` with its 95 % interval, the share ``kept`` of
    the reference's at the worse bound, and the class that gives.
    """

    metric: str
    change: float
    low: float | None
    high: float | None
    kept: float
    label: str


@dataclass(frozen=True)
class Line:
    """One contestant of one workload at one size of call.

    ``times`` are seconds of a call by round (the median of the round's block); none where it
    failed or was skipped, for the ``reason``. ``note`` is why the host counted as noisy.
    """

    workload: str
    call: str
    contestant: str
    side: Side
    status: Literal["ok", "skipped", "failed"] = "ok"
    reason: str | None = None
    engine: str | None = None
    bytes: int | None = None
    quality: Quality | None = None
    eligible: bool = False
    times: Mapping[int, float] | None = None
    ratio: Interval | None = None
    note: str | None = None

    def plain(self) -> dict[str, Any]:
        """The line as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Lead:
    """Our quickest eligible contestant against its rival at one size of call, the quickest eligible
    peer or the reference; None where there is none. ``lead`` is time of the rival / time of ours.
    """

    workload: str
    call: str
    ours: Line | None
    peer: Line | None
    lead: Interval | None
    target: float
    bound: str

    @property
    def outcome(self) -> Outcome:
        """Whether the target is met: at the interval's lower bound; not shown where the interval
        holds the target, or is missing.
        """
        if self.lead is None or self.lead.low is None or self.lead.high is None:
            return "not shown"
        if self.lead.low >= self.target:
            return "met"
        return "not met" if self.lead.high < self.target else "not shown"


def ratio(ours: Mapping[int, float], against: Mapping[int, float]) -> Interval:
    """Geometric mean over shared rounds of time of ``against`` / time of ``ours``, with its
    interval; no bounds for a single round. Raises ``ValueError`` when they share none.
    """
    rounds = sorted(set(ours) & set(against))
    if not rounds:
        raise ValueError("no round that both were timed in")
    logs = np.log([against[one] / ours[one] for one in rounds])  # (rounds,)
    drawn = np.random.default_rng(0).integers(0, len(logs), (RESAMPLES, len(logs)))
    draws = np.exp(logs[drawn].mean(axis=1))  # (resamples,)
    return percentile_interval(float(np.exp(logs.mean())), draws, len(logs), level=LEVEL)


def find_lead(
    lines: Sequence[Line],
    *,
    target: float,
    bound: str,
    rival: Literal["peers", "reference"] = "peers",
) -> Lead:
    """Who leads among all lines of one workload and size of call; peers are all but ours."""
    first = lines[0]
    ours = _quickest([line for line in lines if line.side == "ours"])
    sides: tuple[Side, ...] = ("reference",) if rival == "reference" else ("reference", "peer")
    peer = _quickest([line for line in lines if line.side in sides])
    lead = None
    if ours and peer and ours.times and peer.times:
        lead = ratio(ours.times, peer.times)
    return Lead(first.workload, first.call, ours, peer, lead, target, bound)


def _quickest(lines: Sequence[Line]) -> Line | None:
    """The eligible line of the largest ratio to the reference."""
    timed = [line for line in lines if line.eligible and line.ratio and line.ratio.value]
    return max(timed, key=lambda line: (line.ratio and line.ratio.value) or 0.0, default=None)
