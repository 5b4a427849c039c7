"""Mean absolute error of predicted ratings."""

import numpy as np

from harness.metrics.base import Prepared, Record, mean, metric, of_sums, undefined, unusable


@metric(unit="rating", direction="lower", over="row", tasks=("rating",))
def mae(record: Record) -> Prepared:
    """Mean absolute difference between prediction and rating, in the rating's unit.

    Undefined when a score isn't finite.

    >>> one = np.zeros(2, dtype=int)
    >>> record = Record(np.array([5.0, 1.0]), np.array([3.0, 2.0]), one, one, np.arange(2))
    >>> round(mae(record).statistic(np.ones(2)), 4)  # (2 + 1) / 2
    1.5
    """
    reason = unusable(record)
    if reason:
        return undefined(reason)
    error = np.abs(record.score - record.label)  # (rows,)
    return of_sums(record, (error, np.ones(record.rows)), _mae, n=record.rows)


def _mae(sums: np.ndarray) -> np.ndarray:
    found: np.ndarray = mean(sums)
    return found
