"""csv and parquet files as columns of text; nothing is guessed, and nothing is left out unsaid."""

import csv
import errno
import glob
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from harness.datasets.decoding import CHUNK, in_utf8
from harness.datasets.parquet import check_cells, column_names, read_columns
from harness.datasets.parse import as_words
from harness.errors import DataError

TEXT = {".csv": ",", ".txt": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
MOST_COLUMNS = 20_000


@dataclass(frozen=True, slots=True)
class Dialect:
    """How csv files are written; None means a comma (a tab for .tsv) and no escape."""

    separator: str | None = None
    encoding: str = "utf-8"
    escape: str | None = None


def find_files(folder: Path, path: str) -> tuple[Path, ...]:
    """The files of ``path``, sorted: one file, a folder with all below it, or a glob.

    A relative path starts at ``folder``. Raises ``DataError`` where there are none, a named file is
    neither csv nor parquet, or a pattern has ``**`` twice.
    """
    place = folder / path
    if os.path.isfile(place):  # unlike pathlib, of a name that is too long too
        found = [place]
    elif os.path.isdir(place):
        found = [file for file in sorted(place.rglob("*")) if file.is_file() and _readable(file)]
    else:
        found = [file for file in map(Path, sorted(_matches(place))) if file.is_file()]
    if not found:
        raise DataError(f"{place}: no such csv or parquet file, folder or pattern")
    for file in found:
        if not _readable(file):
            raise DataError(
                f"{file}: refused, only {', '.join([*TEXT, *PARQUET])} are read as data, "
                f"got {file.suffix!r}; save it as csv or parquet"
            )
        if not os.access(file, os.R_OK):
            raise DataError(f"{file}: can't be read: {os.strerror(errno.EACCES)}")
    return tuple(found)


def _matches(place: Path) -> Iterator[str]:
    """Names that fit a pattern, each once; below ``**`` no link to a folder is followed, and so no
    loop of them.
    """
    parts = place.parts
    if "**" not in parts:
        yield from glob.glob(str(place))
        return
    if parts.count("**") > 1:  # glob would give a file once for each way to split its folders
        raise DataError(f"{place}: '**' more than once in a pattern; write it once")
    at = parts.index("**")
    below = Path(*parts[at + 1 :] or ["*"])
    for top in glob.glob(str(Path(*parts[:at]))):
        for folder, inner, _ in os.walk(top):
            inner[:] = [name for name in inner if not name.startswith(".")]  # as glob does
            yield from glob.glob(str(Path(glob.escape(folder), below)))


def _readable(file: Path) -> bool:
    return file.suffix.lower() in TEXT or file.suffix.lower() in PARQUET


def read_files(folder: Path, path: str, columns: Sequence[str], dialect: Dialect) -> pl.DataFrame:
    """The named columns of all files of ``path``, in file order; those of csv files are text.

    Folders called ``name=value`` give a column ``name``. Raises ``DataError`` with the file and
    what is wrong in it.
    """
    names = tuple(dict.fromkeys(columns))
    return stack([_read_file(file, folder, names, dialect) for file in find_files(folder, path)])


def stack(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All rows under each other, as text where the types of the frames differ."""
    if any(frame.schema != frames[0].schema for frame in frames):
        frames = [frame.with_columns(map(as_words, frame)) for frame in frames]
    return pl.concat(frames)


def _read_file(
    file: Path, folder: Path, columns: tuple[str, ...], dialect: Dialect
) -> pl.DataFrame:
    below = file.relative_to(folder).parts if file.is_relative_to(folder) else file.parts
    parts = dict(part.split("=", 1) for part in below[:-1] if "=" in part)
    own = tuple(name for name in columns if name not in parts)
    if file.suffix.lower() in PARQUET:
        frame = _read_parquet(file, own)
    else:
        frame = _read_csv(file, own, dialect)
    if frame.is_empty():
        raise DataError(f"{file}: no rows; expected a header and at least one row")
    named = [pl.lit(parts[name]).alias(name) for name in columns if name in parts]
    return frame.with_columns(named).select(columns)


def _read_parquet(file: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    check_header(file, column_names(file), columns, None)
    return read_columns(file, columns)


def _read_csv(file: Path, columns: tuple[str, ...], dialect: Dialect) -> pl.DataFrame:
    separator = TEXT[file.suffix.lower()] if dialect.separator is None else dialect.separator
    _check_marks(file, separator, dialect.escape)
    text = in_utf8(file, dialect.encoding)
    check_header(file, read_header(file, dialect, separator), columns, separator)
    escape = False if dialect.escape is None else dialect.escape
    parse = arrow_csv.ParseOptions(delimiter=separator, escape_char=escape, newlines_in_values=True)
    convert = arrow_csv.ConvertOptions(
        include_columns=list(columns),
        column_types={name: pa.large_string() for name in columns},
        strings_can_be_null=False,
    )
    source = text if isinstance(text, Path) else pa.BufferReader(text)
    try:
        table = arrow_csv.read_csv(source, parse_options=parse, convert_options=convert)
    except (pa.ArrowException, KeyError) as error:
        raise DataError(explain(file, dialect, separator, str(error))) from error
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return check_cells(frame, file)


def _check_marks(file: Path, separator: str, escape: str | None) -> None:
    for name, mark in (("separator", separator), ("escape", escape)):
        if mark is not None and (len(mark) != 1 or not mark.isascii() or mark in '"\r\n\0'):
            raise DataError(
                f"{file}: {name} {mark!r}: expected one character such as ',' ';' or a tab, "
                "and no quote or line end"
            )
    if escape == separator:
        raise DataError(f"{file}: {escape!r} is both 'separator' and 'escape'; give another")


def read_header(file: Path, dialect: Dialect, separator: str) -> list[str]:
    """Names of the columns. Not by arrow's own reader of blocks: one that isn't read to its end may
    still be at work when the process ends, and abort it.
    """
    with file.open(encoding=dialect.encoding, newline="") as handle:
        rows = _rows(handle, file, dialect, separator)
        try:
            header: list[str] = next((row for row in rows if row), [])
        except csv.Error as error:
            raise DataError(f"{file}:{rows.line_num}: {error}") from error
    if len(header) > MOST_COLUMNS:
        raise DataError(f"{file}:1: over {MOST_COLUMNS:,} columns; is {separator!r} the separator?")
    return header


def _rows(handle: io.TextIOBase, file: Path, dialect: Dialect, separator: str) -> Any:
    lines = _lines(handle, file)
    return csv.reader(lines, delimiter=separator, escapechar=dialect.escape, doublequote=True)


def check_header(
    file: Path, header: list[str], columns: tuple[str, ...], separator: str | None
) -> None:
    """Raise ``DataError`` for a named column that isn't there, or is there twice."""
    twice = sorted({name for name in columns if header.count(name) > 1})
    if twice:
        raise DataError(f"{file}: column {twice[0]!r} is there {header.count(twice[0])} times")
    missing = [name for name in columns if name not in header]
    if not missing:
        return
    word = "column" if len(header) == 1 else "columns"
    message = f"{file}: no column {missing[0]!r}; found {len(header)} {word}: {header}"
    if separator is not None and len(header) == 1:
        others = [mark for mark in (";", "\t", "|", ",") if mark != separator and mark in header[0]]
        better = repr(others[0]) if others else "the one that the file uses"
        message += f"; read with separator {separator!r}: set 'separator' to {better}"
    raise DataError(message)


def explain(file: Path, dialect: Dialect, separator: str, reason: str) -> str:
    """The first row whose number of cells isn't that of the header, by line."""
    names: list[str] | None = None
    with file.open(encoding=dialect.encoding, newline="") as handle:
        rows = _rows(handle, file, dialect, separator)
        try:
            for row in rows:
                names = names or row
                if row and len(row) != len(names):
                    return (
                        f"{file}:{rows.line_num}: {len(row)} cells, expected {len(names)}; mend "
                        "the line, or set 'separator' or 'escape'"
                    )
        except csv.Error as error:
            return f"{file}:{rows.line_num}: {error}"
    return f"{file}: can't be read as csv: {reason}"


def _lines(handle: io.TextIOBase, file: Path) -> Iterator[str]:
    """Lines of a file, none longer than a block that the reader takes."""
    for number, line in enumerate(iter(lambda: handle.readline(CHUNK), ""), start=1):
        if len(line) == CHUNK:
            raise DataError(f"{file}:{number}: {CHUNK:,} characters or more; mend the line")
        yield line.removeprefix("\ufeff") if number == 1 else line
