"""Accuracy of a scored split: metrics with intervals over users, differences, quality class.

Everything is computed from what the exported artifact gave in its engine, never from the module
that it was made of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from harness import registry, tables
from harness.engines.base import Engine
from harness.metrics.base import Prepared, Record
from harness.results import Row
from harness.suites.statistics import Interval, bootstrap, percentile_interval
from harness.tasks import TASKS, Task

CLASSES = ((0.999, "99.9 %"), (0.99, "99 %"))
"""Quality classes: what share of the baseline's main metric must at least be kept."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one record and their draws under ``resamples`` resamples of its users.

    Made once for a baseline, it serves every variant: the same seed draws the same users.
    """

    record: Record
    prepared: Mapping[str, Prepared]
    values: Mapping[str, float | None]
    draws: Mapping[str, np.ndarray]  # (resamples,) each, NaN where undefined
    seed: int


def score_split(
    engine: Engine,
    data: tables.Prepared,
    split: tables.Split,
    *,
    max_rows: int = 16384,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Logits of every row of the split, float32 (rows,), in the split's order.

    Requests are batched by length without padding; ``progress`` gets the rows of each batch.
    """
    logits = np.empty(split.rows, dtype=np.float32)
    seen = np.zeros(split.rows, dtype=np.int64)
    inputs = engine.artifact.inputs
    for batch in tables.request_batches(split, max_rows=max_rows):
        rows = batch.ravel()
        scored = engine.score(tables.feeds(data.schema, split, batch, inputs))
        assert scored.shape == rows.shape, f"{scored.shape} logits for {len(rows)} rows"
        logits[rows] = scored
        seen[rows] += 1
        if progress:
            progress(len(rows))
    assert (seen == 1).all(), "a row was scored twice or not at all"
    return logits


def record(data: tables.Prepared, split: tables.Split, logits: np.ndarray) -> Record:
    """The split's rows with what the task's metrics see of the scores: probabilities (sigmoid in
    float64), or the predicted values.

    An unknown user can't be told from another one, so each of their requests counts as a user of
    its own; an unknown item gets an id of its own (negative).
    """
    item = tables.item_ids(data.schema, split).astype(np.int64)
    request = split.request_of_row
    user = tables.told_apart(split.user_of_row.astype(np.int64), request)
    return Record(
        label=np.asarray(split.label),
        score=seen_score(logits, TASKS[data.schema.task]),
        user=np.unique(user, return_inverse=True)[1],
        request=np.unique(request, return_inverse=True)[1],
        item=tables.told_apart(item, np.arange(split.rows)),
    )


def seen_score(logits: np.ndarray, task: Task) -> np.ndarray:
    """What the metrics of a task see of a model's outputs, float64 (rows,)."""
    values = logits.astype(np.float64)
    probabilities: np.ndarray = expit(values)
    return probabilities if task.score == "probability" else values


def evaluate(
    record: Record, *, metrics: Sequence[str], resamples: int = 1000, seed: int
) -> Evaluation:
    """Value of every metric and its bootstrap over users."""
    prepared = {name: registry.resolve("metrics", name)(record) for name in metrics}
    whole = np.ones(record.rows)
    values = {name: metric.statistic(whole) for name, metric in prepared.items()}
    draws = bootstrap(prepared, record.user, resamples=resamples, seed=seed)
    return Evaluation(record, prepared, values, draws, seed)


def accuracy_rows(
    common: Mapping[str, Any],
    variant: Evaluation,
    baseline: Evaluation,
    *,
    task: Task = TASKS["click"],
    noise_floor: float | None,
) -> list[Row]:
    """Per metric its value and its paired difference to the baseline, each with a 95 % interval
    over users, the counts beside it, and the quality class.

    ``common`` holds the other columns (recipe, baseline, target ...). ``noise_floor`` is how far
    the baseline's main metric moves from seed to seed; a gain above it is flagged in ``reason``.
    """
    _same_rows(variant, baseline)
    rows = value_rows(common, variant, scenario="accuracy")
    for name in variant.values:
        if name in baseline.values:
            floor = noise_floor if name == task.main_metric else None
            rows.append(_difference_row(common, name, (variant, baseline), floor))
    if task.main_metric in variant.values and task.main_metric in baseline.values:
        rows.append(_class_row(common, variant, baseline, task))
    return rows


def value_rows(common: Mapping[str, Any], evaluation: Evaluation, *, scenario: str) -> list[Row]:
    """Per metric its value with a 95 % interval over users, and a row for each count beside it."""
    rows = []
    users = evaluation.record.users
    for name, metric in evaluation.prepared.items():
        marks = registry.entry("metrics", name).marks
        found = percentile_interval(evaluation.values[name], evaluation.draws[name], users)
        columns = {"unit": marks["unit"], "direction": marks["direction"], "n": metric.n}
        rows.append(
            metric_row(common, scenario, name, found, reason=_reason(metric, found), **columns)
        )
        rows += [_fact_row(common, scenario, f"{name}_{key}", metric, key) for key in metric.facts]
    return rows


def _reason(metric: Prepared, found: Interval) -> str | None:
    if found.value is None:
        return metric.reason or "undefined on these rows"
    return None


def _fact_row(
    common: Mapping[str, Any], scenario: str, name: str, metric: Prepared, key: str
) -> Row:
    unit = "count" if key.endswith("_left_out") else "share"
    value = Interval(metric.facts[key], None, None, metric.n)
    return metric_row(common, scenario, name, value, unit=unit, direction="none", n=metric.n)


def metric_row(
    common: Mapping[str, Any], scenario: str, metric: str, found: Interval, **columns: Any
) -> Row:
    """One row: the common columns, overridden by what was found and by ``columns``."""
    own = {"scenario": scenario, "metric": metric, "value": found.value, "n": found.n}
    return Row(**{**common, **own, "ci_low": found.low, "ci_high": found.high, **columns})


def _same_rows(variant: Evaluation, baseline: Evaluation) -> None:
    one, other = (_same(side.record) for side in (variant, baseline))
    assert all(map(np.array_equal, one, other)), "variant and baseline scored different rows"
    assert variant.seed == baseline.seed, "variant and baseline drew different users"


def _same(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Labels and users, which no variant changes; of lists, whose places differ, those of the items
    that should be found.
    """
    if record.beyond is None:
        return record.label, record.user
    true = np.flatnonzero(record.label)
    order = np.lexsort((record.item[true], record.request[true]))
    return record.item[true][order], record.user[true][order]


def _difference(name: str, variant: Evaluation, baseline: Evaluation) -> Interval:
    pair = variant.values[name], baseline.values[name]
    value = None if pair[0] is None or pair[1] is None else pair[0] - pair[1]
    draws = variant.draws[name] - baseline.draws[name]  # (resamples,)
    return percentile_interval(value, draws, variant.record.users)


def _difference_row(
    common: Mapping[str, Any],
    name: str,
    pair: tuple[Evaluation, Evaluation],
    noise_floor: float | None,
) -> Row:
    found = _difference(name, *pair)
    marks = registry.entry("metrics", name).marks
    direction = "none" if marks["direction"] == "one" else marks["direction"]
    columns = {"unit": marks["unit"], "direction": direction, "n": pair[0].prepared[name].n}
    reason = None
    if found.value is None:
        reason = _undefined(name, *pair)
    elif noise_floor is not None and _gain(found.value, direction) > noise_floor:
        reason = "better than the baseline beyond seed noise: look twice"
    return metric_row(common, "accuracy", f"{name}_difference", found, reason=reason, **columns)


def _gain(change: float, direction: str) -> float:
    return -change if direction == "lower" else change


def _undefined(name: str, variant: Evaluation, baseline: Evaluation) -> str:
    sides = {"variant": variant.prepared[name], "baseline": baseline.prepared[name]}
    reasons = [f"{side}: {metric.reason}" for side, metric in sides.items() if metric.reason]
    return f"{name} is undefined ({'; '.join(reasons) or 'no value on these rows'})"


def _class_row(
    common: Mapping[str, Any], variant: Evaluation, baseline: Evaluation, task: Task
) -> Row:
    """Share of the baseline's main metric that is kept at the difference's worse bound (for an
    error: 1 less the share by which it grows there), and its class.
    """
    name = task.main_metric
    found = _difference(name, variant, baseline)
    whole = baseline.values[name]
    columns: dict[str, Any] = {"unit": "share", "direction": "higher"}
    if found.value is None or found.low is None or found.high is None or not whole:
        reason = _undefined(name, variant, baseline)
        if found.value is not None:
            reason = "too few users for an interval" if whole else f"the baseline's {name} is 0"
        nothing = Interval(None, None, None, found.n)
        return metric_row(common, "accuracy", "quality_class", nothing, reason=reason, **columns)
    kept = 1 - found.high / whole if task.lower_is_better else 1 + found.low / whole
    verdict = next((label for least, label in CLASSES if kept >= least), "below 99 %")
    share = Interval(kept, None, None, found.n)
    return metric_row(common, "accuracy", "quality_class", share, verdict=verdict, **columns)
