"""An open-loop load: requests come when the schedule says, whether or not the last one is done.

Latency counts from the scheduled arrival, so a stall is charged to every request that waited behind
it (no coordinated omission). Runs inside the worker, next to the engine; times are nanoseconds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

NEVER = 1 << 62
"""Nanoseconds (or requests) that no run reaches."""

MOST_TIMES, MOST_MORE = 2.0, 1.0
"""A run is cut off at this many times its schedule and so many seconds: it was overloaded."""


@dataclass(frozen=True, slots=True)
class Clock:
    """What tells and passes time; ``spin`` is how long before an arrival the sleep ends, since a
    sleep wakes up to about 100 us late.
    """

    now: Callable[[], int]
    sleep: Callable[[float], None]
    cpu: Callable[[], int]
    spin: int = 150_000


SYSTEM = Clock(time.perf_counter_ns, time.sleep, time.process_time_ns)


@dataclass(frozen=True, slots=True)
class Stop:
    """When to give up: once more than ``most_late`` requests took longer than ``late_after`` from
    their arrival, or ``wall`` after the start.
    """

    late_after: int = NEVER
    most_late: int = NEVER
    wall: int = NEVER


@dataclass(frozen=True, slots=True)
class PoissonLoad:
    """A Poisson load: requests/s (None: all at once, for the null model only), how many, the seed;
    given up once more than ``most_late`` took longer than ``late_after`` seconds (None: never).
    """

    rate: float | None
    requests: int
    seed: int
    late_after: float | None = None
    most_late: int | None = None

    @property
    def longest(self) -> float:
        """Seconds after which the run is cut off; a call that hangs can take longer."""
        return MOST_MORE + (MOST_TIMES * self.requests / self.rate if self.rate else 0.0)

    @property
    def stop(self) -> Stop:
        """When the loop gives up."""
        return Stop(
            NEVER if self.late_after is None else round(self.late_after * 1e9),
            NEVER if self.most_late is None else self.most_late,
            round(self.longest * 1e9),
        )


@dataclass(frozen=True)
class Served:
    """What came of a load; arrays have one entry for each completed request, in order."""

    latencies: np.ndarray  # (done,) int64, from the scheduled arrival until completion
    service: np.ndarray  # (done,) int64, the call alone
    backlog: np.ndarray  # (done,) int64, not completed when it arrived, itself included
    requests: int
    """Scheduled; more than were completed when ``stopped``."""
    span: int
    """Scheduled arrival of the last completed request, from the start."""
    wall: int
    """Completion of the last request, from the start."""
    cpu: int
    """CPU time of the process; the short spin before each arrival is part of it."""

    @property
    def stopped(self) -> bool:
        """Whether it was given up before all requests were served."""
        return len(self.latencies) < self.requests

    @property
    def busy(self) -> int:
        """Time inside calls."""
        return int(self.service.sum())

    @property
    def halves(self) -> tuple[float, float]:
        """Mean backlog over the first and the second half of the completed requests."""
        middle = max(1, len(self.backlog) // 2)
        second = self.backlog[middle:] if len(self.backlog) > 1 else self.backlog
        return float(self.backlog[:middle].mean()), float(second.mean())


def arrivals(rate: float, requests: int, seed: int) -> np.ndarray:
    """Scheduled arrivals, (requests,) int64 ns from the start, ascending.

    A Poisson process given that exactly ``requests`` arrive in ``requests / rate`` seconds, so
    that the offered rate is the one named and not a draw around it. One seed gives one pattern,
    stretched by the rate. Raises ``ValueError`` for no requests or a rate that isn't positive.
    """
    if not rate > 0 or requests < 1:
        raise ValueError(f"{requests} requests at {rate!r}/s, expected some at a positive rate")
    gaps = np.random.default_rng(seed).standard_exponential(requests + 1)  # (requests + 1,)
    shares = np.cumsum(gaps[:-1]) / gaps.sum()  # (requests,) uniform order statistics
    return np.asarray(np.rint(shares * (requests / rate * 1e9)), dtype=np.int64)


def serve(
    call: Callable[[Any], object],
    batches: Sequence[Any],
    *,
    due: np.ndarray,
    stop: Stop = Stop(),
    clock: Clock = SYSTEM,
) -> Served:
    """Serve one request after the other, first come first served, the batches in turns; none is
    begun before it is due. Raises what ``call`` raises, and ``ValueError`` for no batches or no
    arrivals.
    """
    if not len(due) or not len(batches):
        raise ValueError(f"{len(due)} arrivals of {len(batches)} batches, expected some of each")
    cpu = clock.cpu()
    origin, started, finished = _loop(call, batches, due, stop, clock)
    cpu = clock.cpu() - cpu
    starts, ends = np.array(started) - origin, np.array(finished) - origin  # (done,)
    done = len(ends)
    return Served(
        latencies=ends - due[:done],
        service=ends - starts,
        backlog=np.arange(1, done + 1) - np.searchsorted(ends, due[:done], side="right"),
        requests=len(due),
        span=int(due[done - 1]),
        wall=int(ends[-1]),
        cpu=cpu,
    )


def _loop(
    call: Callable[[Any], object],
    batches: Sequence[Any],
    due: np.ndarray,
    stop: Stop,
    clock: Clock,
) -> tuple[int, list[int], list[int]]:
    """The start of the run, and when each request was begun and completed.

    Everything else is worked out afterwards: this must cost little beside the call.
    """
    now, late_after, most_late, late = clock.now, stop.late_after, stop.most_late, 0
    plan = list(zip(due.tolist(), cycle(batches), strict=False))  # the batches have no end
    started, finished = list[int](), list[int]()
    origin = now()
    last = origin + stop.wall
    for offset, batch in plan:
        target = origin + offset
        start = now()
        if start < target:
            start = _wait(target, target - start, clock)
        call(batch)
        end = now()
        started.append(start)
        finished.append(end)
        if end - target > late_after:
            late += 1
        if late > most_late or end > last:
            break
    return origin, started, finished


def _wait(target: int, left: int, clock: Clock) -> int:
    """Sleep until shortly before ``target``, spin until it is reached; the time then."""
    if left > clock.spin:
        clock.sleep((left - clock.spin) / 1e9)
    now = clock.now
    start = now()
    while start < target:
        start = now()
    return start


def null_call(batch: object) -> None:
    """The null model: answers at once."""
    del batch


def generator_rate(batches: Sequence[Any], requests: int, clock: Clock = SYSTEM) -> float:
    """Requests/s that the loop itself sustains: a null model, all requests there at once."""
    due = np.zeros(requests, dtype=np.int64)
    return 1e9 * requests / serve(null_call, batches, due=due, clock=clock).wall


def serve_load(
    call: Callable[[Any], object] | None,
    batches: Sequence[Any],
    load: PoissonLoad,
    *,
    clock: Clock = SYSTEM,
) -> dict[str, Any]:
    """What a worker answers: a load served, as JSON-ready values for ``parse_served``.

    No call means the null model; without a rate it gives ``generator_rate`` alone. Raises
    ``ValueError`` for a model without a rate, and what the call raises.
    """
    if load.rate is None:
        if call is not None:
            raise ValueError("a load without a rate is for the null model; give a rate")
        return {"generator_rate": generator_rate(batches, load.requests, clock)}
    due = arrivals(load.rate, load.requests, load.seed)
    served = serve(call or null_call, batches, due=due, stop=load.stop, clock=clock)
    return as_json(served)


ARRAYS, NUMBERS = ("latencies", "service", "backlog"), ("requests", "span", "wall", "cpu")


def as_json(served: Served) -> dict[str, Any]:
    """Lists and whole numbers, as they cross the worker's pipe."""
    lists = {name: getattr(served, name).tolist() for name in ARRAYS}
    return {**lists, **{name: getattr(served, name) for name in NUMBERS}}


def parse_served(answer: Mapping[str, Any]) -> Served:
    """What ``as_json`` was given."""
    arrays = {name: np.array(answer[name], dtype=np.int64) for name in ARRAYS}
    values: dict[str, Any] = {**arrays, **{name: int(answer[name]) for name in NUMBERS}}
    return Served(**values)
