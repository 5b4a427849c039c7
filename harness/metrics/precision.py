"""Precision at 10 within requests."""

import numpy as np

from harness.metrics.base import Prepared, Record, metric
from harness.metrics.ranking import over_requests

K = 10


@metric(unit="share", direction="higher", over="request", tasks=("click", "next_item"))
def precision_at_10(record: Record) -> Prepared:
    """Mean over requests of positives in the first 10 places divided by 10.

    The denominator is 10 also for a request with fewer candidates. Ties count their expected
    value; requests without a positive are left out and counted (``requests_left_out``).

    >>> label, score = np.array([1, 0, 1]), np.array([0.9, 0.8, 0.1])
    >>> one = np.zeros(3, dtype=int)
    >>> precision_at_10(Record(label, score, one, one, np.arange(3))).statistic(np.ones(3))
    0.2
    """
    return over_requests(record, np.arange(K + 1.0), np.array([float(K)]))
