"""What the models look at: how much worse each field's shuffled values make them."""

from dataclasses import replace

from harness.report.cells import DASH, Cell, Table, interval_cell, value_cell
from harness.report.lookup import Results, Variant

SCENARIO = "importance"
COLUMNS = (
    ("rank correlation", "importance_rank_correlation"),
    ("top 3 kept", "importance_top3_kept"),
)


def importance_table(run: Results) -> Table:
    """Variant x target: whether the fields matter in the order in which they do to the baseline."""
    lines = (
        (Cell(one.recipe), Cell(one.target), *(_cell(run, one, name) for _, name in COLUMNS))
        for one in _known(run)
        if not run.is_baseline(one)
    )
    return Table(("variant", "target", *(heading for heading, _ in COLUMNS)), tuple(lines))


def _known(run: Results) -> list[Variant]:
    return [one for one in run.ran if run.of(one, SCENARIO)]


def _cell(run: Results, one: Variant, metric: str) -> Cell:
    return value_cell(run.find(one, metric, scenario=SCENARIO))


def fields_table(run: Results) -> Table:
    """Variant x target x field: how much worse the main metric gets; the fields that matter most
    to the baseline first.
    """
    fields = _fields(run)
    lines = (
        (Cell(one.recipe), Cell(one.target), *(_own_cell(run, one, name) for name in fields))
        for one in _known(run)
    )
    return Table(("variant", "target", *fields), tuple(lines) if fields else ())


def _name(field: str) -> str:
    return f"importance[{field}]"


def _own_cell(run: Results, one: Variant, field: str) -> Cell:
    row = run.find(one, _name(field), scenario=SCENARIO)
    return DASH if row is None else interval_cell(replace(row, metric=run.main_metric))


def _fields(run: Results) -> list[str]:
    start = _name("").removesuffix("]")
    found: dict[str, float] = {}
    for row in run.rows:
        if row.scenario == SCENARIO and row.metric.startswith(start):
            field = row.metric.removeprefix(start).removesuffix("]")
            found.setdefault(field, float("-inf"))
            if run.is_baseline(Variant(row.recipe, row.target or "")) and row.value is not None:
                found[field] = max(found[field], row.value)
    return sorted(found, key=lambda name: -found[name])
