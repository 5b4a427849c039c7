"""Non-inferiority of many variants at once: one-sided p-values of each, adjusted for their number.

Holm 1979, jstor.org/stable/4615733; the margin is fixed beforehand.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.results import Row
from harness.suites.accuracy import Evaluation, metric_row
from harness.suites.statistics import Interval, holm
from harness.tasks import Task

MARGIN = 0.001
"""Share of the baseline's main metric that a variant may lose (an error: gain)."""
LEVEL = 0.05
"""Chance of calling any inferior variant non-inferior."""
RAW, ADJUSTED = "non_inferiority_p", "non_inferiority"


def p_row(
    common: Mapping[str, Any], variant: Evaluation, baseline: Evaluation, *, task: Task
) -> Row:
    """The row ``non_inferiority_p``: p of the null hypothesis that the variant's main metric is
    worse than the baseline's by 0.1 % of it or more.

    ``(1 + draws whose paired difference is as bad) / (1 + draws)``, over the resamples of users in
    which both are defined (Davison and Hinkley 1997, doi:10.1017/CBO9780511802843, section 4.4).
    """
    name = task.main_metric
    pair = variant.values.get(name), baseline.values.get(name)
    users = variant.record.users
    value, reason = None, f"{name} is undefined for the variant or the baseline"
    if users < 2:
        reason = "too few users for resamples"
    elif pair[0] is not None and pair[1] is not None:
        draws = variant.draws[name] - baseline.draws[name]  # (resamples,)
        gains = -draws if task.lower_is_better else draws
        value = p_of(gains, margin=MARGIN * abs(pair[1]))
    found = Interval(value, None, None, users)
    columns = {"unit": "probability", "direction": "none"}
    own = None if value is not None else reason
    return metric_row(common, "accuracy", RAW, found, reason=own, **columns)


def p_of(gains: np.ndarray, *, margin: float) -> float | None:
    """Share of resampled gains (less than 0: losses) that lose the margin or more, each end
    counted once more; None when none is defined (NaN).

    >>> p_of(np.array([0.0, -0.1, 0.2]), margin=0.1)
    0.5
    """
    defined = gains[~np.isnan(gains)]
    if not len(defined):
        return None
    return float((1 + np.count_nonzero(defined <= -margin)) / (1 + len(defined)))


def non_inferiority_rows(rows: Sequence[Row], *, references: Collection[str]) -> list[Row]:
    """A row ``non_inferiority`` for each ``non_inferiority_p`` among the rows of one baseline:
    the p-value adjusted for all of them and its verdict.

    ``references`` are the recipes that the others are compared with; they are no variants. Rows
    without a p-value keep their reason and aren't counted. As no p-value of 1000 resamples is below
    1 / 1001, none of more than 50 variants can be shown to be non-inferior by them.
    """
    raw = [row for row in rows if row.metric == RAW and row.recipe not in references]
    known = [row.value for row in raw if row.value is not None]
    adjusted = iter(holm(known))
    number = "1 variant" if len(known) == 1 else f"{len(known)} variants"
    family = f"margin {MARGIN:.1%} of the baseline's, Holm over {number}"
    found = []
    for row in raw:
        value = next(adjusted) if row.value is not None else None
        verdict = None if value is None else "non-inferior" if value <= LEVEL else "not shown"
        reason = family if value is not None else row.reason
        found.append(replace(row, metric=ADJUSTED, value=value, verdict=verdict, reason=reason))
    return found
