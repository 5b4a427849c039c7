"""csv and parquet files as columns of text; nothing is guessed, and nothing is left out unsaid."""

import codecs
import csv
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from harness.errors import DataError

TEXT = {".csv": ",", ".txt": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Dialect:
    """How csv files are written; None means a comma (a tab for .tsv) and no escape."""

    separator: str | None = None
    encoding: str = "utf-8"
    escape: str | None = None


def find_files(folder: Path, path: str) -> tuple[Path, ...]:
    """The files of ``path``, sorted: one file, a folder with all below it, or a glob.

    A relative path starts at ``folder``. Raises ``DataError`` where there are none, or a named
    file is neither csv nor parquet.
    """
    place = folder / path
    if place.is_file():
        found = [place]
    elif place.is_dir():
        found = [file for file in sorted(place.rglob("*")) if file.is_file() and _readable(file)]
    else:
        found = [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]
        found = [file for file in found if file.is_file()]
    if not found:
        raise DataError(f"{place}: no such csv or parquet file, folder or pattern")
    for file in found:
        if not _readable(file):
            raise DataError(
                f"{file}: refused, only {', '.join([*TEXT, *PARQUET])} are read as data, "
                f"got {file.suffix!r}; save it as csv or parquet"
            )
    return tuple(found)


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
        frames = [frame.with_columns(pl.all().cast(pl.String)) for frame in frames]
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
    with file.open("rb") as handle:
        if handle.read(4) != b"PAR1":
            raise DataError(f"{file}: refused, not a parquet file (it doesn't begin with PAR1)")
    _check_header(file, list(pl.read_parquet_schema(file)), columns, None)
    return pl.read_parquet(file, columns=list(columns))


def _read_csv(file: Path, columns: tuple[str, ...], dialect: Dialect) -> pl.DataFrame:
    separator = dialect.separator or TEXT[file.suffix.lower()]
    _check_text(file, dialect.encoding)
    read = arrow_csv.ReadOptions(encoding=_plain(dialect.encoding))
    parse = arrow_csv.ParseOptions(
        delimiter=separator, escape_char=dialect.escape or False, newlines_in_values=True
    )
    try:
        with arrow_csv.open_csv(file, read_options=read, parse_options=parse) as reader:
            header = list(reader.schema.names)
        _check_header(file, header, columns, separator)
        convert = arrow_csv.ConvertOptions(
            include_columns=list(columns),
            column_types={name: pa.large_string() for name in columns},
            strings_can_be_null=False,
        )
        table = arrow_csv.read_csv(
            file, read_options=read, parse_options=parse, convert_options=convert
        )
    except pa.ArrowInvalid as error:
        raise DataError(_explain(file, dialect, separator, str(error))) from error
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _plain(encoding: str) -> str:
    """The BOM is skipped in any case, and utf-8 needs no detour over Python's decoder."""
    return "utf8" if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig") else encoding


def _check_text(file: Path, encoding: str) -> None:
    """Decode the whole file once, so that an error can name the place and the way out."""
    if file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty (0 bytes); expected a header and rows")
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError as error:
        raise DataError(f"{file}: unknown encoding {encoding!r}; 'utf-8' or 'latin-1'?") from error
    at, line = 0, 1
    with file.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise DataError(_undecodable(file, encoding, error, at - held, line)) from error
            if "\0" in text:
                raise DataError(f"{file}: refused, not a text file (it holds NUL characters)")
            at, line = at + len(chunk), line + text.count("\n")


def _undecodable(
    file: Path, encoding: str, error: UnicodeDecodeError, before: int, line: int
) -> str:
    byte = error.object[error.start]
    return (
        f"{file}:{line}: byte 0x{byte:02x} at position {before + error.start} isn't {encoding}; "
        "set 'encoding' to what the file was written in, such as 'latin-1' or 'cp1252'"
    )


def _check_header(
    file: Path, header: list[str], columns: tuple[str, ...], separator: str | None
) -> None:
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


def _explain(file: Path, dialect: Dialect, separator: str, reason: str) -> str:
    """The first row whose number of cells isn't that of the header, by line."""
    names: list[str] | None = None
    with file.open(encoding=dialect.encoding, newline="") as handle:
        rows = csv.reader(handle, delimiter=separator, escapechar=dialect.escape, doublequote=True)
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
