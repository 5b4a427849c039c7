"""What lists are worth besides accuracy: how much of the catalogue they show, and how new it is."""

from harness.report.cells import BEYOND, DASH, DIFFERENCE, Cell, Table, interval_cell, missing
from harness.report.details import title
from harness.report.lookup import REFERENCE, Results, Variant, is_reference

SCENARIO = "beyond"
UNITS = {"novelty": " (bits)"}


def beyond_table(run: Results) -> Table:
    """Of one baseline: its figures and those of the simple rankings, and of each variant the
    differences to it, with their interval where there is one.
    """
    metrics = beyond_metrics(run)
    known = {Variant(row.recipe, row.target or "") for row in run.rows if row.scenario == SCENARIO}
    lines = [_line(run, one, metrics) for one in run.ran if one in known and run.is_baseline(one)]
    lines += [_line(run, one, metrics) for one in references(run)]
    lines += [
        _line(run, one, metrics) for one in run.ran if one in known and not run.is_baseline(one)
    ]
    return Table(("variant", "target", *map(_heading, metrics)), tuple(lines) if metrics else ())


def beyond_metrics(run: Results) -> list[str]:
    """The metrics of these rows that are shown, in one order."""
    found = dict.fromkeys(
        row.metric
        for row in run.rows
        if row.scenario == SCENARIO and not row.metric.endswith(DIFFERENCE)
    )
    order = list(BEYOND)
    families = {name: f"{name.partition('@')[0]}@" for name in found}
    shown = [name for name in found if families[name] in order]
    return sorted(shown, key=lambda name: order.index(families[name]))


def references(run: Results) -> list[Variant]:
    """The simple rankings that have such figures, as variants."""
    return list(
        dict.fromkeys(
            Variant(row.recipe, row.target or "")
            for row in run.rows
            if row.scenario == SCENARIO and is_reference(row)
        )
    )


def _heading(metric: str) -> str:
    return title(metric) + UNITS.get(metric.partition("@")[0], "")


def _line(run: Results, one: Variant, metrics: list[str]) -> tuple[Cell, ...]:
    plain = one.recipe.startswith(REFERENCE) or run.is_baseline(one)
    return (
        Cell(one.recipe),
        Cell(one.target) if one.target else DASH,
        *(_value(run, one, name) if plain else _change(run, one, name) for name in metrics),
    )


def _value(run: Results, one: Variant, metric: str) -> Cell:
    return interval_cell(run.find(one, metric, scenario=SCENARIO))


def _change(run: Results, one: Variant, metric: str) -> Cell:
    """The difference; where there is none, why the variant's own figure has no value."""
    row = run.find(one, f"{metric}{DIFFERENCE}", scenario=SCENARIO)
    own = run.find(one, metric, scenario=SCENARIO)
    if row is None and own is not None and own.value is None:
        return missing(own.reason)
    return interval_cell(row)
