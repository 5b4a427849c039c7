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
from harness.training import fit, objective_of


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
    if teacher_top is not None and not TASKS[context.data.schema.task].lists:
        raise UnsupportedError(
            f"distill: teacher_top {teacher_top} is for lists of next items, and the task is "
            f"{context.data.schema.task}; leave it out"
        )
    description, module = _student(artifact, context, student)
    start = snapshot(module)
    before = validation_loss(module, context, description.inputs, training)
    history = fit(
        module,
        context.data,
        description.inputs,
        training,
        seed=context.seed,
        threads=context.threads,
        progress=context.progress,
        objective=_objective(
            module,
            context,
            description,
            training,
            lesson=_Lesson(alpha, temperature, teacher_top),
        ),
    )
    require_moved(start, module, stage="distill", learning_rate=training.learning_rate)
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


def _student(
    artifact: Artifact, context: Context, parameters: Mapping[str, Any] | None
) -> tuple[Artifact, nn.Module]:
    """The student's description and module, before training."""
    if parameters is None:
        return artifact, load_module(artifact)
    if len(artifact.lineage) > len(context.baseline.lineage):
        done = ", ".join(step.stage for step in artifact.lineage)
        raise UnsupportedError(
            f"distill: a new student {dict(parameters)!r} would throw away the stages before it "
            f"({done}); put distill first, or leave `student` out"
        )
    spec = replace(artifact.model, parameters={**artifact.model.parameters, **parameters})
    try:
        registry.bind("models", spec.name, spec.parameters)
    except registry.ValidationError as error:
        known = registry.entry("models", spec.name).parameters
        told = "; ".join(registry.explain(fault, known) for fault in error.errors())
        raise UnsupportedError(f"distill: student of model {spec.name}: {told}") from error
    schema = context.data.schema
    module = build_module(spec, schema, folder=artifact.folder, seed=context.seed)
    inputs = model_inputs(module, schema)
    outputs = model_outputs(module, inputs)
    return replace(artifact, model=spec, inputs=inputs, outputs=outputs), module


@dataclass(frozen=True, slots=True)
class _Lesson:
    """How the teacher is listened to; ``top`` as the recipe gives it."""

    alpha: float
    temperature: float
    top: int | None


def _objective(
    module: nn.Module,
    context: Context,
    student: Artifact,
    training: Training,
    *,
    lesson: _Lesson,
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
