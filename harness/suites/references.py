"""Simple rivals that every model must beat: random, popularity, and popularity with own history."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from harness import registry, tables
from harness.results import Row
from harness.suites.accuracy import evaluate, record, value_rows

SMOOTHING = 20.0
"""Rows of the base rate that are added to every item's own rows."""

FIT_ROWS = 300_000
"""Most training rows that the history rival is fitted on (a seeded sample)."""

FITTED = ("popularity", "history")
METRICS = registry.names("metrics")


def reference_rows(
    common: Mapping[str, Any],
    data: tables.Prepared,
    *,
    metrics: Sequence[str] = METRICS,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Row]:
    """Metrics of the rivals on the test split, recipes ``reference:random``,
    ``reference:popularity`` and, where the schema names a history, ``reference:history``.

    Where they can't be fitted (no rows, or one class, in train), the latter two are skipped with
    the reason.
    """
    test = data.splits["test"]
    rivals = {"random": random_logits(test.rows, seed=seed)}
    problem = _unfit(data.splits["train"])
    if problem is None:
        rivals["popularity"] = popularity_logits(data, test)
        if data.schema.history is not None:
            rivals["history"] = history_logits(data, test, seed=seed)
    rows = []
    for name, logits in rivals.items():
        found = evaluate(
            record(data, test, logits), metrics=metrics, resamples=resamples, seed=seed
        )
        own = {**common, "recipe": f"reference:{name}"}
        rows += value_rows(own, found, scenario="reference")
    return rows + (_refused(common, metrics, problem) if problem else [])


def random_logits(rows: int, *, seed: int) -> np.ndarray:
    """Logits of seeded uniform probabilities, (rows,)."""
    uniform = np.random.default_rng(seed).uniform(1e-9, 1 - 1e-9, rows)
    logits: np.ndarray = logit(uniform)
    return logits


def popularity_logits(data: tables.Prepared, split: tables.Split) -> np.ndarray:
    """Logit of the item's smoothed positive rate in train, (rows,).

    ``(positives + 20 base rate) / (rows + 20)``; an item that train never shows gets the rate of
    the unknown row, and without such rows the base rate.
    """
    train = data.splits["train"]
    item = _column(data, train, "candidates", data.schema.item).astype(np.int64)
    size = data.schema.field(data.schema.item).cardinality
    label = np.asarray(train.label) > 0
    shown = np.bincount(item, minlength=size)
    bought = np.bincount(item, label, size)
    rate = (bought + SMOOTHING * label.mean()) / (shown + SMOOTHING)  # (items,)
    logits: np.ndarray = logit(rate)[_column(data, split, "candidates", data.schema.item)]
    return logits


def history_logits(data: tables.Prepared, split: tables.Split, *, seed: int) -> np.ndarray:
    """Logits of a logistic regression on popularity and the user's own past with the item,
    (rows,); fitted on at most 300 000 seeded rows of train.
    """
    assert data.schema.history is not None, "the schema names no history"
    train = data.splits["train"]
    chosen = np.arange(train.rows)
    if train.rows > FIT_ROWS:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(train.rows, FIT_ROWS, replace=False))
    label = np.asarray(train.label)[chosen] > 0
    features = _features(data, train)
    model = LogisticRegression(max_iter=1000).fit(features[chosen], label)
    logits: np.ndarray = model.decision_function(_features(data, split))
    return logits


def _features(data: tables.Prepared, split: tables.Split) -> np.ndarray:
    assert data.schema.history is not None
    past = _column(data, split, "candidate_values", data.schema.history)
    return np.stack([popularity_logits(data, split), past], axis=1)  # (rows, 2)


def _column(data: tables.Prepared, split: tables.Split, group: str, name: str) -> np.ndarray:
    names = [field.name for field in data.schema.group(group)]
    return np.asarray(split.arrays[group][:, names.index(name)])  # (rows,)


def _unfit(train: tables.Split) -> str | None:
    if train.rows == 0:
        return "train has no rows"
    label = np.asarray(train.label)
    return f"train has one class only (label {label[0]:g})" if np.ptp(label) == 0 else None


def _refused(common: Mapping[str, Any], metrics: Sequence[str], reason: str) -> list[Row]:
    own = {"scenario": "reference", "status": "skipped", "reason": reason}
    rows = []
    for metric in metrics:
        marks = registry.entry("metrics", metric).marks
        own |= {"metric": metric, "unit": marks["unit"], "direction": marks["direction"]}
        rows += [Row(**{**common, "recipe": f"reference:{name}", **own}) for name in FITTED]
    return rows
