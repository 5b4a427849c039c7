"""Ranking at k: of one recommended list, and of the candidates of each request of a record.

Discount ``1 / log2(place + 1)`` with places from 1, linear gain, ideal DCG cut at k
(Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418).
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.metrics.base import Prepared, Record, mean, of_sums, undefined

Item = Hashable
Relevant = Collection[Item] | Mapping[Item, float]
"""Relevant items, each counted once; a mapping gives graded gains (0 or more)."""


def ndcg_at_k(recommended: Sequence[Item], relevant: Relevant, k: int) -> float | None:
    """DCG of the first k places divided by the best DCG that k places can reach.

    Linear gain; None without a relevant item. A repeated item keeps its place and earns nothing
    the second time.

    >>> ndcg_at_k(["q", "p", "r"], ["p"], 3)  # 1 / log2(3)
    0.6309297535714575
    """
    gains = _gains(relevant)
    if not gains:
        return None
    discounts = np.diff(cumulative_discount(k))  # (k,)
    ideal = np.sort(np.array(list(gains.values())))[::-1][:k]
    earned = np.array([gains.get(item, 0.0) for item in _once(recommended, k)])
    value = earned @ discounts[: len(earned)] / (ideal @ discounts[: len(ideal)])
    return float(min(value, 1.0))


def recall_at_k(recommended: Sequence[Item], relevant: Relevant, k: int) -> float | None:
    """Share of all relevant items that stand in the first k places; None without one.

    >>> recall_at_k(["a", "b", "c"], ["a", "b", "c", "d", "e"], 3)
    0.6
    """
    gains = _gains(relevant)
    return _hits(recommended, gains, k) / len(gains) if gains else None


def precision_at_k(recommended: Sequence[Item], relevant: Relevant, k: int) -> float | None:
    """Relevant items in the first k places divided by k, also for a shorter list; None without a
    relevant item.

    >>> precision_at_k(["a", "a", "b", "c"], ["a", "c"], 4)
    0.5
    """
    gains = _gains(relevant)
    return _hits(recommended, gains, k) / k if gains else None


def cumulative_discount(k: int) -> np.ndarray:
    """Sum of the discounts of the first 0..k places, (k + 1,); raises ``ValueError`` for k < 1."""
    if k < 1:
        raise ValueError(f"k is {k}, expected 1 or more")
    return np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])


def _gains(relevant: Relevant) -> dict[Item, float]:
    graded = relevant if isinstance(relevant, Mapping) else dict.fromkeys(relevant, 1.0)
    wrong = [gain for gain in graded.values() if not 0 <= gain < np.inf]
    if wrong:
        raise ValueError(f"a relevant item has gain {wrong[0]!r}, expected a number of 0 or more")
    return {item: float(gain) for item, gain in graded.items() if gain > 0}


def _once(recommended: Sequence[Item], k: int) -> list[Item]:
    """The first k places, a repeated item replaced by a private object that is never relevant."""
    seen: set[Item] = set()
    places: list[Item] = []
    for item in recommended[:k]:
        places.append(object() if item in seen else item)
        seen.add(item)
    return places


def _hits(recommended: Sequence[Item], gains: Mapping[Item, float], k: int) -> int:
    if k < 1:
        raise ValueError(f"k is {k}, expected 1 or more")
    return sum(item in gains for item in _once(recommended, k))


@dataclass(frozen=True)
class Places:
    """The candidates of all requests, ranked by score; one entry a request and item."""

    request: np.ndarray  # (candidates,) ascending
    positive: np.ndarray  # (candidates,) bool
    first: np.ndarray  # (candidates,) first place, from 0, of the candidates of equal score
    tied: np.ndarray  # (candidates,) how many share the score, those not shown included
    hit: np.ndarray  # (candidates,) bool, False where the score isn't finite


def ranked(record: Record) -> Places:
    """The record's candidates, best first in each request.

    An item that a request holds twice is one candidate, with its best score and label. A score
    that isn't finite stands last and is never a hit. Two or more equal scores at the end of the
    finite ones share their places with what the record tells to be ``beyond``.
    """
    finite = np.isfinite(record.score)
    score = np.where(finite, record.score, -np.inf)
    by_item = np.lexsort((-score, record.item, record.request))
    request, item = record.request[by_item], record.item[by_item]
    start = np.flatnonzero(_starts(request, item))
    positive = np.maximum.reduceat(record.label[by_item] > 0, start) if len(start) else start > 0
    kept = by_item[start]
    order = np.lexsort((-score[kept], record.request[kept]))
    kept, positive = kept[order], positive[order]
    request, score = record.request[kept], score[kept]
    run = np.flatnonzero(_starts(request, score))
    tied = np.diff(run, append=len(kept))
    opening = np.searchsorted(request, request, side="left")
    first = np.repeat(run, tied) - opening
    shared = tied + _beyond(record, kept[run], tied)
    return Places(request, positive, first, np.repeat(shared, tied), finite[kept])


def _beyond(record: Record, rows: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """Items not shown that each run of equal scores goes on to, (runs,); ``rows`` has one row of
    each run.
    """
    if record.beyond is None or not len(rows):
        return np.zeros_like(tied)
    request, finite = record.request[rows], np.isfinite(record.score[rows])
    last = finite & np.append((request[1:] != request[:-1]) | ~finite[1:], True)
    return np.where(last & (tied > 1), record.beyond[request], 0)


def _starts(*columns: np.ndarray) -> np.ndarray:
    """Where a row differs from the row before it in any column, (rows,) bool."""
    start = np.ones(len(columns[0]), dtype=bool)
    start[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return start


def expected_gains(places: Places, gain: np.ndarray) -> np.ndarray:
    """Gain that each positive candidate expects when ties are ordered by chance, (candidates,).

    ``gain`` (k + 1,) is the sum over the first 0..k places.
    """
    k = len(gain) - 1
    end = np.minimum(places.first + places.tied, k)
    share = (gain[end] - gain[np.minimum(places.first, k)]) / places.tied
    return np.where(places.positive & places.hit, share, 0.0)


def over_requests(record: Record, gain: np.ndarray, best: np.ndarray) -> Prepared:
    """The mean over requests with a positive of gained / best; the others are counted.

    ``gain`` (k + 1,) is the gain of the first 0..k places; ``best`` holds what a request with
    0, 1, 2... positives is divided by (its last entry serves all larger numbers). Ties count
    their expected value. A request weighs what its first row weighs: rows of a user share a weight.
    """
    requests = int(record.request.max(initial=-1)) + 1
    places = ranked(record)
    gained = np.bincount(places.request, expected_gains(places, gain), requests)
    positives = np.bincount(places.request, places.positive, requests).astype(np.int64)
    divisor = best[np.minimum(positives, len(best) - 1)]
    value = np.divide(gained, divisor, out=np.zeros(requests), where=positives > 0)  # (requests,)
    return mean_over_requests(record, value, positives > 0)


def mean_over_requests(record: Record, value: np.ndarray, kept: np.ndarray) -> Prepared:
    """The mean of ``value`` (requests,) over the requests that are ``kept``, those with a
    positive; the others are counted (``requests_left_out``).
    """
    requests = len(value)
    facts = {"requests_left_out": float(np.count_nonzero(~kept))}
    if not kept.any():
        return undefined(f"none of {requests} requests has a positive row", facts)
    start = np.searchsorted(record.request, np.arange(requests))
    columns = np.zeros((2, record.rows))
    columns[:, start] = np.minimum(value, 1.0), kept
    return of_sums(record, list(columns), mean, n=int(kept.sum()), facts=facts)
