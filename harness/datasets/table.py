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
from harness.datasets.events import as_events
from harness.datasets.files import Dialect, find_files, read_files, stack
from harness.datasets.negatives import with_negatives
from harness.datasets.options import default, no_use
from harness.datasets.prepare import LARGEST
from harness.datasets.split import PART, at_random, by_time, leave_last, ties
from harness.errors import DataError
from harness.params import Columns, Count, Flag, Names, Ratio, Real, Text, Whole
from harness.schema import TaskName

ROLES = ("user", "item", "context")
FILE, TIME = "__file__", "__time__"
LENGTH = 50


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

    kind: Literal["time", "leave_last", "random"]
    validation: float
    test: float
    seed: int

    def __str__(self) -> str:
        if self.kind == "leave_last":
            return (
                f"leave last out per user: {self.test:g} test, {self.validation:g} validation; "
                "file order where times are the same"
            )
        shares = f"{self.test:.1%} test, {self.validation:.1%} validation"
        if self.kind == "random":
            return f"random split, seed {self.seed}: {shares}"
        return f"global time split: {shares}; rows of one time stay together, in the later part"


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
    validation_share: Ratio | None = None,
    test_share: Ratio | None = None,
    validation_last: Count | None = None,
    test_last: Count | None = None,
    negatives: Count | None = None,
    length: Count | None = None,
    repeats: Flag | None = None,
    seed: Whole | None = None,
    task: Literal["click", "rating", "next_item"] = "click",
) -> Tables:
    """Rows of csv or parquet files: one file, a folder, or a pattern, relative to the recipe.

    Extra columns are context features unless ``roles`` says otherwise. Without ``request`` every
    row is one. ``threshold`` turns a rating into a label; with the task rating the label is that
    number itself. Without ``label`` every row is a positive, and ``negatives`` for each are drawn
    from items that the user has nowhere.

    For the task next_item every row is an event; ``time`` is needed, a user's latest ``length``
    (50) events are the past that the next is told from, and extra columns are the user's or the
    item's. Unless ``repeats``, a validation or test row of an item that the user had before, there
    too, is dropped and counted.

    The split is by time where there is a ``time``, else random (``seed``, 7); the last
    ``test_share`` (0.1) is the test, ``validation_share`` (0.1) before it the validation; with
    ``leave_last`` each user's last ``test_last`` (1) and the ``validation_last`` (1) before them.
    ``test`` and ``validation`` name files of their own. A request's time is its first row's. Rows
    without a user, item, label or time, or with words in a number column, are dropped and counted.
    Raises ``DataError`` for what can't be read and for an option that has no effect.
    """
    mapping = _Map(
        user, item, label, time, request, categorical, numeric, roles or {}, threshold, task
    )
    _check(mapping, negatives, split)
    kind = split or ("time" if time else "random")
    if task != "next_item":
        no_use("table", f"the task {task}", length=length, repeats=repeats)
    if kind != "random" and negatives is None:
        no_use("table", f"split {kind!r} and no 'negatives'", seed=seed)
    _check_files(
        split,
        validation=(validation, validation_share, validation_last),
        test=(test, test_share, test_last),
    )
    rule = _rule(
        kind, default(seed, 7), (validation_share, test_share), (validation_last, test_last)
    )
    paths = {"train": path, "validation": validation, "test": test}
    raw = _read(folder, paths, mapping, Dialect(separator, encoding, escape))
    frame, dropped = _clean(raw, mapping)
    frame = frame.with_columns(_split(frame, mapping, rule))
    facts = {"ties": ties(frame[user], frame[TIME])} if time else {}
    if time and request:
        frame = frame.with_columns(pl.col(TIME).first().over("request"))
    positives = frame.height
    if negatives is not None:
        own = [column.name for column in mapping.columns() if column.role == "item"]
        frame = with_negatives(frame, negatives, user=user, item=item, own=own, seed=rule.seed)
        facts["negatives"] = f"{frame.height - positives:,} drawn for {positives:,} positives"
    drawn = frame.height - positives
    if task == "next_item":
        frame, again = as_events(frame, user, item, time=TIME, repeats=bool(repeats))
        dropped |= again
    return Tables(
        frame=frame,
        columns=mapping.columns(),
        label=label or "label",
        user=user,
        item=item,
        split_rule=_rule_text(rule, validation, test),
        read=raw.height + drawn,
        dropped=dropped,
        facts=facts,
        task=task,
        length=default(length, LENGTH) if task == "next_item" else 0,
        repeats=bool(repeats),
        time=TIME if time else None,
        protocol=None if kind == "random" or not time or validation or test else kind,
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
    if mapping.task == "next_item":
        _check_events(mapping, negatives, split)
    elif mapping.task == "rating" and (mapping.label is None or mapping.threshold is not None):
        raise DataError("table: task rating needs a 'label' of numbers, and no 'threshold'")
    elif mapping.label is None and negatives is None:
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


def _check_events(mapping: _Map, negatives: int | None, split: str | None) -> None:
    """What the task next_item can't do without, and what it has no use for."""
    no_use(
        "table",
        "the task next_item, where every row is an event",
        label=mapping.label,
        threshold=mapping.threshold,
        request=mapping.request,
        negatives=negatives,
    )
    if mapping.time is None or split == "random":
        raise DataError(
            "table: task next_item needs 'time', the column with the time of an event, and split "
            "'time' or 'leave_last'"
        )
    for name in (*mapping.categorical, *mapping.numeric):
        if mapping.roles.get(name) not in ("user", "item"):
            raise DataError(
                f"table: column {name!r}: the task next_item knows what a user or an item is like; "
                f"give roles: {{{name}: user}} or {{{name}: item}}, or leave the column out"
            )


def _check_files(split: str | None, **parts: tuple[str | None, float | None, int | None]) -> None:
    """``parts`` are the file of its own, the share and the last ones of validation and test."""
    for name, (file, share, last) in parts.items():
        if file is not None:
            options = {f"{name}_share": share, f"{name}_last": last}
            no_use("table", f"a {name!r} file of its own", **options)
    if all(file is not None for file, _, _ in parts.values()):
        no_use("table", "files for 'validation' and 'test'", split=split)


def _rule(
    kind: Literal["time", "leave_last", "random"],
    seed: int,
    shares: tuple[float | None, float | None],
    lasts: tuple[int | None, int | None],
) -> _Rule:
    """The rule with its defaults; each pair is for validation and test."""
    situation = f"split {kind!r}"
    if kind == "leave_last":
        no_use("table", situation, validation_share=shares[0], test_share=shares[1])
        return _Rule(kind, default(lasts[0], 1), default(lasts[1], 1), seed)
    no_use("table", situation, validation_last=lasts[0], test_last=lasts[1])
    return _Rule(kind, default(shares[0], 0.1), default(shares[1], 0.1), seed)


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
        return values.set(~(values.abs() <= LARGEST), None)  # neither is NaN
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


def _rule_text(rule: _Rule, validation: str | None, test: str | None) -> str:
    own = [
        f"{name} from {path!r}"
        for name, path in (("validation", validation), ("test", test))
        if path
    ]
    if len(own) == 2:
        return "; ".join(own)
    return "; ".join([str(rule), *own])
