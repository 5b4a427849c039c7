"""Beyond accuracy: what lists of ten are made of: coverage, diversity, novelty, popularity, Gini.

Castells, Hurley and Vargas 2015, doi:10.1007/978-1-4899-7637-6_26.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import tables
from harness.metrics.base import Record, mean, quotient
from harness.results import Row
from harness.schema import UNKNOWN
from harness.suites.accuracy import metric_row
from harness.suites.statistics import Interval, percentile_interval, user_weights
from harness.tasks import TASKS

TOP = 10
CHUNK_LISTS = 20_000
"""Lists whose pairs are compared at once (16 MB)."""
CHUNK_ROWS = 1_000_000
"""Rows of train that are read at once."""

BEYOND = {
    "coverage@10": ("share", "higher"),
    "diversity@10": ("share", "higher"),
    "novelty@10": ("bits", "none"),
    "popularity@10": ("share", "none"),
    "gini@10": ("share", "lower"),
}
"""Unit and direction of every value."""

_MISSING = {
    "coverage@10": "the catalogue has no item",
    "diversity@10": "no list holds two items of train, or items have no attribute but their id",
    "novelty@10": "no list holds an item of train",
    "popularity@10": "no list holds an item of train",
    "gini@10": "the catalogue has one item at most, or no list holds one of it",
}


@dataclass(frozen=True)
class Lists:
    """The first ten of every request or user; ``reason`` says why there are none."""

    items: np.ndarray  # (lists, 10) item ids, 0 where a list is shorter or the item is unknown
    user: np.ndarray  # (lists,) dense index of the list's user
    reason: str | None = None


@dataclass(frozen=True)
class Items:
    """What train says about every item, by its id; id 0 is no item."""

    share: np.ndarray  # (ids,) share of train's rows
    attributes: np.ndarray  # (ids, attributes) the other categorical item fields, first seen


@dataclass(frozen=True)
class Beyond:
    """Values of some lists, with the sums per user that a bootstrap takes."""

    values: Mapping[str, float | None]
    sums: Mapping[str, np.ndarray]  # (users, 2) each: sum and count of what is averaged
    users: int


def items_of(data: tables.Prepared) -> Items:
    """Popularity and attributes of every item of the catalogue, from train."""
    train, fields = data.splits["train"], data.schema.group("candidates")
    names = [field.name for field in fields]
    at = names.index(data.schema.item)
    others = [place for place in range(len(names)) if place != at]
    candidates, ids = train.arrays["candidates"], fields[at].cardinality
    counts = np.zeros(ids, dtype=np.int64)
    attributes = np.zeros((ids, len(others)), dtype=np.int64)
    for first in range(0, train.rows, CHUNK_ROWS)[::-1]:
        part = np.asarray(candidates[first : first + CHUNK_ROWS])
        counts += np.bincount(part[:, at], minlength=ids)
        # backwards, as of repeated ids the one that is written last stays
        attributes[part[::-1, at]] = part[::-1][:, others]
    counts[UNKNOWN] = 0  # rows of unknown items are train's, but no item's
    return Items(counts / max(1, train.rows), attributes)


def lists_of(
    data: tables.Prepared, split: tables.Split, answer: np.ndarray, record: Record
) -> Lists:
    """The lists of ten that a model's answer to a split holds; ``record`` is that answer's."""
    if not TASKS[data.schema.task].lists:
        return record_lists(record)
    user = np.asarray(split.arrays["user"][:, 0], dtype=np.int64)
    return served_lists(answer["item"], tables.told_apart(user, np.arange(len(user))))


def record_lists(record: Record) -> Lists:
    """The ten rows of best score of each request with more than ten items, equal scores by item
    id; where no request has as many, of each user. An item that comes twice counts once, with its
    better score. An item outside the vocabulary keeps its place as id 0.
    """
    for owner in (record.request, record.user):
        kept, sizes = _once(record, owner)
        if (sizes > TOP).any():
            return _first_ten(record, owner, kept, sizes)
    empty = np.zeros((0, TOP), dtype=np.int64)
    return Lists(empty, empty[:, 0], "no request and no user has more than 10 items")


def _once(record: Record, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with the best score of each item of an owner, and how many of them each owner has."""
    score = np.where(np.isfinite(record.score), record.score, -np.inf)
    order = np.lexsort((-score, record.item, owner))
    start = np.ones(len(order), dtype=bool)
    start[1:] = np.diff(owner[order]) != 0
    start[1:] |= np.diff(record.item[order]) != 0
    kept = order[start]
    return kept, np.bincount(owner[kept])


def _first_ten(record: Record, owner: np.ndarray, kept: np.ndarray, sizes: np.ndarray) -> Lists:
    kept = kept[sizes[owner[kept]] > TOP]
    score = np.where(np.isfinite(record.score[kept]), record.score[kept], -np.inf)
    kept = kept[np.lexsort((record.item[kept], -score, owner[kept]))]
    start = np.flatnonzero(np.diff(owner[kept], prepend=-1))
    rows = kept[start[:, None] + np.arange(TOP)]  # (lists, 10)
    user = np.unique(record.user[rows[:, 0]], return_inverse=True)[1]
    return Lists(np.maximum(record.item[rows], UNKNOWN), user)


def served_lists(items: np.ndarray, user: np.ndarray) -> Lists:
    """Lists as a next-item artifact serves them: ``items`` (requests, places) best first, id 0
    where nothing was left to recommend; ``user`` (requests,).
    """
    first = np.asarray(items[:, :TOP], dtype=np.int64)
    ten = np.pad(first, ((0, 0), (0, TOP - first.shape[1])), constant_values=UNKNOWN)
    reason = None if (ten != UNKNOWN).any() else "no list holds an item"
    return Lists(ten, np.unique(user, return_inverse=True)[1], reason)


def measure(lists: Lists, items: Items) -> Beyond:
    """The five values of some lists.

    Over the n items of the catalogue, with p(i) item i's share of all places filled:
    ``coverage@10`` is the share of them that stands in any list; ``gini@10`` is
    ``sum over i, from rare to often, of (2 i - n - 1) p(i) / (n - 1)``, 0 where all items are
    recommended equally often and 1 where one alone is (Fleder and Hosanagar 2009,
    doi:10.1287/mnsc.1080.0974, with n - 1 for n as Castells et al.). The others are means over
    lists (or places) of the items that train shows: ``diversity@10`` of the share of attributes
    that differ, over the pairs of a list (Ziegler et al. 2005, doi:10.1145/1060745.1060754),
    ``novelty@10`` of -log2 and ``popularity@10`` of the item's share of train's rows.
    """
    users = int(lists.user.max(initial=-1)) + 1
    counts = np.bincount(lists.items.ravel(), minlength=len(items.share))[1:]  # (items,)
    sums = {
        "diversity@10": _per_user(lists.user, *_diversity(lists.items, items)),
        **_rarity(lists, items.share),
    }
    values = {
        "coverage@10": float(np.count_nonzero(counts) / len(counts)) if len(counts) else None,
        "gini@10": gini(counts),
    }
    for name, line in sums.items():
        value = float(mean(line.sum(axis=0)))
        values[name] = None if np.isnan(value) else value
    return Beyond(values, sums, users)


def gini(counts: np.ndarray) -> float | None:
    """How unequal counts are, 0 to 1; None for fewer than two of them, or nothing counted.

    >>> gini(np.array([5, 5, 5])), gini(np.array([0, 0, 9]))
    (0.0, 1.0)
    """
    n, total = len(counts), counts.sum()
    if n < 2 or total == 0:
        return None
    ranks = 2 * np.arange(1, n + 1) - n - 1
    return float(ranks @ np.sort(counts) / total / (n - 1))


def _per_user(user: np.ndarray, value: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sums over the lists of each user, (users, 2)."""
    return np.stack([np.bincount(user, value), np.bincount(user, count)], axis=1)


def _rarity(lists: Lists, share: np.ndarray) -> dict[str, np.ndarray]:
    taken = share[lists.items]  # (lists, 10)
    known = taken > 0
    bits = -np.log2(np.where(known, taken, 1.0))
    count = known.sum(axis=1)
    return {
        "novelty@10": _per_user(lists.user, bits.sum(axis=1), count),
        "popularity@10": _per_user(lists.user, taken.sum(axis=1), count),
    }


def _diversity(items: np.ndarray, known: Items) -> tuple[np.ndarray, np.ndarray]:
    """Of each list the mean over pairs of the share of attributes that differ, and 1; both 0 for
    a list without a pair of items that train shows.
    """
    value = np.zeros(len(items))
    attributes = known.attributes
    for first in range(0, len(items) if attributes.shape[1] else 0, CHUNK_LISTS):
        part = items[first : first + CHUNK_LISTS]
        there = known.share[part] > 0  # (lists, 10)
        pairs = there[:, :, None] & there[:, None, :]
        differ = np.zeros(pairs.shape)
        for column in attributes.T:
            own = column[part]
            differ += own[:, :, None] != own[:, None, :]
        both = pairs.sum(axis=(1, 2)) - there.sum(axis=1)  # ordered pairs of two places
        total = (differ * pairs).sum(axis=(1, 2)) / attributes.shape[1]
        value[first : first + len(part)] = quotient(total, both)
    count = ~np.isnan(value) if attributes.shape[1] else np.zeros(len(items), dtype=bool)
    return np.nan_to_num(value), count.astype(np.float64)


def beyond_rows(
    common: Mapping[str, Any],
    lists: Lists,
    *,
    items: Items,
    baseline: Lists | None = None,
    resamples: int = 1000,
    seed: int,
) -> list[Row]:
    """Per metric of ``BEYOND`` its value and, with the ``baseline``'s lists of the same requests,
    its difference; means have a 95 % interval over users, coverage and Gini, which are of all
    lists together, have none.
    """
    sides = [lists] if baseline is None else [lists, baseline]
    assert all(np.array_equal(side.user, lists.user) for side in sides), "lists of other requests"
    problem = next((side.reason for side in sides if side.reason), None)
    found = [measure(side, items) for side in sides] if problem is None else []
    draws = _draws(found, resamples, seed)
    rows = []
    for name in BEYOND:
        rows.append(_row(common, name, found[:1], draws.get(name, [])[:1], problem))
        if baseline is not None:
            change = f"{name}_difference"
            rows.append(_row(common, change, found, draws.get(name, []), problem))
    return rows


def _draws(found: list[Beyond], resamples: int, seed: int) -> dict[str, list[np.ndarray]]:
    """Of every mean its values under the same resamples of users, for each side."""
    if not found:
        return {}
    draws: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in found] for name in found[0].sums}
    for weights in user_weights(found[0].users, resamples, seed):
        for name, sides in draws.items():
            for side, parts in zip(found, sides, strict=True):
                parts.append(mean(weights @ side.sums[name]))
    return {name: [np.concatenate(parts) for parts in sides] for name, sides in draws.items()}


def _row(
    common: Mapping[str, Any],
    metric: str,
    found: list[Beyond],
    draws: list[np.ndarray],
    problem: str | None,
) -> Row:
    """The value of one side, or the first less the second."""
    name = metric.removesuffix("_difference")
    unit, direction = BEYOND[name]
    values = [side.values[name] for side in found]
    known = [value for value in values if value is not None]
    users = found[0].users if found else 0
    interval = Interval(None, None, None, users)
    if found and len(known) == len(values):
        value = known[0] - sum(known[1:])
        drawn = draws[0] - sum(draws[1:]) if draws else np.zeros(0)
        interval = percentile_interval(value, drawn, users)
    reason = None if interval.value is not None else problem or _MISSING[name]
    columns = {"unit": unit, "direction": direction, "reason": reason}
    return metric_row(common, "beyond", metric, interval, **columns)
