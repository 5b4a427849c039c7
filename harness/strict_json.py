"""JSON of others, strictly: no NaN, no key twice, no half characters, no number out of range."""

import json
import math
from pathlib import Path
from typing import Any

from harness.params import LARGEST
from harness.regular import open_regular

MOST = 16 << 20
"""Bytes of a file that are read unless more are allowed."""


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises ``ValueError`` and nothing else: for NaN and infinities (a
    number that overflows is one), for a key given twice, for whole numbers beyond +-2^53, for half
    a surrogate pair, which no file can hold, and for nesting that is too deep.
    """
    try:
        value = json.loads(
            text,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_unique,
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"half a character: {error.object[error.start]!a}") from None
    return value


def load_json(path: Path, *, most: int = MOST) -> Any:
    """What a JSON file in UTF-8 holds. Raises ``ValueError`` as ``parse_json`` does, and for more
    than ``most`` bytes, of which no more are read; raises ``OSError`` for what can't be read.
    """
    with open_regular(path) as stream:
        raw = stream.read(most + 1)
    if len(raw) > most:
        raise ValueError(f"larger than {most} bytes")
    return parse_json(raw.decode("utf-8"))


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > LARGEST:
        raise ValueError(f"the number {text[:20]}... is too large")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found
