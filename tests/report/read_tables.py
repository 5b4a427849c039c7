"""Tables of a report as their tests read them."""

from typing import Any

from harness.report.cells import Table


def lines(table: Table) -> list[dict[str, str]]:
    """Rows as heading -> text."""
    return [dict(zip(table.headers, (c.text for c in row), strict=True)) for row in table.rows]


def line(table: Table, **wanted: Any) -> dict[str, str]:
    """The only row with those cells."""
    found = [one for one in lines(table) if all(one[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]
