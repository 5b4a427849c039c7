"""Text files in any character set as UTF-8, with the place of what can't be decoded."""

import codecs
import io
from pathlib import Path

import pyarrow as pa

from harness.errors import DataError

CHUNK = 1 << 20
NO_CHARACTERS = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"}
"""Codecs of Python that no file is written in: names of hosts, Python's own escapes."""


def in_utf8(file: Path, encoding: str) -> Path | pa.Buffer:
    """The file itself where it is in UTF-8, else its content in UTF-8: arrow's threads would call
    Python to decode, and may do so when that is about to end.

    The whole file is decoded once, so that the ``DataError`` for a byte can name the place and the
    way out; another is raised for an empty file, for NUL characters, and for an ``encoding`` that
    is none.
    """
    if file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty (0 bytes); expected a header and rows")
    decoder, name = _decoder(file, encoding)
    copy = None if name in ("utf-8", "utf-8-sig") else io.BytesIO()
    at, line, chunk = 0, 1, b"-"
    with file.open("rb") as handle:
        while chunk:
            chunk = handle.read(CHUNK)
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
                content = text.encode()
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise DataError(_undecodable(file, encoding, error, at - held, line)) from error
            except UnicodeError as error:
                raise DataError(
                    f"{file}: isn't {encoding} ({error}); set 'encoding' to what it was written in"
                ) from error
            if "\0" in text:
                raise DataError(f"{file}: refused, not a text file (it holds NUL characters)")
            at, line = at + len(chunk), line + text.count("\n")
            if copy is not None:
                copy.write(content)
    return file if copy is None else pa.py_buffer(copy.getbuffer())


def _decoder(file: Path, encoding: str) -> tuple[codecs.IncrementalDecoder, str]:
    """A decoder of a character set, and its name; what unpacks, escapes or turns bytes into bytes
    is none.
    """
    try:
        codec = codecs.lookup(encoding)
        if codec.name not in NO_CHARACTERS and isinstance(b" ".decode(encoding, "ignore"), str):
            return codec.incrementaldecoder(), codec.name
    except (LookupError, ValueError, TypeError):
        pass  # said below
    raise DataError(f"{file}: unknown encoding {encoding!r}; 'utf-8' or 'latin-1'?")


def _undecodable(
    file: Path, encoding: str, error: UnicodeDecodeError, before: int, line: int
) -> str:
    byte = error.object[error.start]
    return (
        f"{file}:{line}: byte 0x{byte:02x} at position {before + error.start} isn't {encoding}; "
        "set 'encoding' to what the file was written in, such as 'latin-1' or 'cp1252'"
    )
