"""Events in the order of time: what a user had before, and what is said of a next-item dataset."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from harness.datasets.base import Tables
from harness.datasets.leakage import Bounds
from harness.tables import SPLITS, Split

AGAIN = "item that the user had before, in validation or test"


def as_events(
    frame: pl.DataFrame, user: str, item: str, *, time: str, repeats: bool
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows in the order of ``time`` (of the frame where it is the same) with one request for
    each user, and a count of dropped rows.

    Unless ``repeats``, rows of validation and test go whose item the user had in an earlier part or
    earlier in the same; training rows stay as they are, they are what the user did.
    """
    users = pl.col(user).rank("dense").cast(pl.Int64).alias("request")
    ordered = frame.sort(time, maintain_order=True).with_columns(users)
    if repeats:
        return ordered, {}
    place = pl.col("split").cast(pl.Enum(list(SPLITS))).to_physical()
    first = ordered.with_row_index("__place__").sort(place, "__place__", maintain_order=True)
    first = first.unique(["request", item], keep="first")
    kept = (pl.col("split").cast(pl.String) == "train") | pl.col("__place__").is_in(
        first["__place__"].implode()
    )
    left = ordered.with_row_index("__place__").filter(kept).drop("__place__")
    lost = ordered.height - left.height
    return left, {AGAIN: lost} if lost else {}


def event_facts(
    tables: Tables, frame: pl.DataFrame, bounds: Bounds, splits: Mapping[str, Split]
) -> dict[str, str]:
    """The past that test rows have, and the repeat policy with how many test rows it concerns."""
    return {
        "test without a past": _without_past(splits["test"]),
        "past": f"the latest {tables.length:,} events before the row's part, of train rows before "
        "the row",
        "repeats": _repeats(tables, frame, bounds),
    }


def _without_past(test: Split) -> str:
    assert test.histories is not None
    bare = np.asarray(test.histories.end) == np.asarray(test.histories.start)[test.request_of_row]
    users = len(np.unique(test.request_of_row[bare]))
    return f"{_share(users, test.requests)} users, {_share(int(bare.sum()), test.rows)} rows"


def _repeats(tables: Tables, frame: pl.DataFrame, bounds: Bounds) -> str:
    begin, end = bounds["test"]
    keys = ["request", tables.item]
    had = frame[:begin].select(keys).unique()
    again = frame[begin:end].select(keys).join(had, on=keys, how="semi", nulls_equal=True).height
    policy = (
        "an item that the user had before may be recommended again"
        if tables.repeats
        else "an item that the user had before is never recommended"
    )
    return f"{policy}; {_share(again, end - begin)} test rows are such items"


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})"
