"""Root mean squared error of predicted ratings."""

import numpy as np

from harness.metrics.base import Prepared, Record, mean, metric, of_sums, undefined, unusable


@metric(unit="rating", direction="lower", over="row", tasks=("rating",))
def rmse(record: Record) -> Prepared:
    """Root of the mean squared difference between prediction and rating, in the rating's unit.

    Undefined when a score isn't finite.

    >>> one = np.zeros(2, dtype=int)
    >>> record = Record(np.array([5.0, 1.0]), np.array([3.0, 2.0]), one, one, np.arange(2))
    >>> round(rmse(record).statistic(np.ones(2)), 4)  # sqrt((4 + 1) / 2)
    1.5811
    """
    reason = unusable(record)
    if reason:
        return undefined(reason)
    error = (record.score - record.label) ** 2  # (rows,)
    return of_sums(record, (error, np.ones(record.rows)), _rmse, n=record.rows)


def _rmse(sums: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.sqrt(mean(sums))
    return found
