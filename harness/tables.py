"""Prepared data in memory: encoded splits in request order, and the arrays that a model takes.

Rows of one request stand together; user and context features are stored once per request.
Arrays are memory-mapped, so that a split costs what is touched of it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.errors import DataError
from harness.histories import Histories
from harness.schema import GROUPS, UNKNOWN, FeatureSchema, Vocabulary, read_schema, write_schema

SPLITS = ("train", "validation", "test")
PER_REQUEST = ("user", "context", "user_values", "context_values")
PAST = ("history", "seen")
"""Inputs of next-item models: the latest items, of fixed length, and all that the user had."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model: a free axis is a name, a fixed one a number.

    ``fields`` names the features packed along the last axis of an input (one feature: no such
    axis for flat models).
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """One part of the data. ``arrays`` holds the groups of ``schema.GROUPS`` that exist:
    per-request ones are (requests, fields), candidate ones (rows, fields).
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    label: np.ndarray  # (rows,) float32
    offsets: np.ndarray  # (requests + 1,) int64: rows of request r are offsets[r]:offsets[r + 1]
    row_id: np.ndarray  # (rows,) int64, unique over the whole dataset
    histories: Histories | None = None  # where the task is next_item

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.label)

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self.offsets) - 1

    @cached_property
    def request_of_row(self) -> np.ndarray:
        """Index of each row's request, (rows,) int64."""
        return np.repeat(np.arange(self.requests), np.diff(self.offsets))

    @cached_property
    def user_of_row(self) -> np.ndarray:
        """Encoded id of each row's user (first field of ``user``), (rows,)."""
        users: np.ndarray = np.asarray(self.arrays["user"][:, 0])[self.request_of_row]
        return users


@dataclass(frozen=True)
class Prepared:
    """A dataset ready to train and score on; ``counts`` accounts for every row read."""

    schema: FeatureSchema
    vocabularies: Mapping[str, Vocabulary]
    splits: Mapping[str, Split]
    counts: Mapping[str, int]
    """``read``, ``kept`` and one ``dropped: <reason>`` each; read = kept + all dropped."""
    hash: str
    """sha256 over the encoded content."""
    split_rule: str
    facts: Mapping[str, str]
    """What a reader should know: source, licence, cold users and items, ties, notices."""


def feeds(
    schema: FeatureSchema, split: Split, rows: np.ndarray, inputs: tuple[TensorSpec, ...]
) -> dict[str, np.ndarray]:
    """Arrays for a model, by input name. ``rows`` is (requests, candidates) row indices, where all
    rows of a line belong to one request; a model with flat inputs gets ``rows.ravel()``.
    """
    return {spec.name: _feed(schema, split, rows, spec) for spec in inputs}


def _feed(schema: FeatureSchema, split: Split, rows: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if spec.shape[0] == "rows":
        columns = [_column(schema, split, rows.ravel(), name) for name in spec.fields]
        flat = columns[0] if len(spec.shape) == 1 else np.stack(columns, axis=1)
        return flat.astype(spec.dtype, copy=False)  # (rows,) or (rows, fields)
    if spec.name in PAST:
        return _past(schema, split, rows[:, 0], spec)
    source = split.arrays[spec.name]
    at = split.request_of_row[rows[:, 0]] if spec.name in PER_REQUEST else rows
    taken: np.ndarray = source[at].astype(spec.dtype, copy=False)
    return taken  # (requests, fields) or (requests, candidates, fields)


def _past(schema: FeatureSchema, split: Split, rows: np.ndarray, spec: TensorSpec) -> np.ndarray:
    assert split.histories is not None, "the data has no histories"
    requests = split.request_of_row[rows]
    if spec.name == "seen":
        return split.histories.seen(requests, rows).astype(spec.dtype)  # (requests, seen)
    past = split.histories.last(requests, rows, length=schema.length)
    return past.astype(spec.dtype)  # (requests, length)


def _column(schema: FeatureSchema, split: Split, rows: np.ndarray, name: str) -> np.ndarray:
    for group, _, _ in GROUPS:
        if name in [field.name for field in schema.group(group)]:
            at = split.request_of_row[rows] if group in PER_REQUEST else rows
            taken: np.ndarray = column(schema, split, group, name)[at]
            return taken
    raise KeyError(name)


def column(schema: FeatureSchema, split: Split, group: str, name: str) -> np.ndarray:
    """A field's values as a split stores them: (requests,) of the user and the context, (rows,) of
    the candidates.
    """
    names = [field.name for field in schema.group(group)]
    values: np.ndarray = np.asarray(split.arrays[group][:, names.index(name)])
    return values


def item_ids(schema: FeatureSchema, split: Split) -> np.ndarray:
    """Each row's item, (rows,)."""
    return column(schema, split, "candidates", schema.item)


def told_apart(ids: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Ids whose unknown ones became negative, each by its number in ``own`` (0 or more): one
    unknown user or item isn't another.
    """
    found: np.ndarray = np.where(ids == UNKNOWN, -1 - own, ids)
    return found


def request_batches(split: Split, *, max_rows: int) -> Iterator[np.ndarray]:
    """Row indices of all requests, (requests, candidates) each, without padding.

    Requests of the same length go together; a batch holds at most ``max_rows`` rows, or one
    request. Every row comes out exactly once.
    """
    lengths = np.diff(split.offsets)
    for length in np.unique(lengths):
        if length == 0:
            continue
        starts = split.offsets[:-1][lengths == length]
        step = max(1, max_rows // int(length))
        for first in range(0, len(starts), step):
            yield starts[first : first + step, None] + np.arange(length)


def write_prepared(folder: Path, prepared: Prepared) -> None:
    """Write a prepared dataset as .npy arrays and JSON into an existing folder."""
    write_schema(folder, prepared.schema, prepared.vocabularies)
    for split in prepared.splits.values():
        target = folder / split.name
        target.mkdir()
        for name, array in stored(split).items():
            np.save(target / f"{name}.npy", array, allow_pickle=False)
    meta = {
        "hash": prepared.hash,
        "counts": dict(prepared.counts),
        "split_rule": prepared.split_rule,
        "facts": dict(prepared.facts),
    }
    (folder / "data.json").write_text(json.dumps(meta, indent=1))


def stored(split: Split) -> dict[str, np.ndarray]:
    """All arrays that a split consists of, by the name of their file."""
    own = {"label": split.label, "offsets": split.offsets, "row_id": split.row_id}
    if split.histories is not None:
        past = split.histories
        own |= {"events": past.events, "past_start": past.start, "past_end": past.end}
    return {**split.arrays, **own}


def read_prepared(folder: Path) -> Prepared:
    """The dataset that ``write_prepared`` wrote, memory-mapped."""
    schema, vocabularies = read_schema(folder)
    meta = json.loads((folder / "data.json").read_text())
    splits = {name: _read_split(folder / name, schema) for name in SPLITS}
    return Prepared(schema, vocabularies, splits, **meta)


def _read_split(folder: Path, schema: FeatureSchema) -> Split:
    def read(name: str) -> np.ndarray:
        try:
            array: np.ndarray = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{folder / name}.npy: not a plain array ({error})") from error
        return array

    arrays = {name: read(name) for name in schema.groups()}
    histories = None
    if schema.task == "next_item":
        histories = Histories(read("events"), read("past_start"), read("past_end"))
    return Split(folder.name, arrays, read("label"), read("offsets"), read("row_id"), histories)
