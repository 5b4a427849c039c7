"""A whole throughput run on tiny models: every point, every arm, open loops, and failures."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from harness.artifact import Artifact, write_artifact
from harness.profile import Load, Profile, Protocol
from harness.results import MACHINE, Row
from harness.suites import serving
from harness.suites.accuracy import score_split
from harness.suites.arms import Arm, Session
from harness.suites.points import Point
from harness.suites.serving import Loads
from harness.suites.throughput import Plan, Throughput, feed_files, run_throughput
from harness.suites.timed_rows import samples_frame
from harness.tables import Prepared

COMMON = MappingProxyType({"recipe": "r", "baseline": "b", "target": "t"})
LOAD = Load(scenarios=("single",), batches=(1, 8), candidates=16, offline_batch=8)
PROFILE = Profile(
    load=LOAD,
    protocol=Protocol(
        min_pairs=2,
        max_pairs=2,
        min_seconds=1e-9,
        block_seconds=0.001,
        warm_seconds=0.001,
        warm_window_seconds=0.001,
        warm_cap=0.02,
    ),
    requests=30,
    load_seconds=1e-9,
    rate_precision=0.5,
)
CLOSED = ("single", "sweep", "offline")


def arm_named(name: str, folder: Path, role: Any = "variant") -> Arm:
    return Arm(name, "torch-cpu", folder, role)


def loads(*scenarios: Any, arms: tuple[str, ...]) -> dict[str, Load]:
    return dict.fromkeys(arms, Load(**{**LOAD.model_dump(), "scenarios": scenarios}))


def run(arms: tuple[Arm, ...], tiny: Prepared, logits: np.ndarray, **changes: Any) -> Throughput:
    shares: list[float] = []
    found = run_throughput(
        arms,
        tiny,
        common={arm.name: {**COMMON, "recipe": arm.name} for arm in arms},
        plan=replace(Plan(PROFILE, (1,), seed=3), **changes),
        answers={arm.name: logits for arm in arms},
        progress=lambda label, share: shares.append(share),
    )
    assert shares == sorted(shares)
    assert shares[-1] <= 1 + 1e-9
    return found


@pytest.fixture
def logits(tiny: Prepared, tiny_artifact: Artifact) -> np.ndarray:
    from harness import registry

    with registry.resolve("engines", "torch-cpu")(tiny_artifact, threads=1) as engine:
        return score_split(engine, tiny, tiny.splits["test"])


@pytest.fixture
def broken(tiny_artifact: Artifact, tmp_path: Path) -> Arm:
    """An arm whose artifact has no weights."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("schema.json", "vocabulary.json"):
        (folder / name).write_bytes((tiny_artifact.folder / name).read_bytes())
    write_artifact(replace(tiny_artifact, folder=folder))
    return arm_named("broken", folder)


def keys(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(r.recipe, r.scenario, r.region, r.batch, r.candidates, r.status) for r in rows]


def test_a_run_has_every_point_and_every_arm(
    tiny: Prepared, tiny_artifact: Artifact, broken: Arm, logits: np.ndarray
) -> None:
    plain = arm_named("plain", tiny_artifact.folder, "reference")
    copy = arm_named("copy", tiny_artifact.folder, "aa")
    asked = loads(*CLOSED, "parity", arms=("plain", "copy", "broken"))
    timed = run((plain, copy, broken), tiny, logits, loads=asked)

    assert set(timed.loaded) == set(timed.steady) == {"plain", "copy"}
    assert "weights.safetensors" in timed.failures["broken"]
    found = keys(timed.rows)
    points = (
        *(("sweep", "model_only", 1, 1), ("sweep", "model_only", 8, 1)),
        *(("single", "model_only", 16, 16), ("single", "end_to_end", 16, 16)),
        ("offline", "end_to_end", 8, 1),
    )
    for point in points:
        assert found.count(("plain", *point, "ok")) == 7
        assert found.count(("broken", *point, "failed")) == 1
    assert "copy" not in {row.recipe for row in timed.rows}
    assert len(samples_frame(timed.points)) == len(points) * 2 * 2
    assert {line["scenario"] for line in timed.latencies} == {"single"}
    parity = {r.metric: r for r in timed.rows if r.scenario == "parity" and r.recipe == "plain"}
    assert parity["timed_max_abs_difference"].value < 1e-5  # type: ignore[operator]
    assert parity["timed_auc_difference"].value == pytest.approx(0, abs=1e-6)
    health = {row.metric for row in timed.rows if row.recipe == MACHINE}
    assert "noisy_blocks" in health


def test_other_outputs_than_the_accuracy_pass_are_told(
    tiny: Prepared, tiny_artifact: Artifact, logits: np.ndarray
) -> None:
    plain = arm_named("plain", tiny_artifact.folder, "reference")
    timed = run((plain,), tiny, logits + 0.5, loads=loads("single", "parity", arms=("plain",)))
    (row,) = (r for r in timed.rows if r.metric == "timed_max_abs_difference")
    assert row.value == pytest.approx(0.5, abs=1e-5)


def test_only_what_is_asked_of_an_arm_is_measured_and_references_run_everywhere(
    tiny: Prepared, tiny_artifact: Artifact, logits: np.ndarray
) -> None:
    plain = arm_named("plain", tiny_artifact.folder, "reference")
    small = arm_named("small", tiny_artifact.folder)
    asked = loads("sweep", arms=("plain", "small"))
    asked["small"] = Load(scenarios=("single",), candidates=4)
    timed = run((plain, small), tiny, logits, loads=asked)
    assert {key[1:5] for key in keys(timed.rows) if key[0] == "small"} == {
        ("single", "model_only", 4, 4),
        ("single", "end_to_end", 4, 4),
    }
    assert {key[3] for key in keys(timed.rows) if key[0] == "plain"} == {1, 8, 4}
    ratios = [r.ratio for r in timed.rows if r.recipe == "small" and r.metric == "latency_p50"]
    assert len(ratios) == 2
    assert None not in ratios


def test_open_loops_have_rows_floors_and_a_rate_or_its_reason(
    tiny: Prepared, tiny_artifact: Artifact, logits: np.ndarray
) -> None:
    plain = arm_named("plain", tiny_artifact.folder, "reference")
    asked = loads("single", "server", "qps_at_sla", arms=("plain",))
    timed = run((plain,), tiny, logits, loads=asked)
    rows = {(r.scenario, r.metric): r for r in timed.rows if r.scenario in ("server", "qps_at_sla")}
    p50, rate = rows["server", "latency_p50"], rows["qps_at_sla", "qps_at_sla"]
    assert (p50.n, p50.region, p50.candidates) == (30, "end_to_end", 16)
    assert p50.offered_rate is not None
    assert rows["server", "latency_p99"].reason == "30 requests; p99 needs 459"
    assert rows["server", "floor_p99"].value is not None
    assert (rate.value, rate.reason) != (None, None)
    assert "30 requests prove no p99" in str(rate.reason)
    assert rows["server", "generator_rate"].recipe == MACHINE
    assert {line["scenario"] for line in timed.latencies} == {"single", "server"}


def test_an_arm_that_ended_has_a_failed_row_under_load(
    tiny: Prepared, tiny_artifact: Artifact, broken: Arm, logits: np.ndarray
) -> None:
    plain = arm_named("plain", tiny_artifact.folder, "reference")
    asked = loads("server", "qps_at_sla", arms=("plain", "broken"))
    timed = run((plain, broken), tiny, logits, loads=asked)
    failed = [r for r in timed.rows if r.recipe == "broken"]
    assert [(r.scenario, r.status) for r in failed] == [
        ("server", "failed"),
        ("qps_at_sla", "failed"),
    ]
    assert all("weights.safetensors" in str(row.reason) for row in failed)


def test_arms_with_the_same_inputs_share_a_file(
    tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    arms = [arm_named(name, tiny_artifact.folder) for name in ("a", "b")]
    files = feed_files(arms, tiny, Point("sweep", 8, 1, 1), Plan(PROFILE, (1,), 3), tmp_path)
    assert len(files) == 2
    assert len(set(files.values())) == 1


def test_a_load_lasts_long_enough_at_any_rate(tiny_artifact: Artifact) -> None:
    arm = arm_named("plain", tiny_artifact.folder, "reference")
    profile = Profile(requests=500, load_seconds=2.0)
    served = serving._Served(Session((arm,), 1), arm, Plan(profile, (1,), 3), {}, Loads(), {})
    assert [served._requests(rate) for rate in (10.0, 250.0, 1000.2)] == [500, 500, 2001]
