"""The check that nothing was learnt from the future: by the time of rows, and of what is past."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import polars as pl

from harness.datasets.base import Tables
from harness.errors import DataError
from harness.histories import Histories
from harness.tables import SPLITS, Split

Bounds = Mapping[str, tuple[int, int]]


def check_leaks(
    tables: Tables, frame: pl.DataFrame, bounds: Bounds, splits: Mapping[str, Split]
) -> str:
    """What was checked and that it held, or why nothing could be checked.

    ``frame`` has the rows of the splits one after the other, ``bounds`` where each begins and
    ends. Rows of the same time are no leak: the split rule says how it puts them in order. Raises
    ``DataError`` for a row that is later than a later part's, and for a past that holds anything
    but what came before the row in earlier parts.
    """
    parts = {name: frame[slice(*bounds[name])] for name in SPLITS}
    found = []
    if tables.task == "next_item":
        check_pasts(tables, parts, splits)
        found.append("every past ends before its row and is of earlier parts")
    if tables.time is None:
        found.append("times were not compared, the dataset has none")
    elif tables.protocol == "time":
        _check_boundaries(tables, parts)
        found.append("no row is later than one of a later part")
    elif tables.protocol == "leave_last" or tables.task == "next_item":
        _check_users(tables, parts)
        found.append("no row of a user is later than one of theirs in a later part")
        found.append(_boundary_ties(tables, parts))
    else:
        return (
            f"not applicable: the split promises nothing about time; {_later(tables.time, parts)}"
        )
    promised = tables.time is not None or tables.task == "next_item"
    return ("passed: " if promised else "not done: ") + "; ".join(found)


def check_pasts(
    tables: Tables, parts: Mapping[str, pl.DataFrame], splits: Mapping[str, Split]
) -> None:
    """Raise ``DataError`` unless the past of a training row is its user's rows before it, none of
    them later, and that of any other row all its user's rows in earlier parts.
    """
    earlier = pl.Series("request", [], dtype=parts["train"]["request"].dtype)
    for name in SPLITS:
        split = splits[name]
        assert split.histories is not None
        if name == "train":
            _check_rolling(tables.time, parts[name], split, split.histories)
        else:
            _check_earlier(name, earlier, parts[name]["request"], split, split.histories)
        earlier = pl.concat([earlier, parts[name]["request"]])


def _check_rolling(
    time: str | None, train: pl.DataFrame, split: Split, histories: Histories
) -> None:
    begins = np.asarray(split.offsets[:-1])
    if not (
        np.array_equal(histories.start, begins)
        and np.array_equal(histories.end, np.arange(split.rows))
    ):
        raise DataError("leak: the past of a train row isn't what stands before it")
    if time is None:
        return
    when = train[time].to_physical().to_numpy()
    back = when[1:] < when[:-1]  # a row that is earlier than the one before it
    back[begins[1:] - 1] = False  # of another user
    if back.any():
        raise DataError(
            f"leak: {int(back.sum())} train rows are earlier than the event before them in the "
            f"past ({time}); a next_item dataset must be in the order of time"
        )


def _check_earlier(
    name: str, earlier: pl.Series, own: pl.Series, split: Split, histories: Histories
) -> None:
    known = np.sort(earlier.to_numpy())
    request = own.to_numpy()[split.offsets[:-1]]
    right, left = (np.searchsorted(known, request, side) for side in ("right", "left"))
    allowed = np.repeat(right - left, np.diff(split.offsets))  # (rows,)
    length = np.asarray(histories.end) - np.asarray(histories.start)[split.request_of_row]
    wrong = int((length != allowed).sum())
    if wrong:
        raise DataError(
            f"leak: the past of {wrong} {name} rows doesn't hold all of their user's events in "
            "earlier parts and nothing else"
        )


def _check_boundaries(tables: Tables, parts: Mapping[str, pl.DataFrame]) -> None:
    assert tables.time is not None
    for before, after in pairwise(SPLITS):
        first = parts[after][tables.time].min()
        late = int((parts[before][tables.time] > first).sum())
        if late:
            _refuse(tables, late, before, f"the first {after} row ({tables.time} {first!s})")


def _check_users(tables: Tables, parts: Mapping[str, pl.DataFrame]) -> None:
    assert tables.time is not None
    time = pl.col(tables.time)
    for place, after in enumerate(SPLITS[1:], start=1):
        first = parts[after].group_by(tables.user).agg(time.min().alias("__first__"))
        for before in SPLITS[:place]:
            rows = parts[before].join(first, on=tables.user, nulls_equal=True)
            late = rows.filter(time > pl.col("__first__")).height
            if late:
                _refuse(tables, late, before, f"a {after} row of the same user ({tables.time})")


def _refuse(tables: Tables, late: int, before: str, than: str) -> None:
    raise DataError(
        f"leak: {late} {before} rows are later than {than}, but the split is "
        f"{tables.split_rule!r}; split by that time, or give parts that are in its order"
    )


def _boundary_ties(tables: Tables, parts: Mapping[str, pl.DataFrame]) -> str:
    """How many test rows the stated order of ties put behind a row of the same user and time."""
    keys = [tables.user, str(tables.time)]
    before = pl.concat([parts[name].select(keys) for name in SPLITS[:-1]])
    tied = parts["test"].select(keys).join(before, on=keys, how="semi", nulls_equal=True).height
    return f"{tied:,} test rows share their time with an earlier part's row, put in order as stated"


def _later(time: str, parts: Mapping[str, pl.DataFrame]) -> str:
    train, first = parts["train"][time], parts["test"][time].min()
    late = int((train > first).sum())
    return f"{late:,} of {len(train):,} training rows are later than the first test row"
