"""Making and scoring a contestant in a process of its own: a tool that crashes costs one row.

``python -m harness.peers.child`` reads one JSON request from stdin and prints one JSON answer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifact import read_artifact
from harness.dependencies import depends_on
from harness.engines.base import scores_of
from harness.environment import environment, usable_threads
from harness.errors import EffectError, HarnessError
from harness.peers.material import Material
from harness.peers.registry import (
    Kind,
    find_engine,
    find_peer,
    peer_versions,
    resolve,
    source_of,
)
from harness.process import child_environment, claim_stdout, ended_how
from harness.store import Store, key_of, package_versions, source_hash
from harness.suites import lists
from harness.suites.points import read_feeds
from harness.tables import Prepared, read_prepared
from harness.tasks import TASKS

TIMEOUT = 1800.0


class PeerError(HarnessError):
    """A contestant that couldn't be made or scored; the message is the reason its row carries."""


def ask(command: str, *, timeout: float = TIMEOUT, **values: Any) -> Path:
    """The folder that a command's answer is kept in (see ``make`` and ``score``).

    Raises ``PeerError`` with what the child said, or with how it ended without an answer.
    """
    try:
        done = subprocess.run(
            (sys.executable, "-m", "harness.peers.child"),
            input=json.dumps({"command": command, **values}, default=str),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            # One process compiles for torch: a pool of its own would outlive a child that is ended.
            env={
                **child_environment(threads=usable_threads()),
                "TORCHINDUCTOR_COMPILE_THREADS": "1",
            },
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{command} gave no answer within {timeout:g} s") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        raise PeerError(f"{command}: the process {ended_how(done.returncode)}: {last}") from error
    if "error" in answer:
        raise PeerError(f"{command}: {answer['error']}")
    return Path(answer["folder"])


def make(*, store: str, kind: Kind, peer: str, start: str, data: str | None, seed: int) -> Path:
    """The folder of a peer's artifact, made by its tool or found."""
    entry, artifact = find_peer(kind, peer), read_artifact(Path(start))
    assert entry.make is not None, f"{peer} takes {start} as it is"
    prepared = read_prepared(Path(data)) if data else None
    key = key_of(
        **depends_on(source_of(entry.make)),
        peer=entry.make,
        start=artifact.key,
        data=prepared.hash if prepared else None,
        seed=seed,
        source=source_hash(source_of(entry.make)),
        versions=[package_versions(), peer_versions()],
    )

    def build(folder: Path) -> None:
        assert entry.make is not None
        resolve(entry.make)(Material(artifact, folder, prepared, seed))

    return Store(Path(store)).make("artifacts", key, build)


def score(
    *, store: str, engine: str, folder: str, data: str | None = None, feeds: str | None = None
) -> Path:
    """The folder with ``answer.npy``: the answer to the test split of ``data``, or to the first
    batch of a file of ``feeds``. Raises ``EffectError`` for scores that aren't finite and lists
    that nobody may be given.
    """
    artifact = read_artifact(Path(folder))
    prepared = read_prepared(Path(data)) if data else None
    key = key_of(
        artifact=artifact.key,
        engine=engine,
        data=prepared.hash if prepared else Path(str(feeds)).parent.name,
        machine=environment()["key"],
        source=[source_hash(source_of(engine)), source_hash(Path(lists.__file__))],
        versions=peer_versions(),
    )

    def build(target: Path) -> None:
        with find_engine(engine)(artifact, threads=usable_threads()) as opened:
            if prepared:
                answer = lists.answer_split(opened, prepared, prepared.splits["test"])
                _check(answer, prepared)
            else:
                answer = opened.score(read_feeds(Path(str(feeds)))[0])
        np.save(target / "answer.npy", answer, allow_pickle=False)

    return Store(Path(store)).make("scores", key, build)


def _check(answer: np.ndarray, data: Prepared) -> None:
    bad = int(np.count_nonzero(~np.isfinite(scores_of(answer))))
    if bad:
        raise EffectError(f"{bad:,} of {answer.size:,} scores aren't finite")
    if TASKS[data.schema.task].lists:
        wrong = lists.forbidden(data, data.splits["test"], answer)
        if wrong:
            raise EffectError(wrong)


COMMANDS: Mapping[str, Any] = {"make": make, "score": score}


def main() -> None:
    """Answer the one request."""
    answers = claim_stdout()
    request = json.loads(sys.stdin.read())
    try:
        answer = {"folder": str(COMMANDS[request.pop("command")](**request))}
    except Exception as error:  # whatever a tool raises costs its own row only
        text = " ".join(str(error).split())[:300]
        answer = {"error": f"{type(error).__name__}: {text}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    os._exit(0)  # some tools' threads crash while the interpreter ends


if __name__ == "__main__":
    main()
