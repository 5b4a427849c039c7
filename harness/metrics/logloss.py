"""Mean log loss of predicted probabilities."""

import numpy as np

from harness.metrics.base import Prepared, Record, mean, metric, of_sums, undefined, unusable

CLIP = float(np.finfo(np.float64).eps)
"""Probabilities are held within ``[CLIP, 1 - CLIP]``, as scikit-learn does for float64."""


@metric(unit="nat", direction="lower", over="row", tasks=("click",))
def logloss(record: Record) -> Prepared:
    """Mean over rows of ``-(y ln p + (1 - y) ln(1 - p))``, p held within 2.2e-16 of 0 and 1.

    Defined with one class too; undefined when a score isn't finite.

    >>> one = np.zeros(2, dtype=int)
    >>> record = Record(np.array([1, 0]), np.array([0.8, 0.4]), one, one, np.arange(2))
    >>> round(logloss(record).statistic(np.ones(2)), 4)  # (-ln 0.8 - ln 0.6) / 2
    0.367
    """
    reason = unusable(record)
    if reason:
        return undefined(reason)
    return of_sums(record, [row_losses(record), np.ones(record.rows)], mean, n=record.rows)


def row_losses(record: Record) -> np.ndarray:
    """Log loss of each row in nats, (rows,)."""
    score = np.clip(record.score.astype(np.float64), CLIP, 1 - CLIP)
    losses: np.ndarray = -np.log(np.where(record.label > 0, score, 1 - score))
    return losses
