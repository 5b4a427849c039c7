"""Fairness: the main metric for groups of users and of items, the worst group and the gap.

All groups are evaluated under the same resamples of all users, so that groups, and a variant and
its baseline, may be subtracted from each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness import registry, tables
from harness.metrics.base import Prepared, Record
from harness.results import Row
from harness.schema import UNKNOWN
from harness.suites.accuracy import Evaluation, metric_row
from harness.suites.statistics import percentile_interval, resampled, user_weights
from harness.tasks import TASKS

LEAST_USERS = 50
"""Fewest users of a group that gets a value."""
MOST_VALUES = 25
"""Most values of a field that groups users."""
RESAMPLES = 200
"""Resamples of users for each group: five lie outside either end of an interval, so its ends are
rougher than those of the whole split, which has five times as many.
"""
NEW = "new"
ACTIVITY = ("low", "middle", "high")
DECILES = tuple(str(number) for number in range(1, 11))


@dataclass(frozen=True)
class Grouping:
    """One way to part the rows of a record. With ``positives``, a group has all rows and only its
    own positives: which lists find the items of the group.
    """

    name: str
    values: tuple[str, ...]
    of: np.ndarray  # (rows,) index into ``values``; -1 for a row of no group
    positives: bool = False


@dataclass(frozen=True)
class Part:
    """The main metric of one group; ``reason`` says why it has none."""

    value: float | None
    draws: np.ndarray  # (resamples,), NaN where undefined
    users: int
    reason: str | None = None


Groups = Mapping[str, Mapping[str, Part]]
"""By grouping and group; groups without a row aren't there."""


def groupings_of(data: tables.Prepared, split: tables.Split, record: Record) -> list[Grouping]:
    """How a split's rows are grouped, for the record of any model's answer to it.

    By each categorical user field but the user with at most 25 values; ``user_activity``: thirds of
    train's users by their rows in train (users of other ids: ``new``); ``item_popularity``: tenths
    of train's items by their rows in train, 10 the most popular (other items: ``new``). Users or
    items with equally many rows share a group, the highest that any of them is in, so groups differ
    in size and may be missing. For lists the items are those that should have been found.
    """
    lists = TASKS[data.schema.task].lists
    request = record.request if lists else split.request_of_row  # (rows,)
    found = [
        _by_field(data, split, name, request)
        for name in (field.name for field in data.schema.group("user"))
        if name != data.schema.user and data.schema.field(name).cardinality - 1 <= MOST_VALUES
    ]
    train, schema = data.splits["train"], data.schema
    owners = np.asarray(train.arrays["user"][:, 0])
    users = np.bincount(owners, np.diff(train.offsets), schema.field(schema.user).cardinality)
    user = np.asarray(split.arrays["user"][:, 0], dtype=np.int64)[request]
    found.append(_by_count("user_activity", ACTIVITY, users, user))
    size = schema.field(schema.item).cardinality
    items = np.bincount(tables.item_ids(schema, train), minlength=size)
    item = _by_count("item_popularity", DECILES, items, np.maximum(record.item, UNKNOWN))
    if lists:
        own = np.where(record.label > 0, item.of, -1)
        item = Grouping(item.name, item.values, own, positives=True)
    return [*found, item]


def _by_field(
    data: tables.Prepared, split: tables.Split, name: str, request: np.ndarray
) -> Grouping:
    own = tables.column(data.schema, split, "user", name).astype(np.int64)
    values = ("unknown", *data.vocabularies[name].values)
    return Grouping(name, values, own[request])


def _by_count(name: str, values: tuple[str, ...], counts: np.ndarray, ids: np.ndarray) -> Grouping:
    """``ids`` by how often they occur in train (``counts`` by id), in groups of equally many ids
    (equal counts share the higher group); the last one, ``new``, has the unknown id and those that
    train never shows.
    """
    counts = counts.copy()
    counts[UNKNOWN] = 0
    there = np.sort(counts[counts > 0])
    up_to = np.searchsorted(there, counts, side="right")  # ids with at most as many rows
    group = (up_to * len(values) - 1) // max(1, len(there))
    group = np.where(counts > 0, group, len(values))
    return Grouping(name, (*values, NEW), group[ids])


def evaluate_groups(
    evaluation: Evaluation,
    groupings: Sequence[Grouping],
    *,
    metric: str,
    resamples: int = RESAMPLES,
) -> Groups:
    """An evaluated metric of every group that has rows, under the same resamples of all users."""
    found: dict[str, dict[str, Part]] = {grouping.name: {} for grouping in groupings}
    bound: dict[tuple[str, str], _Bound] = {}
    for grouping in groupings:
        for at in np.unique(grouping.of[grouping.of >= 0]):
            value = grouping.values[at]
            part, own = _of_group(evaluation, grouping, int(at), metric)
            found[grouping.name][value] = replace(part, draws=np.full(resamples, np.nan))
            if own is not None:
                bound[grouping.name, value] = own
    first, users = 0, evaluation.record.users
    for weights in user_weights(users, resamples, evaluation.seed) if bound else ():
        last = first + len(weights)
        for (name, value), own in bound.items():
            among = weights[:, : len(own.members)] * own.members
            drawn = resampled(own.metric, among, own.user)
            found[name][value].draws[first:last] = drawn
        first = last
    return found


@dataclass(frozen=True)
class _Bound:
    """A metric that is bound to a group, and which users count in it."""

    metric: Prepared
    user: np.ndarray  # (rows,)
    members: np.ndarray  # (users,) bool


def _of_group(
    evaluation: Evaluation, grouping: Grouping, at: int, metric: str
) -> tuple[Part, _Bound | None]:
    """A group without its draws yet, and what they come from (None: nothing)."""
    inside = grouping.of == at
    users, draws = len(np.unique(evaluation.record.user[inside])), np.zeros(0)
    if users < LEAST_USERS:
        return Part(None, draws, users, f"{users} users, fewer than {LEAST_USERS}"), None
    bound = _bind(evaluation, grouping, inside, metric)
    value = bound.metric.statistic(bound.members[bound.user].astype(np.float64))
    if value is not None:
        return Part(value, draws, users), bound
    alone = registry.resolve("metrics", metric)(_rows_of(evaluation.record, inside))
    return Part(None, draws, users, alone.reason or "undefined on these rows"), None


def _bind(evaluation: Evaluation, grouping: Grouping, inside: np.ndarray, metric: str) -> _Bound:
    """A group of all rows of some users is the whole with no weight on the others; any other is
    evaluated by itself.
    """
    record = evaluation.record
    members = np.bincount(record.user, inside, record.users) > 0
    if grouping.positives:
        own = replace(record, label=np.where(inside, record.label, 0))
        members[:] = True
    elif np.array_equal(members[record.user], inside):
        return _Bound(evaluation.prepared[metric], record.user, members)
    else:
        own = _rows_of(record, inside)
    return _Bound(registry.resolve("metrics", metric)(own), own.user, members[: own.users])


def _rows_of(record: Record, inside: np.ndarray) -> Record:
    """Some rows; users keep their index."""
    requests, request = np.unique(record.request[inside], return_inverse=True)
    return Record(
        label=record.label[inside],
        score=record.score[inside],
        user=record.user[inside],
        request=request,
        item=record.item[inside],
        beyond=None if record.beyond is None else record.beyond[requests],
    )


def fairness_rows(
    common: Mapping[str, Any], variant: Groups, *, metric: str, baseline: Groups | None = None
) -> list[Row]:
    """Of each grouping G the metric of every group (``auc[G=value]``), of the worst (``worst[G]``,
    the reason names it) and how far it is from the best (``gap[G]``), each with a 95 % interval
    over users; with a ``baseline``, also the variant's less the baseline's (``_difference``).

    Worst and best are chosen on the whole split and kept in every resample; each side has its own.
    """
    rows = []
    for name, groups in variant.items():
        others = baseline[name] if baseline is not None else None
        for value, part in groups.items():
            label = f"[{name}={value}]"
            found = [_Figure(metric, label, part)]
            if others is not None:
                found.append(_less(found[0], _Figure(metric, label, others[value])))
            rows += [_row(common, figure, metric) for figure in found]
        for at, figure in enumerate(_extremes(name, groups, metric)):
            rows.append(_row(common, figure, metric))
            if others is not None:
                other = _extremes(name, others, metric)[at]
                rows.append(_row(common, _less(figure, other), metric))
    return rows


@dataclass(frozen=True)
class _Figure:
    name: str
    label: str
    part: Part
    note: str | None = None


def _extremes(name: str, groups: Mapping[str, Part], metric: str) -> tuple[_Figure, _Figure]:
    """The worst group and the gap between it and the best."""
    known = {v: p for v, p in groups.items() if p.value is not None}
    label = f"[{name}]"
    if len(known) < 2:
        users = sum(part.users for part in known.values())
        draws = np.full(len(next(iter(groups.values())).draws) if groups else 0, np.nan)
        nothing = Part(None, draws, users, "fewer than two groups have a value")
        return _Figure("worst", label, nothing), _Figure("gap", label, nothing)
    error = registry.entry("metrics", metric).marks["direction"] == "lower"
    order = sorted(known, key=lambda value: known[value].value or 0.0, reverse=error)
    worst, best = known[order[0]], known[order[-1]]
    gap = _less(
        _Figure("", "", worst if error else best), _Figure("", "", best if error else worst)
    )
    note = f"worst group: {order[0]}"
    return (
        _Figure("worst", label, worst, note),
        _Figure("gap", label, gap.part, f"best group: {order[-1]}; {note}"),
    )


def _less(figure: _Figure, other: _Figure) -> _Figure:
    one, two = figure.part, other.part
    reason = one.reason or two.reason
    value = None if one.value is None or two.value is None else one.value - two.value
    part = Part(value, one.draws - two.draws, one.users, reason)
    notes = [note for note in (figure.note, other.note) if note]
    note = "; baseline: ".join(notes) if len(set(notes)) > 1 else figure.note
    return _Figure(f"{figure.name}_difference", figure.label, part, note)


def _row(common: Mapping[str, Any], figure: _Figure, metric: str) -> Row:
    marks = registry.entry("metrics", metric).marks
    direction = "lower" if figure.name.startswith("gap") else marks["direction"]
    part = figure.part
    found = percentile_interval(part.value, part.draws, part.users)
    columns = {"unit": marks["unit"], "direction": direction}
    reason = part.reason if found.value is None else figure.note
    name = f"{figure.name}{figure.label}"
    return metric_row(common, "fairness", name, found, reason=reason, **columns)
