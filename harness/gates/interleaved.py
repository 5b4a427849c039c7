"""Two builds measured in turns, in one job: is any artifact of the head slower than the base's?"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from harness.comparable import require_same_environment
from harness.errors import DataError, EnvironmentMismatch
from harness.gates.builds import Build, Built, is_build, read_build
from harness.gates.rules import GateResult
from harness.outcomes import Outcome
from harness.store import file_hash
from harness.suites.arms import Arm
from harness.suites.points import Point
from harness.suites.regression import (
    CONTROL,
    LIST_POINTS,
    POINTS,
    SEED,
    Feeds,
    Regression,
    Time,
    compare,
    point_name,
    rivals,
    time_arms,
)

Task = Callable[[str], Callable[[str, float], None]]
SIZE_TOLERANCE = 0.02


def gate_builds(
    head: Path, base: Path, task: Task, *, time: Time | None = None
) -> list[GateResult]:
    """Every artifact of the build ``base`` against the one of that name in ``head``: sizes, and
    times at the gates' points, both timed here and now; then the controls.

    Without a base nothing was compared, and the one result says so. Raises ``DataError`` for a
    folder that can't be read, and ``EnvironmentMismatch`` when machine, data or inputs differ.
    """
    if not is_build(base):
        return [_nothing(f"{base} holds no build")]
    ours, theirs = read_build(head), read_build(base)
    if not theirs.artifacts:
        return [_nothing(f"{base} holds no artifact")]
    require_same_environment(ours.environment, theirs.environment)
    common = [name for name in theirs.artifacts if name in ours.artifacts]
    for name in common:
        _require_same_inputs(ours, theirs, name)
    results = list(_gone_and_new(ours, theirs))
    for name in common:
        results += _compared(ours, theirs, name, time or _timed(task(name)))
    if common:
        results += _controls(theirs, common[0], time or _timed(task("controls")))
    return results


def _timed(progress: Callable[[str, float], None]) -> Time:
    return partial(time_arms, seed=SEED, progress=progress)


def _nothing(why: str) -> GateResult:
    sentence = (
        f"no baseline, nothing compared: {why}; make one with "
        "'python -m harness build RECIPE... --out DIR' in a checkout of what you compare with"
    )
    return GateResult("all", None, "not measured", sentence)


def _gone_and_new(ours: Build, theirs: Build) -> Iterator[GateResult]:
    for name, built in theirs.artifacts.items():
        if name not in ours.artifacts:
            why = f"is in {theirs.folder}, not in {ours.folder} ({ours.why_missing(name)})"
            yield _result(built, "failed", why)
    for name, built in ours.artifacts.items():
        if name not in theirs.artifacts:
            yield _result(built, "new", f"is not in {theirs.folder} ({theirs.why_missing(name)})")


def _result(built: Built, outcome: Outcome, text: str) -> GateResult:
    sentence = f"{built.recipe} on {built.engine}: {text}"
    return GateResult(built.recipe, None, outcome, sentence, built.engine)


def _require_same_inputs(ours: Build, theirs: Build, name: str) -> None:
    """Raise unless both artifacts were made of the same data and are timed on the same inputs,
    which still are what the build wrote.
    """
    new, old = ours.artifacts[name], theirs.artifacts[name]
    for key in ("baseline", "data_hash"):
        if getattr(new, key) != getattr(old, key):
            raise EnvironmentMismatch(
                f"{name}: {key} is {getattr(new, key)!r} and {getattr(old, key)!r}; "
                "build both from one data set"
            )
    for point in map(point_name, _points(new)):
        if point not in old.inputs or point not in new.inputs:
            raise DataError(f"{name}: a build has no inputs for {point}; build both again")
        if new.inputs[point][1] != old.inputs[point][1]:
            raise EnvironmentMismatch(
                f"{name}: inputs.{point} is {new.inputs[point][1][:12]} and "
                f"{old.inputs[point][1][:12]}; models that take other inputs can't be compared"
            )
        path = theirs.folder / old.inputs[point][0]
        if not path.is_file() or file_hash(path) != old.inputs[point][1]:
            raise DataError(f"{path}: not the file that the build wrote; build again")


def _compared(ours: Build, theirs: Build, name: str, time: Time) -> Iterator[GateResult]:
    new, old = ours.artifacts[name], theirs.artifacts[name]
    grown = new.bytes > old.bytes * (1 + SIZE_TOLERANCE)
    text = f"bytes: {new.bytes:,}, was {old.bytes:,}"
    yield _result(new, "failed" if grown else "passed", text)
    arms = rivals(new.engine, theirs.path(name), ours.path(name))
    for point, found in compare(arms, _feeds(theirs, old, arms), time).items():
        lost = found.outcome == "inconclusive" and found.median is None
        outcome: Outcome = "not measured" if lost else found.outcome
        yield _result(new, outcome, f"time at {point_name(point)}, 1 thread: {found.figures}")


def _feeds(build: Build, built: Built, arms: tuple[Arm, ...]) -> Feeds:
    files = {p: build.folder / built.inputs[point_name(p)][0] for p in _points(built)}
    return {point: {arm.name: file for arm in arms} for point, file in files.items()}


def _points(built: Built) -> tuple[Point, ...]:
    """The points that a build has inputs for: those of lists, where it has none for candidates."""
    lists = set(map(point_name, LIST_POINTS)) <= set(built.inputs)
    return LIST_POINTS if lists else POINTS


def _controls(build: Build, name: str, time: Time) -> Iterator[GateResult]:
    """A planted slowdown that must fail, and the same artifact that must not, at one point."""
    built, folder = build.artifacts[name], build.path(name)
    for slowdown, judge in ((CONTROL, planted_seen), (1.0, same_passed)):
        arms = rivals(built.engine, folder, folder, slowdown=slowdown)
        point = _points(built)[-1]
        found = compare(arms, {point: _feeds(build, built, arms)[point]}, time)[point]
        outcome, text = judge(found)
        yield GateResult(
            "control", None, outcome, f"control: {text} ({found.figures})", built.engine
        )


def planted_seen(found: Regression) -> tuple[Outcome, str]:
    """How the control with a planted slowdown ended: a gate that doesn't fail it is blind."""
    if found.outcome == "failed":
        return "passed", f"a planted slowdown of {CONTROL:g}x was seen"
    if found.outcome == "inconclusive":
        return "inconclusive", f"noise hid a planted slowdown of {CONTROL:g}x"
    return "failed", f"the gate is blind to a planted slowdown of {CONTROL:g}x"


def same_passed(found: Regression) -> tuple[Outcome, str]:
    """How the control with twice the same artifact ended: a difference is the machine's noise."""
    if found.outcome == "passed":
        return "passed", "the same artifact twice is no slower"
    return "inconclusive", "the machine is too noisy: the same artifact twice differs"
