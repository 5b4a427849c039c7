"""A run against an earlier one: what got worse, what is gone, what is new.

Times of two runs are compared by their paired ratios to their own baselines, never by seconds.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.comparable import read_environment, require_same_data, require_same_environment
from harness.errors import EnvironmentMismatch
from harness.gates.rules import TIMED, Finding, GateResult, differing, untrusted, value_of
from harness.outcomes import Outcome
from harness.results import Row, read_rows

FAIL_DROP, WARN_DROP = 0.08, 0.05
"""Share of a speedup that may be lost between two runs: beyond it fails, or warns."""
SIZE_TOLERANCE = 0.02
REPORT_ONLY = ("latency_p90", "latency_p99")
"""Tails are shown and not judged."""

Key = tuple[object, ...]


def check_against(folder: Path, against: Path) -> list[GateResult]:
    """Every figure of an earlier run against this one's: quality, sizes, memory and speedups.

    Without an earlier run nothing was compared, and the one result says so. Raises ``DataError``
    for a folder that can't be read, and ``EnvironmentMismatch`` when machines or data differ.
    """
    rows = read_rows(folder)
    if not (against / "rows.jsonl").exists():
        sentence = (
            f"no baseline, nothing compared: {against} holds no run; make one with "
            f"'python -m harness run RECIPE... --out {against}'"
        )
        return [GateResult("all", None, "not measured", sentence)]
    earlier = read_rows(against)
    require_same_environment(read_environment(folder), read_environment(against))
    require_same_data(rows, earlier)
    return compare_rows(rows, earlier)


def compare_rows(rows: Iterable[Row], earlier: Iterable[Row]) -> list[GateResult]:
    """One result for each judged row of either run, by name: worse fails, gone fails, new is
    listed. The two must be of one machine and one data set. Raises ``EnvironmentMismatch`` when a
    row's unit or direction isn't the same in both.
    """
    now, then = ({_key(row): row for row in side if _compared(row)} for side in (rows, earlier))
    _require_same_units(now, then)
    results = []
    for key, old in then.items():
        new = now.get(key)
        outcome, text = _worse(new, old) if new else ("failed", "is in the earlier run, not here")
        results.append(_result(new or old, outcome, text))
    added = (row for key, row in now.items() if key not in then)
    return [*results, *(_result(row, "new", "is not in the earlier run") for row in added)]


def _require_same_units(now: Mapping[Key, Row], then: Mapping[Key, Row]) -> None:
    for key, old in then.items():
        new = now.get(key)
        if new and (new.unit, new.direction) != (old.unit, old.direction):
            place = f"{new.recipe} on {new.target or 'any target'}: {new.scenario} {new.metric}"
            raise EnvironmentMismatch(
                f"{place}: {differing(new, old)}; make both runs with one version"
            )


def _result(row: Row, outcome: Outcome, text: str) -> GateResult:
    at = f" at {row.batch} x {row.candidates}, {row.threads} threads" if row.batch else ""
    sentence = (
        f"{row.recipe} on {row.target or 'any target'}: {row.scenario} {row.metric}{at}: {text}"
    )
    return GateResult(row.recipe, None, outcome, sentence, row.target)


def _key(row: Row) -> Key:
    place = (row.region, row.batch, row.candidates, row.threads)
    return (row.recipe, row.target, row.scenario, row.metric, *place)


def _compared(row: Row) -> bool:
    """Whether a row is judged between runs; for times only the paired ratio is."""
    if row.scenario in TIMED:
        return row.ratio is not None and row.metric not in REPORT_ONLY
    if row.scenario == "accuracy":
        derived = row.metric.endswith("_difference") or row.metric == "quality_class"
        return row.direction in ("higher", "lower") and not derived
    return row.scenario in ("size", "memory")


def _worse(new: Row, old: Row) -> Finding:
    if new.scenario in TIMED:
        return _slower(new, old)
    if old.value is None:
        return "new", "was undefined, so there is nothing to compare with"
    if new.value is None:
        return "failed", f"is undefined now: {new.reason}"
    if new.scenario == "accuracy":
        return _less_accurate(new, old)
    text = f"{new.value:,.0f}, was {old.value:,.0f}"
    return ("failed" if new.value > old.value * (1 + SIZE_TOLERANCE) else "passed"), text


def _less_accurate(new: Row, old: Row) -> Finding:
    """Worse beyond both intervals fails; without intervals, any worse value does."""
    sign = -1 if new.direction == "lower" else 1
    text = f"{new.value:.5f}, was {old.value:.5f}"
    if value_of(new) == value_of(old) or not _apart(new, old):
        return "passed", text
    if sign * value_of(new) < sign * value_of(old):
        return "failed", f"{text}: worse beyond both intervals"
    return "warning", f"{text}: better beyond both intervals, look for a leak"


def _apart(new: Row, old: Row) -> bool:
    (low, high), (old_low, old_high) = _interval(new), _interval(old)
    return high < old_low or low > old_high


def _interval(row: Row) -> tuple[float, float]:
    slack = 1e-6 * abs(value_of(row))
    low = value_of(row) - slack if row.ci_low is None else row.ci_low
    return low, value_of(row) + slack if row.ci_high is None else row.ci_high


def _slower(new: Row, old: Row) -> Finding:
    """More than 8 % of the speedup lost, and the intervals apart: failed at 1 thread. At more
    threads a shared machine is too noisy to judge, so it is a warning, whatever was found.
    """
    outcome, text = _lost(new, old)
    if new.threads != 1 and outcome in ("failed", "inconclusive"):
        return "warning", f"{text} (more than 1 thread: report only)"
    return outcome, text


def _lost(new: Row, old: Row) -> Finding:
    trouble = untrusted(new) or untrusted(old)
    if trouble or new.ratio is None or old.ratio is None:
        return "inconclusive", trouble or "no paired ratio"
    text = f"paired median {new.ratio:.3f} times the baseline's speed, was {old.ratio:.3f}"
    if new.ratio_high is None or old.ratio_low is None:
        return "inconclusive", f"{text}, without an interval"
    drop = 1 - new.ratio / old.ratio
    if drop > FAIL_DROP and new.ratio_high < old.ratio_low:
        return "failed", f"{text}: {drop:.1%} slower"
    return ("warning", f"{text}: {drop:.1%} slower") if drop > WARN_DROP else ("passed", text)
