"""The open loop on a clock that only moves when told: every expected time is worked by hand."""

import json
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.suites.openloop import (
    NEVER,
    Clock,
    PoissonLoad,
    Served,
    Stop,
    arrivals,
    as_json,
    generator_rate,
    parse_served,
    serve,
    serve_load,
)

MS = 1_000_000


class Time:
    """A clock that sleeping and calls move, and reading it by ``tick``."""

    def __init__(self, *, tick: int = 0, oversleep: int = 0) -> None:
        self.at, self.tick, self.oversleep = 7_000, tick, oversleep
        self.slept: list[int] = []

    def now(self) -> int:
        self.at += self.tick
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds * 1e9))
        self.at += self.slept[-1] + self.oversleep

    def clock(self, *, spin: int = 0) -> Clock:
        return Clock(self.now, self.sleep, self.now, spin)


def served(due: Iterable[int], services: Iterable[int], stop: Stop = Stop()) -> Served:
    """A run in which the calls take ``services`` one after the other."""
    time, left = Time(), iter(services)

    def call(batch: int) -> None:
        time.at += next(left)

    return serve(call, [0], due=np.array(list(due)), stop=stop, clock=time.clock())


# Arrivals.


def test_arrivals_have_exactly_the_named_rate_and_exponential_gaps() -> None:
    due = arrivals(500.0, 20_000, 3)
    assert due.dtype == np.int64
    assert due.shape == (20_000,)
    gaps = np.diff(due)
    assert gaps.min() >= 0
    assert due[0] > 0
    assert due[-1] <= 40e9
    assert gaps.mean() == pytest.approx(2 * MS, rel=1e-3)
    # An exponential distribution: deviation equal to its mean, median ln 2 of it.
    assert gaps.std() == pytest.approx(2 * MS, rel=0.03)
    assert np.median(gaps) == pytest.approx(np.log(2) * 2 * MS, rel=0.03)


def test_arrivals_are_one_pattern_per_seed_stretched_by_the_rate() -> None:
    slow, fast = arrivals(100.0, 50, 9), arrivals(400.0, 50, 9)
    assert np.array_equal(slow, arrivals(100.0, 50, 9))
    assert np.abs(slow - 4 * fast).max() <= 4  # rounded to whole ns
    assert not np.array_equal(slow, arrivals(100.0, 50, 10))


@pytest.mark.parametrize(("rate", "requests"), [(0.0, 5), (-1.0, 5), (float("nan"), 5), (1.0, 0)])
def test_a_load_that_is_none_is_refused(rate: float, requests: int) -> None:
    with pytest.raises(ValueError, match="expected some at a positive rate"):
        arrivals(rate, requests, 0)


# The loop.


def test_latency_counts_from_the_scheduled_arrival() -> None:
    # Arrivals 0, 10, 20, 50 of 15 each: begun 0, 15, 30, 50; completed 15, 30, 45, 65.
    found = served([0, 10, 20, 50], [15] * 4)
    assert found.latencies.tolist() == [15, 20, 25, 15]
    assert found.service.tolist() == [15] * 4
    assert found.backlog.tolist() == [1, 2, 2, 1]  # at 20 the first is done, the second isn't
    assert (found.wall, found.span, found.busy) == (65, 50, 60)
    assert (found.requests, found.stopped) == (4, False)
    assert found.halves == (1.5, 1.5)


def test_a_server_slower_than_the_load_has_a_growing_backlog() -> None:
    # Every 1 a request that takes 2: when i arrives, i // 2 are done.
    found = served(range(10), [2] * 10)
    assert found.backlog.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert found.latencies.tolist() == [2 * (i + 1) - i for i in range(10)]
    assert found.halves == (11 / 5, 24 / 5)


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 80)),
        min_size=1,
        max_size=40,
    )
)
def test_requests_are_served_in_order_and_never_early(pairs: list[tuple[int, int]]) -> None:
    """Lindley's recursion: a request begins when it is due and the one before it is done."""
    due = np.cumsum([gap for gap, _ in pairs])
    services = [service for _, service in pairs]
    ends, end = [], 0
    for arrival, service in zip(due.tolist(), services, strict=True):
        end = max(arrival, end) + service
        ends.append(end)
    found = served(due, services)
    assert found.latencies.tolist() == (np.array(ends) - due).tolist()
    assert found.service.tolist() == services
    unfinished = [
        sum(e > at for e in ends[:i]) + (ends[i] > at) for i, at in enumerate(due.tolist())
    ]
    assert found.backlog.tolist() == unfinished


def test_batches_are_taken_in_turns() -> None:
    time, seen = Time(), list[str]()
    serve(seen.append, ["a", "b", "c"], due=np.arange(5), clock=time.clock())
    assert seen == ["a", "b", "c", "a", "b"]


def test_it_sleeps_until_shortly_before_and_then_spins() -> None:
    time, begun = Time(tick=10_000), list[int]()
    found = serve(
        lambda batch: begun.append(time.at),
        [0],
        due=np.array([50_000, 2 * MS]),
        clock=time.clock(spin=150_000),
    )
    assert len(time.slept) == 1  # too near to sleep before the first
    assert 2 * MS - 300_000 < time.slept[0] < 2 * MS - 150_000
    # Begun at its time, at most one reading of the clock later; the call itself is one reading.
    assert all(0 <= late <= 20_000 for late in found.latencies)


def test_a_sleep_that_wakes_late_is_charged_to_the_request() -> None:
    time = Time(oversleep=400)
    found = serve(lambda batch: None, [0], due=np.array([1000, 2000]), clock=time.clock())
    assert found.latencies.tolist() == [400, 400]
    assert found.service.tolist() == [0, 0]


def test_a_stall_shows_in_the_open_loop_and_not_in_the_service_times() -> None:
    """100 ms every 2 s at 200 requests/s: 5 stalls in 2000 calls of 1 ms, 0.25 % of them, but each
    delays the 20 that arrive meanwhile: 5 % wait up to 100 ms, so 1 % wait 80 ms or more.
    """
    time, stall = Time(), [2000 * MS]

    def call(batch: int) -> None:
        time.at += MS
        if time.at > stall[0]:
            time.at += 100 * MS
            stall[0] += 2000 * MS

    found = serve(call, [0], due=arrivals(200.0, 2000, 4), clock=time.clock())
    assert np.quantile(found.service, 0.99) == MS
    assert np.quantile(found.latencies, 0.99) == pytest.approx(80 * MS, rel=0.15)


# Giving up.


def test_it_stops_once_too_many_are_late() -> None:
    # Latencies 30, 50, 70, 90: the second later than 40 is the third request.
    found = served([0, 10, 20, 30], [30] * 4, Stop(late_after=40, most_late=1))
    assert found.latencies.tolist() == [30, 50, 70]
    assert found.stopped
    assert found.requests == 4
    assert (found.span, found.wall) == (20, 90)


def test_exactly_as_late_as_allowed_is_not_late() -> None:
    # The second takes 50 from its arrival, or 51.
    assert not served([0, 10, 80], [30, 30, 1], Stop(late_after=50, most_late=0)).stopped
    assert served([0, 10, 80], [30, 31, 1], Stop(late_after=50, most_late=0)).stopped


def test_it_stops_when_the_wall_time_is_over() -> None:
    found = served(range(10), [30] * 10, Stop(wall=100))
    assert len(found.latencies) == 4  # 120 > 100
    assert found.stopped


def test_without_a_limit_it_serves_everything() -> None:
    found = served([0] * 50, [1000] * 50)
    assert len(found.latencies) == 50
    assert not found.stopped


@pytest.mark.parametrize(("batches", "due"), [([], [0]), ([0], [])])
def test_nothing_to_serve_is_refused(batches: list[int], due: list[int]) -> None:
    with pytest.raises(ValueError, match="expected some of each"):
        serve(lambda batch: None, batches, due=np.array(due, dtype=np.int64))


def test_what_the_call_raises_is_raised() -> None:
    def broken(batch: int) -> None:
        raise RuntimeError("no such device")

    with pytest.raises(RuntimeError, match="no such device"):
        serve(broken, [0], due=np.array([0]), clock=Time().clock())


# What a worker answers.


def test_a_load_knows_when_it_is_given_up() -> None:
    assert PoissonLoad(100.0, 500, 0).longest == 11.0  # twice 5 s, and one more
    assert PoissonLoad(100.0, 500, 0).stop == Stop(NEVER, NEVER, 11_000 * MS)
    assert PoissonLoad(100.0, 500, 0, late_after=0.025, most_late=0).stop == Stop(
        25 * MS, 0, 11_000 * MS
    )


def _slow(time: Time) -> Callable[[int], None]:
    def call(batch: int) -> None:
        time.at += 3 * MS

    return call


def test_the_answer_crosses_a_pipe() -> None:
    time = Time()
    answer = serve_load(_slow(time), [0], PoissonLoad(100.0, 40, 5), clock=time.clock())
    found = parse_served(json.loads(json.dumps(answer)))
    again = serve(_slow(time := Time()), [0], due=arrivals(100.0, 40, 5), clock=time.clock())
    assert as_json(found) == as_json(again) == answer
    assert found.latencies.dtype == np.int64
    assert found.service.tolist() == [3 * MS] * 40


def test_the_null_model_meets_the_same_arrivals() -> None:
    time = Time()
    answer = serve_load(None, [0], PoissonLoad(100.0, 40, 5), clock=time.clock())
    assert parse_served(answer).span == arrivals(100.0, 40, 5)[-1]
    assert set(answer["service"]) == {0}


def test_the_generators_rate_is_that_of_a_null_model_with_everything_due_at_once() -> None:
    # The clock is read twice a request (begun, ended) and moves 10 us each time: 20 us a request.
    time = Time(tick=10_000)
    assert generator_rate([0], 1000, time.clock()) == pytest.approx(50_000, rel=0.01)
    time = Time(tick=10_000)
    answer = serve_load(None, [0], PoissonLoad(None, 1000, 0), clock=time.clock())
    assert answer["generator_rate"] == pytest.approx(50_000, rel=0.01)


def test_a_model_needs_a_rate() -> None:
    with pytest.raises(ValueError, match="give a rate"):
        serve_load(lambda batch: None, [0], PoissonLoad(None, 10, 0))
