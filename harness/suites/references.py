"""Simple rivals that every model must beat: random, popularity and popularity with own history for
clicks; the mean and the biases of users and items for ratings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import logit

from harness import registry, tables
from harness.results import Row
from harness.schema import FeatureSchema
from harness.suites.accuracy import evaluate, value_rows
from harness.suites.beyond import beyond_rows, items_of, lists_of
from harness.suites.list_references import reference_lists
from harness.suites.lists import record_of
from harness.tasks import TASKS

SMOOTHING = 20.0
"""Rows of the base rate that are added to every item's own rows."""

FIT_ROWS = 300_000
"""Most training rows that the history rival is fitted on (a seeded sample)."""

FITTED = ("popularity", "history")

BIAS_ROUNDS, ITEM_DAMPING, USER_DAMPING = 10, 10.0, 15.0
"""Alternating rounds of the biases, and the rows of no bias that are added to each item's and
user's own: https://surprise.readthedocs.io/en/stable/prediction_algorithms.html
"""


def reference_rows(
    common: Mapping[str, Any],
    data: tables.Prepared,
    *,
    metrics: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Row]:
    """Metrics (the task's, unless named) of the rivals on the test split, and what their lists of
    ten are made of.

    Of clicks: recipes ``reference:random``, ``reference:popularity`` and, where the schema names a
    history, ``reference:history``; where they can't be fitted (no rows, or one class, in train),
    the latter two are skipped with the reason. Of ratings: ``reference:mean``, ``reference:bias``.
    Of next items: those of ``list_references``.
    """
    metrics = TASKS[data.schema.task].metrics if metrics is None else metrics
    test, problem = data.splits["test"], None
    if data.schema.task == "rating":
        rivals = {"mean": mean_ratings(data, test), "bias": bias_ratings(data, test)}
    elif TASKS[data.schema.task].lists:
        rivals = reference_lists(data, test, seed=seed)
    else:
        problem = _unfit(data.splits["train"])
        rivals = _click_rivals(data, test, seed=seed, fitted=problem is None)
    rows, items = [], items_of(data)
    for name, answer in rivals.items():
        seen = record_of(data, test, answer)
        found = evaluate(seen, metrics=metrics, resamples=resamples, seed=seed)
        own = {**common, "recipe": f"reference:{name}"}
        rows += value_rows(own, found, scenario="reference")
        ten = lists_of(data, test, answer, seen)
        rows += beyond_rows(own, ten, items=items, resamples=resamples, seed=seed)
    return rows + (_refused(common, metrics, problem) if problem else [])


def _click_rivals(
    data: tables.Prepared, test: tables.Split, *, seed: int, fitted: bool
) -> dict[str, np.ndarray]:
    rivals = {"random": random_logits(test.rows, seed=seed)}
    if fitted:
        rivals["popularity"] = popularity_logits(data, test)
        if data.schema.history is not None:
            rivals["history"] = history_logits(data, test, seed=seed)
    return rivals


def mean_ratings(data: tables.Prepared, split: tables.Split) -> np.ndarray:
    """The mean rating of train for every row, (rows,)."""
    return np.full(split.rows, float(np.mean(data.splits["train"].label)))


def bias_ratings(data: tables.Prepared, split: tables.Split) -> np.ndarray:
    """Mean of train, plus the damped bias of the item and of the user, (rows,); fitted by
    alternating least squares. Ids that train never shows have no bias.

    Koren 2010, doi:10.1145/1644873.1644874, section 2.1.
    """
    train, schema = data.splits["train"], data.schema
    label = np.asarray(train.label, dtype=np.float64)
    mean = label.mean()
    user, item = (_ids(data, train, *place) for place in _places(schema))
    users, items = (schema.field(name).cardinality for _, name in _places(schema))
    user_bias, item_bias = np.zeros(users), np.zeros(items)
    for _ in range(BIAS_ROUNDS):
        left = label - mean - user_bias[user]  # (rows,)
        item_bias = np.bincount(item, left, items) / (ITEM_DAMPING + np.bincount(item, None, items))
        left = label - mean - item_bias[item]
        user_bias = np.bincount(user, left, users) / (USER_DAMPING + np.bincount(user, None, users))
    user, item = (_ids(data, split, *place) for place in _places(schema))
    found: np.ndarray = mean + user_bias[user] + item_bias[item]
    return found


def _places(schema: FeatureSchema) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("user", schema.user), ("candidates", schema.item)


def _ids(data: tables.Prepared, split: tables.Split, group: str, name: str) -> np.ndarray:
    column = tables.column(data.schema, split, group, name)
    ids: np.ndarray = column[split.request_of_row] if group == "user" else column
    return ids.astype(np.int64)  # (rows,)


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
    item = tables.item_ids(data.schema, train).astype(np.int64)
    size = data.schema.field(data.schema.item).cardinality
    label = np.asarray(train.label) > 0
    shown = np.bincount(item, minlength=size)
    bought = np.bincount(item, label, size)
    rate = (bought + SMOOTHING * label.mean()) / (shown + SMOOTHING)  # (items,)
    logits: np.ndarray = logit(rate)[tables.item_ids(data.schema, split)]
    return logits


def history_logits(data: tables.Prepared, split: tables.Split, *, seed: int) -> np.ndarray:
    """Logits of a logistic regression on popularity and the user's own past with the item,
    (rows,); fitted on at most 300 000 seeded rows of train.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

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
    past = tables.column(data.schema, split, "candidate_values", data.schema.history)
    return np.stack([popularity_logits(data, split), past], axis=1)  # (rows, 2)


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
