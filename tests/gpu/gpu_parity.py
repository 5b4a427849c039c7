"""All engines on a tiny model against torch on the CPU, each in a process of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harness.artifact import read_artifact
from harness.baseline import Trained
from harness.engines.base import scores_of
from harness.measuring import common
from harness.results import Row
from harness.suites.arms import Arm, Session
from harness.suites.points import Point, draw_rows, write_feeds
from harness.suites.timed_rows import engine_columns
from harness.variants import Variant

POINT = Point("sweep", 7, 1, 1)
"""A size that no kernel is made for."""
BATCHES = 8
TOLERANCE: Mapping[str, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
"""Most difference of a score to torch's in fp32, by the precision that really ran: 10, 10 and 7
bits of the significand are about 1e-3, 1e-3 and 8e-3 of scores of about 1, and add up over layers.
"""
REFERENCE = "torch-cpu"
QUICK = {"seconds": 0.0, "window_calls": 1, "window_seconds": 0.001, "cap": 0.001}


@dataclass(frozen=True)
class Compared:
    """The rows of all engines, and those that weren't equal enough or failed."""

    rows: list[Row]
    wrong: list[str]


def compare(trained: Trained, variants: Sequence[Variant]) -> Compared:
    """Hold every variant that was made against the baseline in torch on the CPU."""
    reference = Arm(REFERENCE, REFERENCE, trained.artifact.folder, "reference")
    made = {v.name: v for v in variants if v.artifact is not None}
    arms = [reference, *(_arm(v) for v in made.values())]
    with TemporaryDirectory() as folder, Session(tuple(arms), 1) as session:
        feeds = {arm.name: _feeds(trained, arm, Path(folder)) for arm in arms}
        session.load(feeds, lambda label, share: None)
        session.prepare(feeds, QUICK)
        answers = {arm.name: _answer(session, arm, Path(folder)) for arm in arms}
        expected = answers.pop(REFERENCE)
        if expected is None:
            raise RuntimeError(f"torch on the CPU failed: {session.failures[REFERENCE]}")
        rows = []
        for arm in arms[1:]:
            base = {
                **common(trained, made[arm.name]),
                **engine_columns(session.loaded, arm),
                **{"scenario": "parity", "batch": POINT.rows, "metric": "difference_to_torch"},
                **{"unit": "score", "direction": "lower"},
            }
            failed = session.failures.get(arm.name, "no answer")
            rows.append(Row(**{**base, **_judged(answers[arm.name], expected, base, failed)}))
    wrong = [f"{row.recipe}@{row.target}: {row.reason}" for row in rows if row.status == "failed"]
    return Compared(rows, wrong)


def _arm(variant: Variant) -> Arm:
    assert variant.artifact is not None
    return Arm(variant.name, variant.target.engine, variant.artifact.folder)


def _feeds(trained: Trained, arm: Arm, folder: Path) -> Path:
    inputs, split = read_artifact(arm.folder).inputs, trained.data.splits["test"]
    path = folder / f"{abs(hash(inputs))}.npz"
    if not path.exists():
        rows = draw_rows(split, POINT, seed=1)[:BATCHES]
        write_feeds(path, trained.data.schema, split, rows, inputs)
    return path


def _answer(session: Session, arm: Arm, folder: Path) -> np.ndarray | None:
    path = folder / "outputs.npy"
    told = session.ask(arm, "outputs", timeout=60, path=str(path), batches=BATCHES)
    return None if told is None else np.load(path, allow_pickle=False)


def _judged(
    answer: np.ndarray | None, expected: np.ndarray, base: Mapping[str, Any], failed: str
) -> dict[str, Any]:
    """Value and status of one engine's row: of lists, scores are compared place by place."""
    if answer is None:
        return {"status": "failed", "reason": failed}
    scores = scores_of(answer).astype(np.float64)
    if scores.shape != scores_of(expected).shape:
        return {"status": "failed", "reason": f"{scores.shape} scores, not {expected.shape}"}
    gap = float(np.abs(scores - scores_of(expected)).max())
    if not np.isfinite(gap):
        return {"status": "failed", "reason": "scores that aren't finite"}
    label = str(base.get("precision"))
    most = max((limit for name, limit in TOLERANCE.items() if name in label), default=2e-2)
    if gap > most:
        return {"status": "failed", "reason": f"{gap:.2g} from torch, at most {most:g} ({label})"}
    return {"value": gap, "n": scores.size, "reason": f"at most {most:g} is asked of {label}"}
