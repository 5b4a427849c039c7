"""What a stage's result depends on besides its input, parameters, code, data and packages: the
machine that it was timed or tried on, the native operators, faiss. For the keys of the cache.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness import native
from harness.cuda import installed
from harness.environment import environment
from harness.store import file_hash, source_files


def _machine() -> Any:
    return environment()["key"]


def _instructions() -> Any:
    return environment()["flags"]


def _operators() -> Any:
    return {file.name: file_hash(file) for file in sorted(native.SOURCES.iterdir())}


_BY_FILE: dict[str, tuple[str, Callable[[], Any]]] = {
    "stages/pairing.py": ("timed_on", _machine),
    "stages/saturation.py": ("instructions", _instructions),
    "stages/lookup_timing.py": ("operators", _operators),
    "stages/native_operators.py": ("operators", _operators),
    "stages/scan_catalogue.py": ("operators", _operators),
    "peers/ort_bags.py": ("operators", _operators),
    "peers/scan_search.py": ("operators", _operators),
    "item_index.py": ("faiss", partial(installed, "faiss-cpu")),
}
"""Files of the project, and what all that imports them depends on."""


def depends_on(source: Path) -> dict[str, Any]:
    """Parts of the key of what the stage or peer in ``source`` makes, JSON-ready: the machine's key
    where it times, the CPU's instructions where it looks for sums that saturate, the sources of
    the native operators where it makes or times graphs with them, faiss' version for an index.
    """
    files = source_files(source)
    return {name: value() for file, (name, value) in _BY_FILE.items() if file in files}
