"""Scoring in a child process: an artifact's answer to the test split, and the rows beside it.

``python -m harness.suites.scoring_worker`` reads requests from stdin, a JSON line each, and tells
on the stdout it was given how far it is; what it found goes into files of the folder it is told.
Whatever an engine does to its process (a crash, a hang, all memory taken) then ends one variant.
"""

import ctypes
import gc
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifact import read_artifact
from harness.engines.base import Engine, scores_of
from harness.errors import EffectError, UnsupportedError
from harness.process import claim_stdout
from harness.results import Row, write_rows
from harness.store import no_room, write_text
from harness.suites import accuracy, importance, lists, parity, probes
from harness.suites.worker import catalog_engine
from harness.tables import Prepared, Split, read_prepared
from harness.tasks import TASKS

TELL_SECONDS = 0.1
"""Between two lines of one part; a part's first call is always told."""
PR_SET_PDEATHSIG = 1

Tell = Callable[[str, float], None]
"""Takes where the work is, and the share of the part that is done."""


def score_variant(
    *,
    name: str,
    engine: str,
    artifact: str,
    source: str,
    data: str,
    columns: Mapping[str, Any],
    seed: int,
    threads: int,
    out: str,
    tell: Tell,
    find_engine: Callable[[str], Any] = catalog_engine,
) -> None:
    """Score an artifact's folder in an engine, and its torch source's in torch for the parity, on
    the data in a folder; write ``answer.npy``, ``facts.json`` and the rows into ``out``.

    Raises what the engine raises, and ``EffectError`` for scores that aren't finite and lists that
    nobody may be given.
    """
    prepared = read_prepared(Path(data))
    test = prepared.splits["test"]
    tell("loading", 0.0)
    with find_engine(engine)(read_artifact(Path(artifact)), threads=threads) as opened:
        facts = opened.describe()
        columns = {**columns, "engine": facts.engine}  # the rest of the facts: when rows are read
        call = opened.score

        def part(label: str, expected: int) -> None:
            opened.score = _told(call, label, expected, tell)

        lists_asked = TASKS[prepared.schema.task].lists
        part("the test split", test.requests if lists_asked else test.rows)
        answer = lists.answer_split(opened, prepared, test)
        check_answer(answer, name, prepared)
        part("batch sizes", 0)
        rows = parity.invariance_rows(columns, opened, prepared, test)
        part("probes", 0)
        rows += probes.probe_rows(columns, opened, prepared, test)
        part("importance of fields", 0)
        rows += _importance(columns, opened, prepared, seed)
        part("parity with torch", 0)
        with catalog_engine("torch-cpu")(read_artifact(Path(source)), threads=threads) as torch:
            rows += parity.parity_rows(columns, (opened, torch), prepared, test)
    folder = Path(out)
    np.save(folder / "answer.npy", answer, allow_pickle=False)
    write_text(folder / "facts.json", json.dumps(asdict(facts), indent=1, default=str))
    write_rows(folder, rows)


def _told(
    call: Callable[..., np.ndarray], label: str, expected: int, tell: Tell
) -> Callable[..., np.ndarray]:
    """An engine's call that says before it which one it is, at most every ``TELL_SECONDS``."""
    done, calls, last = 0, 0, 0.0

    @wraps(call)
    def told(feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        nonlocal done, calls, last
        calls += 1
        if time.monotonic() - last >= TELL_SECONDS:
            of = f", {done:,} of {expected:,} done" if expected else ""
            tell(f"{label}{of}, call {calls}", done / expected if expected else 0.0)
            last = time.monotonic()
        answer = call(feeds)
        done += len(answer)
        return answer

    return told


def _importance(columns: Mapping[str, Any], engine: Engine, data: Prepared, seed: int) -> list[Row]:
    """Nothing where a model answers with lists: it has the past as its only input."""
    if TASKS[data.schema.task].lists:
        return []

    def logits(split: Split) -> np.ndarray:
        return accuracy.score_split(engine, data, split)

    inputs = engine.artifact.inputs
    return importance.importance_rows(columns, logits, data=data, inputs=inputs, seed=seed)


def check_answer(answer: np.ndarray, name: str, data: Prepared) -> None:
    """Raise ``EffectError`` for scores that aren't finite and lists that nobody may be given."""
    scores = scores_of(answer)
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise EffectError(f"{name}: {bad:,} of {scores.size:,} scores aren't finite")
    if TASKS[data.schema.task].lists:
        wrong = lists.forbidden(data, data.splits["test"], answer)
        if wrong:
            raise EffectError(f"{name}: {wrong}")


def wrong(error: Exception, last: str) -> dict[str, Any]:
    """An exception as a line that the parent makes one of again; ``last`` is what was told last."""
    return {
        "ok": False,
        "kind": type(error).__name__,
        "error": str(error),
        "code": error.code if isinstance(error, UnsupportedError) else None,
        "no_room": no_room(error),
        "trace": traceback.format_exc(),
        "last": last,
    }


def end_with_parent() -> None:
    """Have the system end this process when its parent has ended, however that was, and, where
    memory runs out, before its parent; on Linux alone.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        return  # a container may forbid it; the largest process then goes first


def main(find_engine: Callable[[str], Any] = catalog_engine) -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process itself
    end_with_parent()
    answers = claim_stdout()

    def say(line: Mapping[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    last = "nothing"

    def tell(at: str, share: float) -> None:
        nonlocal last
        last = at
        say({"at": at, "share": share})

    for line in sys.stdin:
        request = json.loads(line)
        del request["command"]
        try:
            score_variant(**request, tell=tell, find_engine=find_engine)
        except Exception as error:  # whatever went wrong is the parent's to tell
            say(wrong(error, last))
        else:
            say({"ok": True})
        gc.collect()


if __name__ == "__main__":
    main()
