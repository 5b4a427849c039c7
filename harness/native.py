"""The project's own operators for onnxruntime: C++, built into the cache when first used.

Graphs that use them say so by the domain ``recsys``; all other graphs need no compiler.
"""

import mmap
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UnsupportedError
from harness.store import default_store, file_hash, key_of

if TYPE_CHECKING:
    import onnx

DOMAIN = "recsys"
MARK = bytes([len(DOMAIN)]) + DOMAIN.encode()
"""The domain as protobuf writes a string: its length and its bytes."""
SOURCES = Path(__file__).parent / "operators"
LIBRARY = "librecsys.so"
COMPILERS = ("c++", "g++", "clang++")
# Products aren't contracted, so that every instruction set gives the bits that numpy gives.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno")
SECONDS = 300


@cache
def library() -> Path:
    """The operators' library, built if it isn't in the cache. Raises ``UnsupportedError`` saying
    what is missing where there is no C++ compiler, or what it said where it fails.
    """
    compiler = _compiler()
    told = _run([compiler, "--version"]).stdout
    files = sorted(SOURCES.iterdir())
    hashes = {file.name: file_hash(file) for file in files}
    key = key_of(compiler=told, flags=FLAGS, files=hashes)

    def build(folder: Path) -> None:
        units = [str(file) for file in files if file.suffix == ".cpp"]
        made = _run([compiler, *FLAGS, "-w", *units, "-o", str(folder / LIBRARY)])
        if made.returncode:
            fault = next((x for x in made.stderr.splitlines() if "error" in x), made.stderr[-200:])
            raise UnsupportedError(
                f"native operators: {compiler} can't build them ({fault.strip()}); set CXX to "
                "another compiler of C++17, or leave out what uses them",
                code="build_failed",
            )

    return default_store().make("native", key, build) / LIBRARY


def _compiler() -> str:
    asked = os.environ.get("CXX")
    found = next(filter(None, map(shutil.which, [asked] if asked else COMPILERS)), None)
    if not found:
        raise UnsupportedError(
            f"native operators: no C++ compiler ({asked or ', '.join(COMPILERS)}) on the path; "
            "install g++ or set CXX, or leave out what uses them",
            code="no_package",
        )
    return found


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedError(
            f"native operators: {command[0]} can't be run ({error})", code="build_failed"
        ) from error


def uses_operators(source: "onnx.ModelProto | Path | str | bytes") -> bool:
    """Whether a graph, a file of one or its content uses operators of ours."""
    if isinstance(source, bytes):
        return MARK in source
    if not isinstance(source, str | Path):
        return any(each.domain == DOMAIN for each in source.opset_import)
    if not Path(source).stat().st_size:
        return False  # which can't be mapped
    with (
        open(source, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as read,
    ):
        return read.find(MARK) >= 0


def add_operators(options: Any, source: "onnx.ModelProto | Path | str | bytes") -> None:
    """Give onnxruntime's session options our operators where a graph uses them; raises as
    ``library`` does.
    """
    if uses_operators(source):
        options.register_custom_ops_library(str(library()))
