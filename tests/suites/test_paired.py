"""Paired timing: turns, ends, convergence, failures. Nothing about speed itself is asserted but
that a planted threefold slowdown is seen."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from harness.artifact import Artifact
from harness.profile import Profile, Protocol
from harness.suites.arms import Arm, Session
from harness.suites.health import Health
from harness.suites.paired import (
    Measured,
    Series,
    _turns,
    is_precise,
    measure,
    measure_point,
)
from harness.suites.plan import Plan, feed_files
from harness.suites.points import Point
from harness.suites.statistics import Interval
from harness.suites.timed_rows import timed_rows
from harness.tables import Prepared

POINT = Point("sweep", 8, 1, 1)
SHORT = Protocol(
    min_pairs=6,
    max_pairs=6,
    min_seconds=1e-9,
    max_seconds=60.0,
    block_seconds=0.002,
    warm_seconds=0.001,
    warm_window_seconds=0.001,
    warm_cap=0.02,
)
PLAN = Plan(Profile(protocol=SHORT), (1,), seed=3)
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
    rows = timed_rows({arm.name: COMMON for arm in arms}, measured)
    row = next(r for r in rows if r.metric == "latency_p50" and r.ratio is not None)
    assert row.ratio_high is not None
    assert row.ratio_high < 1
    assert row.verdict in ("slower", "inconclusive")  # inconclusive on a machine with bad A/A


def test_rounds_end_with_the_time_but_not_before_the_fewest(
    arms: tuple[Arm, ...], files: dict[str, Path]
) -> None:
    changes = {"max_pairs": 50, "min_pairs": 2, "max_seconds": 1e-9, "precision": 0.0}
    brief = SHORT.model_copy(update=changes)
    measured = measure(arms[:1], POINT, files, brief, seed=3, progress=silent)
    assert len(measured.series["plain"].latencies) == 2
    assert not measured.converged(arms[0])


def test_rounds_end_when_every_interval_is_narrow(
    arms: tuple[Arm, ...], files: dict[str, Path]
) -> None:
    # Unlike any that a profile may ask for: met by every interval, however busy the machine.
    wide = SHORT.model_copy(update={"max_pairs": 50, "min_pairs": 4, "precision": 1e6})
    measured = measure(arms, POINT, files, wide, seed=3, progress=silent)
    assert {len(one.latencies) for one in measured.series.values()} == {4}
    assert all(measured.converged(arm) for arm in arms)


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
    rows = timed_rows({arm.name: COMMON for arm in session.arms}, measured)
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
    rows = timed_rows({arm.name: COMMON for arm in session.arms}, measured)
    verdicts = {row.verdict for row in rows if row.ratio is not None}
    assert verdicts == {"inconclusive"}  # nothing is proven without the A/A arm


# Convergence, on made-up series.


def made(milliseconds: list[float], rounds: list[int] | None = None) -> Series:
    times = np.array(milliseconds) / 1000
    at = np.arange(len(times)) if rounds is None else np.array(rounds)
    none = np.zeros(len(times), dtype=int)
    blocks = tuple(np.full(3, value) for value in times)
    return Series(blocks, times * 3, times * 3, none, at, none, (Health(0.01),) * len(times))


REFERENCE = Arm("plain", "ort-cpu", Path("unused"), "reference")
COPY = Arm("copy", "ort-cpu", Path("unused"), "aa")
STEADY, SHAKY = (Arm(name, "ort-cpu", Path("unused")) for name in ("steady", "shaky"))


def point_of(**series: Series) -> Measured:
    arms = (REFERENCE, COPY, STEADY, SHAKY)
    return Measured(POINT, arms, series, {}, {}, {})


def test_a_precise_interval_reaches_the_share_to_either_side() -> None:
    assert is_precise(Interval(1.0, 0.98, 1.02, 9), 0.02)
    assert not is_precise(Interval(1.0, 0.97, 1.02, 9), 0.02)
    assert is_precise(Interval(2.0, 1.96, 2.04, 9), 0.02)  # a share of the value
    assert not is_precise(Interval(1.0, None, None, 1), 0.02)


def test_an_arm_that_is_known_well_leaves_and_references_stay_for_the_others() -> None:
    flat = made([1.0] * 12)
    measured = point_of(
        plain=flat, copy=flat, steady=made([2.0] * 12), shaky=made([1.0, 2.0, 3.0] * 4)
    )
    assert [measured.converged(arm) for arm in measured.arms] == [True, True, True, False]
    assert measured.unfinished() == (REFERENCE, COPY, SHAKY)
    calm = replace(measured, series={**measured.series, "shaky": made([0.5] * 12)})
    assert calm.unfinished() == ()


def test_a_reference_converges_when_its_own_copy_agrees() -> None:
    drifting = made([1.0, 2.0, 3.0, 4.0] * 3)  # both drift: the ratio is steady
    measured = point_of(plain=drifting, copy=drifting)
    assert measured.converged(REFERENCE)
    alone = point_of(plain=drifting)
    assert not alone.converged(REFERENCE)


def test_only_rounds_that_both_ran_are_paired() -> None:
    # In rounds 0-3 the machine was twice as slow; the steady arm left after round 3.
    plain = made([2.0] * 4 + [1.0] * 4)
    left = made([1.0] * 4, rounds=[0, 1, 2, 3])
    found = point_of(plain=plain, steady=left).speedup(STEADY, REFERENCE)
    assert (found.value, found.n) == (2.0, 4)


def test_a_round_goes_engine_by_engine_in_random_orders() -> None:
    arms = [Arm(f"{e}{k}", e, Path("unused")) for e in ("ort-cpu", "torch-cpu") for k in range(3)]
    rng = np.random.default_rng(0)
    rounds = [list(_turns(arms, rng)) for _ in range(60)]
    for turns in rounds:
        assert sorted(arm.name for arm in turns) == sorted(arm.name for arm in arms)
        assert [arm.engine for arm in turns[:3]] == [turns[0].engine] * 3
        assert [arm.engine for arm in turns[3:]] == [turns[3].engine] * 3
    assert {turns[0].name for turns in rounds} == {arm.name for arm in arms}


def test_an_arm_of_another_engine_is_compared_with_the_reference_it_names() -> None:
    other = Arm("index", "faiss-cpu", Path("unused"), beside="ort-cpu")
    flat = made([2.0] * 12)
    series = {"plain": flat, "copy": made([4.0] * 12), "index": made([0.5] * 12)}
    measured = Measured(POINT, (REFERENCE, COPY, other), series, {}, {}, {})
    assert measured.reference(other) is REFERENCE
    assert measured.speedup(other, REFERENCE).value == 4.0
    assert measured.aa_ratio(other) == 0.5
    alone = replace(other, beside="")
    assert measured.reference(alone) is None
    assert next(_turns((REFERENCE, other), np.random.default_rng(0))).judge == "ort-cpu"
