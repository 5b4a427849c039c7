"""CPU time, energy, cost and making: every figure by hand, and no figure from a missing one."""

from dataclasses import replace
from typing import Any

import pytest

from harness.artifact import Artifact, Step
from harness.results import Row
from harness.suites.energy import Energy
from harness.suites.resources import Price, Used, cost_per_million, joules_per_1000, resource_rows

COMMON = {"recipe": "r", "baseline": "b", "target": "ort-cpu"}
PRICE = Price(per_hour=0.36, currency="EUR", usable_threads=4)


def timed(metric: str, value: float | None, **changes: Any) -> Row:
    """A timed row of the variant at one thread, of one request of 256 rows."""
    columns: dict[str, Any] = {
        **COMMON,
        "scenario": "single",
        "region": "model_only",
        "batch": 256,
        "candidates": 256,
        "threads": 1,
        "engine": "ort-cpu",
        "engine_version": "1",
        "device": "cpu",
        "precision": "int8",
        "reason": None if value is not None else "it failed",
        **changes,
    }
    return Row(**columns, metric=metric, value=value)


def by_metric(rows: list[Row], *, threads: int | None = 1) -> dict[str, Row]:
    return {row.metric: row for row in rows if row.threads in (threads, None)}


@pytest.fixture
def made(tiny_artifact: Artifact) -> Artifact:
    """An artifact of two steps, of 30 and 12.5 CPU-seconds."""
    steps = (Step("train", {}, 20.0, 30.0, ()), Step("export_onnx", {}, 10.0, 12.5, ()))
    return replace(tiny_artifact, lineage=steps)


def test_figures_by_hand(made: Artifact) -> None:
    rows = [
        timed("cpu_seconds_per_call", 0.002, n=50),
        timed("requests_per_second", 400.0),
        timed("cpu_seconds_per_call", 0.003, threads=2),
        timed("requests_per_second", 800.0, threads=2),
    ]
    energy = (Used(Energy(cpu=60.0), requests=2000, threads=1),)
    found = resource_rows(COMMON, made, rows, price=PRICE, energy=energy)
    one, two = by_metric(found), by_metric(found, threads=2)
    assert [row.metric for row in found].count("cpu_seconds_per_1000_requests") == 2
    assert {(row.scenario, row.direction) for row in found} == {("resources", "lower")}

    cpu = one["cpu_seconds_per_1000_requests"]
    assert (cpu.value, cpu.unit, cpu.n, cpu.precision) == (2.0, "s", 50, "int8")
    assert two["cpu_seconds_per_1000_requests"].value == 3.0

    joules = one["joules_per_1000_requests"]
    assert (joules.value, joules.unit, joules.n) == (30.0, "J", 2000)
    assert joules.reason == "the whole machine's, its idle power included"
    assert two["joules_per_1000_requests"].value is None
    assert two["joules_per_1000_requests"].reason == "energy wasn't measured"

    # 0.36 an hour, a quarter of it: 0.000025 a second; 400 requests in it; 10^6 of them.
    assert one["cost_per_million_requests"].value == pytest.approx(0.0625)
    assert one["cost_per_million_requests"].unit == "EUR"
    assert two["cost_per_million_requests"].value == pytest.approx(0.0625)
    reason = "at the rate of one request after the other, model only"
    assert one["cost_per_million_requests"].reason == reason

    making, price = one["making_cpu_seconds"], one["price_per_hour"]
    assert (making.value, making.n, making.reason) == (42.5, 2, "train, export_onnx")
    assert (price.value, price.unit) == (0.36, "EUR/h")


def test_end_to_end_counts_before_model_only(made: Artifact) -> None:
    rows = [
        timed("cpu_seconds_per_call", 0.004, region="end_to_end"),
        timed("cpu_seconds_per_call", 0.002),
        timed("requests_per_second", 200.0, region="end_to_end", noise="load"),
        timed("requests_per_second", 400.0),
    ]
    found = by_metric(resource_rows(COMMON, made, rows, price=PRICE))
    cpu, cost = found["cpu_seconds_per_1000_requests"], found["cost_per_million_requests"]
    assert (cpu.value, cpu.region) == (4.0, "end_to_end")
    assert (cost.value, cost.region, cost.noise) == (pytest.approx(0.125), "end_to_end", "load")


def test_the_rate_within_the_service_level_is_what_costs_are_counted_with(made: Artifact) -> None:
    searched = timed("qps_at_sla", 250.0, scenario="qps_at_sla", region="end_to_end")
    rows = [timed("requests_per_second", 400.0), searched]
    cost = by_metric(resource_rows(COMMON, made, rows, price=PRICE))["cost_per_million_requests"]
    assert cost.value == pytest.approx(0.1)
    assert cost.reason == "at the largest rate within the service level"

    rows[1] = replace(searched, value=None, reason="the lowest rate fails")
    cost = by_metric(resource_rows(COMMON, made, rows, price=PRICE))["cost_per_million_requests"]
    assert cost.value == pytest.approx(0.0625)
    assert "one request after the other" in (cost.reason or "")


def test_rows_of_other_variants_points_and_targets_are_left_out(made: Artifact) -> None:
    rows = [
        timed("cpu_seconds_per_call", 0.001, recipe="other"),
        timed("cpu_seconds_per_call", 0.001, target="torch-cpu"),
        timed("cpu_seconds_per_call", 0.001, scenario="sweep"),
        timed("cpu_seconds_per_call", 0.002),
    ]
    found = by_metric(resource_rows(COMMON, made, rows, price=PRICE))
    assert found["cpu_seconds_per_1000_requests"].value == 2.0


@pytest.mark.parametrize("value", [0.0, None])
def test_no_figure_from_a_missing_one(made: Artifact, value: float | None) -> None:
    rows = [timed("cpu_seconds_per_call", value), timed("requests_per_second", value)]
    found = by_metric(resource_rows(COMMON, made, rows, price=PRICE))
    cpu, cost = found["cpu_seconds_per_1000_requests"], found["cost_per_million_requests"]
    assert (cpu.value, cpu.reason) == (None, "no CPU time of single requests was measured")
    assert (cost.value, cost.reason) == (None, "no rate of requests was measured")


def test_a_variant_that_was_not_timed_has_what_it_took_to_make(made: Artifact) -> None:
    found = resource_rows(COMMON, made, [], price=PRICE)
    assert [row.metric for row in found] == ["making_cpu_seconds", "price_per_hour"]


def test_without_a_price_there_is_no_cost(made: Artifact) -> None:
    free = Price(None, "EUR", 4)
    rows = [timed("requests_per_second", 400.0)]
    found = by_metric(resource_rows(COMMON, made, rows, price=free))
    for metric in ("cost_per_million_requests", "price_per_hour"):
        assert found[metric].value is None
        assert found[metric].reason == "the profile gives no price_per_hour"


def test_an_artifact_that_does_not_tell_its_making(tiny_artifact: Artifact) -> None:
    bare = replace(tiny_artifact, lineage=())
    making = by_metric(resource_rows(COMMON, bare, [], price=PRICE))["making_cpu_seconds"]
    assert (making.value, making.reason) == (None, "the artifact doesn't tell how it was made")


@pytest.mark.parametrize("rate", [None, 0.0, -1.0])
def test_cost_never_divides_by_nothing(rate: float | None) -> None:
    assert cost_per_million(PRICE, 1, rate, told="x") == {
        "reason": "no rate of requests was measured"
    }


def test_joules_of_a_machine_with_a_gpu() -> None:
    both = Used(Energy(cpu=10.0, gpu=30.0), requests=500, threads=1)
    assert joules_per_1000(both, device="cuda")["value"] == 80.0
    assert joules_per_1000(both, device="cpu")["value"] == 80.0

    gpu = Used(Energy(gpu=30.0, no_cpu="permission denied"), requests=500, threads=1)
    told = joules_per_1000(gpu, device="cuda")
    assert told["value"] == 60.0
    assert told["reason"] == "of the GPUs alone (permission denied), its idle power included"
    assert joules_per_1000(gpu, device="cpu") == {"reason": "permission denied"}

    cpu = Used(Energy(cpu=10.0, no_gpu="not told"), requests=500, threads=1)
    told = joules_per_1000(cpu, device="cpu")
    assert told["value"] == 20.0
    assert told["reason"] == "of the CPUs alone (not told), its idle power included"
    assert joules_per_1000(cpu, device="cuda") == {"reason": "not told"}


def test_joules_of_no_requests_are_not_infinite() -> None:
    used = Used(Energy(cpu=10.0), requests=0, threads=1)
    assert joules_per_1000(used, device="cpu") == {"reason": "energy wasn't measured"}
