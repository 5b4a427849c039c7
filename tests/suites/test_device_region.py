"""The region ``device_only``, with an engine that runs on the CPU and tells times as a device does:
50 us a call, whatever the wall clock says.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.artifact import Artifact
from harness.engines.base import EngineFacts
from harness.profile import Load, Profile, Protocol
from harness.report.page import write_report
from harness.results import Row, write_rows
from harness.run_folder import MARK
from harness.suites import throughput, timed_rows
from harness.suites.arms import Arm, Session
from harness.suites.engine_rows import engine_rows
from harness.suites.gpu_health import GpuSample
from harness.suites.plan import Plan
from harness.suites.throughput import run_throughput
from harness.suites.worker import Worker
from harness.tables import Prepared

COMMAND = """
import dataclasses
from harness.engines.torch_cpu import TorchCpu
from harness.suites import worker

class Device(TorchCpu):
    def device_seconds(self, prepared, calls):
        for _ in range(calls):
            self.run(prepared)
        return None if self.artifact.folder.name == "mute" else 50e-6 * calls

    def describe(self):
        notes = {"cuda_graph": True, "recompiles": 2, "device_seconds": "no events here"}
        return dataclasses.replace(super().describe(), device="cuda", notes=notes)

kinds = {"device": Device, "host": TorchCpu}
worker.main(kinds.__getitem__)
"""


class Events:
    """An engine of which every call takes so many seconds of the device, by its events."""

    def __init__(self, each: float | None) -> None:
        self.each = each
        self.asked: list[tuple[Any, int]] = []

    def run(self, prepared: Any) -> Any:
        return prepared

    def synchronize(self) -> None:
        return

    def device_seconds(self, prepared: Any, calls: int) -> float | None:
        self.asked.append((prepared, calls))
        return None if self.each is None else self.each * calls

    def describe(self) -> EngineFacts:
        return EngineFacts("made", "1", "cuda", "fp32", "made", 1)


def worker_of(engine: Any) -> Worker:
    worker = Worker()
    worker.engine = engine
    worker.region, worker.batches, worker.prepared = "device_only", [{}], ["a", "b", "c"]
    return worker


@pytest.mark.parametrize(
    ("each", "group"),
    [(50e-6, 20), (0.4e-3, 3), (2e-3, 1), (1e-9, 1000), (0.0, 1000)],
)
def test_a_group_of_calls_takes_a_millisecond(each: float, group: int) -> None:
    worker = worker_of(Events(each))
    assert worker._group_calls() is None
    assert worker.group == group


def test_blocks_are_in_time_of_the_device_and_inputs_take_turns() -> None:
    engine = Events(50e-6)
    worker = worker_of(engine)
    worker._group_calls()
    engine.asked.clear()
    told = worker.block(seconds=0.0, calls=4)
    assert engine.asked == [("a", 20), ("b", 20), ("c", 20), ("a", 20)]
    assert told["latencies"] == [50_000] * 4  # ns of one call
    assert told["wall"] == 200_000
    assert "gpu" not in told


def test_a_block_tells_the_state_of_its_gpu() -> None:
    worker = worker_of(Events(50e-6))
    states = [GpuSample(1900.0, own_bytes=5), GpuSample(1800.0, own_bytes=9)]
    worker.gpu = SimpleNamespace(sample=lambda: states.pop(0), missing=None)
    assert worker.block(seconds=0.0, calls=1)["gpu"]["sm_mhz"] == 1900.0
    worker.block(seconds=0.0, calls=1)
    memory = worker.memory()
    assert memory["device"] == 9
    assert memory["how"] == "the process's own by NVML, the most of 2 readings"


def test_the_warm_up_waits_for_the_clock() -> None:
    worker = worker_of(Events(50e-6))
    clocks = [300.0, 1200.0, 1900.0, 1950.0, 1950.0, 1950.0]
    worker.gpu = SimpleNamespace(sample=lambda: GpuSample(clocks.pop(0)), missing=None)
    told = worker._warm(seconds=0.0, window_calls=1, window_seconds=0.0, cap=60.0)
    assert told["steady"] is True
    assert told["mhz"] == [300.0, 1200.0, 1900.0, 1950.0, 1950.0]


def test_an_engine_without_events_is_refused_with_its_reason() -> None:
    assert worker_of(Events(None))._group_calls() == "the engine gives no events of a device"


PROFILE = Profile(
    load=Load(scenarios=("sweep",), batches=(1, 8)),
    protocol=Protocol(
        min_pairs=2,
        max_pairs=2,
        min_seconds=1e-9,
        block_seconds=0.001,
        warm_seconds=0.001,
        warm_window_seconds=0.001,
        warm_cap=0.02,
    ),
)


@pytest.fixture
def arms(tiny_artifact: Artifact, tmp_path: Path) -> tuple[Arm, ...]:
    mute = tmp_path / "mute"
    mute.mkdir()
    for file in tiny_artifact.folder.iterdir():
        (mute / file.name).write_bytes(file.read_bytes())
    folder = tiny_artifact.folder
    return (
        Arm("plain@device", "device", folder, "reference"),
        Arm("mute@device", "device", mute),
        Arm("plain@host", "host", folder, "reference"),
    )


def timed(
    arms: tuple[Arm, ...], tiny: Prepared, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> list[Row]:
    def session(arms: tuple[Arm, ...], threads: int) -> Session:
        return Session(arms, threads, command=(sys.executable, "-c", COMMAND))

    monkeypatch.setattr(throughput, "Session", session)
    monkeypatch.setattr(timed_rows, "RIVALS", {"speedup_vs_eager": "host"})
    parts = [arm.name.split("@") for arm in arms]
    return run_throughput(
        arms,
        tiny,
        common={
            f"{recipe}@{engine}": {"recipe": recipe, "baseline": "b", "target": engine}
            for recipe, engine in parts
        },
        plan=Plan(profile, (1,), seed=3),
        answers={},
        progress=lambda label, share: None,
    ).rows


def test_a_run_has_the_region_for_what_runs_on_a_device(
    arms: tuple[Arm, ...], tiny: Prepared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = timed(arms, tiny, monkeypatch, PROFILE)
    device = [row for row in rows if row.region == "device_only"]
    assert {(row.recipe, row.target) for row in device} == {("plain", "device"), ("mute", "device")}
    medians = [row for row in device if row.metric == "latency_p50" and row.recipe == "plain"]
    assert [(row.batch, row.value) for row in medians] == [
        (1, pytest.approx(50e-6)),
        (8, pytest.approx(50e-6)),
    ]
    rates = [row.value for row in device if row.metric == "rows_per_second" and row.value]
    assert rates == [pytest.approx(1 / 50e-6), pytest.approx(8 / 50e-6)]
    refused = [row for row in device if row.recipe == "mute"]
    assert {(row.status, row.reason) for row in refused} == {("skipped", "no events here")}
    # Elsewhere the same engine is timed.
    assert {r.status for r in rows if r.recipe == "mute" and r.region == "model_only"} == {"ok"}
    # The rival is on a CPU in this test alone: the same recipe, in the same rounds.
    eager = [row for row in rows if row.metric == "speedup_vs_eager"]
    assert {(row.recipe, row.target, row.region) for row in eager} == {
        ("plain", "device", "model_only")
    }
    told = {row.metric: row.value for row in rows if row.scenario == "engine"}
    assert (told["cuda_graph"], told["recompiles"]) == (1.0, 2.0)
    (tmp_path / "out").mkdir()
    write_rows(tmp_path / "out", rows)
    (tmp_path / "out" / MARK).write_text("{}")
    assert "device\\_only" in write_report(tmp_path / "out").read_text()


def test_what_there_is_no_time_for_is_skipped_by_name(
    arms: tuple[Arm, ...], tiny: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = PROFILE.model_copy(update={"most_seconds": 1e-9})
    rows = [row for row in timed(arms, tiny, monkeypatch, hasty) if row.scenario == "sweep"]
    reason = "the schedule's most_seconds were over before this point's turn"
    assert {(row.status, row.value, row.reason) for row in rows} == {("skipped", None, reason)}
    assert len(rows) == 2 * 3 + 2 * 2  # two batches: of the model three arms, of the device two


def test_rows_of_what_an_engine_tells() -> None:
    facts: dict[str, Any] = {
        "threads": 1,
        "device": "cuda+cpu",
        "notes": {
            "cuda_graph": False,
            "compile_seconds": 12.5,
            "graph_breaks": 0,
            "nodes": {"CUDAExecutionProvider": 117, "CPUExecutionProvider": 3},
            "placement": "mixed: 3 of 120 nodes on the CPU (TopK)",
        },
    }
    columns = {"recipe": "r", "baseline": "b", "target": "ort-cuda"}
    memory = {"peak": 5, "device": None, "how": "NVML doesn't list this process"}
    rows = {row.metric: row for row in engine_rows(columns, facts, memory)}
    assert {name: row.value for name, row in rows.items()} == {
        "cuda_graph": 0.0,
        "compile_seconds": 12.5,
        "graph_breaks": 0.0,
        "nodes_on_cpu": 3.0,
        "peak_device_memory": None,
    }
    assert rows["nodes_on_cpu"].verdict == "mixed placement"
    assert rows["nodes_on_cpu"].reason == (
        "CPUExecutionProvider: 3, CUDAExecutionProvider: 117; "
        "mixed: 3 of 120 nodes on the CPU (TopK)"
    )
    assert rows["peak_device_memory"].reason == "NVML doesn't list this process"
    alone = engine_rows(columns, {**facts, "device": "cuda"}, {**memory, "device": 7})
    assert {row.metric: row.verdict for row in alone}["nodes_on_cpu"] is None
    assert {row.metric: row.value for row in alone}["peak_device_memory"] == 7.0


def test_int8_is_held_against_the_fastest_half() -> None:
    from harness.suites.paired import Measured, Series
    from harness.suites.points import Point

    def series(seconds: float) -> Series:
        two = np.array([seconds, seconds])
        zero = np.zeros(2)
        latencies = (np.array([seconds]), np.array([seconds]))
        return Series(latencies, two, two, zero, np.arange(2), zero)

    speeds = {"a-int8": 3.0, "b-fp16": 2.0, "c-bf16": 1.5, "d-fp32": 1.0}
    arms = tuple(Arm(name, "tensorrt", Path()) for name in speeds)
    loaded: Any = {
        name: SimpleNamespace(facts={"precision": name[2:], "device": "cuda"}) for name in speeds
    }
    measured = Measured(
        Point("sweep", 1, 1, 1),
        arms,
        {name: series(seconds) for name, seconds in speeds.items()},
        {},
        loaded,
        {},
    )
    common = {name: {"recipe": name, "baseline": "b"} for name in speeds}
    facts = {name: {"engine": "tensorrt", "version": "10", **loaded[name].facts} for name in speeds}
    measured = replace(
        measured,
        loaded={name: SimpleNamespace(facts=facts[name]) for name in speeds},
    )
    rows = timed_rows.timed_rows(common, measured)
    best = {row.recipe: row for row in rows if row.metric == "speedup_vs_best_half"}
    assert set(best) == {"a-int8"}
    assert best["a-int8"].value == pytest.approx(0.5)  # int8 takes twice the 1.5 s of bf16


def test_huge_batches_are_fewer(
    tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.suites import plan
    from harness.suites.points import Point, read_feeds

    arm, load = Arm("plain", "torch-cpu", tiny_artifact.folder), Plan(PROFILE, (1,), seed=3)
    # 16 rows of 6 fields are 96 values: 20 batches have 1920.
    monkeypatch.setattr(plan, "MAX_VALUES", 20 * 96)
    files = plan.feed_files([arm], tiny, Point("sweep", 16, 1, 1), load, tmp_path)
    assert len(read_feeds(files["plain"])) == 20
    files = plan.feed_files([arm], tiny, Point("sweep", 480, 1, 1), load, tmp_path)
    assert len(read_feeds(files["plain"])) == plan.LEAST_BATCHES


def test_a_clock_that_stopped_early_leaves_no_figure_of_its_region(
    tiny_artifact: Artifact,
) -> None:
    """At a peak of one operation a second no latency of this model can be true."""
    from harness.suites.peaks import Peak, Peaks
    from harness.timing import _Timing

    one = Peak(1.0, 3, "made")
    peaks = Peaks(1, one, one, {1: one}, {1: one}, "cuda", {"fp16": one})
    columns = {"recipe": "r", "baseline": "b", "target": "torch-cuda"}
    nothing: Any = None
    timing = _Timing({}, [], nothing, nothing, nothing)
    timing.rows = [
        Row(
            **{**columns, "device": "cuda", "precision": "fp32", "threads": 1},
            **{"scenario": "sweep", "region": "model_only", "batch": rows, "candidates": 1},
            **{"metric": "latency_p50", "value": 0.01 * rows / 4096, "unit": "s"},
        )
        for rows in (4096, 8192)
    ]
    timing._limits(columns, tiny_artifact, [peaks])
    timed_ = [row for row in timing.rows if row.scenario == "sweep"]
    assert {row.value for row in timed_} == {None}
    assert all("the clock stopped before the device" in str(row.reason) for row in timed_)
    shares = [row for row in timing.rows if row.metric == "share_of_limit"]
    assert {row.status for row in shares} == {"failed"}
    (rate,) = (row for row in timing.rows if row.metric == "implied_rate")
    assert rate.status == "failed"
    assert len(timing.counts) == 1
