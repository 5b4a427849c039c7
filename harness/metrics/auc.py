"""Area under the ROC curve, exact and tie-aware."""

from functools import cache

import numpy as np
from scipy.sparse import csr_array

from harness.metrics.base import (
    Prepared,
    Record,
    Resample,
    Weights,
    defined,
    metric,
    one_class,
    quotient,
    undefined,
    unusable,
)

MATRIX_USERS = 4096
"""Most users for whom the pairs of each two users are counted beforehand (at most 134 MB)."""
MATRIX_CELLS = 200_000_000
"""Most positives x users for which counting them is quicker than 1000 resamples of all rows."""
MATRIX_SHARE = 80
"""Most pairs of users a row for which a resample of them is quicker than one of the rows."""
CELLS = 1_000_000
"""Cells counted at once (8 MB)."""


@metric(unit="share", direction="higher", over="row", tasks=("click",))
def auc(record: Record) -> Prepared:
    """Chance that a positive row scores above a negative one; a tie counts one half.

    ``AUC = sum over pairs (positive i, negative j) of w_i w_j ([s_i > s_j] + [s_i = s_j] / 2)
    / (sum of positive w * sum of negative w)``; over all pairs of rows of the record. Undefined
    with one class, and when a score isn't finite. Rows are sorted once; each evaluation is a
    cumulative sum (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747). Resamples of not
    too many users take the pairs of each two users, counted once.

    >>> label, score = np.array([1, 0, 1, 0]), np.array([0.9, 0.6, 0.6, 0.1])
    >>> whole = np.zeros(4, dtype=int)
    >>> auc(Record(label, score, whole, whole, np.arange(4))).statistic(np.ones(4))
    0.875
    """
    reason = unusable(record) or one_class(record)
    if reason:
        return undefined(reason)
    order = np.argsort(record.score, kind="stable")
    positive, negative = order[record.label[order] > 0], order[record.label[order] <= 0]
    below = np.searchsorted(record.score[negative], record.score[positive], side="left")
    up_to = np.searchsorted(record.score[negative], record.score[positive], side="right")

    def statistic(weights: Weights) -> float | None:
        return defined(_area(weights[positive], weights[negative], below, up_to))

    if _few_users(record, len(positive)):
        return Prepared(statistic, record.rows, resample=_of_pairs(record, positive, negative))
    winner, loser = record.user[positive], record.user[negative]

    def resample(weights: np.ndarray) -> np.ndarray:
        drawn: np.ndarray = np.any(
            weights != 0, axis=0
        )  # (users,); what the others have may be left out
        won, lost = drawn[winner], drawn[loser]
        kept = np.concatenate([[0], np.cumsum(lost)])
        places = kept[below[won]], kept[up_to[won]]
        sides = winner[won], loser[lost]
        lines = (_area(line[sides[0]], line[sides[1]], *places) for line in weights)
        return np.fromiter(lines, np.float64, len(weights))  # (resamples,)

    return Prepared(statistic, record.rows, resample=resample)


def _area(won: np.ndarray, lost: np.ndarray, below: np.ndarray, up_to: np.ndarray) -> float:
    """AUC of weighted positives and negatives, both by score; ``below`` and ``up_to`` (positives,)
    are how many negatives are less, and not more, than each positive. NaN without weight.
    """
    total = np.empty(len(lost) + 1)
    total[0] = 0.0
    np.cumsum(lost, out=total[1:])
    # a sum, not a dot product: BLAS starts threads for it, which cost more than they save
    pairs = np.asarray(np.sum(won * (total[below] + total[up_to])) / 2)
    return float(quotient(pairs, won.sum() * total[-1]))


def _few_users(record: Record, positives: int) -> bool:
    users = record.users
    few = users <= MATRIX_USERS and users**2 <= MATRIX_SHARE * record.rows
    return few and positives * users <= MATRIX_CELLS


def _of_pairs(record: Record, positive: np.ndarray, negative: np.ndarray) -> Resample:
    """The AUC under user weights from what the users win of each other."""
    counted = cache(lambda: _won(record, positive, negative))  # not before it is needed
    positives = np.bincount(record.user[positive], minlength=record.users)
    negatives = np.bincount(record.user[negative], minlength=record.users)

    def resample(weights: np.ndarray) -> np.ndarray:
        drawn = np.flatnonzero(weights.any(axis=0))
        own, won = weights[:, drawn], counted()
        among = won if len(drawn) == len(won) else won[np.ix_(drawn, drawn)]
        pairs = np.einsum("ru,ru->r", own @ among, own)
        return quotient(pairs, (own @ positives[drawn]) * (own @ negatives[drawn]))

    return resample


def _won(record: Record, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Pairs of a positive row of user u and a negative one of user v that the positive wins, a tie
    counted one half, (users, users); both given in the order of their scores.
    """
    users = record.users
    found = np.zeros((users, users))
    below = np.zeros(users)  # of each user, negatives below the positives so far
    winner, loser = record.user[positive], record.user[negative]
    score, other = record.score[positive], record.score[negative]
    starts = [np.searchsorted(score, other, side=side) for side in ("right", "left")]
    step = max(1, CELLS // users)
    for first in range(0, len(positive), step):
        last = min(first + step, len(positive))
        counts = np.zeros((last - first) * users)
        for start in starts:  # the first positive that is above, or not below, each negative
            part = slice(*np.searchsorted(start, [first, last]))
            cell = (start[part] - first) * users + loser[part]
            counts += np.bincount(cell, minlength=len(counts)) / 2
        total = np.cumsum(counts.reshape(last - first, users), axis=0) + below
        below = total[-1]
        own = np.arange(last - first)
        shape = (users, last - first)
        found += csr_array((np.ones(len(own)), (winner[first:last], own)), shape=shape) @ total
    return found
