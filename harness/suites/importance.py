"""Permutation importance: how much worse the main metric gets when a field's values are shuffled.

Breiman 2001, doi:10.1023/A:1010933404324; Fisher, Rudin and Dominici 2019, arXiv:1801.01489.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness import registry, tables
from harness.results import Row
from harness.suites.accuracy import metric_row, record
from harness.suites.statistics import Interval
from harness.tasks import TASKS

ROWS = 20_000
"""Most rows of the sample."""
SCORED = 200_000
"""Most rows that are scored for all fields together: with many fields the sample is smaller."""
TOP = 3

Score = Callable[[tables.Split], np.ndarray]
"""Logits of a split, (rows,): an artifact in its engine."""


def importance_rows(
    common: Mapping[str, Any],
    score: Score,
    *,
    data: tables.Prepared,
    inputs: Sequence[tables.TensorSpec],
    seed: int,
) -> list[Row]:
    """Of every field of a model's ``inputs`` a row ``importance[field]``: what the main metric
    loses (an error: gains) on the test split when the field's values are shuffled, item fields
    between rows, user and context fields between requests. 0 or less is of no use to the model.

    Measured once on a seeded sample of whole requests of at most 20,000 rows (fewer where that
    makes more than 200,000 rows over all fields); the same seed draws the same rows and shuffles
    for every model. ``n`` is the rows. For tasks whose models score rows.
    """
    task = TASKS[data.schema.task]
    assert not task.lists, "a next-item model scores no rows"
    used = {name for spec in inputs for name in spec.fields}
    fields = [field.name for field in data.schema.fields if field.name in used]
    part = sample(data.splits["test"], rows=min(ROWS, SCORED // max(1, len(fields))), seed=seed)
    marks = registry.entry("metrics", task.main_metric).marks

    def value(split: tables.Split) -> tuple[float | None, str | None]:
        prepared = registry.resolve("metrics", task.main_metric)(record(data, part, score(split)))
        return prepared.statistic(np.ones(part.rows)), prepared.reason

    whole, problem = value(part) if part.rows else (None, "there are no rows")
    rows = []
    for name, shuffled in shuffles(data, part, fields, seed=seed):
        changed, reason = value(shuffled) if whole is not None else (None, problem)
        lost = None
        if whole is not None and changed is not None:
            lost = changed - whole if task.lower_is_better else whole - changed
        columns = {"unit": marks["unit"], "direction": "none"}
        columns["reason"] = None if lost is not None else reason or "undefined on these rows"
        found = Interval(lost, None, None, part.rows)
        rows.append(metric_row(common, "importance", f"importance[{name}]", found, **columns))
    return rows


def sample(split: tables.Split, *, rows: int, seed: int) -> tables.Split:
    """Seeded whole requests of a split, in its order, with at most ``rows`` rows (or one request);
    the split itself where it has no more.
    """
    if split.rows <= rows:
        return split
    lengths = np.diff(split.offsets)
    order = np.random.default_rng(seed).permutation(split.requests)
    order = order[lengths[order] > 0]
    count = max(1, int(np.searchsorted(np.cumsum(lengths[order]), rows, side="right")))
    return requests_of(split, np.sort(order[:count]))


def requests_of(split: tables.Split, requests: np.ndarray) -> tables.Split:
    """A split of some of a split's requests, in the given order."""
    lengths = np.diff(split.offsets)[requests]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.repeat(split.offsets[:-1][requests] - offsets[:-1], lengths) + np.arange(offsets[-1])
    arrays = {
        name: np.asarray(array[requests if name in tables.PER_REQUEST else rows])
        for name, array in split.arrays.items()
    }
    return tables.Split(split.name, arrays, split.label[rows], offsets, split.row_id[rows])


def shuffles(
    data: tables.Prepared, split: tables.Split, fields: Sequence[str], *, seed: int
) -> Iterator[tuple[str, tables.Split]]:
    """The split with one field shuffled, for each of ``fields``; the shuffle of a field depends on
    the seed and its place in the schema only.
    """
    names = [field.name for field in data.schema.fields]
    for group, members in data.schema.groups().items():
        for column, field in enumerate(members):
            if field.name in fields:
                rng = np.random.default_rng([seed, names.index(field.name)])
                array = np.array(split.arrays[group])
                array[:, column] = array[rng.permutation(len(array)), column]
                yield field.name, replace(split, arrays={**split.arrays, group: array})


def comparison_rows(
    common: Mapping[str, Any], variant: Sequence[Row], baseline: Sequence[Row]
) -> list[Row]:
    """How much of the baseline's order of fields a variant keeps, from the rows that
    ``importance_rows`` gave of each: ``importance_rank_correlation`` (Spearman's, over the fields
    of both) and ``importance_top3_kept`` (share of the baseline's three that are the variant's).
    """
    from scipy.stats import spearmanr  # slow to import, and scoring doesn't need it

    sides = [
        {row.metric: row.value for row in side if row.metric.startswith("importance[")}
        for side in (variant, baseline)
    ]
    known = [m for m, v in sides[1].items() if v is not None and sides[0].get(m) is not None]
    values = np.array([[side[metric] for metric in known] for side in sides], dtype=np.float64)
    few = f"{len(known)} fields have an importance on both sides"
    correlation = None
    if len(known) > 1 and (np.ptp(values, axis=1) > 0).all():
        correlation = float(spearmanr(values[0], values[1]).statistic)
    kept = None
    if len(known) > TOP:
        first = [set(np.argsort(-side, kind="stable")[:TOP].tolist()) for side in values]
        kept = len(first[0] & first[1]) / TOP
    reasons = (f"{few}, or all of a side are alike", f"{few}: no more than {TOP}")
    figures = (
        ("importance_rank_correlation", correlation, "correlation", reasons[0]),
        ("importance_top3_kept", kept, "share", reasons[1]),
    )
    return [
        metric_row(
            common,
            "importance",
            name,
            Interval(value, None, None, len(known)),
            unit=unit,
            direction="higher",
            reason=None if value is not None else reason,
        )
        for name, value, unit, reason in figures
    ]
