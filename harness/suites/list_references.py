"""Lists of simple rivals for next items: random, popularity, what the user had most often."""

from collections.abc import Callable

import numpy as np

from harness import tables
from harness.engines.base import RANKED
from harness.schema import UNKNOWN
from harness.suites.lists import batches, seen_items

TOP = 20
"""Places of a rival's list; the metrics look at 10."""


def reference_lists(
    data: tables.Prepared, split: tables.Split, *, seed: int
) -> dict[str, np.ndarray]:
    """Each rival's list for every request, (requests, 20) of ``RANKED``: ``random``,
    ``popularity``, and ``own_frequency`` where the schema allows repeats.

    What was seen is left out unless repeats are allowed. The score is the place (0, -1, -2...), so
    that no list has ties.
    """
    rivals = {
        "random": random_lists(data, split, seed=seed),
        "popularity": popularity_lists(data, split),
    }
    if data.schema.repeats:
        rivals["own_frequency"] = own_frequency_lists(data, split)
    return rivals


def popularity_lists(data: tables.Prepared, split: tables.Split) -> np.ndarray:
    """The items with most rows in train, equal counts by id, (requests, 20) of ``RANKED``."""
    order = popularity(data)
    return _in_batches(data, split, lambda part: _first_left(data, split, part, order))


def random_lists(data: tables.Prepared, split: tables.Split, *, seed: int) -> np.ndarray:
    """Items in one seeded random order that each request enters at a random place, (requests, 20)
    of ``RANKED``.
    """
    rng = np.random.default_rng(seed)
    items = data.schema.field(data.schema.item).cardinality - 1
    order = 1 + rng.permutation(items)
    enters = rng.integers(0, max(1, items), split.requests)
    return _in_batches(
        data, split, lambda part: _first_left(data, split, part, order, enters=enters[part])
    )


def own_frequency_lists(data: tables.Prepared, split: tables.Split) -> np.ndarray:
    """The items that the user had most often, equal counts by popularity, then the most popular
    of the others, (requests, 20) of ``RANKED``.
    """
    order = popularity(data)
    return _in_batches(data, split, lambda part: _own_first(data, split, part, order))


def popularity(data: tables.Prepared) -> np.ndarray:
    """All item ids, most rows in train first, equal counts by id, (items,)."""
    train = data.splits["train"]
    item = tables.item_ids(data.schema, train).astype(np.int64)
    size = data.schema.field(data.schema.item).cardinality
    count = np.bincount(item, minlength=size)[UNKNOWN + 1 :]
    order: np.ndarray = UNKNOWN + 1 + np.argsort(-count, kind="stable")
    return order


def _in_batches(
    data: tables.Prepared, split: tables.Split, items: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    found = np.zeros((split.requests, TOP), dtype=RANKED)
    found["score"] = -np.arange(TOP, dtype=np.float32)
    for part in batches(data, split):
        found["item"][part] = items(part)
    return found


def _first_left(
    data: tables.Prepared,
    split: tables.Split,
    requests: np.ndarray,
    order: np.ndarray,
    *,
    enters: np.ndarray | None = None,
) -> np.ndarray:
    """The first items of an order, each entered where ``enters`` (requests,) says, that aren't
    seen (all of them where repeats are allowed), (requests, 20).
    """
    start = np.zeros(len(requests), dtype=np.int64) if enters is None else enters
    if data.schema.repeats:
        seen = np.zeros((len(requests), 0), dtype=np.int64)
    else:
        seen = seen_items(split, requests)
    return _unhidden(order, seen, start)


def _unhidden(order: np.ndarray, hidden: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The first items of a circular order from ``start`` (requests,) on that aren't ``hidden``
    (requests, any), then 0, (requests, 20).
    """
    length = min(len(order), TOP + hidden.shape[1])  # the first so many hold 20 others, if any do
    place = np.empty(len(order) + 1, dtype=np.int64)
    place[order] = np.arange(len(order))
    place[UNKNOWN] = length
    at = np.where(hidden == UNKNOWN, length, (place[hidden] - start[:, None]) % max(1, len(order)))
    gone = np.zeros((len(hidden), length + 1), dtype=bool)
    np.put_along_axis(gone, np.minimum(at, length), True, axis=1)
    gone = gone[:, :length]
    left = np.argsort(gone, axis=1, kind="stable")[:, :TOP]
    items = order[(start[:, None] + left) % max(1, len(order))]
    found = np.zeros((len(hidden), TOP), dtype=np.int64)
    found[:, : left.shape[1]] = np.where(np.take_along_axis(gone, left, axis=1), UNKNOWN, items)
    return found


def _own_first(
    data: tables.Prepared, split: tables.Split, requests: np.ndarray, order: np.ndarray
) -> np.ndarray:
    size = np.int64(len(order) + 1)
    keys = np.arange(len(requests))[:, None] * size + seen_items(split, requests)
    pairs, count = np.unique(keys, return_counts=True)
    at, item = pairs // size, pairs % size
    at, item, count = (column[item != UNKNOWN] for column in (at, item, count))
    rank = np.empty(size, dtype=np.int64)
    rank[order] = np.arange(len(order))
    best = np.lexsort((rank[item], -count, at))
    at, item = at[best], item[best]
    place = np.arange(len(at)) - np.searchsorted(at, at)
    own = np.zeros((len(requests), TOP), dtype=np.int64)
    shown = place < TOP
    own[at[shown], place[shown]] = item[shown]
    rest = _unhidden(order, own, np.zeros(len(requests), dtype=np.int64))
    both = np.concatenate([own, rest], axis=1)  # (requests, 40), own ones first
    kept = np.argsort(both == UNKNOWN, axis=1, kind="stable")[:, :TOP]
    return np.take_along_axis(both, kept, axis=1)
