"""Scoring in a child process: an artifact's answer to the test split, and the rows beside it.

``python -m harness.suites.scoring_worker`` answers requests to score (``apart_worker``).
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifact import read_artifact
from harness.engines.base import Engine, scores_of
from harness.errors import EffectError
from harness.results import Row, write_rows
from harness.store import write_text
from harness.suites import accuracy, importance, lists, parity, probes
from harness.suites.apart_worker import Tell, serve
from harness.suites.worker import catalog_engine
from harness.tables import Prepared, Split, read_prepared
from harness.tasks import TASKS

TELL_SECONDS = 0.1
"""Between two lines of one part; a part's first call is always told."""


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


def main(find_engine: Callable[[str], Any] = catalog_engine) -> None:
    """Answer requests until stdin ends."""
    serve({"scoring": partial(score_variant, find_engine=find_engine)})


if __name__ == "__main__":
    main()
