"""Result rows: one metric a row, one schema, stored whole; what everything after a run reads.

Values are in seconds, bytes and plain numbers; ms and MiB are made in the report. A missing value
is null with a reason, never 0 and never NaN. Column versions: 1 (first), 2 (``offered_rate``,
``converged``, ``noise``).
"""

import io
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from harness.errors import DataError
from harness.regular import open_regular
from harness.store import write_bytes, write_text
from harness.strict_json import parse_json

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2
LONGEST_LINE = 1 << 20
"""Bytes of one row that are read; and with the most rows of a run, how large one may get."""
MOST_ROWS = 1_000_000
LARGEST_FIGURE = 1e30
"""More than any count, size, rate or time; figures of figures must not overflow."""

_INTEGERS = ("schema_version", "batch", "candidates", "threads", "n", "seed")
_NUMBERS = (
    *("offered_rate", "value", "ci_low", "ci_high"),
    *("ratio", "ratio_low", "ratio_high", "aa_ratio"),
)

_NEVER_NULL = ("schema_version", "run_id", "recipe", "baseline", "scenario", "metric", "status")

Status = Literal["ok", "skipped", "failed"]
Verdict = Literal["faster", "slower", "no difference shown", "inconclusive"]
MACHINE = "machine"
"""Recipe of the rows that are about the machine and not about a variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured (or refused) figure; see the class's module for units."""

    schema_version: int = SCHEMA_VERSION
    run_id: str = ""
    recipe: str
    baseline: str
    technique: str | None = None
    target: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    device: str | None = None
    precision: str | None = None
    scenario: str
    region: str | None = None
    batch: int | None = None
    candidates: int | None = None
    threads: int | None = None
    offered_rate: float | None = None
    metric: str
    unit: str | None = None
    direction: str | None = None
    value: float | None = None
    n: int | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    aa_ratio: float | None = None
    verdict: str | None = None
    converged: bool | None = None
    noise: str | None = None
    status: str = "ok"
    reason: str | None = None
    data_hash: str | None = None
    split: str | None = None
    seed: int | None = None
    environment: str | None = None
    commit: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"row {self.recipe}/{self.metric}: {name} is {number}; use None")
        if self.value is None and not self.reason:
            raise ValueError(f"row {self.recipe}/{self.metric}: no value and no reason")


COLUMNS = tuple(field.name for field in fields(Row))


def to_frame(rows: Iterable[Row]) -> "pd.DataFrame":
    """A pandas frame with exactly ``COLUMNS``; nullable types, so that null is never NaN."""
    import pandas as pd

    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    return frame.astype({name: _dtype(name) for name in COLUMNS})


def _dtype(name: str) -> str:
    if name == "converged":
        return "boolean"
    return "Int64" if name in _INTEGERS else "Float64" if name in _NUMBERS else "string"


def write_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Write ``rows.parquet`` and ``rows.jsonl`` into ``folder``, each whole or not at all."""
    rows = list(rows)
    buffer = io.BytesIO()
    to_frame(rows).to_parquet(buffer, index=False)
    write_bytes(folder / "rows.parquet", buffer.getvalue())
    lines = (json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(folder / "rows.jsonl", "".join(f"{line}\n" for line in lines))


def read_rows(folder: Path) -> list[Row]:
    """The rows of a run folder; raises ``DataError`` when they can't be read or are of another
    schema version.
    """
    path = folder / "rows.jsonl"
    rows: list[Row] = []
    try:
        with open_regular(path) as stream:
            for line in iter(lambda: stream.readline(LONGEST_LINE + 1), b""):
                rows.append(_row(line))
                if len(rows) > MOST_ROWS:
                    raise ValueError(f"more than {MOST_ROWS:,} rows")
    except OSError as error:
        raise DataError(
            f"{path}: no rows here ({error.strerror}); give the folder of a run"
        ) from error
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}:{len(rows) + 1}: not rows of this version ({error}); run again"
        ) from error
    other = {row.schema_version for row in rows} - {SCHEMA_VERSION}
    if other:
        raise DataError(
            f"{path}: schema version {other.pop()}, expected {SCHEMA_VERSION}; run again"
        )
    return rows


def _row(line: bytes) -> Row:
    """The row of a line; raises ``ValueError`` or ``TypeError`` for what is none."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
    record = parse_json(line.decode("utf-8"))
    if not isinstance(record, dict):
        raise TypeError(f"{type(record).__name__}, expected an object")
    for name, value in record.items():
        if name in COLUMNS and value is not None and not _fits(name, value):
            raise TypeError(f"{name} is {value!r:.100}")
    if any(record.get(name, "") is None for name in _NEVER_NULL):
        raise TypeError(f"one of {', '.join(_NEVER_NULL)} is null")
    return Row(**record)


def _fits(name: str, value: Any) -> bool:
    """Whether a value is of its column's type."""
    if name == "converged":
        return isinstance(value, bool)
    if name in _INTEGERS:
        return type(value) is int and value >= 0
    if name in _NUMBERS:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= LARGEST_FIGURE
    return value in get_args(Status) if name == "status" else isinstance(value, str)
