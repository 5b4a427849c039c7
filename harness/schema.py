"""The features of a dataset: which fields there are, what they mean, and how raw values become ids.

The schema and the vocabularies travel inside every artifact, so that a served artifact maps raw
values itself and scales numbers with the statistics of its own training rows.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from harness.errors import DataError
from harness.strict_json import load_json

Kind = Literal["categorical", "numeric"]
Role = Literal["user", "context", "item"]
TaskName = Literal["click", "rating", "next_item"]
"""What is to be told: 0 or 1, a number, or which item comes next. See ``harness.tasks``."""

UNKNOWN = 0
"""The declared row of every table that values outside its vocabulary, and missing ones, map to.

In a history it also fills up what is shorter, and it is never recommended.
"""

LARGEST_VOCABULARY = 4 << 30
"""Bytes of a file of vocabularies that are read."""

GROUPS: tuple[tuple[str, Role, Kind], ...] = (
    ("user", "user", "categorical"),
    ("candidates", "item", "categorical"),
    ("context", "context", "categorical"),
    ("user_values", "user", "numeric"),
    ("candidate_values", "item", "numeric"),
    ("context_values", "context", "numeric"),
)
"""Name of each model input, and the role and kind of the fields packed into its last axis."""


@dataclass(frozen=True, slots=True)
class Field:
    """One feature.

    ``cardinality`` counts the rows of its table, the unknown row included (0 for numbers).
    ``mean`` and ``scale`` come from the training rows; a constant column has scale 0 and encodes
    to 0.0 everywhere.
    """

    name: str
    kind: Kind
    role: Role
    cardinality: int = 0
    mean: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class FeatureSchema:
    """The fields in the order in which they are packed, and the names of the special columns."""

    fields: tuple[Field, ...]
    label: str
    user: str
    item: str
    history: str | None = None
    """The numeric field that counts the user's own past with the item, where there is one."""
    task: TaskName = "click"
    length: int = 0
    """Items of the user's past that a next-item model is given, the latest ones."""
    repeats: bool = False
    """Whether an item that the user had before may be recommended to them again."""

    def group(self, name: str) -> tuple[Field, ...]:
        """The fields of one model input of ``GROUPS``, in order (empty: the input isn't there)."""
        role, kind = next((role, kind) for group, role, kind in GROUPS if group == name)
        return tuple(f for f in self.fields if f.role == role and f.kind == kind)

    def groups(self) -> dict[str, tuple[Field, ...]]:
        """All inputs that have at least one field, in the order of ``GROUPS``."""
        return {name: self.group(name) for name, _, _ in GROUPS if self.group(name)}

    def field(self, name: str) -> Field:
        """The field called ``name``; raises ``KeyError``."""
        return {field.name: field for field in self.fields}[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``schema.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "FeatureSchema":
        """The schema that ``to_json`` wrote."""
        fields = tuple(Field(**field) for field in data["fields"])
        return cls(**{**data, "fields": fields})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The raw values of one categorical field; value ``i`` has id ``i + 1``, all others id 0.

    Values are text, ordered by how often they occur in training (ties by value).
    """

    values: tuple[str, ...]

    def encode(self, raw: Iterable[str | None]) -> np.ndarray:
        """Ids of raw values, int32 of the same length; unknown and missing ones are 0."""
        table = {value: index for index, value in enumerate(self.values, start=1)}
        return np.array(
            [UNKNOWN if value is None else table.get(value, UNKNOWN) for value in raw],
            dtype=np.int32,
        )  # (rows,)


def scale(values: np.ndarray, field: Field) -> np.ndarray:
    """Standardised float32 numbers, the largest float32 at most; all zero for a column that is
    constant in training.
    """
    if field.scale == 0.0:
        return np.zeros(len(values), dtype=np.float32)
    limit = np.finfo(np.float32).max
    with np.errstate(over="ignore"):  # far from what training had, in units of next to nothing
        units = (values - field.mean) / field.scale
    return np.clip(units, -limit, limit).astype(np.float32)  # (rows,)


def write_schema(
    folder: Path, schema: FeatureSchema, vocabularies: Mapping[str, Vocabulary]
) -> None:
    """Write ``schema.json`` and ``vocabulary.json`` into ``folder``."""
    (folder / "schema.json").write_text(json.dumps(schema.to_json(), indent=1))
    words = {name: list(vocabulary.values) for name, vocabulary in vocabularies.items()}
    (folder / "vocabulary.json").write_text(json.dumps(words, ensure_ascii=False))


def read_schema(folder: Path) -> tuple[FeatureSchema, dict[str, Vocabulary]]:
    """The schema and vocabularies of a prepared dataset or of an artifact; raises ``DataError``
    where a file holds none.
    """
    path = folder / "schema.json"
    try:
        schema = _checked(FeatureSchema.from_json(load_json(path)))
        path = folder / "vocabulary.json"
        words = load_json(path, most=LARGEST_VOCABULARY)
        return schema, {name: _words(values) for name, values in words.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: can't be read as what it should be ({error!r})") from error


def _checked(schema: FeatureSchema) -> FeatureSchema:
    """The schema; raises ``ValueError`` where a field can't be one."""
    for field in schema.fields:
        sizes = type(field.cardinality) is int and 0 <= field.cardinality < 1 << 40
        if field.kind not in get_args(Kind) or field.role not in get_args(Role) or not sizes:
            raise ValueError(f"field {field!r:.200}")
    if schema.task not in get_args(TaskName) or type(schema.length) is not int:
        raise ValueError(f"task {schema.task!r} of length {schema.length!r}")
    names = {field.name for field in schema.fields}
    if schema.user not in names or schema.item not in names:
        raise ValueError(f"user {schema.user!r} and item {schema.item!r} are no fields")
    return schema


def _words(values: Any) -> Vocabulary:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("a vocabulary is a list of texts")
    return Vocabulary(tuple(values))
