"""Agreement of a variant with its baseline: scores, orders within requests, ties."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.metrics.base import Record, unusable
from harness.results import Row
from harness.suites.accuracy import metric_row
from harness.suites.statistics import Interval

TOP = 10
PERSISTENCE = 0.9
"""Chance that a reader goes on to the next place, in rank-biased overlap."""
DEPTH = 100
"""Places that rank-biased overlap looks at: those after it weigh less than 0.00003 together."""
KENDALL_REQUESTS = 2000
"""Most requests that Kendall's tau is averaged over (a seeded sample of them)."""

AGREEMENT = {
    "score_rmse": ("probability", "lower"),
    "worst_users_score_difference": ("probability", "lower"),
    "top10_overlap": ("share", "higher"),
    "top1_changed": ("share", "lower"),
    "rank_biased_overlap": ("share", "higher"),
    "kendall_tau": ("correlation", "higher"),
    "distinct_scores": ("count", "none"),
    "tie_rate": ("share", "lower"),
}
"""Unit and direction of every agreement row."""


def agreement_rows(
    common: Mapping[str, Any], variant: Record, baseline: Record, *, seed: int = 0
) -> list[Row]:
    """How far a variant's scores and orders are from the baseline's, one row each.

    ``score_rmse`` and ``worst_users_score_difference`` (mean absolute difference of the 1 % of
    users where it is largest) are of probabilities. Within requests, equal scores ordered by item
    id: ``top10_overlap`` is the mean share of common items over requests with more than 10
    candidates, ``top1_changed`` the share of requests with two or more whose first item differs,
    ``rank_biased_overlap`` their mean overlap over depths (Webber et al. 2010,
    doi:10.1145/1852102.1852106, p = 0.9), truncated at the last candidate or place 100 and divided
    by what equal orders reach there, ``kendall_tau`` the mean tau-b over at most 2000 of those (a
    seeded sample; requests where one side has a single score have none). ``distinct_scores`` and
    ``tie_rate`` (share of the requests with more than 10 candidates whose 10th and 11th score are
    equal) are the variant's own.
    """
    wrong = unusable(variant) or unusable(baseline)
    if wrong:
        found: dict[str, tuple[float | None, int]] = dict.fromkeys(AGREEMENT, (None, 0))
    else:
        found = {**_score_agreement(variant, baseline), **_order_agreement(variant, baseline)}
        found["kendall_tau"] = kendall(variant.request, (variant.score, baseline.score), seed)
    return [
        metric_row(
            common,
            "agreement",
            name,
            Interval(found[name][0], None, None, found[name][1]),
            unit=unit,
            direction=direction,
            reason=None if found[name][0] is not None else wrong or "no request is long enough",
        )
        for name, (unit, direction) in AGREEMENT.items()
    ]


def _score_agreement(variant: Record, baseline: Record) -> dict[str, tuple[float | None, int]]:
    gap = variant.score - baseline.score  # (rows,)
    per_user = np.bincount(variant.user, np.abs(gap)) / np.bincount(variant.user)  # (users,)
    worst = np.sort(per_user)[-max(1, len(per_user) // 100) :]
    return {
        "score_rmse": (float(np.sqrt(np.mean(gap**2))), len(gap)),
        "worst_users_score_difference": (float(worst.mean()), len(worst)),
        "distinct_scores": (float(len(np.unique(variant.score))), len(gap)),
    }


def _order_agreement(variant: Record, baseline: Record) -> dict[str, tuple[float | None, int]]:
    request = variant.request
    sizes = np.bincount(request)  # (requests,)
    long, several = sizes > TOP, sizes > 1
    places = [_places(side) for side in (variant, baseline)]  # (rows,) each
    both_top = np.bincount(request, (places[0] < TOP) & (places[1] < TOP))  # (requests,)
    same_first = np.bincount(request, (places[0] == 0) & (places[1] == 0))  # (requests,)
    ordered = variant.score[np.lexsort((-variant.score, request))]  # (rows,)
    last = (np.cumsum(sizes) - sizes)[long] + TOP - 1  # where each long request's 10th score is
    return {
        "top10_overlap": mean_of(both_top[long] / TOP),
        "top1_changed": mean_of(1 - same_first[several]),
        "rank_biased_overlap": _rank_biased(request, np.maximum(*places)),
        "tie_rate": mean_of(ordered[last] == ordered[last + 1]),
    }


def _rank_biased(request: np.ndarray, worse: np.ndarray) -> tuple[float | None, int]:
    """``worse`` (rows,) is each row's worse place of both orders: from there on it is common."""
    sizes = np.bincount(request)  # (requests,)
    depth = np.minimum(sizes, DEPTH)
    reached = overlap_weights(DEPTH)
    share = np.maximum(reached[depth[request]] - reached[np.minimum(worse, DEPTH)], 0)
    several = sizes > 1
    overlap = np.bincount(request, share) / (1 - PERSISTENCE**depth)
    return mean_of(np.minimum(overlap[several], 1.0))


def overlap_weights(depth: int) -> np.ndarray:
    """Sum over the first 0..depth depths d of ``(1 - p) p^(d - 1) / d``, the weight in rank-biased
    overlap of one item that both sides have reached at depth d, (depth + 1,).
    """
    d = np.arange(1, depth + 1)
    return np.concatenate([[0.0], np.cumsum((1 - PERSISTENCE) * PERSISTENCE ** (d - 1) / d)])


def _places(side: Record) -> np.ndarray:
    """Place of each row in its request, from 0, best score first, ties by item id, (rows,)."""
    order = np.lexsort((side.item, -side.score, side.request))
    sizes = np.bincount(side.request)
    places = np.empty(side.rows, dtype=np.int64)
    places[order] = np.arange(side.rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places


def mean_of(values: np.ndarray) -> tuple[float | None, int]:
    """The mean and how many it is of; None of nothing."""
    return (float(values.mean()) if len(values) else None), len(values)


def kendall(
    request: np.ndarray, scores: tuple[np.ndarray, np.ndarray], seed: int
) -> tuple[float | None, int]:
    """Mean tau-b of two sides' scores (rows,) over at most ``KENDALL_REQUESTS`` requests of two or
    more rows, and how many have one; ``request`` (rows,) is ascending.
    """
    from scipy.stats import kendalltau  # slow to import, and most processes don't need it

    sizes = np.bincount(request)
    ends = np.cumsum(sizes)
    several = np.flatnonzero(sizes > 1)
    if len(several) > KENDALL_REQUESTS:
        rng = np.random.default_rng(seed)
        several = rng.choice(several, KENDALL_REQUESTS, replace=False)
    parts = (slice(ends[one] - sizes[one], ends[one]) for one in several)
    taus = np.array([kendalltau(scores[0][part], scores[1][part]).statistic for part in parts])
    return mean_of(taus[~np.isnan(taus)])
