"""AUC within each user, averaged over users."""

import numpy as np

from harness.metrics.base import Prepared, Record, mean, metric, of_sums, undefined, unusable


@metric(unit="share", direction="higher", over="user", tasks=("click",))
def gauc(record: Record) -> Prepared:
    """Mean of the users' own AUCs, each weighted by the user's rows.

    ``GAUC = sum over users of rows_u AUC_u / sum over users of rows_u``, over users that have both
    classes; the others are left out and counted (``users_left_out``). ``plain_mean`` is the mean
    over the same users without weights. Ties count one half. All rows of a user share a weight
    (Zhu et al. 2017, arXiv:1703.02091, section 4).

    >>> label, score = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.1, 0.2, 0.1, 0.6])
    >>> user = np.array([0, 0, 1, 1, 1])
    >>> prepared = gauc(Record(label, score, user, user, np.arange(5)))
    >>> round(prepared.statistic(np.ones(5)), 4), prepared.facts["plain_mean"]
    (0.7, 0.75)
    """
    reason = unusable(record)
    if reason:
        return undefined(reason)
    areas = user_areas(record)  # (users,)
    both = ~np.isnan(areas)
    facts = {"users_left_out": float(np.count_nonzero(~both))}
    if not both.any():
        return undefined(f"none of {len(areas)} users has both classes", facts)
    facts["plain_mean"] = float(areas[both].mean())
    kept = both[record.user]  # (rows,)
    values = np.where(kept, areas[record.user], 0.0)
    return of_sums(record, [values, kept], mean, n=int(both.sum()), facts=facts)


def user_areas(record: Record) -> np.ndarray:
    """AUC of each user's rows, (users,); NaN where a user has one class."""
    order = np.lexsort((record.score, record.user))
    user, score = record.user[order], record.score[order]
    first = np.ones(len(order), dtype=bool)  # first row of a run of equal scores of one user
    first[1:] = (user[1:] != user[:-1]) | (score[1:] != score[:-1])
    start = np.flatnonzero(first)
    length = np.diff(start, append=len(order))
    users = record.users
    rows = np.bincount(user, minlength=users)
    before = np.cumsum(rows) - rows
    rank = np.repeat(start + (length + 1) / 2, length) - before[user]  # (rows,) mean rank from 1
    label = (record.label[order] > 0).astype(np.float64)
    positives = np.bincount(user, label, users)
    rank_sum = np.bincount(user, label * rank, users)
    pairs = positives * (rows - positives)
    areas = np.full(users, np.nan)
    above = rank_sum - positives * (positives + 1) / 2
    np.divide(above, pairs, out=areas, where=pairs > 0)
    return areas
