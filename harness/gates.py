"""Gates: whether the rows of a run keep what a recipe promises, or what an earlier run had.

A gate fails closed: an undefined metric, an interval that is missing, a row that is gone never
pass. Nothing here measures; times are judged by their paired ratios only, never by stored seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.comparable import read_environment, require_same_data, require_same_environment
from harness.loading import load_recipes
from harness.recipe import GateSpec
from harness.results import Row, read_rows

Outcome = Literal["passed", "warning", "failed", "inconclusive", "not measured", "new"]
Finding = tuple[Outcome, str]

AA_BOUNDS = (0.95, 1.05)
MIN_PAIRS = 5
"""Fewer pairs say nothing about spread."""
TIMED = ("sweep", "single")
FAIL_DROP, WARN_DROP = 0.08, 0.05
"""Share of a speedup that may be lost between two runs: beyond it fails, or warns."""
SIZE_TOLERANCE = 0.02
REPORT_ONLY = ("latency_p90", "latency_p99")
"""Tails are shown and not judged."""
EXIT_CODES: Mapping[Outcome, int] = {"failed": 1, "not measured": 4, "inconclusive": 3}
"""The first that occurs decides; otherwise 0."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate, or one comparison with an earlier run (``gate`` is None), found on one
    target. ``skipped`` marks a gate whose target couldn't run here.
    """

    recipe: str
    gate: GateSpec | None
    outcome: Outcome
    sentence: str
    target: str | None = None
    skipped: bool = False


def exit_code(results: Sequence[GateResult]) -> int:
    """0 passed, 1 failed, 3 inconclusive, 4 not measured (or nothing compared at all).

    Gates of skipped targets don't fail a run, unless nothing else was judged.
    """
    judged = [result for result in results if not result.skipped and result.outcome != "new"]
    if not judged:
        return 4
    outcomes = {result.outcome for result in judged}
    return next((code for outcome, code in EXIT_CODES.items() if outcome in outcomes), 0)


def count_line(results: Sequence[GateResult]) -> str:
    """How many comparisons were made and how they ended, in one line."""
    words = ("passed", "warning", "failed", "inconclusive", "not measured", "new")
    counts = {word: sum(result.outcome == word for result in results) for word in words}
    made = sum(counts[word] for word in words[:4])
    told = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
    return f"{made} comparisons made: {told}" if told else "0 comparisons made"


def check_gates(
    gates_by_recipe: Mapping[str, Sequence[GateSpec]], rows: Iterable[Row]
) -> list[GateResult]:
    """Every gate on every target it is for; a gate that names no target is for all of them."""
    rows = list(rows)
    return [
        result
        for recipe, gates in gates_by_recipe.items()
        for gate in gates
        for result in _check(recipe, gate, rows)
    ]


def _check(recipe: str, gate: GateSpec, rows: list[Row]) -> Iterator[GateResult]:
    own = [row for row in rows if row.recipe == recipe]
    stopped = {row.target: row for row in own if row.scenario == "run" and row.status != "ok"}
    targets = [gate.target] if gate.target else list(dict.fromkeys(row.target for row in own))
    named: list[str | None] = [target for target in targets if target is not None]
    wanted = named or [None]
    for target in wanted:
        stop = stopped.get(target) or stopped.get(None)
        if stop is not None:
            yield _stopped(recipe, gate, target, stop)
            continue
        found = [row for row in own if _is_for(gate, row, target)]
        judged = [_judge(gate, row, rows) for row in found] or [_absent(gate, own, target)]
        for outcome, text in judged:
            sentence = f"{recipe} on {target or 'any target'}: {_name(gate)}: {text}"
            yield GateResult(recipe, gate, outcome, sentence, target)


def _stopped(recipe: str, gate: GateSpec, target: str | None, row: Row) -> GateResult:
    skipped = row.status == "skipped"
    outcome: Outcome = "not measured" if skipped else "failed"
    sentence = f"{recipe} on {target}: {_name(gate)}: {outcome}, {row.status}: {row.reason}"
    return GateResult(recipe, gate, outcome, sentence, target, skipped)


def _name(gate: GateSpec) -> str:
    bound, value = gate.bound
    place = [f"batch {gate.batch}" if gate.batch else "", _candidates(gate)]
    where = ", ".join(filter(None, place))
    return f"{gate.metric}{f' ({where})' if where else ''} {bound} {value:g}"


def _candidates(gate: GateSpec) -> str:
    return f"{gate.candidates} candidates" if gate.candidates else ""


def _is_for(gate: GateSpec, row: Row, target: str | None) -> bool:
    """Whether the row is the one a gate is about: its metric, or the difference of its metric."""
    change = gate.bound[0] in ("max_drop", "max_rise")
    if row.metric != (f"{gate.metric}_difference" if change else gate.metric):
        return False
    if row.scenario in ("run", "effect", "training", "reference", "gate"):
        return False
    if row.target not in (target, None):
        return False
    if row.scenario not in TIMED:
        return True
    if gate.threads != row.threads or gate.candidates not in (None, row.candidates):
        return False
    # ``batch`` counts rows; beside ``candidates`` it may count requests too.
    requests = gate.batch * gate.candidates if gate.batch and gate.candidates else None
    return row.batch in (gate.batch or row.batch, requests)


def _absent(gate: GateSpec, own: list[Row], target: str | None) -> Finding:
    """Without its row: undefined when the metric itself is null, otherwise not measured."""
    for row in own:
        if row.metric == gate.metric and row.target in (target, None) and row.value is None:
            return "failed", f"{gate.metric} is undefined: {row.reason}"
    return "not measured", "not measured: the run has no such row"


def _judge(gate: GateSpec, row: Row, rows: list[Row]) -> Finding:
    bound, limit = gate.bound
    if row.value is None and (bound != "min_speedup" or row.ratio is None):
        return "failed", f"{gate.metric} is undefined: {row.reason}"
    if bound == "max_ratio":
        return _size_ratio(row, limit, rows)
    return _JUDGES[bound](row, limit)


def _drop(row: Row, limit: float) -> Finding:
    if row.direction == "lower":
        return "failed", f"{row.metric} is better when it is lower: use max_rise"
    if row.ci_low is None:
        return "failed", "the difference has no interval, so nothing is shown"
    text = f"the difference's lower bound is {row.ci_low:+.5f}, allowed {-limit:+.5f}"
    return ("passed", text) if row.ci_low >= -limit else ("failed", text)


def _rise(row: Row, limit: float) -> Finding:
    if row.direction == "higher":
        return "failed", f"{row.metric} is better when it is higher: use max_drop"
    if row.ci_high is None:
        return "failed", "the difference has no interval, so nothing is shown"
    text = f"the difference's upper bound is {row.ci_high:+.5f}, allowed {limit:+.5f}"
    return ("passed", text) if row.ci_high <= limit else ("failed", text)


def _speedup(row: Row, limit: float) -> Finding:
    if row.ratio is None:
        return "not measured", f"not measured: {row.metric} has no paired ratio"
    trouble = _untrusted(row)
    if trouble or row.ratio_low is None or row.ratio_high is None:
        return "inconclusive", trouble or "the ratio has no interval"
    text = (
        f"{row.ratio:.3f} times the baseline's speed [{row.ratio_low:.3f}, {row.ratio_high:.3f}] "
        f"at {row.batch} x {row.candidates}, wanted {limit:g}"
    )
    if row.ratio_low >= limit:
        return "passed", text
    return ("failed", text) if row.ratio_high < limit else ("inconclusive", text)


def _untrusted(row: Row) -> str | None:
    """Why a paired ratio can't be used: the control arm, or too few pairs."""
    if row.aa_ratio is None:
        return "no A/A ratio was measured"
    if not AA_BOUNDS[0] <= row.aa_ratio <= AA_BOUNDS[1]:
        return f"the A/A ratio is {row.aa_ratio:.3f}, outside {AA_BOUNDS[0]}-{AA_BOUNDS[1]}"
    if row.n is None or row.n < MIN_PAIRS:
        return f"{row.n or 'an unknown number of'} pairs, at least {MIN_PAIRS} are needed"
    return None


def _size_ratio(row: Row, limit: float, rows: list[Row]) -> Finding:
    if row.scenario in TIMED:
        return "failed", "times of different minutes have no ratio: use min_speedup"
    assert row.value is not None, "an undefined value was refused before"
    plain = {r.recipe for r in rows if r.technique == "reference" and r.baseline == row.baseline}
    same = ("baseline", "target", "scenario", "metric")
    found = (
        other
        for other in rows
        if other.recipe in plain and all(getattr(other, n) == getattr(row, n) for n in same)
    )
    baseline = next(found, None)
    if baseline is None or baseline.value is None:
        return "not measured", f"no baseline {row.metric}, nothing compared: run the reference too"
    if baseline.value <= 0:
        return (
            "failed",
            f"the baseline's {row.metric} is {baseline.value:g}: undefined ratio",
        )
    ratio = row.value / baseline.value
    text = f"{row.value:,.0f} of {baseline.value:,.0f} is {ratio:.4f}, allowed {limit:g}"
    return ("passed", text) if ratio <= limit else ("failed", text)


def _minimum(row: Row, limit: float) -> Finding:
    text = f"{row.value:g}, at least {limit:g}"
    return ("passed", text) if _value(row) >= limit else ("failed", text)


def _maximum(row: Row, limit: float) -> Finding:
    text = f"{row.value:g}, at most {limit:g}"
    return ("passed", text) if _value(row) <= limit else ("failed", text)


def _value(row: Row) -> float:
    assert row.value is not None, "an undefined value was refused before"
    return row.value


_JUDGES: Mapping[str, Callable[[Row, float], Finding]] = {
    "max_drop": _drop,
    "max_rise": _rise,
    "min_speedup": _speedup,
    "minimum": _minimum,
    "maximum": _maximum,
}


def gate_folder(folder: Path, against: Path | None = None) -> list[GateResult]:
    """A finished run against the gates of the recipes stored in it, or against an earlier run.

    Raises ``DataError`` or ``RecipeError`` for a folder that can't be read.
    """
    if against is not None:
        return check_against(folder, against)
    rows = read_rows(folder)
    files = sorted((folder / "recipes").glob("*.yaml"))
    if not files:
        sentence = f"{folder / 'recipes'} holds no recipe, so there is no gate: run again"
        return [GateResult("all", None, "not measured", sentence)]
    return check_gates({one.name: one.gates for one in load_recipes(files)}, rows)


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
    listed. The two must be of one machine and one data set.
    """
    now, then = ({_key(row): row for row in side if _compared(row)} for side in (rows, earlier))
    results = []
    for key, old in then.items():
        new = now.get(key)
        outcome, text = _worse(new, old) if new else ("failed", "is in the earlier run, not here")
        results.append(_result(new or old, outcome, text))
    added = (row for key, row in now.items() if key not in then)
    return [*results, *(_result(row, "new", "is not in the earlier run") for row in added)]


def _result(row: Row, outcome: Outcome, text: str) -> GateResult:
    at = f" at {row.batch} x {row.candidates}, {row.threads} threads" if row.batch else ""
    sentence = (
        f"{row.recipe} on {row.target or 'any target'}: {row.scenario} {row.metric}{at}: {text}"
    )
    return GateResult(row.recipe, None, outcome, sentence, row.target)


def _key(row: Row) -> tuple[object, ...]:
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
        return "passed", "was undefined and is not judged"
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
    if _value(new) == _value(old) or not _apart(new, old):
        return "passed", text
    if sign * _value(new) < sign * _value(old):
        return "failed", f"{text}: worse beyond both intervals"
    return "warning", f"{text}: better beyond both intervals, look for a leak"


def _apart(new: Row, old: Row) -> bool:
    (low, high), (old_low, old_high) = _interval(new), _interval(old)
    return high < old_low or low > old_high


def _interval(row: Row) -> tuple[float, float]:
    slack = 1e-6 * abs(_value(row))
    low = _value(row) - slack if row.ci_low is None else row.ci_low
    return low, _value(row) + slack if row.ci_high is None else row.ci_high


def _slower(new: Row, old: Row) -> Finding:
    """More than 8 % of the speedup lost, and the intervals apart: failed at 1 thread, a warning
    at more, where a shared machine is too noisy to judge.
    """
    trouble = _untrusted(new) or _untrusted(old)
    if trouble or new.ratio is None or old.ratio is None:
        return "inconclusive", trouble or "no paired ratio"
    text = f"paired median {new.ratio:.3f} times the baseline's speed, was {old.ratio:.3f}"
    drop = 1 - new.ratio / old.ratio
    if new.ratio_high is None or old.ratio_low is None:
        return "inconclusive", f"{text}, without an interval"
    apart = new.ratio_high < old.ratio_low
    if drop > FAIL_DROP and apart and new.threads == 1:
        return "failed", f"{text}: {drop:.1%} slower"
    if drop > WARN_DROP:
        return "warning", f"{text}: {drop:.1%} slower"
    return "passed", text
