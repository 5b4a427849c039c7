"""Open-loop loads judged and searched: by hand, by simulated queues, by laws of the search."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifact import Artifact
from harness.suites.arms import Arm, Limits, Session
from harness.suites.openloop import Clock, PoissonLoad, Served, arrivals, as_json, serve
from harness.suites.points import Point, draw_rows, write_feeds
from harness.suites.server import (
    MOST_PROBES,
    Probe,
    backlog_grew,
    generator_rate,
    judge_load,
    late_allowed,
    search_rate,
    serve_arm,
    sla_load,
)
from harness.suites.statistics import queries_needed
from harness.tables import Prepared

MS = 1_000_000
ARM = Arm("plain", "torch-cpu", Path())


def queue(
    utilisation: float, requests: int, seed: int, service: Callable[[], int] = lambda: MS
) -> Served:
    """A simulated M/G/1 queue: Poisson arrivals, services of 1 ms (M/D/1) unless told."""
    now = [0]

    def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1e9)

    def call(batch: int) -> None:
        now[0] += service()

    due = arrivals(1000 * utilisation, requests, seed)
    return serve(call, [0], due=due, clock=Clock(lambda: now[0], sleep, lambda: 0, 0))


def steady(n: int = 1000, *, late: int = 0, requests: int | None = None, wall: int = 0) -> Served:
    """``n`` requests every 10 ms, 1 ms each, of which ``late`` took 30 ms."""
    latencies = np.full(n, MS)
    latencies[:late] = 30 * MS
    span = 10 * MS * (n - 1)
    ones = np.ones(n, dtype=np.int64)
    return Served(latencies, ones * MS, ones, requests or n, span, wall or span + MS, 0)


# Judging a load.


@pytest.mark.parametrize(
    ("requests", "late"), [(1, -1), (458, -1), (459, 0), (661, 0), (662, 1), (837, 1), (838, 2)]
)
def test_how_many_may_be_late(requests: int, late: int) -> None:
    assert late_allowed(requests) == late


@given(st.integers(1, 20_000), st.sampled_from([0.5, 0.9, 0.99]))
def test_the_number_allowed_is_the_largest_that_proves_the_quantile(n: int, q: float) -> None:
    late = late_allowed(n, q)
    assert late < 0 or queries_needed(q, late) <= n
    assert queries_needed(q, late + 1) > n


def test_a_load_that_the_server_keeps_up_with_is_passed() -> None:
    probe = judge_load(steady(), 100.0, sla=0.025)
    assert (probe.passed, probe.why, probe.late, probe.n) == (True, None, 0, 1000)
    assert (probe.p50, probe.p90, probe.p99, probe.service_p50) == (0.001,) * 4
    assert probe.share == pytest.approx(9990 / 9991)
    assert probe.achieved == pytest.approx(100 * 9990 / 9991)
    assert probe.utilisation == pytest.approx(1000 / 9991)
    assert (probe.halves, probe.backlog_max) == ((1.0, 1.0), 1)


def test_as_many_late_as_allowed_pass_and_one_more_fails() -> None:
    assert judge_load(steady(838, late=2), 100.0, sla=0.025).passed
    probe = judge_load(steady(838, late=3), 100.0, sla=0.025)
    assert not probe.passed
    assert probe.late == 3
    assert probe.why == "3 of 838 requests later than 25 ms, 2 allowed"


def test_a_load_that_was_given_up_fails_and_its_p99_is_not_known() -> None:
    probe = judge_load(steady(120, late=3, requests=838), 100.0, sla=0.025)
    assert probe.why == "3 of 120 requests later than 25 ms, 2 of 838 allowed"
    assert probe.p99 is None
    assert probe.p90 == 0.001
    assert judge_load(steady(500, requests=838), 100.0).why == "cut off after 500 of 838 requests"


def test_too_few_requests_prove_nothing() -> None:
    probe = judge_load(steady(100), 100.0, sla=0.025)
    assert probe.why == "100 requests prove no p99; it needs 459"


def test_a_server_that_falls_behind_fails() -> None:
    span = 9990 * MS
    assert judge_load(steady(wall=round(span / 0.981)), 100.0, sla=0.025).passed
    probe = judge_load(steady(wall=round(span / 0.9799)), 100.0, sla=0.025)
    assert probe.why == "achieved 97.9 % of the offered rate"  # never rounded up to what passes
    probe = judge_load(steady(wall=round(span / 0.93 - 1)), 100.0, sla=0.025)
    assert probe.why == "achieved 93 % of the offered rate"
    assert probe.achieved == pytest.approx(93.0)


def test_without_an_sla_latencies_are_not_judged() -> None:
    probe = judge_load(steady(838, late=300), 100.0)
    assert probe.passed
    assert probe.late is None
    assert probe.p99 == 0.03


# Whether a backlog grows.


@pytest.mark.parametrize("utilisation", [0.5, 0.9])
def test_a_stable_queue_does_not_grow(utilisation: float) -> None:
    assert not any(backlog_grew(queue(utilisation, 838, seed)) for seed in range(60))


def test_a_queue_of_varying_services_does_not_grow_either() -> None:
    rng = np.random.default_rng(1)
    loads = (queue(0.9, 838, seed, lambda: int(rng.exponential(MS))) for seed in range(60))
    assert not any(backlog_grew(load) for load in loads)


def test_a_server_that_is_just_kept_busy_grows_by_chance_only() -> None:
    """The null hypothesis itself, but for a queue that can't be shorter than empty."""
    assert sum(backlog_grew(queue(1.0, 838, seed)) for seed in range(60)) <= 9


@pytest.mark.parametrize(("utilisation", "found"), [(1.1, 57), (1.5, 60), (3.0, 60)])
def test_an_overloaded_queue_grows(utilisation: float, found: int) -> None:
    assert sum(backlog_grew(queue(utilisation, 838, seed)) for seed in range(60)) >= found


def test_growth_fails_a_load_and_is_told() -> None:
    grown = np.concatenate([np.full(500, 1), np.full(500, 40)])
    base = steady()
    load = Served(base.latencies, base.service, grown, 1000, base.span, base.wall, 0)
    assert judge_load(load, 100.0, sla=0.025).why == "the backlog grew from 1.0 to 40.0 requests"


@pytest.mark.parametrize(
    ("services", "more", "expected"),
    [
        # Equal: the halves deviate by sqrt(1000 / 12) = 9.13, so 1 % of them by more than 21.2.
        ((1.0, 1.0), 21, False),
        ((1.0, 1.0), 22, True),
        # Of squared variation 1/4: by sqrt(1000 / 12 + 1000 / 12) = 12.9, so by more than 30.03.
        ((0.5, 1.5), 30, False),
        ((0.5, 1.5), 31, True),
    ],
)
def test_what_chance_explains(services: tuple[float, float], more: int, expected: bool) -> None:
    base, grown = steady(), np.concatenate([np.full(500, 1), np.full(500, 1 + more)])
    varied = np.tile(np.array(services) * MS, 500).astype(np.int64)
    load = Served(base.latencies, varied, grown, 1000, base.span, base.wall, 0)
    assert backlog_grew(load) is expected


# The search.


def probe_at(rate: float, passed: bool) -> Probe:
    return Probe(
        rate=rate,
        n=838,
        late=0 if passed else 9,
        p50=0.001,
        p90=0.002,
        p99=0.003,
        service_p50=0.001,
        achieved=rate,
        share=1.0,
        utilisation=0.5,
        halves=(1.0, 1.0),
        backlog_max=3,
        passed=passed,
        why=None if passed else "9 of 838 requests later than 25 ms, 2 allowed",
    )


def scripted(*outcomes: bool) -> tuple[Callable[[float], Probe], list[float]]:
    """A probe whose n-th run passes or not as told (the last one for ever), and its rates."""
    left, rates = itertools.chain(outcomes, itertools.repeat(outcomes[-1])), list[float]()

    def probe(rate: float) -> Probe:
        rates.append(rate)
        return probe_at(rate, next(left))

    return probe, rates


def test_it_doubles_bisects_and_confirms() -> None:
    found = search_rate(lambda rate: probe_at(rate, rate <= 300), 100.0, precision=0.1)
    # Up to 400, between 200 and 400: 300 passes; 350, 325 fail (325 is within 10 %); 300 again.
    assert [probe.rate for probe in found.probes] == [100, 200, 400, 300, 350, 325, 300]
    assert found.rate == 300
    assert found.reason is None
    assert found.confirmed is found.probes[-1]
    assert found.failing is found.probes[5]


def test_a_winner_that_is_not_confirmed_becomes_the_upper_neighbour() -> None:
    # 100 passes, 200 fails, 150 passes, 175 fails; precision 20 %: 150 is run again, and fails.
    probe, rates = scripted(True, False, True, False, False, True, True, True)
    found = search_rate(probe, 100.0, precision=0.2)
    assert rates == [100, 200, 150, 175, 150, 125, 125]
    assert found.rate == 125
    assert found.failing is not None
    assert found.failing.rate == 150


def test_a_first_failure_is_halved() -> None:
    found = search_rate(lambda rate: probe_at(rate, rate <= 30), 100.0, precision=0.3)
    assert [probe.rate for probe in found.probes] == [100, 50, 25, 37.5, 31.25, 25]
    assert found.rate == 25


def test_when_the_lowest_fails_there_is_no_rate_but_a_reason() -> None:
    found = search_rate(lambda rate: probe_at(rate, False), 64.0)
    assert [probe.rate for probe in found.probes] == [64, 32, 16, 8, 4, 2, 1]
    assert found.rate is None
    assert found.confirmed is None
    assert found.failing is found.probes[-1]
    assert found.reason == (
        "failed even at 1 requests/s: 9 of 838 requests later than 25 ms, 2 allowed"
    )


def test_a_server_without_a_limit_is_not_settled() -> None:
    found = search_rate(lambda rate: probe_at(rate, True), 1.0, most_probes=5)
    assert found.rate is None
    assert found.reason == ("not settled within 5 loads: passed at 16 requests/s, nothing failed")


def test_an_arm_that_ends_ends_the_search() -> None:
    found = search_rate(lambda rate: probe_at(rate, True) if rate < 3000 else None, 1000.0)
    assert len(found.probes) == 2
    assert found.rate is None
    assert found.reason == "the arm gave no answer at 4,000 requests/s"


@given(st.floats(1.0, 1e5), st.floats(1 / 60, 900.0))
def test_a_capacity_is_found_to_two_percent(start: float, times: float) -> None:
    capacity = start * times
    found = search_rate(lambda rate: probe_at(rate, rate <= capacity), start)
    assert found.rate is not None
    assert capacity / 1.02 <= found.rate <= capacity
    assert found.confirmed is found.probes[-1]
    assert found.failing is not None
    assert capacity < found.failing.rate <= 1.02 * found.rate
    assert len(found.probes) <= MOST_PROBES


@given(st.floats(0.02, 40.0), st.integers(0, 2**32), st.integers(1, 30))
def test_a_noisy_capacity_ends_too_and_every_load_is_kept(
    times: float, seed: int, most: int
) -> None:
    rng, run = np.random.default_rng(seed), list[Probe]()

    def probe(rate: float) -> Probe:
        run.append(probe_at(rate, rate <= 100 * times * rng.normal(1, 0.2)))
        return run[-1]

    found = search_rate(probe, 100.0, most_probes=most)
    assert found.probes == tuple(run)
    assert 1 <= len(run) <= most
    assert (found.rate is None) == (found.confirmed is None) == (found.reason is not None)
    if found.rate is not None:
        assert found.failing is not None
        assert found.rate < found.failing.rate <= 1.02 * found.rate
        assert sum(p.passed and p.rate == found.rate for p in run) >= 2
        assert all(p.passed for p in run if p.rate <= found.rate)


# Talking to an arm.


class FakeSession:
    """A session that answers as told and remembers what it was asked."""

    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.answer, self.limits = answer, Limits(block=60.0)
        self.asked: list[dict[str, Any]] = []

    def ask(self, arm: Arm, command: str, **values: Any) -> dict[str, Any] | None:
        self.asked.append({"arm": arm.name, "command": command, **values})
        return self.answer


def test_an_arm_serves_a_load() -> None:
    session = FakeSession(as_json(queue(0.5, 20, 1)))
    load = sla_load(100.0, requests=838, seed=3, sla=0.025)
    served = serve_arm(cast(Session, session), ARM, load)
    assert served is not None
    assert as_json(served) == session.answer
    assert session.asked == [
        {
            "arm": "plain",
            "command": "serve",
            "timeout": 2 * 8.38 + 1 + 60,
            "rate": 100.0,
            "requests": 838,
            "seed": 3,
            "late_after": 0.025,
            "most_late": 2,
            "null": False,
        }
    ]


def test_the_null_model_is_asked_for_the_same_way() -> None:
    session = FakeSession({"generator_rate": 123456.5})
    assert generator_rate(cast(Session, session), ARM, 5000) == 123456.5
    assert session.asked[0]["null"] is True
    assert session.asked[0]["rate"] is None


def test_an_arm_that_ended_gives_nothing() -> None:
    session = cast(Session, FakeSession(None))
    assert serve_arm(session, ARM, PoissonLoad(100.0, 10, 0)) is None
    assert generator_rate(session, ARM, 10) is None


def test_a_worker_serves_open_loop_and_a_killed_one_fails_alone(
    tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    split = tiny.splits["test"]
    rows = draw_rows(split, Point("single", 1, 16, 1), seed=1)
    feeds = write_feeds(tmp_path / "feeds.npz", tiny.schema, split, rows, tiny_artifact.inputs)
    arm = Arm("plain", "torch-cpu", tiny_artifact.folder)
    warm = {"seconds": 0.0, "window_calls": 3, "window_seconds": 0.001, "cap": 0.05}
    with Session((arm,), 1) as session:
        session.load({arm.name: feeds}, lambda label, share: None)
        session.prepare({arm.name: feeds}, warm)
        load = PoissonLoad(200.0, 40, 2)
        served, null = (serve_arm(session, arm, load, null=null) for null in (False, True))
        assert served is not None
        assert null is not None
        assert len(served.latencies) == len(null.latencies) == 40
        assert served.span == null.span == arrivals(200.0, 40, 2)[-1]
        assert (served.latencies >= served.service).all()
        assert (served.service > 0).all()
        assert (generator_rate(session, arm, 1000) or 0) > 0
        session.processes[arm.name].close()
        assert serve_arm(session, arm, load) is None
        assert "serve" in session.failures[arm.name]
