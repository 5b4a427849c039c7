"""Catalog entries: their parameters read from the source, their values checked, the thing resolved.

Reading the source instead of importing it is what lets ``check`` and ``list`` answer in under a
second on a machine where torch or an engine isn't installed.
"""

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails

from harness import params
from harness.catalog import CATALOG
from harness.visible import unlike

Thing = Callable[..., Any]


@dataclass(frozen=True)
class Entry:
    """One catalog line: ``marks`` are the literal arguments of its decorator, such as
    ``accepts`` and ``produces``; ``parameters`` maps keyword names to their source text.
    """

    kind: str
    name: str
    target: str
    summary: str
    marks: Mapping[str, Any]
    parameters: Mapping[str, str]
    source: Path


def names(kind: str) -> tuple[str, ...]:
    """All names of one kind: datasets, models, stages, engines or metrics."""
    return tuple(CATALOG[kind])


def suggest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` when a known word is near, else the list of known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.6)
    strange = unlike(word) if all(map(str.isascii, known)) else None
    spelt = f"; it holds {strange}" if strange else ""
    if near:
        return f"{spelt}; did you mean {near[0]!r}?"
    return f"{spelt}; expected one of: {', '.join(known)}"


@cache
def entry(kind: str, name: str) -> Entry:
    """The entry called ``name``; raises ``KeyError`` with a suggestion."""
    if name not in CATALOG[kind]:
        raise KeyError(f"unknown {kind[:-1]} {name!r}{suggest(name, CATALOG[kind])}")
    target = CATALOG[kind][name]
    module, attribute = target.split(":")
    path = _source(module)
    node = _definition(path, attribute)
    summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    return Entry(kind, name, target, summary, _marks(node), _parameters(node), path)


def _source(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the catalog names module {module!r}, which isn't there")
    return Path(spec.origin)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _definition(path: Path, attribute: str) -> ast.FunctionDef | ast.ClassDef:
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == attribute:
            return node
    raise AttributeError(f"{path}: no top-level function or class {attribute!r}")


def _marks(node: ast.FunctionDef | ast.ClassDef) -> dict[str, Any]:
    calls = [item for item in node.decorator_list if isinstance(item, ast.Call)]
    return {
        keyword.arg: ast.literal_eval(keyword.value)
        for call in calls
        for keyword in call.keywords
        if keyword.arg
    }


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> dict[str, str]:
    if isinstance(node, ast.ClassDef):
        return {}
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {
        arg.arg: ast.unparse(arg.annotation or ast.Name("Text"))
        + (f" = {ast.unparse(default)}" if default else "")
        for arg, default in pairs
    }


@cache
def _model(kind: str, name: str) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for parameter, text in entry(kind, name).parameters.items():
        annotation, _, default = text.partition(" = ")
        rule = eval(annotation, dict(vars(params)))  # our own source, never a user's text
        fields[parameter] = (rule, ast.literal_eval(default) if default else ...)
    config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    return create_model(name, __config__=config, **fields)


def bind(kind: str, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of an entry, defaults filled in and checked against its signature.

    Raises ``pydantic.ValidationError``; ``explain`` turns its errors into sentences.
    """
    return _model(kind, name).model_validate(dict(values)).model_dump()


def json_schema(kind: str, name: str) -> dict[str, Any]:
    """JSON schema of an entry's parameters, for editors."""
    return _model(kind, name).model_json_schema()


def explain(error: ErrorDetails, known: Iterable[str]) -> str:
    """One sentence for one pydantic error: what came, what was expected."""
    last = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {last!r}{suggest(last, known)}"
    if error["type"] == "missing":
        return f"{last!r} is required"
    text = error["msg"].removeprefix("Value error, ")
    came = "" if "got" in text else f", got {error['input']!r}"
    return f"{text[0].lower()}{text[1:]}{came}"


@cache
def resolve(kind: str, name: str) -> Thing:
    """The thing itself, imported now."""
    module, attribute = entry(kind, name).target.split(":")
    thing: Thing = getattr(importlib.import_module(module), attribute)
    return thing


__all__ = [
    "Entry",
    "ValidationError",
    "bind",
    "entry",
    "explain",
    "json_schema",
    "names",
    "resolve",
    "suggest",
]
