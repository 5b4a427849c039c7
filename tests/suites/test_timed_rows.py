"""Rows of made-up series, worked out by hand: ratios, rates, tails, verdicts, marks."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from harness.results import Row
from harness.suites.arms import Arm, Loaded
from harness.suites.health import Health
from harness.suites.paired import Measured, Series
from harness.suites.points import Point
from harness.suites.timed_rows import latency_lines, point_latencies, samples_frame, timed_rows

COMMON = MappingProxyType({"recipe": "r", "baseline": "b", "target": "t"})


def facts(engine: str, precision: str = "fp32", device: str = "cpu") -> Loaded:
    told = {"engine": engine, "version": "1", "device": device, "precision": precision}
    return Loaded({**told, "threads": 1}, {"import": 1, "load": 2, "first_call": 3}, {}, 1)


def series(milliseconds: float, *, calls: int = 10, rounds: int = 12) -> Series:
    latencies = tuple(np.full(calls, milliseconds / 1000) for _ in range(rounds))
    wall = np.full(rounds, calls * milliseconds / 1000)
    none = np.zeros(rounds, dtype=int)
    health = (Health(0.01, pressure=0.0),) * rounds
    return Series(latencies, wall, wall * 2, none, np.arange(rounds), none, health)


FOLDER = Path("unused")
ARMS = (
    Arm("torch", "torch-cpu", FOLDER, "reference"),
    Arm("torch-aa", "torch-cpu", FOLDER, "aa"),
    Arm("ort", "ort-cpu", FOLDER, "reference"),
    Arm("ort-aa", "ort-cpu", FOLDER, "aa"),
    Arm("ort-int8", "ort-cpu", FOLDER),
    Arm("trt", "tensorrt", FOLDER),
)


def made_up(**changes: Any) -> Measured:
    times = {"torch": 4.0, "torch-aa": 4.0, "ort": 2.0, "ort-aa": 2.0, "ort-int8": 1.0, "trt": 0.1}
    loaded = {arm.name: facts(arm.engine) for arm in ARMS}
    loaded["ort-int8"] = facts("ort-cpu", "int8")
    loaded["trt"] = facts("tensorrt", "fp16", "cuda")
    known = {name: series(value) for name, value in times.items()}
    measured = Measured(Point("sweep", 64, 1, 1), ARMS, known, {}, loaded, {})
    return replace(measured, **changes)


def rows_of(measured: Measured, name: str) -> dict[str, Row]:
    common = {arm.name: {**COMMON, "recipe": arm.name} for arm in measured.arms}
    return {r.metric: r for r in timed_rows(common, measured) if r.recipe == name}


def test_ratios_are_against_the_same_engine_and_against_the_best() -> None:
    rows = rows_of(made_up(), "ort-int8")
    p50 = rows["latency_p50"]
    assert (p50.value, p50.n, p50.unit, p50.direction) == (0.001, 12, "s", "lower")
    assert rows["latency_p90"].n == 120  # calls, where p50 counts rounds
    assert (p50.ratio, p50.ratio_low, p50.ratio_high, p50.aa_ratio) == (2, 2, 2, 1)
    assert p50.verdict == "faster"
    assert (p50.engine, p50.precision, p50.region) == ("ort-cpu", "int8", "model_only")
    assert (p50.batch, p50.candidates, p50.threads) == (64, 1, 1)
    assert rows["speedup_vs_best_fp32"].value == 2  # ort is the best, not torch
    assert rows["speedup_vs_best_fp32"].reason == "against ort-cpu"

    torch = rows_of(made_up(), "torch")
    assert torch["latency_p50"].ratio is None
    assert torch["speedup_vs_best_fp32"].value == 0.5
    assert torch["speedup_vs_best_fp32"].verdict == "slower"
    assert rows_of(made_up(), "ort")["speedup_vs_best_fp32"].value == 1


def test_rates_and_cpu_time_worked_by_hand() -> None:
    rows = rows_of(made_up(), "ort-int8")
    assert rows["rows_per_second"].value == pytest.approx(64 / 0.001)
    assert rows["requests_per_second"].value == pytest.approx(64 / 0.001)
    assert rows["cpu_seconds_per_call"].value == pytest.approx(0.002)
    assert rows["rows_per_second"].ratio == pytest.approx(2)
    single = rows_of(made_up(point=Point("single", 1, 256, 1)), "ort-int8")
    assert single["rows_per_second"].value == pytest.approx(256 / 0.001)
    assert single["requests_per_second"].value == pytest.approx(1 / 0.001)


def test_a_tail_needs_enough_calls() -> None:
    rows = rows_of(made_up(), "ort-int8")
    assert rows["latency_p90"].value == 0.001  # 120 calls; p90 needs 44
    assert rows["latency_p99"].value is None
    assert rows["latency_p99"].reason == "120 calls; p99 needs 459"


def test_devices_of_two_kinds_share_no_speedup() -> None:
    rows = rows_of(made_up(), "trt")
    assert rows["latency_p50"].ratio is None
    assert rows["latency_p50"].reason == "no ratio: tensorrt has no measured reference"
    assert rows["speedup_vs_best_fp32"].value is None
    assert "no fp32 reference" in str(rows["speedup_vs_best_fp32"].reason)


def test_a_bad_copy_makes_everything_of_its_engine_inconclusive() -> None:
    measured = made_up()
    shaky = {**measured.series, "ort-aa": series(2.2)}
    rows = rows_of(replace(measured, series=shaky), "ort-int8")
    assert rows["latency_p50"].aa_ratio == pytest.approx(2 / 2.2)
    assert rows["latency_p50"].verdict == "inconclusive"
    assert rows["speedup_vs_best_fp32"].verdict == "inconclusive"


def test_copies_have_no_rows() -> None:
    assert rows_of(made_up(), "ort-aa") == {}


def test_rows_say_whether_the_rule_was_met_and_why_the_host_was_noisy() -> None:
    rows = rows_of(made_up(noise="busy"), "ort-int8")
    assert {row.noise for row in rows.values()} == {"busy"}
    assert {name: row.converged for name, row in rows.items() if row.converged is not None} == {
        "latency_p50": True
    }
    wide = rows_of(made_up(precision=-1.0), "ort-int8")
    assert wide["latency_p50"].converged is False


def test_offline_is_about_rows_a_second() -> None:
    point = Point("offline", 64, 1, 1, "end_to_end")
    rows = rows_of(made_up(point=point), "ort-int8")
    assert rows["rows_per_second"].converged is True
    assert rows["latency_p50"].converged is None
    assert rows["rows_per_second"].region == "end_to_end"
    failed = made_up(point=point, failures={"ort-int8": "gone"})
    series = {name: one for name, one in failed.series.items() if name != "ort-int8"}
    (row,) = rows_of(replace(failed, series=series), "ort-int8").values()
    assert (row.metric, row.status, row.reason) == ("rows_per_second", "failed", "gone")


def test_cpu_time_has_a_paired_ratio_of_its_own() -> None:
    measured = made_up()
    slow = measured.series["ort-int8"]
    spinning = replace(slow, cpu=slow.cpu * 4)  # 8 ms of CPU time a call where ort takes 4
    rows = rows_of(replace(measured, series={**measured.series, "ort-int8": spinning}), "ort-int8")
    assert rows["latency_p50"].ratio == 2
    assert rows["cpu_seconds_per_call"].ratio == pytest.approx(0.5)
    assert rows["cpu_seconds_per_call"].verdict == "slower"


def test_blocks_carry_what_the_host_did() -> None:
    frame = samples_frame([made_up()])
    assert len(frame) == 6 * 12
    line = frame[frame.arm == "ort-int8"].iloc[3]
    assert (line["round"], line["calls"], line["median"]) == (3, 10, 0.001)
    assert (line["pressure"], line["noise"]) == (0.0, None)


def test_a_distribution_is_its_quantiles_each_a_latency_that_was_seen() -> None:
    lines = latency_lines({"recipe": "r"}, np.arange(1, 1001) / 1000, offered_rate=5.0)
    found = {line["quantile"]: line["seconds"] for line in lines}
    assert len(lines) == 101
    assert (found[0.0], found[0.5], found[0.99], found[1.0]) == (0.001, 0.5, 0.99, 1.0)
    assert {(line["n"], line["offered_rate"]) for line in lines} == {(1000, 5.0)}
    common = {arm.name: {**COMMON, "recipe": arm.name} for arm in ARMS}
    assert {line["recipe"] for line in point_latencies(common, made_up())} == {
        "torch",
        "ort",
        "ort-int8",
        "trt",
    }
