"""Which student to distil: sizes of the model are searched under a limit, the best one is trained.

Every trial is a short distillation; what counts is its validation, the task's own measure.
"""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.artifact import Artifact, Effect
from harness.errors import TrainingError, UnsupportedError
from harness.modules import count_macs, load_module, save_module
from harness.objectives import UNITS, Training
from harness.params import Count, ModelChoices, Positive, Ratio, Share, Speedup
from harness.stages.base import Context, Outcome, stage
from harness.stages.distill import Lesson, student_of, teach
from harness.stages.graph_timing import Bench, bench_of, exported, timed
from harness.stages.proposals import Place, Proposals
from harness.stages.retraining import settings, validation_loss

STAGE = "search_student"
clock = time.monotonic


@dataclass(frozen=True, slots=True)
class _Asked:
    """``macs`` is the most that a student may take; ``speedup`` the least, if any."""

    macs: float
    speedup: float | None
    trials: int
    seconds: float
    training: Training
    lesson: Lesson


@dataclass(frozen=True)
class _Trial:
    """One student tried: its validation loss, or why it has none."""

    parameters: Mapping[str, Any]
    macs: int
    loss: float | None = None
    speedup: str = ""
    slow: bool = False
    reason: str = ""


@dataclass
class _Search:
    """What is looked for, and what has been tried so far."""

    artifact: Artifact
    context: Context
    asked: _Asked
    trials: list[_Trial] = field(default_factory=list)
    late: bool = False
    """Whether the time was over before the trials were."""

    @property
    def begun(self) -> int:
        """How many were trained, to an end or not."""
        return sum(not trial.slow for trial in self.trials)

    @property
    def trained(self) -> list[_Trial]:
        """Those that ended with a validation loss."""
        return [trial for trial in self.trials if trial.loss is not None]

    def best(self) -> _Trial:
        """The lowest validation loss; of equals the fewest MACs."""
        return min(self.trained, key=lambda trial: (trial.loss, trial.macs))


@stage(accepts="torch", produces="torch", technique="open_like")
def search_student(
    artifact: Artifact,
    context: Context,
    *,
    student: ModelChoices,
    trials: Count = 12,
    minutes: Positive = 30.0,
    max_macs_ratio: Ratio = 0.5,
    min_speedup: Speedup | None = None,
    rows: Count | None = None,
    seconds: Positive = 1.0,
    trial_epochs: Positive = 0.2,
    epochs: Positive = 1.0,
    alpha: Share = 0.5,
    temperature: Positive = 2.0,
    teacher_top: Count | None = None,
    learning_rate: Positive | None = None,
    batch_size: Count | None = None,
) -> Outcome:
    """Distil the best of the students that ``student`` spans, lists of values of the model's
    parameters in the order of their size.

    Only points with at most ``max_macs_ratio`` of the model's MACs count and, with ``min_speedup``,
    those whose graph is as much quicker in onnxruntime (``rows`` and ``seconds`` as of
    ``prune_to_latency``; a slower one is passed over, untrained). ``trials`` of them are distilled
    for ``trial_epochs`` each, for ``minutes`` at most: all when there are as few, else as a
    tree-structured Parzen estimator proposes (Bergstra et al. 2011). That with the lowest
    validation is distilled anew for ``epochs``, as ``distill`` does it: ``alpha`` and the others
    are as there. Trials are short, so a student that learns slowly is seen below its worth.

    Raises ``UnsupportedError`` when fewer than two points are within the limits or the model lacks
    a parameter, before anything is trained, and ``TrainingError`` when no trial ends.
    """
    lesson = Lesson(alpha, temperature, teacher_top)
    lesson.check(context, stage=STAGE)
    short, full = (
        settings(context, epochs=each, learning_rate=learning_rate, batch_size=batch_size)
        for each in (trial_epochs, epochs)
    )
    asked = _Asked(artifact.macs * max_macs_ratio, min_speedup, trials, minutes * 60, short, lesson)
    search = _Search(artifact, context, asked)
    points = _points(search, student)
    proposals = Proposals(student, list(points), trials=trials, seed=context.seed)
    with TemporaryDirectory() as folder:
        bench = None
        if min_speedup is not None:
            bench = bench_of(artifact, context, Path(folder), rows=rows, seconds=seconds)
        _run(search, proposals, points, bench)
    chosen = _chosen(search)
    return _distilled(search, chosen, full, len(points))


def _points(search: _Search, space: Mapping[str, Any]) -> dict[Place, int]:
    """The MACs of each point within the limit, by the places of its values."""
    artifact, limit = search.artifact, search.asked.macs
    macs = {}
    for place in itertools.product(*(range(len(values)) for values in space.values())):
        parameters = _parameters(space, place)
        description, module = student_of(artifact, search.context, parameters, stage=STAGE)
        macs[place] = count_macs(module, description.inputs)
    fitting = {place: number for place, number in macs.items() if number <= limit}
    if len(fitting) < 2:
        least = min(macs, key=lambda place: macs[place])
        told = _told(_parameters(space, next(iter(fitting), least)))
        found = f"only {told} has so few" if fitting else f"the fewest are {macs[least]:,} ({told})"
        hint = "distil it with `distill`, or " if fitting else ""
        raise UnsupportedError(
            f"{STAGE}: of {len(macs)} points {len(fitting)} have at most {limit:,.0f} of the "
            f"model's {artifact.macs:,} MACs: {found}; {hint}raise max_macs_ratio or give smaller "
            "values"
        )
    return fitting


def _parameters(space: Mapping[str, Any], place: Place) -> dict[str, Any]:
    return {name: values[at] for (name, values), at in zip(space.items(), place, strict=True)}


def _told(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def _run(
    search: _Search, proposals: Proposals, points: Mapping[Place, int], bench: Bench | None
) -> None:
    """Try students until there are enough, none is left or the time is over; the first is tried
    whatever it takes.
    """
    asked, start = search.asked, clock()
    before = (
        exported(load_module(search.artifact), search.artifact, bench, "before") if bench else None
    )
    while search.begun < asked.trials and proposals.left:
        if search.trials and clock() - start > asked.seconds:
            search.late = True
            return
        place = proposals.next()
        trial = _Trial(_parameters(proposals.space, place), points[place])
        trial = _try(search, trial, bench, before)
        search.trials.append(trial)
        proposals.tell(place, trial.loss)


def _try(search: _Search, trial: _Trial, bench: Bench | None, before: Path | None) -> _Trial:
    """The trial with its loss, or with the reason why it has none."""
    asked, context = search.asked, search.context
    description, module = student_of(search.artifact, context, trial.parameters, stage=STAGE)
    if bench is not None and before is not None and asked.speedup is not None:
        found = timed(before, exported(module.eval(), description, bench, "student"), bench).speedup
        trial = replace(trial, speedup=str(found))
        if found.value < asked.speedup:
            return replace(trial, slow=True, reason=f"below {asked.speedup:g}x, not trained")
    try:
        teach(module, description, context, asked.training, lesson=asked.lesson, stage=STAGE)
    except TrainingError as error:
        return replace(trial, reason=str(error))
    loss = validation_loss(module, context, description.inputs, asked.training)
    return replace(trial, loss=loss)


def _chosen(search: _Search) -> _Trial:
    if search.trained:
        return search.best()
    told = "; ".join(_line(number, trial, search) for number, trial in enumerate(search.trials, 1))
    if not search.begun:
        raise UnsupportedError(
            f"{STAGE}: no student is {search.asked.speedup:g}x as quick as the model ({told}); "
            "lower min_speedup or give smaller values"
        )
    raise TrainingError(f"{STAGE}: no trial could be trained ({told})")


def _distilled(search: _Search, chosen: _Trial, training: Training, points: int) -> Outcome:
    """The chosen student trained for as long as asked, written to the stage's folder."""
    artifact, context, asked = search.artifact, search.context, search.asked
    description, module = student_of(artifact, context, chosen.parameters, stage=STAGE)
    before = validation_loss(module, context, description.inputs, training)
    history = teach(module, description, context, training, lesson=asked.lesson, stage=STAGE)
    after = validation_loss(module, context, description.inputs, training)
    teacher = validation_loss(
        load_module(context.baseline), context, context.baseline.inputs, training
    )
    made = save_module(module, description, context.folder)
    unit = UNITS[context.data.schema.task]
    effects = (
        Effect("parameters", artifact.parameters, made.parameters),
        Effect("macs", artifact.macs, made.macs, asked=asked.macs),
        Effect("trials", 0, len(search.trained), asked=min(asked.trials, points)),
        Effect("validation_loss", before, after, unit=unit),
        Effect("validation_loss:teacher_to_student", teacher, after, unit=unit),
    )
    lines = (_line(number, trial, search) for number, trial in enumerate(search.trials, 1))
    notes = (_reason(search, chosen, points), *lines, f"{history.steps} steps, {history.stopped}")
    return Outcome(made, effects, notes)


def _line(number: int, trial: _Trial, search: _Search) -> str:
    """What was tried, and what came out."""
    unit = UNITS[search.context.data.schema.task]
    found = trial.reason if trial.loss is None else f"validation {trial.loss:.5f} {unit}"
    quick = f", {trial.speedup} as quick" if trial.speedup else ""
    share = trial.macs / search.artifact.macs
    told = _told(trial.parameters)
    return f"trial {number}: {told}: {trial.macs:,} MACs ({share:.3f}){quick}, {found}"


def _reason(search: _Search, chosen: _Trial, points: int) -> str:
    """Why the student was chosen, and how much was looked at."""
    others = sorted(t.loss for t in search.trained if t is not chosen and t.loss is not None)
    ahead = f", the next has {others[0]:.5f}" if others else ""
    wanted = min(search.asked.trials, points)
    short = "" if len(search.trained) >= wanted else f" of {wanted} asked"
    over = f"; {search.asked.seconds / 60:g} minutes were over" if search.late else ""
    return (
        f"chosen: {_told(chosen.parameters)}: the lowest validation ({chosen.loss:.5f}{ahead}) of "
        f"{len(search.trained)} trials{short}; {points} points are within the limit of MACs{over}"
    )
