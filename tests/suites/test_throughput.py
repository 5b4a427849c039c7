"""Paired timing and its rows: inputs, schedule, ratios, verdicts, failures. Nothing about speed
itself is asserted but that a planted threefold slowdown is seen."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from harness.artifact import Artifact, write_artifact
from harness.errors import DataError
from harness.results import Row, to_frame
from harness.suites.arms import Arm, Loaded, Session
from harness.suites.paired import PROFILES, Measured, Protocol, Series, measure, measure_point
from harness.suites.points import Point, draw_rows, sweep_points, write_feeds
from harness.suites.throughput import (
    Plan,
    feed_files,
    run_throughput,
    samples_frame,
    throughput_rows,
)
from harness.tables import Prepared, Split, TensorSpec

POINT = Point("sweep", 8, 1, 1)
SHORT = Protocol(
    pairs=6,
    min_pairs=6,
    block_seconds=0.002,
    warm_seconds=0.0,
    warm_window_seconds=0.001,
    warm_cap=0.02,
    batches=(1, 8),
    candidates=16,
)
PLAN = Plan(SHORT, (1,), seed=3)
COMMON = MappingProxyType({"recipe": "r", "baseline": "b", "target": "t"})


def silent(label: str, share: float) -> None:
    assert 0 <= share <= 1 + 1e-9


@pytest.fixture
def arms(tiny_artifact: Artifact) -> tuple[Arm, ...]:
    folder = tiny_artifact.folder
    return (
        Arm("plain", "torch-cpu", folder, "reference"),
        Arm("copy", "torch-cpu", folder, "aa"),
        Arm("slow", "torch-cpu", folder, "variant", slowdown=3.0),
    )


@pytest.fixture
def files(arms: tuple[Arm, ...], tiny: Prepared, tmp_path: Path) -> dict[str, Path]:
    return feed_files(arms, tiny, POINT, PLAN, tmp_path)


# Inputs.


def test_points_of_a_sweep() -> None:
    points = sweep_points((1, 64), 256, threads=2)
    assert points == (
        Point("sweep", 1, 1, 2),
        Point("sweep", 64, 1, 2),
        Point("single", 1, 256, 2),
    )
    assert [point.rows for point in points] == [1, 64, 256]


@pytest.mark.parametrize(("rows", "batches"), [(1, 1024), (256, 256), (1024, 64), (65536, 64)])
def test_there_are_at_least_64_batches(rows: int, batches: int) -> None:
    assert Point("sweep", rows, 1, 1).batches == batches


def test_a_sweep_uses_every_row_before_one_comes_again(tiny: Prepared) -> None:
    split = tiny.splits["test"]
    rows = draw_rows(split, POINT, seed=1)
    assert rows.shape == (POINT.batches, 8, 1)
    first = rows.ravel()[: split.rows]
    assert sorted(first) == list(range(split.rows))
    assert not np.array_equal(first, np.arange(split.rows))
    np.testing.assert_array_equal(rows, draw_rows(split, POINT, seed=1))
    assert not np.array_equal(rows, draw_rows(split, POINT, seed=2))


def test_a_request_has_its_own_rows_first_and_is_filled_up(tiny: Prepared) -> None:
    split = tiny.splits["test"]
    rows = draw_rows(split, Point("single", 1, 16, 1), seed=1)
    for line in rows[:, 0]:
        request = split.request_of_row[line[0]]
        own = np.arange(split.offsets[request], split.offsets[request + 1])
        np.testing.assert_array_equal(line[: len(own)], own)
    assert set(split.request_of_row[rows[:, 0, 0]]) == set(range(split.requests))


def test_a_request_longer_than_a_point_is_cut(tiny: Prepared) -> None:
    split = tiny.splits["test"]
    rows = draw_rows(split, Point("single", 1, 2, 1), seed=1)
    assert rows.shape[2] == 2


def test_a_split_without_rows_is_refused(tiny: Prepared) -> None:
    empty = Split("test", {}, np.zeros(0), np.zeros(1, dtype=np.int64), np.zeros(0))
    with pytest.raises(DataError, match="split 'test' has no rows to time a model on"):
        draw_rows(empty, POINT, seed=1)


def test_flat_models_get_flat_inputs(tiny: Prepared, tmp_path: Path) -> None:
    split = tiny.splits["test"]
    rows = draw_rows(split, POINT, seed=1)
    specs = (
        TensorSpec("user", "int64", ("rows",), ("household",)),
        TensorSpec("dense", "float32", ("rows", 2), ("spend", "price")),
    )
    with np.load(write_feeds(tmp_path / "f.npz", tiny.schema, split, rows, specs)) as file:
        assert file["user"].shape == (POINT.batches, 8)
        assert file["dense"].shape == (POINT.batches, 8, 2)
        np.testing.assert_array_equal(file["user"][2], split.user_of_row[rows[2].ravel()])


def test_arms_with_the_same_inputs_share_a_file(files: dict[str, Path]) -> None:
    assert len(files) == 3
    assert len(set(files.values())) == 1


# Measuring.


def test_all_arms_take_turns_and_a_planted_slowdown_is_slower(
    arms: tuple[Arm, ...], files: dict[str, Path]
) -> None:
    measured = measure(arms, POINT, files, SHORT, seed=3, progress=silent)

    assert measured.failures == {}
    series = measured.series
    assert [len(series[arm.name].latencies) for arm in arms] == [6, 6, 6]
    assert all(block >= 3 for arm in arms for block in series[arm.name].calls)
    turns = np.array([series[arm.name].place for arm in arms])  # (arms, rounds)
    assert all(sorted(column) == [0, 1, 2] for column in turns.T)
    assert len({tuple(column) for column in turns.T}) > 1

    plain, _, slow = arms
    assert measured.speedup(slow, plain).value < 0.7  # type: ignore[operator]
    rows = throughput_rows({arm.name: COMMON for arm in arms}, measured)
    row = next(r for r in rows if r.metric == "latency_p50" and r.ratio is not None)
    assert row.ratio_high is not None
    assert row.ratio_high < 1
    assert row.verdict in ("slower", "inconclusive")  # inconclusive on a machine with bad A/A


def test_rounds_end_with_the_budget_but_not_before_the_fewest(
    arms: tuple[Arm, ...], files: dict[str, Path]
) -> None:
    brief = replace(SHORT, pairs=50, min_pairs=2, arm_seconds=0.0)
    measured = measure(arms[:1], POINT, files, brief, seed=3, progress=silent)
    assert len(measured.series["plain"].latencies) == 2


@pytest.fixture
def session(arms: tuple[Arm, ...], files: dict[str, Path]) -> Iterator[Session]:
    with Session(arms, 1) as session:
        session.load(files, silent)
        yield session


def test_a_killed_worker_fails_its_arm_and_the_rest_go_on(
    session: Session, files: dict[str, Path]
) -> None:
    os.kill(session.processes["slow"]._process.pid, signal.SIGKILL)
    measured = measure_point(session, POINT, files, SHORT, seed=3, progress=silent)

    assert set(measured.series) == {"plain", "copy"}
    assert measured.failures == {"slow": "slow: the worker was killed by SIGKILL during point"}
    rows = throughput_rows({arm.name: COMMON for arm in session.arms}, measured)
    failed = [row for row in rows if row.status == "failed"]
    assert [(r.metric, r.value, r.reason) for r in failed] == [
        ("latency_p50", None, "slow: the worker was killed by SIGKILL during point")
    ]


def test_an_arm_that_fails_between_rounds_keeps_no_half_series(
    session: Session, files: dict[str, Path]
) -> None:
    def kill(label: str, share: float) -> None:
        if share == 3 / 6:
            os.kill(session.processes["copy"]._process.pid, signal.SIGKILL)

    measured = measure_point(session, POINT, files, SHORT, seed=3, progress=kill)
    assert set(measured.series) == {"plain", "slow"}
    assert len(measured.series["plain"].latencies) == 6
    assert measured.aa_ratio(session.arms[2]) is None
    rows = throughput_rows({arm.name: COMMON for arm in session.arms}, measured)
    verdicts = {row.verdict for row in rows if row.ratio is not None}
    assert verdicts == {"inconclusive"}  # nothing is proven without the A/A arm


def test_a_whole_run_has_every_point_and_every_arm(
    arms: tuple[Arm, ...], tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    broken_folder = tmp_path / "broken"
    broken_folder.mkdir()
    for name in ("schema.json", "vocabulary.json"):
        (broken_folder / name).write_bytes((tiny_artifact.folder / name).read_bytes())
    write_artifact(replace(tiny_artifact, folder=broken_folder))  # has no weights
    broken = Arm("broken", "torch-cpu", broken_folder)
    schedule = (*arms[:2], broken)
    shares: list[float] = []

    timed = run_throughput(
        schedule,
        tiny,
        common={arm.name: COMMON for arm in schedule},
        plan=replace(PLAN, threads=(1, 1), protocol=replace(SHORT, pairs=2, min_pairs=2)),
        progress=lambda label, share: shares.append(share),
    )

    assert list(timed.loaded) == ["plain", "copy"] or set(timed.loaded) == {"plain", "copy"}
    assert "weights.safetensors" in timed.failures["broken"]
    assert shares == sorted(shares)
    keys = [(r.scenario, r.batch, r.candidates, r.threads, r.status) for r in timed.rows]
    for place in (("sweep", 1, 1, 1), ("sweep", 8, 1, 1), ("single", 16, 16, 1)):
        assert keys.count((*place, "ok")) == 7
        assert keys.count((*place, "failed")) == 1
    assert len(to_frame(timed.rows)) == 24
    blocks = samples_frame(timed.points)
    assert len(blocks) == 3 * 2 * 2
    assert {"arm", "round", "median", "p10", "wall", "cpu", "calls"} <= set(blocks.columns)


# Rows of made-up series, worked out by hand.


def facts(engine: str, precision: str = "fp32", device: str = "cpu") -> Loaded:
    told = {"engine": engine, "version": "1", "device": device, "precision": precision}
    return Loaded({**told, "threads": 1}, {"import": 1, "load": 2, "first_call": 3}, {}, 1)


def series(milliseconds: float, *, calls: int = 10, rounds: int = 12) -> Series:
    latencies = tuple(np.full(calls, milliseconds / 1000) for _ in range(rounds))
    wall = np.full(rounds, calls * milliseconds / 1000)
    return Series(latencies, wall, wall * 2, np.zeros(rounds, dtype=int))


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
    return {r.metric: r for r in throughput_rows(common, measured) if r.recipe == name}


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


def test_profiles_get_longer() -> None:
    assert list(PROFILES) == ["ci", "default", "publish"]
    assert PROFILES["default"].pairs == 40
    pairs = [profile.pairs for profile in PROFILES.values()]
    assert pairs == sorted(pairs)
