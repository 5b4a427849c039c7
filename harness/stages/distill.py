"""Distillation: a student learns the labels and its teacher's soft scores (Hinton et al. 2015,
arXiv:1503.02531), or of next items its teacher's best ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from harness import registry
from harness.artifact import Artifact, Effect
from harness.errors import UnsupportedError
from harness.modules import build_module, load_module, model_inputs, model_outputs, save_module
from harness.next_items import REAL
from harness.objectives import LOSSES, UNITS, Loss, Objective, Rows, Training, squared_error
from harness.params import Count, ModelParameters, Positive, Share
from harness.stages.base import Context, Outcome, stage
from harness.stages.divergence import click_distillation_loss
from harness.stages.ranking_distillation import TaughtItems, Teaching, top_items
from harness.stages.retraining import require_moved, settings, snapshot, validation_loss
from harness.stages.teacher import TeacherScores, teacher_scores
from harness.tasks import TASKS
from harness.training import History, fit, objective_of


@stage(accepts="torch", produces="torch", technique="open_like")
def distill(
    artifact: Artifact,
    context: Context,
    *,
    epochs: Positive = 1.0,
    alpha: Share = 0.5,
    temperature: Positive = 2.0,
    teacher_top: Count | None = None,
    student: ModelParameters | None = None,
    learning_rate: Positive | None = None,
    batch_size: Count | None = None,
) -> Outcome:
    """Train on (1 - ``alpha``) of the task's loss + ``alpha`` distillation loss, the baseline
    teaching; for ratings that is the squared difference to the teacher's, for next items the
    divergence over the teacher's ``teacher_top`` best items of each position (100 of them, or all
    when the catalogue has fewer). With ``alpha`` 1 nothing says how those stand to all others.

    ``student`` gives parameters of the same model that replace the baseline's: a fresh model is
    trained. Without it the artifact itself, a pruned model for example, is the student. Raises
    ``UnsupportedError`` when the student can't be made and ``EffectError`` when no weight moves.
    """
    training = settings(context, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size)
    lesson = Lesson(alpha, temperature, teacher_top)
    lesson.check(context, stage="distill")
    description, module = student_of(artifact, context, student, stage="distill")
    before = validation_loss(module, context, description.inputs, training)
    history = teach(module, description, context, training, lesson=lesson, stage="distill")
    after = validation_loss(module, context, description.inputs, training)
    teacher = validation_loss(
        load_module(context.baseline), context, context.baseline.inputs, training
    )
    made = save_module(module, description, context.folder)
    unit = UNITS[context.data.schema.task]
    effects = (
        Effect("parameters", artifact.parameters, made.parameters),
        Effect("macs", artifact.macs, made.macs),
        Effect("validation_loss", before, after, unit=unit),
        Effect("validation_loss:teacher_to_student", teacher, after, unit=unit),
    )
    notes = [f"{history.steps} steps, {history.stopped}"]
    if alpha == 0:
        notes.append("alpha 0: trained on the labels alone, the teacher wasn't asked")
    return Outcome(made, effects, tuple(notes))


def student_of(
    artifact: Artifact, context: Context, parameters: Mapping[str, Any] | None, *, stage: str
) -> tuple[Artifact, nn.Module]:
    """The student's description and module, before training: the artifact itself, or a fresh model
    of its ``parameters``. Raises ``UnsupportedError`` for parameters that the model doesn't have.
    """
    if parameters is None:
        return artifact, load_module(artifact)
    if len(artifact.lineage) > len(context.baseline.lineage):
        done = ", ".join(step.stage for step in artifact.lineage)
        hint = ", or leave `student` out" if stage == "distill" else ""
        raise UnsupportedError(
            f"{stage}: a new student {dict(parameters)!r} would throw away the stages before it "
            f"({done}); put {stage} first{hint}"
        )
    spec = replace(artifact.model, parameters={**artifact.model.parameters, **parameters})
    try:
        registry.bind("models", spec.name, spec.parameters)
    except registry.ValidationError as error:
        known = registry.entry("models", spec.name).parameters
        told = "; ".join(registry.explain(fault, known) for fault in error.errors())
        raise UnsupportedError(f"{stage}: student of model {spec.name}: {told}") from error
    schema = context.data.schema
    module = build_module(spec, schema, folder=artifact.folder, seed=context.seed)
    inputs = model_inputs(module, schema)
    outputs = model_outputs(module, inputs)
    return replace(artifact, model=spec, inputs=inputs, outputs=outputs), module


@dataclass(frozen=True, slots=True)
class Lesson:
    """How the teacher is listened to; ``top`` as the recipe gives it."""

    alpha: float
    temperature: float
    top: int | None

    def check(self, context: Context, *, stage: str) -> None:
        """Raise ``UnsupportedError`` where the task has no lists that ``top`` could be of."""
        task = context.data.schema.task
        if self.top is not None and not TASKS[task].lists:
            raise UnsupportedError(
                f"{stage}: teacher_top {self.top} is for lists of next items, and the task is "
                f"{task}; leave it out"
            )


def teach(
    module: nn.Module,
    student: Artifact,
    context: Context,
    training: Training,
    *,
    lesson: Lesson,
    stage: str,
) -> History:
    """Train a student in place, the baseline teaching; raises ``EffectError`` when no weight
    moves, and what ``fit`` raises.
    """
    start = snapshot(module)
    history = fit(
        module,
        context.data,
        student.inputs,
        training,
        seed=context.seed,
        threads=context.threads,
        progress=context.progress,
        objective=_objective(module, context, student, training, lesson=lesson),
    )
    require_moved(start, module, stage=stage, learning_rate=training.learning_rate)
    return history


def _objective(
    module: nn.Module,
    context: Context,
    student: Artifact,
    training: Training,
    *,
    lesson: Lesson,
) -> Objective:
    data, inputs = context.data, student.inputs
    if not TASKS[data.schema.task].lists:
        loss = _loss(context, alpha=lesson.alpha, temperature=lesson.temperature)
        return Rows(data, inputs, training, seed=context.seed, loss=loss)
    if lesson.alpha == 0:
        return objective_of(module, data, inputs, training, seed=context.seed)
    items = data.schema.field(data.schema.item).cardinality - REAL
    teaching = Teaching(
        load_module(context.baseline),
        alpha=lesson.alpha,
        temperature=lesson.temperature,
        top=top_items(lesson.top, items),
    )
    return TaughtItems(module, data, inputs, training, seed=context.seed, teaching=teaching)


def _loss(context: Context, *, alpha: float, temperature: float) -> Loss:
    task = context.data.schema.task
    hard = LOSSES[task]
    if task == "rating" and temperature != 1:
        raise UnsupportedError(
            f"distill: temperature {temperature:g} softens probabilities, and ratings have none; "
            "give temperature: 1"
        )
    if alpha == 0:
        return hard
    scores: TeacherScores = teacher_scores(context.baseline, context)
    row_ids = context.data.splits["train"].row_id

    def loss(logits: torch.Tensor, labels: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        teacher = torch.from_numpy(scores.of(row_ids[rows]))  # (rows,)
        if task == "rating":
            soft = squared_error(logits, teacher, rows)
        else:
            soft = click_distillation_loss(logits, teacher, temperature)
        return (1 - alpha) * hard(logits, labels, rows) + alpha * soft

    return loss
