"""GitHub-flavoured Markdown from tables: every name shown as it is, whatever is in it."""

import re
from collections.abc import Iterable

from harness.report.cells import Cell, Table
from harness.visible import visible

# Entities where a backslash would be read differently by table and text (a backslash before a
# pipe), or not at all (GitHub's math).
_ENTITIES = {"\\": "&#92;", "<": "&lt;", ">": "&gt;", "&": "&amp;", "$": "&#36;"}
_ESCAPED = re.compile(r"[*_`~|]|\](?=[(\[:])")
_NUMBER = re.compile(r"[-+]?\d[\d.,e-]*( %| MiB| ms)?( \[.*\])?[†‡]*|n/a|baseline|-")
# A heading, a list's item or a rule where a line begins with it.
_BLOCK = re.compile(
    r"^(\d{1,9})?((?<=\d)[.)](?=\s|$)|(?<!\d)(?:#(?=[#\s]|$)|[-+](?=\s)|-(?=-{2})|=(?==)))"
)
_SPACE = re.compile(r"\s+")


def escape(text: str) -> str:
    """``text`` as Markdown that shows it literally, on one line, in or outside a table."""
    line = visible(_SPACE.sub(" ", text).strip())
    line = "".join(_ENTITIES.get(character, character) for character in line)
    line = _ESCAPED.sub(r"\\\g<0>", line)
    return _BLOCK.sub(r"\1\\\2", line, count=1)


def table(content: Table) -> str:
    """A GitHub table, and under it one numbered line for each distinct note of its cells."""
    if not content.rows:
        return "None."
    numbers = _numbers(content)
    lines = [
        _line(escape(header) for header in content.headers),
        _line(_rules(content)),
        *(_line(_cell(cell, numbers) for cell in row) for row in content.rows),
    ]
    notes = [f"- ({number}) {escape(note)}" for note, number in numbers.items()]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def plain(content: Table) -> tuple[list[str], list[list[str]]]:
    """Headings and rows as bare texts, for a terminal; the notes are not in it."""
    rows = [[visible(cell.text) for cell in row] for row in content.rows]
    return list(map(visible, content.headers)), rows


def notes(content: Table) -> list[str]:
    """The distinct notes of a table, in the order of their numbers."""
    return list(_numbers(content))


def _numbers(content: Table) -> dict[str, int]:
    found = dict.fromkeys(cell.note for row in content.rows for cell in row if cell.note)
    return {note: number for number, note in enumerate(found, start=1)}


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell, numbers: dict[str, int]) -> str:
    text = escape(cell.text)
    return f"{text} ({numbers[cell.note]})" if cell.note else text


def _rules(content: Table) -> list[str]:
    """Columns of numbers stand to the right, names to the left."""
    columns = zip(*content.rows, strict=True)
    return ["--:" if all(_numeric(cell) for cell in column) else "---" for column in columns]


def _numeric(cell: Cell) -> bool:
    return bool(_NUMBER.fullmatch(cell.text))
