"""Calibrating the speed gate: one artifact against itself, and against itself slowed down.

Again and again in fresh processes, each comparison through the whole gate: what it flags of the
first kind is a false alarm, what it misses of the second is blindness.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harness import registry
from harness.baseline import train_baseline
from harness.engines.probing import probe_engine
from harness.environment import usable_threads
from harness.errors import DataError
from harness.gates.calibration import Calibration, Kind, Trial, counted
from harness.gates.shipping import Task, make
from harness.recipe import Baseline, Recipe, StageSpec, TargetSpec, TrainingSpec
from harness.store import Store
from harness.suites.arms import Arm
from harness.suites.paired import Measured
from harness.suites.points import Point
from harness.suites.regression import (
    SEED,
    Feeds,
    Regression,
    gate_feeds,
    judge_regression,
    point_name,
    settled,
    time_arms,
)
from harness.variants import Variant

SLOWDOWN = 1.08
"""Of the planted arm: what the gate is to find."""
ENGINES = ("ort-cpu", "torch-cpu")
"""The first that can run here is used."""

SessionTime = Callable[[tuple[Arm, ...], Feeds, int], Mapping[Point, Measured]]
"""Times arms at points in fresh processes, with a seed for the order of turns."""


def calibrate(
    count: int,
    store: Store,
    task: Task,
    *,
    say: Callable[[str], None],
    time: SessionTime | None = None,
) -> Calibration:
    """``count`` A/A and as many planted comparisons at each of the gates' points.

    Each session is four fresh processes: reference, copy, the same artifact as a candidate, and
    the planted one; ``say`` gets a line after each. What couldn't be measured is a trial without
    figures, and never a detection. Raises ``DataError`` when the model can't be made.
    """
    engine = next((name for name in ENGINES if probe_engine(name).ok), None)
    if engine is None:
        raise DataError(f"gate --calibrate: none of {', '.join(ENGINES)} can run here; see 'list'")
    trained = train_baseline(
        BASELINE, store, threads=usable_threads(), progress=task(f"baseline {BASELINE.name}")
    )
    made = make(Variant(RECIPE, TargetSpec(engine)), trained, store, task)
    if made.artifact is None:
        raise DataError(f"gate --calibrate: {made.name}: {made.reason}")
    arms = four_arms(engine, made.artifact.folder)
    progress = task("calibrating")
    with TemporaryDirectory() as folder:
        feeds = gate_feeds(arms, trained.data, Path(folder))
        measure = time or _fresh
        trials: list[Trial] = []
        calls: dict[str, float] = {}
        for session in range(count):
            found = measure(arms, feeds, SEED + session)
            calls = calls or _calls(found, arms[0])
            trials += judged_session(session, found, arms, partial(_again, measure, feeds, session))
            say(f"session {session + 1} of {count}: {_told(trials)}")
            progress("sessions", (session + 1) / count)
    return Calibration(tuple(trials), count, f"{BASELINE.name} on {engine}", SLOWDOWN, calls)


def _fresh(arms: tuple[Arm, ...], feeds: Feeds, seed: int) -> Mapping[Point, Measured]:
    return time_arms(arms, feeds, seed=seed, progress=lambda label, share: None)


def four_arms(engine: str, folder: Path) -> tuple[Arm, ...]:
    """Reference, its copy, the same artifact as a candidate, and the planted slow one."""
    return (
        Arm("reference", engine, folder, role="reference"),
        Arm("copy", engine, folder, role="aa"),
        Arm("same", engine, folder),
        Arm("planted", engine, folder, slowdown=SLOWDOWN),
    )


def _again(
    measure: SessionTime, feeds: Feeds, session: int, arms: tuple[Arm, ...], point: Point
) -> Measured:
    """One comparison once more, as the gate does it: three fresh processes at one point."""
    return measure(arms, {point: feeds[point]}, SEED + 10_000 + session)[point]


def judged_session(
    session: int,
    found: Mapping[Point, Measured],
    arms: tuple[Arm, ...],
    again: Callable[[tuple[Arm, ...], Point], Measured],
) -> list[Trial]:
    """Both comparisons at every point, each through the whole gate: judged, and measured again by
    ``again`` where the gate would.
    """
    reference, copy, *candidates = arms
    trials = []
    for point, measured in found.items():
        for candidate in candidates:
            few = (reference, copy, candidate)

            def once_more(few: tuple[Arm, ...] = few, point: Point = point) -> Regression:
                return judge_regression(again(few, point), few[2], few[0])

            first = judge_regression(measured, candidate, reference)
            kind: Kind = "planted" if candidate.slowdown > 1 else "same"
            final = settled(first, once_more)
            trials.append(Trial(session, point_name(point), kind, first, final))
    return trials


def _calls(found: Mapping[Point, Measured], reference: Arm) -> dict[str, float]:
    return {
        point_name(point): float(np.median(measured.series[reference.name].block_values("median")))
        for point, measured in found.items()
        if reference.name in measured.series
    }


def _told(trials: Sequence[Trial]) -> str:
    same, planted = ([counted(t) for t in trials if t.kind == kind] for kind in ("same", "planted"))
    alarms, seen = (
        sum(outcome in ("warning", "failed") for outcome in found) for found in (same, planted)
    )
    return f"{alarms} false alarms of {len(same)}, {seen} detections of {len(planted)} so far"


def _spec(kind: str, name: str, given: Mapping[str, Any]) -> StageSpec:
    return StageSpec(name, registry.bind(kind, name, dict(given)))


_DATA = {"users": 2000, "items": 5000, "rows": 40_000, "candidates": 20, "seed": 3}
BASELINE = Baseline(
    name="calibration-dlrm",
    file=Path(__file__),
    description="a DLRM of serving size, hardly trained: speed doesn't depend on its weights",
    dataset=_spec("datasets", "generated", {**_DATA, "fields": 12, "numeric": 8}),
    model=_spec("models", "dlrm", {"dim": 32, "bottom": [256], "top": [1024, 640, 256]}),
    training=TrainingSpec(epochs=0.2, batch_size=1024),
    weights=None,
    seed=7,
)
RECIPE = Recipe(
    name="calibration",
    file=Path(__file__),
    description="the model as it is",
    baseline=BASELINE,
    stages=(),
    targets=tuple(map(TargetSpec, ENGINES)),
    expect={},
    gates=(),
    seed=7,
)
