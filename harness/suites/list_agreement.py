"""Agreement of a variant's lists with its baseline's: items, orders, scores, ties."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.results import Row
from harness.schema import UNKNOWN
from harness.suites.accuracy import metric_row
from harness.suites.agreement import PERSISTENCE, TOP, kendall, mean_of, overlap_weights
from harness.suites.statistics import Interval

LIST_AGREEMENT = {
    "top10_overlap": ("share", "higher"),
    "top1_changed": ("share", "lower"),
    "rank_biased_overlap": ("share", "higher"),
    "kendall_tau": ("correlation", "higher"),
    "score_rmse": ("score", "lower"),
    "worst_users_overlap": ("share", "higher"),
    "distinct_scores": ("count", "none"),
    "tie_rate": ("share", "lower"),
}
"""Unit and direction of every row."""

Found = dict[str, tuple[float | None, int]]


@dataclass(frozen=True)
class _Common:
    """Items that both lists of a request hold, best of the baseline first in each request."""

    request: np.ndarray  # (items,) ascending
    places: tuple[np.ndarray, np.ndarray]  # (items,) of the variant and the baseline, from 0
    scores: tuple[np.ndarray, np.ndarray]  # (items,) likewise


def list_agreement_rows(
    common: Mapping[str, Any],
    variant: np.ndarray,
    baseline: np.ndarray,
    *,
    user: np.ndarray,
    seed: int = 0,
) -> list[Row]:
    """How far a variant's lists, (requests, places) of ``RANKED``, are from the baseline's, one row
    each. ``user`` (requests,) is a dense index of each request's user.

    ``top10_overlap`` is the mean share of common items in the first 10 places (of the longer list,
    where both are shorter), ``worst_users_overlap`` that of the 1 % of users where it is smallest,
    ``top1_changed`` the share of requests whose first item differs. ``rank_biased_overlap`` (Webber
    et al. 2010, doi:10.1145/1852102.1852106, p = 0.9) is truncated at the end of the longer list
    and divided by what equal lists would reach there. Over items in both lists: ``kendall_tau``,
    the mean tau-b of the scores over at most 2000 requests with two or more of them (a seeded
    sample), and ``score_rmse``. ``distinct_scores`` and ``tie_rate`` (share of the lists with more
    than 10 items whose 10th and 11th score are equal) are the variant's own.
    """
    held = _common_items(variant, baseline)
    served = [np.count_nonzero(side["item"] != UNKNOWN, axis=1) for side in (variant, baseline)]
    longer = np.maximum(*served)  # (requests,)
    found = {
        **_overlaps(held, longer, user),
        "top1_changed": _first_changed(variant, baseline, longer),
        "rank_biased_overlap": _rank_biased(held, longer),
        "kendall_tau": kendall(held.request, held.scores, seed),
        "score_rmse": _score_rmse(held),
        **_own(variant, served[0]),
    }
    rows = []
    for name, (unit, direction) in LIST_AGREEMENT.items():
        value, n = found[name]
        reason = None if value is not None else "no list is long enough"
        columns = {"unit": unit, "direction": direction, "reason": reason}
        rows.append(
            metric_row(common, "agreement", name, Interval(value, None, None, n), **columns)
        )
    return rows


def _common_items(variant: np.ndarray, baseline: np.ndarray) -> _Common:
    size = np.int64(max(side["item"].max(initial=0) for side in (variant, baseline)) + 1)
    keys = [np.arange(len(side))[:, None] * size + side["item"] for side in (variant, baseline)]
    shown = [np.flatnonzero(side["item"] != UNKNOWN) for side in (variant, baseline)]
    _, *at = np.intersect1d(
        *(key.ravel()[own] for key, own in zip(keys, shown, strict=True)), return_indices=True
    )
    cells = [own[index] for own, index in zip(shown, at, strict=True)]  # (items,) each, flat
    order = np.argsort(cells[1])  # the baseline's lists, one after the other
    sides = [
        (np.unravel_index(cell[order], side.shape), side["score"].ravel()[cell[order]])
        for cell, side in zip(cells, (variant, baseline), strict=True)
    ]
    (_, one), (request, other) = (place for place, _ in sides)
    scores = [score.astype(np.float64) for _, score in sides]
    return _Common(request, (one, other), (scores[0], scores[1]))


def _overlaps(held: _Common, longer: np.ndarray, user: np.ndarray) -> Found:
    first = (held.places[0] < TOP) & (held.places[1] < TOP)
    common = np.bincount(held.request, first, len(longer))  # (requests,)
    kept = longer > 0
    overlap = common[kept] / np.minimum(longer[kept], TOP)
    several = np.unique(user[kept], return_inverse=True)[1]
    per_user = np.bincount(several, overlap) / np.maximum(np.bincount(several), 1)
    worst = np.sort(per_user)[: max(1, len(per_user) // 100)]
    return {"top10_overlap": mean_of(overlap), "worst_users_overlap": mean_of(worst)}


def _first_changed(
    variant: np.ndarray, baseline: np.ndarray, longer: np.ndarray
) -> tuple[float | None, int]:
    kept = longer > 0
    if not kept.any():
        return None, 0
    return mean_of(variant["item"][kept, 0] != baseline["item"][kept, 0])


def _rank_biased(held: _Common, longer: np.ndarray) -> tuple[float | None, int]:
    """Each common item counts at every depth from its worse place to the end of the list."""
    depth = int(longer.max(initial=0))
    reached = overlap_weights(depth)  # (depth + 1,)
    worse = np.maximum(*held.places)
    gained = np.bincount(held.request, reached[longer[held.request]] - reached[worse], len(longer))
    kept = longer > 0
    return mean_of(np.minimum(gained[kept] / (1 - PERSISTENCE ** longer[kept]), 1.0))


def _score_rmse(held: _Common) -> tuple[float | None, int]:
    value, n = mean_of((held.scores[0] - held.scores[1]) ** 2)
    return None if value is None else value**0.5, n


def _own(variant: np.ndarray, served: np.ndarray) -> Found:
    shown = variant["score"][variant["item"] != UNKNOWN]
    long = served > TOP
    tied = (
        variant["score"][long, TOP - 1] == variant["score"][long, TOP] if long.any() else long[:0]
    )
    distinct = float(len(np.unique(shown))) if len(shown) else None
    return {"distinct_scores": (distinct, len(shown)), "tie_rate": mean_of(tied)}
