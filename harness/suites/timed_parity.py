"""Parity of what was timed: the timed process scores the same rows as the accuracy pass did."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from harness import registry
from harness.metrics.base import Prepared, Record
from harness.results import Row
from harness.suites.accuracy import MAIN_METRIC, metric_row
from harness.suites.statistics import Interval

DIFFERENCES = {
    "timed_max_abs_difference": {"unit": "logit", "direction": "lower"},
    "timed_auc_difference": {"unit": "share", "direction": "higher"},
}
"""Unit and direction of both rows."""


def timed_parity_rows(
    common: Mapping[str, Any],
    *,
    timed: np.ndarray | None,
    scored: np.ndarray,
    label: np.ndarray,
    failure: str | None = None,
) -> list[Row]:
    """Largest difference in logits between the timed process and the accuracy pass, and AUC of the
    timed process less that of the accuracy pass on exactly these rows (``n`` of them).

    ``timed`` and ``scored`` are logits of the same rows in the same order, ``label`` (rows,) is 0
    or 1; a row that was drawn twice counts twice. ``timed`` is None when there are no outputs, and
    ``failure`` says why. None, logits that don't match the rows and logits that aren't finite give
    failed rows.
    """
    nothing = failure or "the timed process gave no outputs"
    wrong = nothing if timed is None else _wrong(timed, scored, label)
    if timed is None or wrong:
        failed = Interval(None, None, None, label.size)
        return [
            metric_row(common, "parity", name, failed, status="failed", reason=wrong, **columns)
            for name, columns in DIFFERENCES.items()
        ]
    pair = timed.ravel().astype(np.float64), scored.ravel().astype(np.float64)  # (rows,) each
    areas = [_area(label.ravel(), logits) for logits in pair]
    found: dict[str, tuple[float | None, str | None]] = {
        "timed_max_abs_difference": (float(np.abs(pair[0] - pair[1]).max()), None),
        "timed_auc_difference": _difference(*areas, rows=label.size),
    }
    return [
        metric_row(
            common,
            "parity",
            name,
            Interval(value, None, None, label.size),
            reason=reason,
            **DIFFERENCES[name],
        )
        for name, (value, reason) in found.items()
    ]


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


def _area(label: np.ndarray, logits: np.ndarray) -> Prepared:
    """AUC of probabilities, as the accuracy pass computes it; users and requests have no part."""
    at = np.arange(len(label))
    area: Prepared = registry.resolve("metrics", MAIN_METRIC)(
        Record(label=label, score=expit(logits), user=at, request=at, item=at)
    )
    return area


def _difference(timed: Prepared, scored: Prepared, *, rows: int) -> tuple[float | None, str | None]:
    whole = np.ones(rows)
    values = timed.statistic(whole), scored.statistic(whole)
    if values[0] is None or values[1] is None:
        return None, timed.reason or scored.reason or "undefined on these rows"
    return values[0] - values[1], None
