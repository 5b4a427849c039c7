"""Build folders: artifacts as they would be shipped, and the inputs to time them on.

``DIR/<recipe>@<engine>/`` is a copy of an artifact, ``DIR/inputs/`` holds the inputs of the gates'
points, and ``DIR/builds.json`` says what everything is and what it was made from.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness import registry
from harness.errors import DataError
from harness.store import write_text
from harness.strict_json import load_json

FILE, INPUTS = "builds.json", "inputs"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*@[a-z0-9-]+")
"""Of an artifact: its recipe and its engine, and so no path."""
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Built:
    """One artifact of a build folder. ``inputs`` has, for each point of the gates, the file of
    its inputs (relative to the folder) and that file's sha256.
    """

    name: str
    recipe: str
    engine: str
    baseline: str
    key: str
    format: str
    precision: str
    technique: str
    bytes: int
    data_hash: str
    inputs: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Build:
    """What a build folder holds: artifacts by name, and why others are missing."""

    folder: Path
    environment: Mapping[str, Any]
    artifacts: Mapping[str, Built]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]

    @property
    def commit(self) -> str:
        """The commit of the code that made it, or that there is none."""
        return str(self.environment.get("commit") or "no commit")

    def path(self, name: str) -> Path:
        """The folder of an artifact."""
        return self.folder / name

    def why_missing(self, name: str) -> str:
        """Why an artifact isn't there."""
        for how, reasons in (("failed", self.failed), ("skipped", self.skipped)):
            if name in reasons:
                return f"{how}: {reasons[name]}"
        return "no recipe and target of this name"


def write_build(made: Build) -> None:
    """Write ``builds.json``, whole or not at all; it is what marks the folder as a build."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "environment": made.environment,
        "artifacts": [asdict(built) for built in made.artifacts.values()],
        "skipped": made.skipped,
        "failed": made.failed,
    }
    write_text(made.folder / FILE, json.dumps(content, indent=1, allow_nan=False))


def is_build(folder: Path) -> bool:
    """Whether a folder says that it is a build."""
    return (folder / FILE).is_file()


def read_build(folder: Path) -> Build:
    """The build in a folder; raises ``DataError`` when it isn't one."""
    path = folder / FILE
    try:
        content = load_json(path)
        version = content["schema_version"]
        built = [_from_json(item) for item in content["artifacts"]]
        parts = [_named(content[name]) for name in ("environment", "skipped", "failed")]
    except OSError as error:
        raise DataError(f"{path}: no build here ({error.strerror}); make one with build") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a build ({error!r}); make it again") from error
    if version != SCHEMA_VERSION:
        raise DataError(f"{path}: schema version {version}, expected {SCHEMA_VERSION}; build again")
    return Build(folder, parts[0], {one.name: one for one in built}, parts[1], parts[2])


def _from_json(item: Mapping[str, Any]) -> Built:
    names = {field.name for field in fields(Built)}
    if set(item) != names:
        raise ValueError(f"an artifact has {sorted(item)}, expected {sorted(names)}")
    inputs = {
        point: (str(name), str(hashed)) for point, (name, hashed) in _named(item["inputs"]).items()
    }
    built = Built(**{**item, "inputs": inputs})
    words = names - {"bytes", "inputs"}
    if type(built.bytes) is not int or not all(isinstance(item[name], str) for name in words):
        raise TypeError(f"{built.name!r}: bytes is a number and all else is text")
    if built.engine not in registry.names("engines") or not _NAME.fullmatch(built.name):
        raise ValueError(f"artifact {built.name!r} of engine {built.engine!r}")
    for name, _ in inputs.values():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{built.name}: inputs {name!r} are outside of the build")
    return built


def _named(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise TypeError(f"{type(values).__name__}, expected an object")
    return values
