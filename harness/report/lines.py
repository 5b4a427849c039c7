"""Rows of a scenario as lines of a table: one line for each variant and what it was measured at."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from harness.report.lookup import Results, Variant
from harness.results import MACHINE, Row

Place = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A variant's rows of one scenario at one place (the columns asked for), by metric."""

    variant: Variant
    place: Place
    rows: Mapping[str, Row]


def lines_of(run: Results, scenario: str, *columns: str) -> list[Line]:
    """One line for each variant and each combination of ``columns`` (of numbers) in its rows.

    Rows that leave all columns empty belong to every line of their variant; variants without a
    row that is ok have no line (``missed`` tells of them).
    """
    return [
        line
        for one in run.variants
        for line in _own_lines(one, run.of(one, scenario), columns)
        if any(row.status == "ok" for row in line.rows.values())
    ]


def _own_lines(variant: Variant, rows: list[Row], columns: tuple[str, ...]) -> list[Line]:
    found: dict[Place, dict[str, Row]] = {}
    for row in rows:
        place = tuple(getattr(row, name) for name in columns)
        found.setdefault(place, {})[row.metric] = row
    nowhere = (None,) * len(columns)
    common = found.pop(nowhere, {})
    if not found and common:
        found = {nowhere: {}}
    places = sorted(found, key=lambda place: [(part is not None, part or 0) for part in place])
    return [Line(variant, place, {**common, **found[place]}) for place in places]


def machine_rows(run: Results, *scenarios: str) -> list[Row]:
    """Rows about the machine itself in those scenarios; of two with one name the later."""
    found = {
        (row.scenario, row.metric, row.threads, row.batch): row
        for row in run.rows
        if row.recipe == MACHINE and row.scenario in scenarios
    }
    return list(found.values())


def missed(run: Results, *scenarios: str) -> list[str]:
    """One sentence for each reason why rows of these scenarios were skipped or failed; not for
    rows beside one that is ok, whose line in the table tells the reason.
    """
    rows = [row for row in run.rows if row.scenario in scenarios]
    shown = {_where(row) for row in rows if row.status == "ok"}
    found = [row for row in rows if row.status != "ok" and _where(row) not in shown]
    found.sort(key=_why)
    return [_sentence(why, list(rows)) for why, rows in groupby(found, key=_why)]


def _where(row: Row) -> tuple[object, ...]:
    place = (row.threads, row.batch, row.candidates, row.offered_rate)
    return (row.recipe, row.target, row.scenario, *(() if row.recipe == MACHINE else place))


def _why(row: Row) -> tuple[str, str, str]:
    return row.scenario, row.status, row.reason or "no reason was given"


def _sentence(why: tuple[str, str, str], rows: list[Row]) -> str:
    scenario, status, reason = why
    names = list(dict.fromkeys(_name(row) for row in rows))
    who = ", ".join(names) if len(names) <= 3 else f"{len(names)} variants"
    return f"{scenario} {status} ({who}): {reason}"


def _name(row: Row) -> str:
    return f"{row.recipe} on {row.target}" if row.target else row.recipe
