"""A user's own model file as the cache sees it: its code, what it imports from elsewhere, and
whether its ``forward`` works at all.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DataError, HarnessError
from harness.modules import example_feeds
from harness.store import PACKAGES, source_hash
from harness.tables import TensorSpec

if TYPE_CHECKING:
    from torch import nn

_REQUESTS, _CANDIDATES = 2, 3


def user_source_hash(path: Path) -> str:
    """Hash of the file and of the project files it imports, comments and layout aside. Raises
    ``DataError`` where it isn't Python.
    """
    try:
        return source_hash(path)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        place = f"{path}:{line}" if line else str(path)
        said = error.msg if isinstance(error, SyntaxError) else error
        raise DataError(f"{place}: not Python: {said}; mend the model's source") from error


def other_packages(path: Path) -> dict[str, str]:
    """Versions of the distributions that the file imports besides those of ``package_versions``.

    Only the file itself goes into an artifact, so ``DataError`` names a module that is a file
    of the folder the command runs in, or of the search path, and belongs to no distribution.
    """
    versions: dict[str, str] = {}
    for line, name in _imported(ast.parse(path.read_bytes())):
        if name in sys.stdlib_module_names or name in {"harness", *PACKAGES}:
            continue
        found = _distributions().get(name, ())
        versions |= {each: version(each) for each in found}
        if not found and (origin := _origin(name)):
            raise DataError(
                f"{path}:{line}: imports {name!r}, which is {origin}: an artifact holds the "
                "model's own file only; put the code into it, or install it as a package"
            )
    return versions


def _imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _origin(name: str) -> str | None:
    """Where a module is found; None of one that isn't there, which its import will tell."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), None)


def check_forward(module: "nn.Module", inputs: tuple[TensorSpec, ...], *, where: str) -> None:
    """Call a user's module once, in eval mode, on two requests of three zeros each. Raises
    ``DataError`` with what it raises, or where it doesn't give one score a row.
    """
    import torch

    feeds = example_feeds(inputs, requests=_REQUESTS, candidates=_CANDIDATES)
    shapes = {name: tuple(tensor.shape) for name, tensor in feeds.items()}
    training = module.training
    try:
        with torch.no_grad():
            given = module.eval()(**feeds)
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's own code raises
        kind, said = type(error).__name__, " ".join(str(error).split())
        raise DataError(f"{where}: forward of {shapes} raised {kind}: {said}") from error
    finally:
        module.train(training)
    if isinstance(getattr(module, "top", None), int):  # lists, whose form has been looked at
        return
    rows = _REQUESTS * _CANDIDATES
    if not isinstance(given, torch.Tensor) or given.numel() != rows:
        raise DataError(
            f"{where}: forward of {shapes} gave {_form(given)}; expected {rows} scores, one a row"
        )


def _form(given: Any) -> str:
    shape = getattr(given, "shape", None)
    return type(given).__name__ if shape is None else f"a tensor of {tuple(shape)}"
