"""A user's own torch module, from a Python file. Its code is run: only name files you trust."""

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from harness.errors import DataError, HarnessError, UnsupportedError
from harness.models.scored import lists_of
from harness.params import Count, Options, Text
from harness.registry import suggest
from harness.schema import FeatureSchema


def build(
    schema: FeatureSchema,
    *,
    path: Text,
    attribute: Text,
    parameters: Options | None = None,
    top: Count | None = None,
) -> nn.Module:
    """The module that the class or function ``attribute`` of the file at ``path`` makes.

    It is called with ``parameters``; arguments that it names ``schema``, ``n_users``, ``n_items``
    or, for next items, ``length`` (of a history) and that aren't given are filled in from the data
    (sizes include the unknown row). A module for next items gives the scores of the whole
    catalogue, (requests, items), of which the best ``top`` (50) become its list; or it has a
    ``top`` of its own and gives lists, (scores, items). Raises ``DataError`` when the file, the
    name, the call or the form of the scores is wrong, and ``UnsupportedError`` for a ``top`` that
    doesn't apply.
    """
    factory = _attribute(Path(path), attribute)
    known: dict[str, Any] = {
        "schema": schema,
        "n_users": schema.field(schema.user).cardinality,
        "n_items": schema.field(schema.item).cardinality,
        **({"length": schema.length} if schema.task == "next_item" else {}),
    }
    if not callable(factory):
        raise DataError(f"{path}: {attribute} is no class or function, but {factory!r}")
    wanted = inspect.signature(factory).parameters
    given = {
        **{name: value for name, value in known.items() if name in wanted},
        **(parameters or {}),
    }
    unknown = sorted(set(given) - set(wanted))
    if unknown:
        raise DataError(
            f"{path}: {attribute} has no parameter {unknown[0]!r}{suggest(unknown[0], wanted)}"
        )
    try:
        module = factory(**given)
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's own code raises
        kind = "" if isinstance(error, TypeError) else f"{type(error).__name__}: "
        raise DataError(f"{path}: {attribute}(...) can't be made: {kind}{error}") from error
    if not isinstance(module, nn.Module):
        raise DataError(
            f"{path}: {attribute} gave {type(module).__name__}, expected a torch module"
        )
    if schema.task == "next_item":
        return lists_of(module, schema, top=top, where=f"{path}: {attribute}")
    if top is not None:
        raise UnsupportedError(f"{path}: top {top} is for next items; the task is {schema.task}")
    return module


def _attribute(path: Path, attribute: str) -> Any:
    """What the file defines under a name. The source is compiled here and not imported: an import
    would leave compiled files beside it, and could find stale ones.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such Python file; give the path of your model's source")
    name = f"user_model_{path.stem}_{abs(hash(str(path.resolve()))):x}"
    module = sys.modules[name] = ModuleType(name)  # dataclasses look their module up by name
    module.__file__ = str(path)
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's own code raises
        raise DataError(f"{path}: can't be imported: {error!r}") from error
    if not hasattr(module, attribute):
        raise DataError(f"{path}: has no {attribute!r}{suggest(attribute, vars(module))}")
    return getattr(module, attribute)
