"""Parquet files of others: a few kilobytes may say that they are billions of rows."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from harness.errors import DataError

VALUE = 48
"""Bytes of a value in memory: what points to a text, that of its cleaned copy, and its code."""
LONGEST = 1 << 16
"""Bytes of the longest cell of text."""


def column_names(file: Path) -> list[str]:
    """Names of a file's columns; raises ``DataError`` where it isn't parquet or is damaged."""
    with file.open("rb") as handle:
        if handle.read(4) != b"PAR1":
            raise DataError(f"{file}: refused, not a parquet file (it doesn't begin with PAR1)")
    return list(_metadata(file).schema.to_arrow_schema().names)


def read_columns(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    """The columns of a file, text, numbers, dates and times only. Raises ``DataError`` for others,
    for a damaged file, and for more than this machine's memory, before it is read.
    """
    metadata = _metadata(file)
    needed = metadata.num_rows * len(columns) * VALUE
    _check_memory(file, needed, f"{metadata.num_rows:,} rows of {len(columns)} columns")
    try:
        frame = pl.read_parquet(file, columns=list(columns))
    # A panic of polars is no Exception, and what damaged pages end in.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise _damaged(file, error) from error
    return check_cells(frame.with_columns(_plain(file, column) for column in frame), file)


def check_cells(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    """The frame; raises ``DataError`` where a cell of text is longer than any id or word, or all
    cells together are more than this machine's memory.
    """
    for column in frame.select(pl.col(pl.String)):
        lengths = column.str.len_bytes()
        _check_lengths(file, column.name, longest=lengths.max(), total=lengths.sum())
    return frame


def _check_lengths(file: Path, name: str, *, longest: object, total: object) -> None:
    if isinstance(longest, int) and longest > LONGEST:
        raise DataError(
            f"{file}: column {name!r}: a cell has {longest:,} bytes, expected {LONGEST:,} at most; "
            "is it an id, a word or a number?"
        )
    if isinstance(total, int):
        _check_memory(file, total, f"the text of column {name!r}")


def _metadata(file: Path) -> arrow_parquet.FileMetaData:
    try:
        return arrow_parquet.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: BaseException) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{file}: can't be read as parquet: {reason}")


def _check_memory(file: Path, needed: int, what: str) -> None:
    there = psutil.virtual_memory().total
    if needed > there:
        raise DataError(
            f"{file}: {what} take at least {needed / 2**30:,.1f} GiB; this machine has "
            f"{there / 2**30:,.1f} GiB of memory: give fewer rows, or a larger machine"
        )


def _plain(file: Path, column: pl.Series) -> pl.Series:
    kind = column.dtype
    if kind in (pl.Categorical, pl.Enum):
        # Before each row gets a text of its own.
        counts = column.drop_nulls().value_counts(name="rows")
        lengths = counts[column.name].cast(pl.String).str.len_bytes().cast(pl.Int64)
        total = (lengths * counts["rows"]).sum()
        _check_lengths(file, column.name, longest=lengths.max(), total=total)
        return column.cast(pl.String)
    if kind in (pl.String, pl.Boolean, pl.Date, pl.Datetime, pl.Null) or kind.is_numeric():
        return column
    raise DataError(
        f"{file}: column {column.name!r} is of type {kind}; expected text, numbers, or dates"
    )
