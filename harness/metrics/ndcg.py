"""NDCG at 10 within requests."""

from harness.metrics.base import Prepared, Record, metric
from harness.metrics.ranking import cumulative_discount, over_requests

K = 10


@metric(unit="share", direction="higher", over="request", tasks=("click", "next_item"))
def ndcg_at_10(record: Record) -> Prepared:
    """Mean over requests of the DCG of the first 10 places divided by the ideal DCG.

    ``DCG = sum over places r <= 10 of y_r / log2(r + 1)``; the ideal one has the request's
    min(10, positives) in its first places.
    Binary relevance; ties count their expected value; requests without a positive are left out
    and counted (``requests_left_out``).

    >>> import numpy as np
    >>> label, score = np.array([0, 1, 0]), np.array([0.9, 0.8, 0.1])
    >>> one = np.zeros(3, dtype=int)
    >>> round(ndcg_at_10(Record(label, score, one, one, np.arange(3))).statistic(np.ones(3)), 6)
    0.63093
    """
    gain = cumulative_discount(K)
    return over_requests(record, gain, gain)
