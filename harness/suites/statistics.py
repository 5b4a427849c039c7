"""Intervals, percentiles and verdicts: what may be said about measured numbers.

Differences between variants are paired: both sides of a resample draw the same users or pairs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from harness.metrics.base import Prepared
from harness.outcomes import AA_BOUNDS
from harness.results import Verdict

CHUNK = 2_000_000
"""Most weights held at once (16 MB)."""

CONFIDENCE = 0.99
"""Of the count rule of percentiles."""

PROCESS_NOISE = 0.03
"""How far two processes of one artifact may differ. On one core of their own, 60 A/A comparisons of
p10 lay a median of 0.2 % and at most 2.7 % from 1; with every core, or left to the system, more."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its percentile interval over ``n`` resampled units; no bounds (None) where
    there are too few units to resample.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def user_weights(users: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each user is drawn, in chunks (resamples, users) float64 of bounded size.

    Each resample draws ``users`` users with replacement; the same seed gives the same resamples.
    """
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // max(1, users))
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        draws = rng.integers(0, users, (count, users)) + np.arange(count)[:, None] * users
        counts = np.bincount(draws.ravel(), minlength=count * users)
        yield counts.reshape(count, users).astype(np.float64)  # (count, users)


def bootstrap(
    prepared: Mapping[str, Prepared], user: np.ndarray, *, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Every metric under the same resamples of users, (resamples,) each; NaN where undefined.

    ``user`` (rows,) is the dense user index of the rows that the metrics are bound to.
    """
    users = int(user.max(initial=-1)) + 1
    values = {name: np.full(resamples, np.nan) for name in prepared}
    defined = {name: metric for name, metric in prepared.items() if metric.reason is None}
    first = 0
    for weights in user_weights(users, resamples, seed) if defined else ():
        last = first + len(weights)
        for name, metric in defined.items():
            values[name][first:last] = resampled(metric, weights, user)
        first = last
    return values


def resampled(metric: Prepared, weights: np.ndarray, user: np.ndarray) -> np.ndarray:
    """A metric under user weights (resamples, users), (resamples,); NaN where it is undefined.

    ``user`` (rows,) is the index of the user of the rows that the metric is bound to.
    """
    if metric.resample is not None:
        return metric.resample(weights)
    single = (metric.statistic(line[user]) for line in weights)
    return np.array([np.nan if value is None else value for value in single])


def percentile_interval(
    value: float | None, draws: np.ndarray, n: int, *, level: float = 0.95
) -> Interval:
    """The percentile interval of resampled values.

    Undefined (NaN) draws are left out. No bounds with fewer than two units, or when more than
    half of the draws are undefined.
    """
    defined = draws[~np.isnan(draws)]
    if value is None or n < 2 or len(defined) == 0 or 2 * len(defined) < len(draws):
        return Interval(value, None, None, n)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n)


def paired_difference(
    variant: Prepared, baseline: Prepared, user: np.ndarray, *, resamples: int, seed: int
) -> Interval:
    """Variant minus baseline with its 95 % interval, both evaluated on the same resamples of
    users; the two must be bound to the same rows.
    """
    draws = bootstrap(
        {"variant": variant, "baseline": baseline}, user, resamples=resamples, seed=seed
    )
    whole = np.ones(len(user))
    pair = variant.statistic(whole), baseline.statistic(whole)
    value = None if pair[0] is None or pair[1] is None else pair[0] - pair[1]
    users = int(user.max(initial=-1)) + 1
    return percentile_interval(value, draws["variant"] - draws["baseline"], users)


def median_interval(
    ratios: Sequence[float] | np.ndarray,
    *,
    level: float = 0.99,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Median of paired ratios with a bootstrap interval over pairs (blocks, never single calls).

    Raises ``ValueError`` for no ratios, or one that isn't a positive number.
    """
    pairs = np.asarray(ratios, dtype=np.float64)  # (pairs,)
    if pairs.size == 0 or not (np.isfinite(pairs) & (pairs > 0)).all():
        raise ValueError(f"ratios are {pairs.tolist()}, expected positive numbers, at least one")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(pairs), (resamples, len(pairs)))  # (resamples, pairs)
    medians = np.median(pairs[drawn], axis=1)  # (resamples,)
    return percentile_interval(float(np.median(pairs)), medians, len(pairs), level=level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order, at most 1 (Holm 1979, jstor.org/stable/4615733).

    Rejecting those at most alpha keeps the chance of any false rejection at most alpha.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]


@cache
def queries_needed(q: float, late: int = 0) -> int:
    """Fewest queries that prove a q-quantile with ``late`` of them above it.

    The smallest n with ``P(Binomial(n, 1 - q) <= late) <= 1 %``, as in MLPerf's early stopping.
    """
    from scipy.stats import binom  # as slow to import as half of torch; few processes need it

    if not 0 < q < 1:
        raise ValueError(f"quantile is {q!r}, expected a share between 0 and 1 such as 0.99")
    low, high = late, late + 1
    while binom.cdf(late, high, 1 - q) > 1 - CONFIDENCE:
        low, high = high, 2 * high
    while high - low > 1:  # not enough at low, enough at high
        middle = (low + high) // 2
        if binom.cdf(late, middle, 1 - q) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def percentile(latencies: Sequence[float] | np.ndarray, q: float) -> float | None:
    """The q-quantile (q = 0.99 for p99), always one of the latencies (nearest rank, from above);
    None for fewer than ``queries_needed(q)`` of them.
    """
    ordered = np.sort(np.asarray(latencies, dtype=np.float64))
    if len(ordered) < queries_needed(q):
        return None
    return float(np.quantile(ordered, q, method="inverted_cdf"))


def speed_verdict(
    low: float | None,
    high: float | None,
    *,
    aa_ratio: float | None,
    bounds: tuple[float, float] = AA_BOUNDS,
) -> Verdict:
    """What a speedup's interval shows (speedup = baseline time / variant time).

    Inconclusive without an interval, or when the baseline against its own copy (``aa_ratio``) was
    not measured or lies outside ``bounds``. The interval holds what differs from round to round,
    not what differs from process to process (where memory lies), so a difference must also exceed
    ``PROCESS_NOISE`` and what the copy shows.
    """
    if low is None or high is None or aa_ratio is None or not (math.isfinite(low + high)):
        return "inconclusive"
    if not bounds[0] <= aa_ratio <= bounds[1]:
        return "inconclusive"
    noise = max(1 + PROCESS_NOISE, aa_ratio, 1 / aa_ratio)
    return "faster" if low > noise else "slower" if high < 1 / noise else "no difference shown"
