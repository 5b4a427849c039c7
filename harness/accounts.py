"""Rows that tell what was done: the data, the training, each stage's asked and achieved, and what
was skipped or failed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from harness.artifact import Effect, Step
from harness.baseline import Trained
from harness.gates.rules import GateResult
from harness.measuring import common
from harness.objectives import UNITS
from harness.recipe import Baseline
from harness.results import Row
from harness.run_folder import INTERRUPTED
from harness.tasks import TASKS
from harness.variants import Variant


def data_rows(trained: Trained) -> list[Row]:
    """Rows read, kept and dropped (with the reason), and the facts a reader should know."""
    columns = {**common(trained), "scenario": "data"}
    counts = [
        Row(**columns, metric=f"rows {name}", unit="rows", value=float(value))
        for name, value in trained.data.counts.items()
    ]
    facts = [Row(**columns, metric=name, reason=text) for name, text in trained.data.facts.items()]
    return counts + facts + _list_rows(columns, trained)


def _list_rows(columns: Mapping[str, Any], trained: Trained) -> list[Row]:
    """Of a next-item baseline: how many items there are, and the places of a list."""
    schema = trained.data.schema
    if not TASKS[schema.task].lists:
        return []
    known = schema.field(schema.item).cardinality - 1  # without the unknown row
    places = trained.artifact.outputs[0].shape[1]
    sizes = {"catalogue items": known, "list places": int(places)}
    return [
        Row(**columns, metric=name, unit="count", value=float(size)) for name, size in sizes.items()
    ]


def training_rows(trained: Trained, noise: Mapping[str, Any] | None) -> list[Row]:
    """What the baseline's training took and reached, and its seed noise where a lock tells it."""
    columns = {**common(trained), "scenario": "training"}
    step = trained.artifact.lineage[0]
    history = trained.history
    rows = [
        *_seconds({**columns, "technique": "reference"}, "0.train", step),
        Row(**columns, metric="0.train.steps", unit="count", value=float(history["steps"])),
        Row(**columns, metric="0.train.stopped", reason=history["stopped"]),
    ]
    losses, task = history["validation_loss"], trained.data.schema.task
    if losses:
        best = losses[history["best"]]
        rows.append(Row(**columns, metric="0.train.validation_loss", unit=UNITS[task], value=best))
    if noise:
        told = {"unit": noise["unit"], "value": noise["std"], "n": noise["seeds"]}
        rows.append(Row(**columns, metric=f"{TASKS[task].main_metric}_seed_noise", **told))
    return rows


def stage_rows(variant: Variant, trained: Trained) -> list[Row]:
    """Per stage: seconds, and every effect before, asked and achieved, and its notes."""
    if variant.artifact is None:
        return []
    columns = common(trained, variant)
    skip = len(trained.artifact.lineage)
    rows: list[Row] = []
    for number, step in enumerate(variant.artifact.lineage[skip:], start=1):
        name = f"{number}.{step.stage}"
        rows += _seconds({**columns, "scenario": "training"}, name, step)
        for effect in step.effects:
            rows += _effect(columns, f"{name}.{effect.name}", effect)
        rows += [
            Row(**columns, scenario="effect", metric=f"{name}.note {at}", reason=note)
            for at, note in enumerate(step.notes, start=1)
        ]
    return rows


def _seconds(columns: Mapping[str, Any], name: str, step: Step) -> list[Row]:
    told: dict[str, Any] = {"unit": "s", "direction": "lower"}
    return [
        Row(**columns, metric=f"{name}.seconds", value=step.seconds, **told),
        Row(**columns, metric=f"{name}.cpu_seconds", value=step.cpu_seconds, **told),
    ]


def _effect(columns: Mapping[str, Any], name: str, effect: Effect) -> Iterator[Row]:
    values = {"before": effect.before, "asked": effect.asked, "achieved": effect.after}
    for what, value in values.items():
        if value is not None:
            yield Row(
                **columns, scenario="effect", metric=f"{name}:{what}", unit=effect.unit, value=value
            )


def status_row(variant: Variant) -> Row:
    """The one row of a variant that was skipped or failed."""
    return Row(
        recipe=variant.recipe.name,
        baseline=variant.recipe.baseline.name,
        target=variant.target.engine,
        seed=variant.recipe.seed,
        scenario="run",
        metric="status",
        status=variant.status,
        reason=variant.reason,
    )


def stopped_row(spec: Baseline) -> Row:
    """The row that says of all variants of a baseline that their run was interrupted."""
    return Row(
        recipe=spec.name,
        baseline=spec.name,
        scenario="run",
        metric="status",
        status="skipped",
        reason=f"{INTERRUPTED}the run was stopped before all times were measured",
    )


def gate_row(result: GateResult, baseline: str) -> Row:
    """How one gate ended; its outcome stands in ``verdict``."""
    assert result.gate is not None
    bound, _ = result.gate.bound
    return Row(
        recipe=result.recipe,
        baseline=baseline,
        target=result.target,
        scenario="gate",
        metric=f"{result.gate.metric} {bound}",
        verdict=result.label,
        reason=result.sentence,
    )
