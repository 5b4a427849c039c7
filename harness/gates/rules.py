"""Gates: whether the rows of a run keep what its recipes promise.

A gate fails closed: an undefined metric, an interval that is missing, a row that is gone never
pass. Nothing here measures; times are judged by their paired ratios only, never by stored seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.loading import load_recipes
from harness.outcomes import Outcome, aa_trouble, code_of
from harness.outcomes import count_line as count_outcomes
from harness.recipe import MEASURES, GateSpec
from harness.results import Row, read_rows

Finding = tuple[Outcome, str]

TIMED = ("single", "sweep", "offline")
"""Scenarios whose times are judged, by their paired ratio; tails and open loads are shown only."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate, or one comparison with an earlier run (``gate`` is None), found on one
    target. ``skipped`` marks a gate whose target couldn't run here; one in ``shadow`` is judged
    and told like any other, but decides nothing.
    """

    recipe: str
    gate: GateSpec | None
    outcome: Outcome
    sentence: str
    target: str | None = None
    skipped: bool = False
    shadow: bool = False

    @property
    def label(self) -> str:
        """The outcome as it is told: one that would have changed the exit code is marked."""
        counts = self.shadow and self.outcome not in ("passed", "warning", "new")
        return f"shadow {self.outcome}" if counts else self.outcome

    @property
    def decides(self) -> Outcome | None:
        """The outcome that counts for the exit code; None when this result has no say."""
        if self.skipped or self.outcome == "new":
            return None
        return "passed" if self.shadow else self.outcome


def exit_code(results: Sequence[GateResult]) -> int:
    """0 passed, 1 failed, 3 inconclusive, 4 not measured (or nothing compared at all).

    Gates of skipped targets don't fail a run, unless nothing else was judged.
    """
    return code_of([word for result in results if (word := result.decides) is not None])


def count_line(results: Sequence[GateResult]) -> str:
    """How many comparisons were made and how they ended, in one line."""
    shadow = [r.outcome for r in results if r.shadow and r.label != r.outcome]
    return count_outcomes([r.outcome for r in results if r.label == r.outcome], shadow)


def shadowed(results: Iterable[GateResult]) -> list[GateResult]:
    """The same results, all in shadow: nothing of them decides."""
    return [replace(result, shadow=True) for result in results]


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
        judged = [_judged(gate, row, rows) for row in found] or [_absent(gate, own, target)]
        for outcome, text in judged:
            sentence = f"{recipe} on {target or 'any target'}: {_name(gate)}: {text}"
            yield GateResult(recipe, gate, outcome, sentence, target, shadow=gate.shadow)


def _stopped(recipe: str, gate: GateSpec, target: str | None, row: Row) -> GateResult:
    skipped = row.status == "skipped"
    outcome: Outcome = "not measured" if skipped else "failed"
    sentence = f"{recipe} on {target}: {_name(gate)}: {outcome}, {row.status}: {row.reason}"
    return GateResult(recipe, gate, outcome, sentence, target, skipped, gate.shadow)


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
    measure = MEASURES.get(gate.metric)
    if measure == "qps_at_sla" and row.threads != gate.threads:
        return False
    if measure != "sweep":
        return measure in (row.scenario, None)
    if row.scenario not in ("sweep", "single") or row.region not in ("model_only", None):
        return False
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


def _judged(gate: GateSpec, row: Row, rows: list[Row]) -> Finding:
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
    trouble = untrusted(row)
    if trouble or row.ratio_low is None or row.ratio_high is None:
        return "inconclusive", trouble or "the ratio has no interval"
    text = (
        f"{row.ratio:.3f} times the baseline's speed [{row.ratio_low:.3f}, {row.ratio_high:.3f}] "
        f"at {row.batch} x {row.candidates}, wanted {limit:g}"
    )
    if row.ratio_low >= limit:
        return "passed", text
    return ("failed", text) if row.ratio_high < limit else ("inconclusive", text)


def untrusted(row: Row) -> str | None:
    """Why a paired ratio can't be used: the control arm, too few pairs, an interval beside it."""
    trouble = aa_trouble(row.aa_ratio, row.n)
    if trouble or row.ratio is None or row.ratio_low is None or row.ratio_high is None:
        return trouble
    if not 0 < row.ratio_low <= row.ratio <= row.ratio_high:
        return f"{row.ratio:.3f} isn't in its interval [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"
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
    if (baseline.unit, baseline.direction) != (row.unit, row.direction):
        return "failed", f"{differing(row, baseline)}: undefined ratio"
    if baseline.value <= 0:
        return (
            "failed",
            f"the baseline's {row.metric} is {baseline.value:g}: undefined ratio",
        )
    ratio = row.value / baseline.value
    text = f"{row.value:,.0f} of {baseline.value:,.0f} is {ratio:.4f}, allowed {limit:g}"
    return ("passed", text) if ratio <= limit else ("failed", text)


def differing(new: Row, old: Row) -> str:
    """Which of unit and direction two rows don't share."""
    name = "unit" if new.unit != old.unit else "direction"
    return f"{name} is {getattr(new, name)!r} and {getattr(old, name)!r}"


def _minimum(row: Row, limit: float) -> Finding:
    text = f"{row.value:g}, at least {limit:g}"
    return ("passed", text) if value_of(row) >= limit else ("failed", text)


def _maximum(row: Row, limit: float) -> Finding:
    text = f"{row.value:g}, at most {limit:g}"
    return ("passed", text) if value_of(row) <= limit else ("failed", text)


def value_of(row: Row) -> float:
    """The value of a row whose being undefined was dealt with before."""
    assert row.value is not None, "an undefined value was refused before"
    return row.value


_JUDGES: Mapping[str, Callable[[Row, float], Finding]] = {
    "max_drop": _drop,
    "max_rise": _rise,
    "min_speedup": _speedup,
    "minimum": _minimum,
    "maximum": _maximum,
}


def gate_folder(folder: Path) -> list[GateResult]:
    """A finished run against the gates of the recipes stored in it.

    Raises ``DataError`` or ``RecipeError`` for a folder that can't be read.
    """
    rows = read_rows(folder)
    files = sorted((folder / "recipes").glob("*.yaml"))
    if not files:
        sentence = f"{folder / 'recipes'} holds no recipe, so there is no gate: run again"
        return [GateResult("all", None, "not measured", sentence)]
    return check_gates({one.name: one.gates for one in load_recipes(files)}, rows)
