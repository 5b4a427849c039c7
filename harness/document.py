"""YAML read as plain values with the line of every place and every mistake, and written.

YAML 1.2 rules (``1e-3`` is a number; ``on``, ``off``, ``no`` are words). Tags, repeated keys and
anything large, deep or multiplied by aliases are refused: a recipe is a page of text.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.parser import RoundTripParser
from ruamel.yaml.reader import ReaderError

from harness.errors import Problem
from harness.params import LARGEST
from harness.regular import open_regular
from harness.visible import hidden

MAX_BYTES = 200_000
MAX_DEPTH = 20
MAX_NODES = 10_000
_LARGE = f"too large: over {MAX_NODES} values or {MAX_DEPTH} levels"

Place = tuple[str | int, ...]
_CORE = "tag:yaml.org,2002:"
_COLLECTIONS = {f"{_CORE}map", f"{_CORE}seq"}


class _TooLarge(YAMLError):
    """More values or levels than a recipe has."""


class _Bounded(RoundTripParser):
    """ruamel's parser, which stops at the first event too many: before the rest of a large file
    is even looked at.
    """

    nodes = 0
    depth = 0

    def get_event(self) -> Any:
        event = super().get_event()
        self.nodes += isinstance(event, NodeEvent)
        self.depth += isinstance(event, CollectionStartEvent)
        self.depth -= isinstance(event, CollectionEndEvent)
        if self.nodes > 2 * MAX_NODES or self.depth > MAX_DEPTH:  # a key is a node too
            error = _TooLarge()
            error.problem_mark = event.start_mark  # type: ignore[attr-defined]
            raise error
        return event


@dataclass
class Document:
    """One YAML file: ``data`` is None when it can't be read at all (see ``problems``)."""

    file: str
    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    nodes: int = 0
    full: bool = False

    def complain(self, place: Place, message: str) -> None:
        """Add a problem at ``place``, or at its nearest parent that has a line."""
        self.problems.append(Problem(self.file, self.line(place), path_text(place), message))

    def line(self, place: Place) -> int | None:
        """Line number of a place, or of its nearest parent that stands in the file."""
        for length in range(len(place), -1, -1):
            if place[:length] in self.lines:
                return self.lines[place[:length]]
        return None


def path_text(place: Place) -> str:
    """``stages[1].prune_channels`` for ``("stages", 1, "prune_channels")``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def read_document(path: Path) -> Document:
    """The document of a file; never raises for what the file contains or for its absence."""
    document = Document(str(path))
    text = _read_text(path, document)
    if text is None:
        return document
    try:
        yaml = YAML(typ="rt", pure=True)
        yaml.Parser = _Bounded
        node = yaml.compose(text)
    except YAMLError as error:
        _complain_syntax(document, text, error)
        return document
    if node is None:
        document.complain((), "the file is empty")
        return document
    document.data = _value(document, node, ())
    if document.data is None and not document.problems:
        document.complain((), "the file is empty: it holds no more than a null")
    return document


def _read_text(path: Path, document: Document) -> str | None:
    try:
        with open_regular(path) as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            document.complain((), f"larger than {MAX_BYTES} bytes; a recipe is a page of text")
            return None
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        document.complain((), f"not UTF-8 at byte {error.start}; save the file as UTF-8")
    except OSError as error:
        document.complain((), f"can't be read: {error.strerror}")
    return None


def _complain_syntax(document: Document, text: str, error: YAMLError) -> None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else None
    rows = text.splitlines()
    if isinstance(error, _TooLarge):
        message = _LARGE
    elif isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        message = f"the character U+{ord(text[error.position]):04X} isn't allowed; remove it"
    elif line and line <= len(rows) and "\t" in rows[line - 1]:
        message = "a tab can't indent YAML; use spaces"
    else:
        message = str(getattr(error, "problem", None) or "not YAML")
    document.problems.append(Problem(document.file, line, "", message))


def _value(document: Document, node: Node, place: Place) -> Any:
    document.lines.setdefault(place, node.start_mark.line + 1)
    if document.nodes >= MAX_NODES or len(place) > MAX_DEPTH:
        if not document.full:
            document.complain(place, _LARGE)
        document.full = True
        return None
    document.nodes += 1
    if isinstance(node, MappingNode | SequenceNode) and str(node.tag) not in _COLLECTIONS:
        document.complain(place, _tag(node))
        return None
    if isinstance(node, MappingNode):
        return _mapping(document, node, place)
    if isinstance(node, SequenceNode):
        return [_value(document, item, (*place, at)) for at, item in enumerate(node.value)]
    return _scalar(document, node, place)


def _mapping(document: Document, node: MappingNode, place: Place) -> dict[str, Any]:
    values: dict[str, Any] = {}
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            document.complain(place, f"line {line}: a key must be a word")
        elif character := hidden(key):
            document.complain(place, f"line {line}: {_unseen(key, character)}")
        elif key in first:
            here = Problem(
                document.file,
                line,
                path_text((*place, key)),
                f"key {key!r} is given twice, on lines {first[key]} and {line}; remove one",
            )
            document.problems.append(here)
        else:
            first[key] = line
            document.lines[(*place, key)] = line
            values[key] = _value(document, value_node, (*place, key))
    return values


def _scalar(document: Document, node: Node, place: Place) -> Any:
    kind, text = str(node.tag).removeprefix(_CORE), str(node.value)
    if getattr(node, "style", None) == ">":
        text = text.replace("\a", "")  # ruamel's own mark of where a folded text was folded
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if kind == "int":
            number = int(text.replace("_", ""), 0)
            if abs(number) <= LARGEST:
                return number
            document.complain(place, "a whole number beyond +-2^53; write a smaller one")
            return None
        if kind == "float":
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return text
    if kind not in ("str", "timestamp", "bool"):  # YAML 1.1 has more booleans: words to us
        document.complain(place, _tag(node))
        return None
    if character := hidden(text):
        document.complain(place, _unseen(text, character))
        return None
    return text


def _tag(node: Node) -> str:
    return f"the tag {str(node.tag)!r} isn't allowed; write a plain value"


def _unseen(text: str, character: str) -> str:
    return f"{text!r} holds the character {character}, which can't be seen; remove it"


def yaml_text(values: Mapping[str, Any]) -> str:
    """Plain values as YAML text, keys in the given order."""
    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = False
    buffer = io.StringIO()
    yaml.dump(dict(values), buffer)
    return buffer.getvalue()
