"""Parity of what was timed: the timed process scores the same rows as the accuracy pass did."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness import registry
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
    label: np.ndarray,
    task: Task = TASKS["click"],
    failure: str | None = None,
) -> list[Row]:
    """Largest difference in logits between the timed process and the accuracy pass, and the task's
    main metric of the timed process less that of the accuracy pass on exactly these rows (``n`` of
    them).

    ``timed`` and ``scored`` are logits of the same rows in the same order, ``label`` (rows,) their
    labels; a row that was drawn twice counts twice. ``timed`` is None when there are no outputs,
    and ``failure`` says why. None, logits that don't match the rows and logits that aren't finite
    give failed rows.
    """
    differences = _differences(task)
    nothing = failure or "the timed process gave no outputs"
    wrong = nothing if timed is None else _wrong(timed, scored, label)
    if timed is None or wrong:
        failed = Interval(None, None, None, label.size)
        return [
            metric_row(common, "parity", name, failed, status="failed", reason=wrong, **columns)
            for name, columns in differences.items()
        ]
    pair = timed.ravel().astype(np.float64), scored.ravel().astype(np.float64)  # (rows,) each
    sides = [_main_metric(label.ravel(), logits, task) for logits in pair]
    largest = float(np.abs(pair[0] - pair[1]).max())
    values = ((largest, None), _difference(*sides, rows=label.size))
    found: dict[str, tuple[float | None, str | None]] = dict(zip(differences, values, strict=True))
    return [
        metric_row(
            common,
            "parity",
            name,
            Interval(value, None, None, label.size),
            reason=reason,
            **differences[name],
        )
        for name, (value, reason) in found.items()
    ]


def _differences(task: Task) -> dict[str, dict[str, str]]:
    """Both metrics with their units and directions."""
    marks = registry.entry("metrics", task.main_metric).marks
    unit = "logit" if task.score == "probability" else marks["unit"]
    return {
        "timed_max_abs_difference": {"unit": unit, "direction": "lower"},
        f"timed_{task.main_metric}_difference": {
            "unit": marks["unit"],
            "direction": marks["direction"],
        },
    }


def _wrong(timed: np.ndarray, scored: np.ndarray, label: np.ndarray) -> str | None:
    """Why the two sides can't be compared; None when they can."""
    if label.size == 0:
        return "there are no rows"
    for who, logits in (("timed process", timed), ("accuracy pass", scored)):
        if logits.size != label.size:
            return f"the {who} gave {logits.size} logits for {label.size} rows"
        bad = int(np.count_nonzero(~np.isfinite(logits)))
        if bad:
            return f"{bad} of {logits.size} logits of the {who} aren't finite"
    return None


def _main_metric(label: np.ndarray, logits: np.ndarray, task: Task) -> Prepared:
    """The main metric as the accuracy pass computes it; users and requests have no part."""
    at = np.arange(len(label))
    score = seen_score(logits, task)
    metric: Prepared = registry.resolve("metrics", task.main_metric)(
        Record(label=label, score=score, user=at, request=at, item=at)
    )
    return metric


def _difference(timed: Prepared, scored: Prepared, *, rows: int) -> tuple[float | None, str | None]:
    whole = np.ones(rows)
    values = timed.statistic(whole), scored.statistic(whole)
    if values[0] is None or values[1] is None:
        return None, timed.reason or scored.reason or "undefined on these rows"
    return values[0] - values[1], None
