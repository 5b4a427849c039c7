"""Raw tables to a prepared dataset: vocabularies, scaled numbers, requests, every row counted."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from harness.datasets.base import Column, Tables
from harness.datasets.events import event_facts
from harness.datasets.leakage import check_leaks
from harness.datasets.pasts import with_histories
from harness.errors import DataError
from harness.schema import FeatureSchema, Field, Vocabulary, scale
from harness.tables import PER_REQUEST, SPLITS, Prepared, Split, stored

ROW = "__row__"
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class _Encoded:
    """One field, and its value in every row that is kept."""

    field: Field
    values: np.ndarray  # (rows,) int32 ids or float32 numbers
    vocabulary: Vocabulary | None = None


def prepare(tables: Tables) -> Prepared:
    """Encoded splits with their schema, vocabularies, counts and facts.

    Vocabularies, means and scales come from the training rows. A missing number encodes to 0.0,
    the training mean; infinite and NaN ones, and those beyond float32, drop their row, with a
    count. Raises ``DataError`` for an empty split, a numeric column without a number, a user or
    context column that differs within a request, rows that aren't accounted for, or a leak (see
    ``check_leaks``).
    """
    _check_columns(tables)
    frame, lost = _finite(tables)
    counts = _counts(tables, frame.height, lost)
    _check_splits(tables, frame, counts)
    order, bounds = _request_order(frame)
    frame = frame[order]
    encoded = [_encode(frame, column, bounds["train"]) for column in tables.columns]
    schema = FeatureSchema(
        fields=tuple(item.field for item in encoded),
        label=tables.label,
        user=tables.user,
        item=tables.item,
        history=tables.history,
        task=tables.task,
        length=tables.length,
        repeats=tables.repeats,
    )
    splits = {
        name: _split(name, frame[first:last], _between(encoded, first, last), schema)
        for name, (first, last) in bounds.items()
    }
    if tables.task == "next_item":
        splits = with_histories(splits, frame["request"].to_numpy(), schema)
    vocabularies = {e.field.name: e.vocabulary for e in encoded if e.vocabulary is not None}
    facts = {**tables.facts, **_facts(tables, frame, bounds, splits)}
    if tables.task == "next_item":
        facts |= event_facts(tables, frame, bounds, splits)
    facts["leakage check"] = check_leaks(tables, frame, bounds, splits)
    digest = _hash(schema, vocabularies, splits)
    return Prepared(schema, vocabularies, splits, counts, digest, tables.split_rule, facts)


def _check_columns(tables: Tables) -> None:
    names = [column.name for column in tables.columns]
    wanted = [*names, tables.label, "request", "split", *filter(None, [tables.time])]
    missing = [name for name in wanted if name not in tables.frame.columns]
    if missing:
        raise DataError(f"the dataset has no column {missing[0]!r}; found {tables.frame.columns}")
    if not tables.columns or tables.columns[0].name != tables.user:
        raise DataError(f"the user column {tables.user!r} must be the first feature, got {names}")
    if tables.time is not None and tables.frame[tables.time].null_count():
        raise DataError(f"the time column {tables.time!r} has rows without a time")
    labels = tables.frame[tables.label]
    if tables.task == "next_item":
        if not (labels == 1).fill_null(False).all() or tables.length < 1:
            raise DataError("the rows of a next_item dataset are events: label 1, and a length")
    elif tables.task == "rating":
        if not labels.cast(pl.Float64, strict=False).is_finite().fill_null(False).all():
            raise DataError(f"label {tables.label!r} must be finite numbers, to be rated by")
    elif not labels.is_in([0, 1]).fill_null(False).all():
        raise DataError(f"label {tables.label!r} must be 0 or 1, got {labels.unique().head(5)}")


def _finite(tables: Tables) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows whose numbers are finite as float32 or missing, and a count per column of others."""
    frame = tables.frame.with_row_index(ROW)
    lost: dict[str, int] = {}
    for column in tables.columns:
        if column.kind != "numeric":
            continue
        # NaN is above every number here.
        good = (frame[column.name].cast(pl.Float64).abs() <= LARGEST).fill_null(True)
        if not good.all():
            lost[f"not finite in {column.name}"] = int((~good).sum())
            frame = frame.filter(good)
    return frame, lost


def _counts(tables: Tables, kept: int, lost: Mapping[str, int]) -> dict[str, int]:
    dropped = {f"dropped: {why}": n for why, n in {**tables.dropped, **lost}.items()}
    if tables.read != kept + sum(dropped.values()):
        raise DataError(
            f"{tables.read} rows were read, but {kept} kept and {sum(dropped.values())} dropped: "
            "the dataset lost count of its rows"
        )
    return {"read": tables.read, "kept": kept, **dropped}


def _check_splits(tables: Tables, frame: pl.DataFrame, counts: Mapping[str, int]) -> None:
    rows = dict(frame["split"].cast(pl.String).value_counts().iter_rows())
    strange = set(rows) - set(SPLITS)
    if strange:
        raise DataError(f"unknown split {sorted(map(str, strange))}; expected one of {SPLITS}")
    empty = [name for name in SPLITS if not rows.get(name)]
    if empty:
        parts = ", ".join(f"{name} {rows.get(name, 0)}" for name in SPLITS)
        raise DataError(
            f"{' and '.join(empty)} split empty: {tables.split_rule!r} gave {parts} rows "
            f"({'; '.join(f'{k} {v}' for k, v in counts.items())}); give more data or another split"
        )


def _request_order(frame: pl.DataFrame) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Row order by (split, request), stable, and the row range of each split."""
    part = frame["split"].cast(pl.Enum(list(SPLITS))).to_physical().to_numpy()
    order = np.lexsort((frame["request"].to_numpy(), part))
    ends = np.cumsum(np.bincount(part, minlength=len(SPLITS))).tolist()
    return order, dict(zip(SPLITS, zip([0, *ends[:-1]], ends, strict=True), strict=True))


def _encode(frame: pl.DataFrame, column: Column, train: tuple[int, int]) -> _Encoded:
    values = frame[column.name]
    if column.kind == "numeric":
        return _encode_number(values, column, train)
    vocabulary = _vocabulary(values[slice(*train)])
    known = values.unique()
    ids = pl.Series("id", vocabulary.encode(known.cast(pl.String).to_list()))
    table = pl.DataFrame({"value": known, "id": ids})
    joined = (
        values.alias("value")
        .to_frame()
        .join(table, on="value", how="left", nulls_equal=True, maintain_order="left")
    )
    field = Field(column.name, "categorical", column.role, len(vocabulary.values) + 1)
    return _Encoded(field, joined["id"].to_numpy().astype(np.int32), vocabulary)


def _vocabulary(train: pl.Series) -> Vocabulary:
    counts = train.alias("value").drop_nulls().to_frame().group_by("value").len()
    text = counts.with_columns(pl.col("value").cast(pl.String))
    ordered = text.group_by("value").agg(pl.col("len").sum())
    ordered = ordered.sort(["len", "value"], descending=[True, False])
    return Vocabulary(tuple(ordered["value"].to_list()))


def _encode_number(values: pl.Series, column: Column, train: tuple[int, int]) -> _Encoded:
    numbers = values.cast(pl.Float64)
    fit = numbers[slice(*train)].drop_nulls()
    if fit.is_empty():
        raise DataError(
            f"numeric column {column.name!r} has no number in the training rows; leave it out"
        )
    low, high, mean, std = fit.min(), fit.max(), float(fit.mean()), float(fit.std(ddof=0))  # type: ignore[arg-type]
    constant = low == high or not np.isfinite(std) or std == 0.0
    field = Field(column.name, "numeric", column.role, 0, mean, 0.0 if constant else std)
    return _Encoded(field, scale(numbers.fill_null(mean).to_numpy(), field))


def _between(encoded: list[_Encoded], first: int, last: int) -> dict[str, np.ndarray]:
    return {item.field.name: item.values[first:last] for item in encoded}


def _split(
    name: str, frame: pl.DataFrame, values: Mapping[str, np.ndarray], schema: FeatureSchema
) -> Split:
    request = frame["request"].to_numpy()
    first = np.flatnonzero(np.append(True, request[1:] != request[:-1]))
    offsets = np.append(first, len(request)).astype(np.int64)
    arrays = {}
    for group, fields in schema.groups().items():
        names = [field.name for field in fields]
        if group in PER_REQUEST:
            for field in names:
                _check_shared(field, values[field], offsets)
        rows: slice | np.ndarray = first if group in PER_REQUEST else slice(None)
        arrays[group] = np.stack([values[field][rows] for field in names], axis=1)
    label = frame[schema.label].to_numpy().astype(np.float32)
    return Split(name, arrays, label, offsets, frame[ROW].to_numpy().astype(np.int64))


def _check_shared(name: str, values: np.ndarray, offsets: np.ndarray) -> None:
    shared = np.repeat(values[offsets[:-1]], np.diff(offsets))
    if not np.array_equal(shared, values):
        raise DataError(
            f"column {name!r} is a user or context feature but differs within a request; "
            "give it the role 'item', or give 'request' a column that tells requests apart"
        )


def _facts(
    tables: Tables,
    frame: pl.DataFrame,
    bounds: Mapping[str, tuple[int, int]],
    splits: Mapping[str, Split],
) -> dict[str, str]:
    facts = {name: f"{s.rows:,} rows in {s.requests:,} requests" for name, s in splits.items()}
    train, test = (frame[slice(*bounds[name])] for name in ("train", "test"))
    for what, name in (("users", tables.user), ("items", tables.item)):
        facts[f"cold {what} in test"] = _cold(train[name], test[name], what)
    facts["parts of users"] = _presence(frame.select(tables.user, "split"), tables.user)
    for column in tables.columns:
        missing = frame[column.name].null_count()
        if column.kind == "numeric" and missing:
            facts[f"missing in {column.name}"] = f"{missing:,} rows, taken as the training mean"
        if column.kind == "numeric" and frame[column.name].n_unique() == 1:
            facts[f"constant {column.name}"] = "one value only, encoded as 0.0"
    return facts


def _cold(train: pl.Series, test: pl.Series, what: str) -> str:
    known = test.is_in(train.unique().implode())
    cold, total = test.filter(~known).n_unique(), test.n_unique()
    rows = int((~known).sum())
    return (
        f"{cold:,} of {total:,} {what} ({cold / total:.1%}), "
        f"{rows:,} of {len(test):,} rows ({rows / len(test):.1%})"
    )


def _presence(rows: pl.DataFrame, user: str) -> str:
    """How many users each part has, and how many have rows in train alone."""
    place = pl.col("split").cast(pl.String)
    has = [(place == name).any().alias(name) for name in SPLITS]
    users = rows.group_by(user).agg(has)
    tested, validated = int(users["test"].sum()), int(users["validation"].sum())
    alone = users.filter(~pl.col("test") & ~pl.col("validation")).height
    return (
        f"{tested:,} of {users.height:,} users have test rows, {validated:,} validation rows, "
        f"{alone:,} training rows only"
    )


def _hash(
    schema: FeatureSchema, vocabularies: Mapping[str, Vocabulary], splits: Mapping[str, Split]
) -> str:
    digest = hashlib.sha256(json.dumps(schema.to_json(), sort_keys=True).encode())
    words = {name: vocabulary.values for name, vocabulary in vocabularies.items()}
    digest.update(json.dumps(words, sort_keys=True).encode())
    for name, split in splits.items():
        for part, array in sorted(stored(split).items()):
            digest.update(f"{name}/{part} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
