"""Log loss relative to that of always predicting the base rate."""

import numpy as np
from scipy.special import entr

from harness.metrics.base import (
    Prepared,
    Record,
    metric,
    of_sums,
    one_class,
    quotient,
    undefined,
    unusable,
)
from harness.metrics.logloss import row_losses


@metric(unit="ratio", direction="lower", over="row", tasks=("click",))
def normalised_entropy(record: Record) -> Prepared:
    """Mean log loss over rows divided by the entropy of the base rate of the same rows.

    ``NE = logloss / -(b ln b + (1 - b) ln(1 - b))`` with b the share of positive rows; 1.0 is what
    the base rate alone reaches (He et al. 2014, doi:10.1145/2648584.2648589). Undefined with one
    class, whose entropy is 0.

    >>> one = np.zeros(2, dtype=int)
    >>> record = Record(np.array([1, 0]), np.array([0.5, 0.5]), one, one, np.arange(2))
    >>> normalised_entropy(record).statistic(np.ones(2))
    1.0
    """
    reason = unusable(record) or one_class(record)
    if reason:
        return undefined(reason)
    columns = [row_losses(record), record.label > 0, np.ones(record.rows)]
    return of_sums(record, columns, _combine, n=record.rows)


def _combine(sums: np.ndarray) -> np.ndarray:
    loss, positives, rows = sums[..., 0], sums[..., 1], sums[..., 2]
    rate = np.clip(quotient(positives, rows), 0.0, 1.0)
    return quotient(loss, rows * (entr(rate) + entr(1 - rate)))
