"""Parity of what was timed: the timed process scores the same rows as the accuracy pass did."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness import registry
from harness.engines.base import scores_of
from harness.metrics.base import Prepared, Record
from harness.results import Row
from harness.suites.accuracy import metric_row, seen_score
from harness.suites.statistics import Interval
from harness.tasks import TASKS, Task


def timed_parity_rows(
    common: Mapping[str, Any],
    *,
    timed: np.ndarray | None,
    scored: np.ndarray,
    judged: Callable[[np.ndarray], Record],
    task: Task = TASKS["click"],
    failure: str | None = None,
) -> list[Row]:
    """Largest difference in logits between the timed process and the accuracy pass, and the task's
    main metric of the timed process less that of the accuracy pass on exactly these rows (``n`` of
    them); of lists the largest difference in scores, place by place.

    ``timed`` and ``scored`` are answers to the same rows (requests, for lists) in the same order,
    ``judged`` makes the record of an answer to them; a row that was drawn twice counts twice.
    ``timed`` is None when there are no outputs, and ``failure`` says why. None, answers that don't
    match the rows and scores that aren't finite give failed rows.
    """
    differences = _differences(task)
    nothing = failure or "the timed process gave no outputs"
    wrong = nothing if timed is None else _wrong(timed, scored, task)
    rows = len(scored)
    if timed is None or wrong:
        failed = Interval(None, None, None, rows)
        return [
            metric_row(common, "parity", name, failed, status="failed", reason=wrong, **columns)
            for name, columns in differences.items()
        ]
    pair = judged(timed), judged(scored)
    gap = scores_of(timed).astype(np.float64) - scores_of(scored)
    values = ((float(np.abs(gap).max()), None), _difference(pair, task))
    found: dict[str, tuple[float | None, str | None]] = dict(zip(differences, values, strict=True))
    return [
        metric_row(
            common,
            "parity",
            name,
            Interval(value, None, None, rows),
            reason=reason,
            **differences[name],
        )
        for name, (value, reason) in found.items()
    ]


def _differences(task: Task) -> dict[str, dict[str, str]]:
    """Both metrics with their units and directions."""
    marks = registry.entry("metrics", task.main_metric).marks
    unit = "logit" if task.score == "probability" else "score" if task.lists else marks["unit"]
    return {
        "timed_max_abs_difference": {"unit": unit, "direction": "lower"},
        f"timed_{task.main_metric}_difference": {
            "unit": marks["unit"],
            "direction": marks["direction"],
        },
    }


def _wrong(timed: np.ndarray, scored: np.ndarray, task: Task) -> str | None:
    """Why the two sides can't be compared; None when they can."""
    if not len(scored):
        return "there are no rows"
    if timed.shape != scored.shape:
        return (
            f"the timed process gave {_size(timed, task)}, the accuracy pass {_size(scored, task)}"
        )
    for who, answer in (("timed process", timed), ("accuracy pass", scored)):
        scores = scores_of(answer)
        bad = int(np.count_nonzero(~np.isfinite(scores)))
        if bad:
            return f"{bad} of {scores.size} scores of the {who} aren't finite"
    return None


def _size(answer: np.ndarray, task: Task) -> str:
    if task.lists and answer.ndim == 2:
        return f"{len(answer)} lists of {answer.shape[1]}"
    return f"{answer.size} logits"


def row_judge(label: np.ndarray, task: Task) -> Callable[[np.ndarray], Record]:
    """Makes records of logits (rows,) of rows with these labels, for metrics in which users and
    requests have no part.
    """
    at = np.arange(label.size)

    def judged(logits: np.ndarray) -> Record:
        score = seen_score(logits, task)
        return Record(label=label, score=score, user=at, request=at, item=at)

    return judged


def _difference(pair: tuple[Record, Record], task: Task) -> tuple[float | None, str | None]:
    """The main metric of the first less that of the second, as the accuracy pass computes it."""
    metric = registry.resolve("metrics", task.main_metric)
    sides: list[Prepared] = [metric(record) for record in pair]
    values = [
        side.statistic(np.ones(record.rows)) for side, record in zip(sides, pair, strict=True)
    ]
    if values[0] is None or values[1] is None:
        return None, sides[0].reason or sides[1].reason or "undefined on these rows"
    return values[0] - values[1], None
