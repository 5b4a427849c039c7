"""The user's own csv or parquet: columns mapped to features, every row kept or counted."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from harness.datasets import parse
from harness.datasets.base import Column, Tables, dataset
from harness.datasets.draw import distinct, mix
from harness.datasets.files import Dialect, find_files, read_files, stack
from harness.datasets.split import PART, at_random, by_time, leave_last, ties
from harness.errors import DataError
from harness.params import Columns, Count, Names, Ratio, Real, Text, Whole
from harness.schema import TaskName

ROLES = ("user", "item", "context")
FILE, TIME = "__file__", "__time__"


@dataclass(frozen=True)
class _Map:
    """Which column of the files is what."""

    user: str
    item: str
    label: str | None
    time: str | None
    request: str | None
    categorical: tuple[str, ...]
    numeric: tuple[str, ...]
    roles: Mapping[str, str]
    threshold: float | None
    task: TaskName = "click"

    def names(self) -> tuple[str, ...]:
        special = [self.user, self.item, self.label, self.time, self.request]
        named = [name for name in special if name is not None]
        return tuple(dict.fromkeys([*named, *self.categorical, *self.numeric]))

    def columns(self) -> tuple[Column, ...]:
        """The feature columns, the user's first."""
        words = dict.fromkeys([self.user, self.item, *self.categorical])
        roles = {**self.roles, self.user: "user", self.item: "item"}
        kinds = [(name, "categorical") for name in words] + [(n, "numeric") for n in self.numeric]
        return tuple(Column(name, kind, roles.get(name, "context")) for name, kind in kinds)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Rule:
    """How rows are split."""

    kind: str
    validation: float
    test: float
    seed: int

    def __str__(self) -> str:
        if self.kind == "leave_last":
            return f"leave last out per user: {self.test:g} test, {self.validation:g} validation"
        name = {"time": "global time split", "random": f"random split, seed {self.seed}"}[self.kind]
        return f"{name}: {self.test:.1%} test, {self.validation:.1%} validation"


@dataset(source="files of your own", licence="yours")
def load(
    folder: Path,
    *,
    path: Text,
    user: Text,
    item: Text,
    label: Text | None = None,
    threshold: Real | None = None,
    time: Text | None = None,
    request: Text | None = None,
    categorical: Names = (),
    numeric: Names = (),
    roles: Columns | None = None,
    separator: Text | None = None,
    encoding: Text = "utf-8",
    escape: Text | None = None,
    validation: Text | None = None,
    test: Text | None = None,
    split: Literal["time", "leave_last", "random"] | None = None,
    validation_share: Ratio = 0.1,
    test_share: Ratio = 0.1,
    validation_last: Count = 1,
    test_last: Count = 1,
    negatives: Count | None = None,
    seed: Whole = 7,
    task: Literal["click", "rating"] = "click",
) -> Tables:
    """Rows of csv or parquet files: one file, a folder, or a pattern, relative to the recipe.

    Extra columns are context features unless ``roles`` says otherwise. Without ``request`` every
    row is one. ``threshold`` turns a rating into a label; with the task rating the label is that
    number itself. Without ``label`` every row is a
    positive, and ``negatives`` for each are drawn from items that the user has nowhere. The
    split is by time where there is a ``time``, else random; ``test`` and ``validation`` name
    files of their own. Rows without a user, item, label or time, or with words in a number
    column, are dropped and counted. Raises ``DataError`` for what can't be read.
    """
    mapping = _Map(
        user, item, label, time, request, categorical, numeric, roles or {}, threshold, task
    )
    _check(mapping, negatives, split)
    paths = {"train": path, "validation": validation, "test": test}
    raw = _read(folder, paths, mapping, Dialect(separator, encoding, escape))
    frame, dropped = _clean(raw, mapping)
    kind = split or ("time" if time else "random")
    last = kind == "leave_last"
    rule = _Rule(
        kind,
        validation_last if last else validation_share,
        test_last if last else test_share,
        seed,
    )
    frame = frame.with_columns(_split(frame, mapping, rule))
    facts = {"ties": ties(frame[user], frame[TIME])} if time else {}
    positives = frame.height
    if negatives is not None:
        frame = _with_negatives(frame, mapping, negatives, seed)
        facts["negatives"] = f"{frame.height - positives:,} drawn for {positives:,} positives"
    return Tables(
        frame=frame,
        columns=mapping.columns(),
        label=label or "label",
        user=user,
        item=item,
        split_rule=_rule_text(rule, validation, test),
        read=raw.height + frame.height - positives,
        dropped=dropped,
        facts=facts,
        task=task,
    )


def fingerprint(
    folder: Path,
    *,
    path: Text,
    validation: Text | None = None,
    test: Text | None = None,
    **parameters: Any,
) -> str:
    """sha256 over the content of all files and the other parameters."""
    digest = hashlib.sha256(repr(sorted(parameters.items())).encode())
    for name in (path, validation, test):
        for file in find_files(folder, name) if name else ():
            digest.update(repr([part for part in file.parts if "=" in part]).encode())
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        digest.update(b"/")
    return digest.hexdigest()


def _check(mapping: _Map, negatives: int | None, split: str | None) -> None:
    if mapping.task == "rating" and (mapping.label is None or mapping.threshold is not None):
        raise DataError("table: task rating needs a 'label' of numbers, and no 'threshold'")
    if mapping.label is None and negatives is None:
        raise DataError(
            "table: without 'label' every row is a positive; give 'label', or 'negatives' to draw"
        )
    if mapping.label is not None and negatives is not None:
        raise DataError("table: 'negatives' is for data without a 'label'; leave one of them out")
    if split == "time" and mapping.time is None:
        raise DataError("table: split 'time' needs 'time', the column with the time of a row")
    extra = {*mapping.categorical, *mapping.numeric}
    for name, role in mapping.roles.items():
        if role not in ROLES or name not in extra:
            raise DataError(
                f"table: roles: {name!r}: {role!r}: expected a column of 'categorical' or "
                f"'numeric' ({sorted(extra)}) and one of {ROLES}"
            )
    _check_names(mapping)


def _check_names(mapping: _Map) -> None:
    jobs = [mapping.user, mapping.item, mapping.label, *mapping.categorical, *mapping.numeric]
    twice = [name for name in jobs if name is not None and jobs.count(name) > 1]
    if twice:
        raise DataError(f"table: column {twice[0]!r} has two jobs; name it once")
    ours = {"request", "split", FILE, TIME} | (set() if mapping.label else {"label"})
    taken = sorted(ours & {name for name in jobs if name})
    if taken:
        raise DataError(f"table: the column name {taken[0]!r} is taken; rename it in the file")


def _read(
    folder: Path, paths: Mapping[str, str | None], mapping: _Map, dialect: Dialect
) -> pl.DataFrame:
    frames = []
    for part, path in paths.items():
        if path is not None:
            frame = read_files(folder, path, mapping.names(), dialect)
            frames.append(frame.with_columns(pl.lit(part).alias(FILE)))
    return stack(frames)


def _labels(column: pl.Series, mapping: _Map) -> pl.Series:
    """The label of each row; null where the cell can't be one."""
    if mapping.task == "rating":
        values = parse.number(column)
        return values.set(~values.is_finite(), None)
    return parse.label(column, threshold=mapping.threshold)


def _clean(raw: pl.DataFrame, mapping: _Map) -> tuple[pl.DataFrame, dict[str, int]]:
    """Typed rows in the order of the files, and how many each reason dropped (the first counts)."""
    words = {name: parse.text(raw[name]) for name in (mapping.user, mapping.item)}
    bad = {f"blank {name}": column.is_null() for name, column in words.items()}
    words |= {name: parse.text(raw[name]) for name in mapping.categorical}
    label = pl.Series([1], dtype=pl.Int8).new_from_index(0, raw.height)
    if mapping.label is not None:
        label = _labels(raw[mapping.label], mapping)
        bad[f"unusable label in {mapping.label}"] = label.is_null()
    time = pl.Series([0], dtype=pl.Int64).new_from_index(0, raw.height)
    if mapping.time is not None:
        time = parse.time(raw[mapping.time])
        bad[f"unusable time in {mapping.time}"] = time.is_null()
    numbers = {}
    for name in mapping.numeric:
        numbers[name] = parse.number(raw[name])
        bad[f"not a number in {name}"] = (
            numbers[name].is_null() & parse.text(raw[name]).is_not_null()
        )
    request = _requests(raw, mapping)
    if mapping.request is not None:
        bad[f"blank {mapping.request}"] = request.is_null()
    made = {**words, **numbers, mapping.label or "label": label, TIME: time, "request": request}
    frame = pl.DataFrame({**made, FILE: raw[FILE]})
    return _drop(frame, bad)


def _requests(raw: pl.DataFrame, mapping: _Map) -> pl.Series:
    """A number for each request of each file, in order of appearance, or one for each row."""
    if mapping.request is None:
        return pl.Series(np.arange(raw.height))
    words = raw[FILE] + "/" + parse.text(raw[mapping.request])
    known = words.drop_nulls().unique(maintain_order=True)
    return words.replace_strict(known, np.arange(len(known)), default=None, return_dtype=pl.Int64)


def _drop(frame: pl.DataFrame, bad: Mapping[str, pl.Series]) -> tuple[pl.DataFrame, dict[str, int]]:
    dropped: dict[str, int] = {}
    good = np.ones(frame.height, dtype=bool)
    for reason, column in bad.items():
        lost = good & column.to_numpy()
        if lost.any():
            dropped[reason] = int(lost.sum())
        good &= ~lost
    if not good.any():
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        raise DataError(f"table: none of {frame.height} rows can be used ({reasons})")
    return frame.filter(good), dropped


def _split(frame: pl.DataFrame, mapping: _Map, rule: _Rule) -> pl.Series:
    """The part of each row: its file's, and for the first file's rows what the rule says.

    A request is split as a whole, by its first row's user and time.
    """
    files = set(frame[FILE].unique())
    whole = frame.unique("request", keep="first", maintain_order=True)
    cut = whole.filter(pl.col(FILE) == "train")
    rest = replace(
        rule,
        validation=0 if "validation" in files else rule.validation,
        test=0 if "test" in files else rule.test,
    )
    part = _apply(rest, cut[mapping.user], cut[TIME]).alias("split")
    own = whole.filter(pl.col(FILE) != "train").select(
        "request", pl.col(FILE).cast(PART).alias("split")
    )
    parts = pl.concat([pl.DataFrame([cut["request"], part]), own])
    return frame.select("request").join(parts, on="request", how="left", maintain_order="left")[
        "split"
    ]


def _apply(rule: _Rule, user: pl.Series, time: pl.Series) -> pl.Series:
    if rule.kind == "time":
        return by_time(time, validation=rule.validation, test=rule.test)
    if rule.kind == "leave_last":
        return leave_last(user, time, validation=int(rule.validation), test=int(rule.test))
    return at_random(len(time), validation=rule.validation, test=rule.test, seed=rule.seed)


def _with_negatives(frame: pl.DataFrame, mapping: _Map, negatives: int, seed: int) -> pl.DataFrame:
    """The positives, and for each of them seeded items that its user has nowhere in the data.

    A drawn row has the item columns of the item's first row and all others of its request. Rows
    of a request are in an order of items that says nothing about the label.
    """
    items = frame[mapping.item].unique(maintain_order=True)
    item = _code(frame[mapping.item], items)
    user = _code(frame[mapping.user], frame[mapping.user].unique(maintain_order=True))
    request, first, counts = np.unique(
        frame["request"].to_numpy(), return_index=True, return_counts=True
    )
    seen = np.unique(user * len(items) + item)
    begin = np.searchsorted(seen // len(items), np.arange(user.max() + 2))
    free = len(items) - np.diff(begin)[user[first]]
    place, of = distinct(request, free, counts * negatives, seed=seed)
    drawn = _unseen(seen, begin, user[first][of], place, len(items))
    own = [c.name for c in mapping.columns() if c.role == "item"]
    first_row = np.unique(item, return_index=True)[1]
    rows = frame[first[of]].with_columns(
        *(frame[name].gather(first_row[drawn]) for name in own),
        pl.lit(0, dtype=pl.Int8).alias(mapping.label or "label"),
    )
    shuffled = mix(np.concatenate([item, drawn]), 0)
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


def _rule_text(rule: _Rule, validation: str | None, test: str | None) -> str:
    own = [
        f"{name} from {path!r}"
        for name, path in (("validation", validation), ("test", test))
        if path
    ]
    if len(own) == 2:
        return "; ".join(own)
    return "; ".join([str(rule), *own])
