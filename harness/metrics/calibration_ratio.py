"""Predicted positives divided by true positives."""

from harness.metrics.base import Prepared, Record, mean, metric, of_sums, undefined, unusable


@metric(unit="ratio", direction="one", over="row", tasks=("click",))
def calibration_ratio(record: Record) -> Prepared:
    """Sum of predicted probabilities over rows divided by the number of positive rows.

    1.0 is best; above it the model promises too much. Undefined without a positive row.

    >>> import numpy as np
    >>> one = np.zeros(4, dtype=int)
    >>> record = Record(np.array([1, 0, 0, 0]), np.full(4, 0.3), one, one, np.arange(4))
    >>> calibration_ratio(record).statistic(np.ones(4))
    1.2
    """
    reason = unusable(record)
    if reason is None and not (record.label > 0).any():
        reason = f"no positive row among {record.rows}"
    if reason:
        return undefined(reason)
    return of_sums(record, [record.score, record.label > 0], mean, n=record.rows)
