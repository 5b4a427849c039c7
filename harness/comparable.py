"""Whether two runs may be compared: their machines for times, their data for quality."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.environment import environment_key
from harness.errors import DataError, EnvironmentMismatch
from harness.results import Row
from harness.strict_json import load_json


def read_environment(folder: Path) -> dict[str, Any]:
    """The environment of a run folder; raises ``DataError`` when it isn't there or is damaged."""
    path = folder / "environment.json"
    try:
        facts = load_json(path)
    except OSError as error:
        raise DataError(f"{path}: no environment here ({error.strerror}); run again") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); run again") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path}: {type(facts).__name__}, expected an object; run again")
    return facts


def require_same_environment(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise ``EnvironmentMismatch``, naming what differs, unless times may be compared."""
    if environment_key(dict(ours)) == environment_key(dict(theirs)):
        return
    different = [
        _told(name, ours.get(name), theirs.get(name))
        for name in sorted({*ours, *theirs})
        if environment_key({name: ours.get(name)}) != environment_key({name: theirs.get(name)})
    ]
    raise EnvironmentMismatch(
        f"times of different machines or installations can't be compared: {'; '.join(different)}; "
        "run both on one machine, or compare quality alone"
    )


def _told(name: str, ours: object, theirs: object) -> str:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        keys = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        return ", ".join(_told(f"{name}.{key}", ours.get(key), theirs.get(key)) for key in keys)
    return f"{name} is {ours!r} and {theirs!r}"


def require_same_data(ours: Sequence[Row], theirs: Sequence[Row]) -> None:
    """Raise ``EnvironmentMismatch`` unless both runs were scored on the same rows."""
    for name in ("data_hash", "split"):
        here, there = (
            {getattr(row, name) for row in rows if row.scenario == "accuracy"}
            for rows in (ours, theirs)
        )
        if here and there and here != there:
            raise EnvironmentMismatch(
                f"quality on different data can't be compared: {name} is "
                f"{sorted(map(str, here))} and {sorted(map(str, there))}; run both on one data set"
            )
