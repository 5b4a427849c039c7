"""Rows of a user and an item that the user has nowhere, drawn for data of positives alone."""

import numpy as np
import polars as pl

from harness.datasets.draw import distinct, mix


def with_negatives(
    frame: pl.DataFrame,
    negatives: int,
    *,
    user: str,
    item: str,
    own: list[str],
    seed: int,
) -> pl.DataFrame:
    """The positives, and for each of them seeded items that its user has nowhere in the data.

    A drawn row has label 0, the ``own`` columns of the item's first row and all others of its
    request. Rows of a request are in an order of items that says nothing about the label.
    """
    items = frame[item].unique(maintain_order=True)
    had = _code(frame[item], items)
    owner = _code(frame[user], frame[user].unique(maintain_order=True))
    request, first, counts = np.unique(
        frame["request"].to_numpy(), return_index=True, return_counts=True
    )
    seen = np.unique(owner * len(items) + had)
    begin = np.searchsorted(seen // len(items), np.arange(owner.max() + 2))
    free = len(items) - np.diff(begin)[owner[first]]
    place, of = distinct(request, free, counts * negatives, seed=seed)
    drawn = _unseen(seen, begin, owner[first][of], place, len(items))
    first_row = np.unique(had, return_index=True)[1]
    rows = frame[first[of]].with_columns(
        *(frame[name].gather(first_row[drawn]) for name in own),
        pl.lit(0, dtype=pl.Int8).alias("label"),
    )
    shuffled = mix(np.concatenate([had, drawn]), 0)
    order = np.lexsort((shuffled, np.concatenate([frame["request"], rows["request"]])))
    whole: pl.DataFrame = pl.concat([frame, rows])[order]
    return whole


def _code(values: pl.Series, known: pl.Series) -> np.ndarray:
    codes = values.replace_strict(known, np.arange(len(known)), return_dtype=pl.Int64)
    return np.asarray(codes.to_numpy())  # (rows,)


def _unseen(
    seen: np.ndarray, begin: np.ndarray, user: np.ndarray, place: np.ndarray, items: int
) -> np.ndarray:
    """The ``place``-th item that each user hasn't seen.

    Of a user's sorted seen items, the j-th is passed when item - j <= place: those differences
    never fall, so one search over (user, difference) counts them.
    """
    owner = seen // items
    shifted = owner * (items + 1) + seen % items - (np.arange(len(seen)) - begin[owner])
    passed = np.searchsorted(shifted, user * (items + 1) + place, side="right") - begin[user]
    return np.asarray(place + passed)  # (drawn,)
