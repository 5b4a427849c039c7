"""Expected calibration error over bins of equal mass."""

import numpy as np

from harness.metrics.base import (
    Prepared,
    Record,
    Weights,
    defined,
    metric,
    quotient,
    undefined,
    unusable,
)

BINS = 15


@metric(unit="share", direction="lower", over="row", tasks=("click",))
def ece(record: Record) -> Prepared:
    """Mean over rows of the gap between promise and outcome of the row's bin, 15 bins.

    ``ECE = sum over bins of |sum of (p - y) over the bin's rows| / rows``. Rows sorted by score are
    cut into 15 bins of equal mass; rows of equal score share the bin of the first of them, so a
    bin may be larger, or empty. Bins are cut once, from the unweighted rows: resamples keep them
    (Nguyen and O'Connor 2015, doi:10.18653/v1/D15-1182, adaptive bins).

    >>> one = np.zeros(4, dtype=int)
    >>> record = Record(np.array([0, 1, 0, 1]), np.full(4, 0.4), one, one, np.arange(4))
    >>> round(ece(record).statistic(np.ones(4)), 4)  # one bin: |0.4 - 0.5|
    0.1
    """
    reason = unusable(record)
    if reason:
        return undefined(reason)
    bins = equal_mass_bins(record.score, BINS)  # (rows,)
    gap = record.score.astype(np.float64) - (record.label > 0)  # (rows,)
    users = record.users
    cell = record.user * BINS + bins
    per_user = np.bincount(cell, gap, users * BINS).reshape(users, BINS)
    rows = np.bincount(record.user, minlength=users)

    def statistic(weights: Weights) -> float | None:
        gaps = np.bincount(bins, weights * gap, BINS)
        return defined(quotient(np.abs(gaps).sum(), weights.sum()))

    def resample(weights: np.ndarray) -> np.ndarray:
        return quotient(np.abs(weights @ per_user).sum(axis=-1), weights @ rows)

    return Prepared(statistic, record.rows, resample=resample)


def equal_mass_bins(score: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each row, 0..bins-1, (rows,): rank of the first row of equal score, cut evenly."""
    ordered = np.sort(score)
    first = np.searchsorted(ordered, score, side="left")
    return first * bins // len(score)
