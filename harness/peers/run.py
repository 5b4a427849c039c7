"""A file of workloads to a folder of results: what ``harness peers`` does."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.environment import environment, usable_threads
from harness.errors import DataError
from harness.peers.contest import Setting, Task, make_contest
from harness.peers.lines import Lead, Line
from harness.peers.page import leads, page, put_between, summary
from harness.peers.registry import peer_versions
from harness.peers.rounds import protocol, time_contest
from harness.peers.spec import Entry, read_workloads
from harness.store import Store, write_text

ROUNDS = 15
SECONDS = 0.2
"""Least length of a block."""


@dataclass(frozen=True)
class Options:
    """``only`` is the one workload to run ("": all); ``readme`` a file whose summary is renewed."""

    out: Path
    only: str = ""
    rounds: int = ROUNDS
    seconds: float = SECONDS
    readme: Path | None = None


@dataclass(frozen=True)
class Compared:
    """What was found, and the page that says so."""

    lines: tuple[Line, ...]
    leads: tuple[Lead, ...]
    page: Path


def run(path: Path, options: Options, store: Store, task: Task) -> Compared:
    """Compare everything that a file of workloads names; write ``peers.md``, ``peers.json`` and
    ``environment.json`` into ``options.out``, anew after each workload.

    Raises ``RecipeError`` for mistakes in the files and ``DataError`` for a README without its
    two comments, or one beside ``only``, before anything is made.
    """
    workloads = read_workloads(path, only=options.only)
    if options.readme and options.only:
        raise DataError("--readme shows all workloads: leave --only out, or --readme")
    if options.readme:
        put_between(options.readme.read_text(), "", where=str(options.readme))
    options.out.mkdir(parents=True, exist_ok=True)
    entries = [workload.entry for workload in workloads]
    how, lines = protocol(options.rounds, options.seconds), list[Line]()
    for workload in workloads:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            contest = make_contest(Setting(workload, store, task, usable_threads(), folder))
            progress = task(f"{workload.entry.name}: timing")
            lines += time_contest(contest, how, folder, progress)
        written = _write(options.out, entries, lines)
    found = leads(entries, lines)
    if options.readme:
        text = options.readme.read_text()
        write_text(options.readme, put_between(text, summary(found), where=str(options.readme)))
    return Compared(tuple(lines), tuple(found), written)


def _write(out: Path, entries: Sequence[Entry], lines: Sequence[Line]) -> Path:
    machine: dict[str, Any] = {**environment(), "peers": peer_versions()}
    content = {
        "schema_version": 1,
        "workloads": [entry.model_dump() for entry in entries],
        "lines": [line.plain() for line in lines],
    }
    for name, values in (("environment", machine), ("peers", content)):
        write_text(out / f"{name}.json", json.dumps(values, indent=1, allow_nan=False) + "\n")
    write_text(out / "peers.md", page(entries, lines, machine))
    return out / "peers.md"
