"""Whether some users or items fare worse: the worst group and the gap, and what variants change.

Metrics are named ``worst[grouping]``, ``gap[grouping]`` and ``ndcg@10[grouping=group]``, the
differences to the baseline ``worst_difference[grouping]`` and so on.
"""

from collections.abc import Iterator
from dataclasses import replace

from harness.report.cells import DASH, DIFFERENCE, Cell, Table, formatter, interval_cell
from harness.report.details import title
from harness.report.lookup import Results, Variant
from harness.report.service import number_cell
from harness.results import Row

SCENARIO = "fairness"
TOO_MUCH = 2.0
"""A worst group that surely loses more than so many times the loss over all rows is told."""
RULE = (
    "A warning stands where the worst group's loss, taken at the end of its interval that is "
    "nearer to no loss, is more than twice the loss over all rows (where those lose nothing: more "
    "than 0). Without an interval there is no warning."
)


def fairness_table(run: Results) -> Table:
    """Of one baseline, by grouping: its worst group and gap, and each variant's differences."""
    names = groupings(run)
    heads = (f"{name}: {what}" for name in names for what in ("worst group", "gap"))
    lines = (
        (
            *(Cell(one.recipe), Cell(one.target)),
            *(cell for name in names for cell in _pair(run, one, name)),
        )
        for one in _known(run)
    )
    return Table(("variant", "target", *heads), tuple(lines) if names else ())


def groupings(run: Results) -> list[str]:
    """The groupings that have a worst group or a gap, in the rows' order."""
    found = dict.fromkeys(
        inside
        for row in run.rows
        if row.scenario == SCENARIO
        for what, inside in [_cut(row.metric)]
        if what in ("worst", "gap")
    )
    return list(found)


def _cut(metric: str) -> tuple[str, str]:
    """``worst[age]`` as ``worst`` and ``age``; a name may hold brackets itself."""
    what, _, inside = metric.removesuffix("]").partition("[")
    return what, inside


def _known(run: Results) -> list[Variant]:
    return [one for one in run.ran if run.of(one, SCENARIO)]


def _pair(run: Results, one: Variant, grouping: str) -> Iterator[Cell]:
    group = worst_group(run, one, grouping)
    change = "" if run.is_baseline(one) else DIFFERENCE
    for what in ("worst", "gap"):
        row = run.find(one, f"{what}{change}[{grouping}]", scenario=SCENARIO)
        cell = _cell(run, row, change=bool(change))
        if row is None or row.value is None:
            yield cell
        else:
            yield Cell(f"{cell.text} in {group}" if what == "worst" and group else cell.text)


def _cell(run: Results, row: Row | None, *, change: bool) -> Cell:
    """The figure, written as the main metric is (a difference carries its sign)."""
    name = run.main_metric + (DIFFERENCE if change else "")
    return interval_cell(None if row is None else replace(row, metric=name))


def worst_group(run: Results, one: Variant, grouping: str) -> str | None:
    """The variant's group with the worst main metric; None where no group has a value."""
    sign = -1 if run.task.lower_is_better else 1
    rows = groups(run, one, grouping)
    known = {name: row.value * sign for name, row in rows.items() if row.value is not None}
    return min(known, key=lambda name: known[name], default=None)


def groups(run: Results, one: Variant, grouping: str) -> dict[str, Row]:
    """Group -> the row with its main metric, in the rows' order."""
    start = f"{run.main_metric}[{grouping}="
    rows = [row for row in run.of(one, SCENARIO) if row.metric.startswith(start)]
    return {row.metric.removeprefix(start).removesuffix("]"): row for row in rows}


def groups_table(run: Results) -> Table:
    """Every group of every grouping: users, the main metric, and the difference to the baseline."""
    lines = (
        (
            *(Cell(one.recipe), Cell(one.target), Cell(grouping), Cell(group)),
            number_cell(row.n),
            _cell(run, row, change=False),
            _change(run, one, f"{grouping}={group}"),
        )
        for one in _known(run)
        for grouping in groupings(run)
        for group, row in groups(run, one, grouping).items()
    )
    name = title(run.main_metric)
    headers = ("variant", "target", "grouping", "group", "users")
    return Table((*headers, f"{name} [CI]", "difference [CI]"), tuple(lines))


def _change(run: Results, one: Variant, group: str) -> Cell:
    row = _difference_row(run, one, group)
    return DASH if row is None and run.is_baseline(one) else _cell(run, row, change=True)


def _difference_row(run: Results, one: Variant, group: str) -> Row | None:
    return run.find(one, f"{run.main_metric}{DIFFERENCE}[{group}]", scenario=SCENARIO)


def warning_lines(run: Results) -> list[str]:
    """One sentence for each variant with groupings that ``RULE`` is about."""
    plain = [one for one in _known(run) if not run.is_baseline(one)]
    return [line for one in plain for line in _warning(run, one)]


def _warning(run: Results, one: Variant) -> Iterator[str]:
    overall = run.find(one, f"{run.main_metric}{DIFFERENCE}", scenario="accuracy")
    if overall is None or overall.value is None:
        return
    found = [
        f"{grouping} ({worst_group(run, one, grouping)}) {_cell(run, worst, change=True).text}"
        for grouping in groupings(run)
        if (worst := _worst_change(run, one, grouping))
        and _loses_much(worst, overall.value, lower=run.task.lower_is_better)
    ]
    if found:
        show = formatter(f"{run.main_metric}{DIFFERENCE}", overall.unit)
        yield (
            f"{one.recipe} on {one.target}: the worst group loses more than twice as much as all "
            f"rows, beyond noise: {title(run.main_metric)} {show(overall.value)} over all rows, "
            f"by {'; by '.join(found)}."
        )


def _loses_much(worst: Row, overall: float, *, lower: bool) -> bool:
    """Whether the end of the interval that is nearer to no loss is beyond ``TOO_MUCH`` losses."""
    near = worst.ci_low if lower else worst.ci_high
    sign = 1 if lower else -1
    return near is not None and sign * near > TOO_MUCH * max(sign * overall, 0.0)


def _worst_change(run: Results, one: Variant, grouping: str) -> Row | None:
    """The difference of the worst group, of the first row that has an interval."""
    group = worst_group(run, one, grouping)
    rows = (
        run.find(one, f"worst{DIFFERENCE}[{grouping}]", scenario=SCENARIO),
        _difference_row(run, one, f"{grouping}={group}"),
    )
    sure = (row for row in rows if row is not None and row.value is not None)
    return next((r for r in sure if r.ci_low is not None and r.ci_high is not None), None)
