"""Area under the ROC curve, exact and tie-aware."""

import numpy as np

from harness.metrics.base import (
    Prepared,
    Record,
    Weights,
    defined,
    metric,
    one_class,
    quotient,
    undefined,
    unusable,
)


@metric(unit="share", direction="higher", over="row", tasks=("click",))
def auc(record: Record) -> Prepared:
    """Chance that a positive row scores above a negative one; a tie counts one half.

    ``AUC = sum over pairs (positive i, negative j) of w_i w_j ([s_i > s_j] + [s_i = s_j] / 2)
    / (sum of positive w * sum of negative w)``; over all pairs of rows of the record. Undefined
    with one class, and when a score isn't finite. Rows are sorted once; each evaluation is a
    cumulative sum (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747).

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

    def area(won: np.ndarray, lost: np.ndarray) -> float:
        total = np.empty(len(lost) + 1)
        total[0] = 0.0
        np.cumsum(lost, out=total[1:])
        # a sum, not a dot product: BLAS starts threads for it, which cost more than they save
        pairs = np.asarray(np.sum(won * (total[below] + total[up_to])) / 2)
        return float(quotient(pairs, won.sum() * total[-1]))

    def statistic(weights: Weights) -> float | None:
        return defined(area(weights[positive], weights[negative]))

    winner, loser = record.user[positive], record.user[negative]

    def resample(weights: np.ndarray) -> np.ndarray:
        return np.array([area(line[winner], line[loser]) for line in weights])  # (resamples,)

    return Prepared(statistic, record.rows, resample=resample)
