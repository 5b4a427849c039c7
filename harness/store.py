"""The cache: what is expensive is made once, under a key, whole or not at all.

An entry is a folder. It is written to a temporary name, each file is synced, a manifest with sizes
and hashes is written last, and the folder is renamed. A reader trusts the manifest, never mere
existence: a cut or altered file is made again. One lock per key lets two runs share the work.
"""

import ast
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from harness.errors import DataError, WriteError

log = logging.getLogger(__name__)

MANIFEST = "complete.json"
PACKAGES = (
    "torch",
    "torch-pruning",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "optuna",
    "numpy",
    "polars",
)
_OTHER_NAMES = {"onnxruntime": "onnxruntime-gpu"}
"""Distributions that bring the same package."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_NOT_CONTENT = {
    "harness.errors",
    "harness.registry",
    "harness.catalog",
    "harness.params",
    "harness.store",
    "harness.results",
    "harness.environment",
    "harness.document",
    "harness.recipe",
}


@dataclass
class Store:
    """A cache folder; ``made`` and ``found`` count what this run built and what it reused."""

    root: Path
    made: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    _trusted: set[Path] = field(default_factory=set)

    def path(self, kind: str, key: str) -> Path:
        """Where the entry is, or would be."""
        return self.root / kind / key

    def has(self, kind: str, key: str) -> bool:
        """Whether a whole entry is there."""
        return self._whole(self.path(kind, key))

    def make(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of an entry, made by ``build(folder)`` when it isn't there whole.

        Waits when another process is making the same entry. Raises whatever ``build`` raises, and
        then keeps nothing: failures are never cached. Raises ``WriteError`` when the disk is full
        or the folder can't be written.
        """
        final = self.path(kind, key)
        if self._whole(final):
            self.found.append(f"{kind}/{key}")
            return final
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with self.lock(f"{kind}-{key}"):
                if self._whole(final):
                    self.found.append(f"{kind}/{key}")
                else:
                    log.debug("making %s/%s", kind, key)
                    self._build(final, build)
                    self.made.append(f"{kind}/{key}")
                    log.debug("made %s/%s", kind, key)
        except OSError as error:
            raise unwritten(error, final, what="cache can't be written") from error
        return final

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the cache's lock of that name; waits while another process does."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            yield

    def _build(self, final: Path, build: Callable[[Path], None]) -> None:
        partial = final.with_name(f"{final.name}.partial")
        _remove(partial)
        if final.exists():
            log.warning("%s: incomplete or altered, made again", final)
            _remove(final)
        partial.mkdir()
        try:
            build(partial)
            _seal(partial)
        except BaseException as error:
            _remove(partial)
            number = no_room(error)
            if number and not isinstance(error, OSError):
                raise OSError(number, os.strerror(number)) from error
            if not number and isinstance(error, OSError):  # of what it reads: the cache is well
                raise DataError(f"{error.filename or final}: {error.strerror or error}") from error
            raise
        partial.rename(final)
        _sync(final.parent)
        self._trusted.add(final)

    def _whole(self, folder: Path) -> bool:
        if folder in self._trusted:
            return True
        if not (folder / MANIFEST).is_file():
            return False
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            whole = all(
                (folder / name).stat().st_size == entry["bytes"]
                and file_hash(folder / name) == entry["sha256"]
                for name, entry in manifest["files"].items()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: manifest can't be read (%s)", folder, error)
            return False
        if whole:
            self._trusted.add(folder)
        return whole

    def entries(self) -> list[tuple[Path, int, float]]:
        """Folder, bytes and time of making of every entry, largest first."""
        found = [
            (
                path.parent,
                sum(f.stat().st_size for f in path.parent.rglob("*") if f.is_file()),
                path.stat().st_mtime,
            )
            for path in self.root.glob(f"*/*/{MANIFEST}")
        ]
        return sorted(found, key=lambda item: -item[1])

    def prune(self, *, days: float) -> list[tuple[Path, int]]:
        """Remove entries made more than ``days`` ago; gives what was removed, with its bytes."""
        limit = time.time() - days * 86_400
        old = [(path, size) for path, size, made in self.entries() if made < limit]
        for path, _ in old:
            _remove(path)
        return old


def default_store() -> Store:
    """The user's store: ``HARNESS_CACHE``, or the platform's cache folder."""
    root = os.environ.get("HARNESS_CACHE")
    return Store(Path(root) if root else user_cache_path("recsys-compression-harness"))


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _seal(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "files": {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
            for path in files
        }
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1))
    for path in files:
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def no_room(error: BaseException) -> int | None:
    """The system's number of an error that says that nothing more can be written (a full disk, a
    quota, a read-only file system), however a library tells it; None of any other.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _NO_ROOM else None
    if isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", str(error)):
        return errno.ENOSPC  # numpy's, of an array that went out short
    told = re.search(r"\(os error (\d+)\)", str(error))  # Rust's: safetensors, polars
    return int(told[1]) if told and int(told[1]) in _NO_ROOM else None


def unwritten(error: OSError, path: Path, *, what: str = "can't be written") -> WriteError:
    """What to raise for an error of writing below ``path``: names the file, and the cause."""
    number = no_room(error)
    cause = os.strerror(number) if number else error.strerror or str(error)
    return WriteError(f"{error.filename or path}: {what}: {cause}")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: aside, synced, renamed."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: aside, synced, renamed."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with open(aside, "wb", opener=_no_link) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError as error:
        if no_room(error):
            aside.unlink(missing_ok=True)
        error.filename = error.filename2 or error.filename or str(path)
        raise


def _no_link(path: str, flags: int) -> int:
    """Open a file, never the one elsewhere that a link of its name leads to; a pipe isn't waited
    for.
    """
    never = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags | never, 0o666)


def file_hash(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def key_of(**parts: Any) -> str:
    """A key: 32 hex digits of the sha256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def package_versions() -> dict[str, str | None]:
    """Versions of the packages that shape a result; None where one isn't installed."""
    return {name: _version(name) or _version(_OTHER_NAMES.get(name, name)) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def source_hash(path: Path) -> str:
    """Hash of a file and of the project files it imports, comments and layout aside.

    Files that only carry values (recipes, rows, the store) don't count.
    """
    return _source_hash(path, path.read_bytes())


@cache
def _source_hash(path: Path, content: bytes) -> str:
    """``content`` tells a user's file from what it was earlier in this process."""
    del content
    return key_of(files=sorted(_codes(path).values()))


@cache
def source_files(path: Path) -> frozenset[str]:
    """A project file and the project files it imports, as paths below the package."""
    root = Path(__file__).parent
    return frozenset(file.relative_to(root).as_posix() for file in _codes(path))


def _codes(path: Path) -> dict[Path, str]:
    """Hashes of the code of a file and of the project files it imports."""
    root = Path(__file__).parent
    found: dict[Path, str] = {}
    todo = [path]
    while todo:
        current = todo.pop()
        if current not in found:
            found[current], imported = _code(root, current.read_bytes())
            todo += imported
    return found


@cache
def _code(root: Path, content: bytes) -> tuple[str, tuple[Path, ...]]:
    """Hash of a file's code, comments and layout aside, and the project files that it imports: of
    a hundred hashes of a run, most are of the same files.
    """
    tree = ast.parse(content)
    imported = tuple(file for name in _imports(tree) if (file := _project_file(root, name)))
    code = ast.dump(_without_docstrings(tree))
    return hashlib.sha256(code.encode()).hexdigest(), imported


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("harness"):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _project_file(root: Path, module: str) -> Path | None:
    if module in _NOT_CONTENT or not module.startswith("harness."):
        return None
    path = root.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() else None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[:1] = [] if len(body) > 1 else [ast.Pass()]
    return tree
