"""Open-loop loads seen from the parent: served by an arm, judged, and the most it can take.

A load is passed when its p99 is proven to hold, the server kept up and its queue didn't grow.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.suites.arms import Arm, Session
from harness.suites.openloop import PoissonLoad, Served, parse_served
from harness.suites.statistics import percentile, queries_needed

QUANTILE = 0.99
ACHIEVED = 0.98
"""Least share of the offered rate that a server must keep up with."""

GROWTH_Z = 2.326
"""One-sided 1 % of a normal distribution."""

HALVINGS = 6
MOST_PROBES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One load and what it showed; rates in requests/s, times in seconds, shares of 1.

    A percentile is None when too few requests were completed to know it; ``why`` says why a load
    wasn't passed.
    """

    rate: float
    n: int
    late: int | None
    p50: float | None
    p90: float | None
    p99: float | None
    service_p50: float | None
    achieved: float
    share: float
    utilisation: float
    halves: tuple[float, float]
    backlog_max: int
    passed: bool
    why: str | None


@dataclass(frozen=True, slots=True)
class Search:
    """The largest rate that passed twice, or None and the reason; ``failing`` is the smallest rate
    that failed, ``probes`` all loads in the order they were run.
    """

    rate: float | None
    reason: str | None
    confirmed: Probe | None
    failing: Probe | None
    probes: tuple[Probe, ...]


def late_allowed(requests: int, q: float = QUANTILE) -> int:
    """Most late ones of ``requests`` with which the q-quantile is proven at 99 %; -1 when even
    none would prove nothing.

    >>> [late_allowed(n) for n in (458, 459, 662, 838)]
    [-1, 0, 1, 2]
    """
    low, high = -1, requests  # proven with low, not with high
    while high - low > 1:
        middle = (low + high) // 2
        if queries_needed(q, middle) <= requests:
            low = middle
        else:
            high = middle
    return low


def sla_load(rate: float, *, requests: int, seed: int, sla: float) -> PoissonLoad:
    """A load that is given up as soon as its p99 can no longer be proven to lie within ``sla``
    seconds; for a search, where a failed load needs no more than that.
    """
    return PoissonLoad(
        rate, requests, seed, late_after=sla, most_late=max(0, late_allowed(requests))
    )


def judge_load(served: Served, rate: float, *, sla: float | None = None) -> Probe:
    """What a load at ``rate`` showed, and whether it was passed; without ``sla`` (seconds) its
    latencies aren't judged.

    The achieved share is how long the arrivals took over how long serving them took, so that it
    doesn't hold the chance in the arrivals themselves.
    """
    latencies, service = served.latencies / 1e9, served.service / 1e9
    late = None if sla is None else int(np.count_nonzero(latencies > sla))
    share = served.span / served.wall if served.wall else 1.0
    why = _why(served, share, late, sla)
    return Probe(
        rate=rate,
        n=len(latencies),
        late=late,
        p50=percentile(latencies, 0.5),
        p90=percentile(latencies, 0.9),
        p99=percentile(latencies, QUANTILE),
        service_p50=percentile(service, 0.5),
        achieved=rate * share,
        share=share,
        utilisation=served.busy / served.wall if served.wall else 0.0,
        halves=served.halves,
        backlog_max=int(served.backlog.max()),
        passed=why is None,
        why=why,
    )


def _why(served: Served, share: float, late: int | None, sla: float | None) -> str | None:
    done, requests, allowed = len(served.latencies), served.requests, late_allowed(served.requests)
    if late is not None and sla is not None:
        if allowed < 0:
            return f"{requests} requests prove no p99; it needs {queries_needed(QUANTILE)}"
        if late > allowed:
            of = "" if done == requests else f" of {requests}"
            return f"{late} of {done} requests later than {1e3 * sla:g} ms, {allowed}{of} allowed"
    if share < ACHIEVED:
        return f"achieved {math.floor(1000 * share) / 10:g} % of the offered rate"
    if served.stopped:
        return f"cut off after {done} of {requests} requests"
    first, second = served.halves
    if backlog_grew(served):
        return f"the backlog grew from {first:.1f} to {second:.1f} requests"
    return None


def backlog_grew(served: Served) -> bool:
    """Whether the mean backlog rose from the first half to the second by more than chance explains
    at 1 %.

    Chance is that of a server which is just kept busy: its backlog is a random walk without a
    drift, and the halves of a walk of n unit steps differ with variance n/3, or n/12 when its end
    is tied down, as it is for arrivals whose count is given; services add n/3 times their squared
    coefficient of variation. A queue with time to spare is pulled back to empty and differs less.
    """
    mean = float(served.service.mean())
    varied = float(served.service.var()) / mean**2 if mean > 0 else 0.0
    chance = math.sqrt(len(served.backlog) * (1 / 12 + varied / 3))
    first, second = served.halves
    return second - first > GROWTH_Z * chance


def search_rate(
    probe: Callable[[float], Probe | None],
    start: float,
    *,
    precision: float = 0.02,
    most_probes: int = MOST_PROBES,
) -> Search:
    """The largest rate that passes, to a share ``precision``, confirmed by a second run.

    Doubles from ``start`` until a load fails (or halves, at most ``HALVINGS`` times, until one
    passes), bisects, and runs the winner again. A rate that fails at any time is an upper bound
    from then on, so a winner that isn't confirmed sends the search further down. ``probe`` gives
    None when the arm can't go on, which ends the search.
    """
    probes: list[Probe] = []
    while len(probes) < most_probes:
        rate = _next_rate(probes, start, precision)
        if rate is None:
            break
        found = probe(rate)
        if found is None:
            return _given_up(probes, f"the arm gave no answer at {rate_text(rate)}")
        probes.append(found)
    low, high = _bounds(probes)
    settled = low is not None and high is not None and _next_rate(probes, start, precision) is None
    if low is not None and settled:
        return Search(low.rate, None, low, high, tuple(probes))
    return _given_up(probes, _unsettled(low, high, len(probes)))


def _bounds(probes: list[Probe]) -> tuple[Probe | None, Probe | None]:
    """The last run of the largest rate that passed below every failure; the smallest failure."""
    failed = [p for p in probes if not p.passed]
    high = min(failed, key=lambda p: p.rate, default=None)
    passed = [p for p in reversed(probes) if p.passed and (high is None or p.rate < high.rate)]
    return max(passed, key=lambda p: p.rate, default=None), high


def _next_rate(probes: list[Probe], start: float, precision: float) -> float | None:
    """The rate to run next; None when the search is over."""
    low, high = _bounds(probes)
    if low is None:
        if high is None:
            return start
        return high.rate / 2 if high.rate / 2 >= start / 2**HALVINGS else None
    if high is None:
        return low.rate * 2
    if high.rate > low.rate * (1 + precision):
        return (low.rate + high.rate) / 2
    confirmed = sum(p.passed and p.rate == low.rate for p in probes) > 1
    return None if confirmed else low.rate


def _given_up(probes: list[Probe], reason: str) -> Search:
    return Search(None, reason, None, _bounds(probes)[1], tuple(probes))


def _unsettled(low: Probe | None, high: Probe | None, count: int) -> str:
    if low is None and high is not None:
        return f"failed even at {rate_text(high.rate)}: {high.why}"
    passed = f"passed at {rate_text(low.rate)}" if low else "nothing passed"
    failed = f"failed at {rate_text(high.rate)}" if high else "nothing failed"
    return f"not settled within {count} loads: {passed}, {failed}"


def rate_text(rate: float) -> str:
    """A rate as a sentence has it."""
    return f"{rate:,.4g} requests/s" if rate < 1000 else f"{rate:,.0f} requests/s"


def serve_arm(
    session: Session, arm: Arm, load: PoissonLoad, *, null: bool = False
) -> Served | None:
    """A load served by an arm's worker (``null``: by a null model in its place); None when that
    was the end of the arm, for the reason in ``session.failures``.
    """
    answer = _ask(session, arm, load, null=null)
    return None if answer is None else parse_served(answer)


def generator_rate(session: Session, arm: Arm, requests: int) -> float | None:
    """Requests/s that the load generator sustains with a null model; None as in ``serve_arm``."""
    answer = _ask(session, arm, PoissonLoad(None, requests, 0), null=True)
    return None if answer is None else float(answer["generator_rate"])


def _ask(session: Session, arm: Arm, load: PoissonLoad, *, null: bool) -> dict[str, Any] | None:
    # The worker cuts an overloaded run off itself; only a call that hangs meets the timeout.
    timeout = load.longest + session.limits.block
    return session.ask(arm, "serve", timeout=timeout, **asdict(load), null=null)
