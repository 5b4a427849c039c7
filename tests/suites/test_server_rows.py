"""Rows of open-loop loads: one figure each, never ranked near the floor, null with a reason."""

from dataclasses import replace
from typing import Any

import pytest

from harness.results import Row
from harness.suites.server import Probe, Search
from harness.suites.server_rows import (
    failed_row,
    generator_row,
    not_ranked,
    search_rows,
    server_rows,
)

COMMON: dict[str, Any] = {"recipe": "int8", "baseline": "b", "target": "ort-cpu"}
PLACE: dict[str, Any] = {"batch": 256, "candidates": 256, "threads": 1}
PASSED = Probe(
    rate=200.0,
    n=838,
    late=1,
    p50=0.004,
    p90=0.006,
    p99=0.012,
    service_p50=0.003,
    achieved=199.0,
    share=0.995,
    utilisation=0.6,
    halves=(1.0, 1.2),
    backlog_max=4,
    passed=True,
    why=None,
)
FAILED = replace(
    PASSED,
    rate=204.0,
    n=300,
    late=3,
    p99=None,
    passed=False,
    why="3 of 300 requests later than 25 ms, 2 of 838 allowed",
)
FLOOR = replace(PASSED, p99=0.0002)
FOUND = Search(200.0, None, PASSED, FAILED, (PASSED, FAILED, PASSED))
FEW = "300 requests; p99 needs 459"


def by_metric(rows: list[Row]) -> dict[str, Row]:
    return {row.metric: row for row in rows}


def test_a_load_has_its_figures_in_seconds_and_shares() -> None:
    rows = by_metric(server_rows(COMMON, PLACE, PASSED, floor=FLOOR))
    assert {name: (row.value, row.unit) for name, row in rows.items()} == {
        "latency_p50": (0.004, "s"),
        "latency_p90": (0.006, "s"),
        "latency_p99": (0.012, "s"),
        "service_p50": (0.003, "s"),
        "achieved_rate": (199.0, "requests/s"),
        "achieved_share": (0.995, "share"),
        "utilisation": (0.6, "share"),
        "backlog_max": (4.0, "requests"),
        "floor_p99": (0.0002, "s"),
    }
    for row in rows.values():
        assert (row.scenario, row.region, row.offered_rate, row.n) == (
            *("server", "end_to_end", 200.0),
            838,
        )
        assert (row.recipe, row.target, row.batch, row.threads) == ("int8", "ort-cpu", 256, 1)
        assert (row.reason, row.verdict, row.status) == (None, None, "ok")
    assert rows["latency_p99"].direction == "lower"
    assert rows["achieved_rate"].direction == "higher"


@pytest.mark.parametrize(
    ("floor", "reason"),
    [
        (replace(FLOOR, p99=0.004), None),  # 12 ms is 3 times 4 ms
        (replace(FLOOR, p99=0.00401), "under 3x the null model's p99 of 4.01 ms"),
        (replace(FLOOR, p99=None), "the null model's p99 isn't known"),
        (None, "the null model's p99 isn't known"),
    ],
)
def test_near_the_floor_nothing_is_ranked(floor: Probe | None, reason: str | None) -> None:
    assert not_ranked(0.012, floor) == reason
    row = by_metric(server_rows(COMMON, PLACE, PASSED, floor=floor))["latency_p99"]
    assert (row.value, row.reason) == (0.012, reason)
    assert row.verdict == ("not ranked" if reason else None)


def test_a_floor_that_is_not_known_says_why() -> None:
    few = replace(FLOOR, n=300, p99=None)
    rows = by_metric(server_rows(COMMON, PLACE, PASSED, floor=few))
    assert (rows["floor_p99"].value, rows["floor_p99"].reason) == (None, FEW)
    rows = by_metric(server_rows(COMMON, PLACE, PASSED, floor=None))
    assert rows["floor_p99"].reason == "the null model wasn't measured"


def test_a_percentile_of_too_few_requests_is_null() -> None:
    row = by_metric(server_rows(COMMON, PLACE, FAILED, floor=FLOOR))["latency_p99"]
    assert (row.value, row.reason, row.verdict) == (None, FEW, None)


def test_an_overloaded_server_says_so_beside_its_p99() -> None:
    slow = replace(PASSED, passed=False, why="achieved 93 % of the offered rate")
    row = by_metric(server_rows(COMMON, PLACE, slow, floor=FLOOR))["latency_p99"]
    assert (row.value, row.reason) == (0.012, "achieved 93 % of the offered rate")


def test_a_search_tells_the_rate_its_p99_and_its_neighbour() -> None:
    rows = search_rows(COMMON, PLACE, FOUND, sla=0.025, reference_rate=160.0, floor=FLOOR)
    found = by_metric(rows)
    best = found["qps_at_sla"]
    assert (best.value, best.unit, best.direction) == (200.0, "requests/s", "higher")
    assert (best.n, best.ratio, best.verdict) == (838, 1.25, None)
    assert best.reason == f"p99 12 ms within 25 ms; 204 requests/s failed: {FAILED.why}"
    assert found["sla"].value == 0.025
    assert (found["latency_p99"].value, found["latency_p99"].offered_rate) == (0.012, 200.0)
    assert found["utilisation"].value == 0.6
    assert found["failing_rate"].value == 204.0
    assert {row.scenario for row in rows} == {"qps_at_sla"}
    assert {row.region for row in rows} == {"end_to_end"}


def test_every_load_of_a_search_has_a_row() -> None:
    rows = search_rows(COMMON, PLACE, FOUND, sla=0.025, reference_rate=None, floor=FLOOR)
    probes = [row for row in rows if row.metric == "probe_p99"]
    assert [(row.offered_rate, row.n, row.value, row.verdict, row.reason) for row in probes] == [
        (200.0, 838, 0.012, "passed", None),
        (204.0, 300, None, "failed", f"{FAILED.why}; {FEW}"),
        (200.0, 838, 0.012, "passed", None),
    ]
    assert by_metric(rows)["qps_at_sla"].ratio is None  # the reference itself


def test_a_rate_near_the_floor_is_not_ranked() -> None:
    floor = replace(FLOOR, p99=0.006)
    rows = search_rows(COMMON, PLACE, FOUND, sla=0.025, reference_rate=160.0, floor=floor)
    best = by_metric(rows)["qps_at_sla"]
    assert best.verdict == "not ranked"
    assert best.reason is not None
    assert best.reason.endswith("; under 3x the null model's p99 of 6 ms")


def test_a_search_that_found_nothing_is_null_with_its_reason() -> None:
    search = Search(None, "failed even at 3 requests/s: late", None, FAILED, (FAILED,))
    rows = search_rows(COMMON, PLACE, search, sla=0.025, reference_rate=160.0, floor=None)
    found = by_metric(rows)
    for name in ("qps_at_sla", "latency_p99", "utilisation"):
        assert (found[name].value, found[name].reason) == (None, search.reason)
    assert found["qps_at_sla"].ratio is None
    assert found["failing_rate"].value == 204.0
    none_failed = replace(search, failing=None)
    rows = search_rows(COMMON, PLACE, none_failed, sla=0.025, reference_rate=None, floor=None)
    assert by_metric(rows)["failing_rate"].reason == "no load failed"


@pytest.mark.parametrize(
    ("scenario", "metric"), [("server", "latency_p99"), ("qps_at_sla", "qps_at_sla")]
)
def test_an_arm_that_died_has_one_failed_row(scenario: str, metric: str) -> None:
    row = failed_row(COMMON, PLACE, scenario, reason="int8: the worker was killed during serve")
    assert (row.scenario, row.metric, row.value, row.status) == (scenario, metric, None, "failed")
    assert row.reason == "int8: the worker was killed during serve"


def test_what_the_generator_sustains_is_the_machines() -> None:
    row = generator_row({"recipe": "b", "baseline": "b"}, 3.5e6, 20_000)
    assert (row.recipe, row.baseline, row.target) == ("machine", "b", None)
    assert (row.metric, row.value, row.n, row.offered_rate) == (
        *("generator_rate", 3.5e6),
        *(20_000, None),
    )
