"""What a service would see: the rate at the SLA, latency under load, cold start and cost."""

from collections.abc import Sequence

from harness.report.cells import (
    DASH,
    Cell,
    Formatter,
    Table,
    count,
    milliseconds,
    missing,
    rate,
    ratio_text,
    share,
    significant,
    value_cell,
)
from harness.report.lines import Line, lines_of
from harness.report.lookup import Results, Variant
from harness.results import Row

RATE_AT_SLA = "qps_at_sla"
NOT_RANKED = "not ranked"
FLOOR_NOTE = (
    "not ranked: the p99 is under 3 times what the harness itself takes at this rate, so the "
    "figure says more about the harness than about the model"
)
Column = tuple[str, str, Formatter]
"""Heading, metric, and how its values are written."""


def line_cells(line: Line, columns: Sequence[Column], *, bare: bool = False) -> tuple[Cell, ...]:
    """The line's cells under these columns; a dash where the metric wasn't asked for. ``bare``
    figures stand without what their rows say about them (n/a always has its reason).
    """
    show_one = _bare_cell if bare else _cell
    return tuple(show_one(line.rows.get(metric), show) for _, metric, show in columns)


def told_lines(run: Results, scenario: str) -> list[str]:
    """What the rows of a scenario say about their figures, one sentence a reason."""
    found: dict[str, dict[str, None]] = {}
    for line in lines_of(run, scenario, THREADS):
        for _, metric, _ in TOLD.get(scenario, ()):
            row = line.rows.get(metric)
            if row is not None and row.value is not None and row.reason:
                found.setdefault(row.reason, {})[metric] = None
    headings = {metric: heading for heading, metric, _ in TOLD.get(scenario, ())}
    return [
        f"{', '.join(headings[metric] for metric in metrics)}: {reason}."
        for reason, metrics in found.items()
    ]


def name_cells(line: Line) -> tuple[Cell, ...]:
    """Variant, target and thread count (the first part of the line's place)."""
    threads = line.place[0]
    return (Cell(line.variant.recipe), Cell(line.variant.target), number_cell(threads))


def number_cell(value: float | None) -> Cell:
    """A whole number that tells a line from others; a dash where there is none."""
    return DASH if value is None else Cell(count(value))


def _bare_cell(row: Row | None, show: Formatter) -> Cell:
    """The value without what the row says about it, which stands elsewhere."""
    cell = _cell(row, show)
    return cell if row is None or row.value is None else Cell(cell.text)


def _cell(row: Row | None, show: Formatter) -> Cell:
    return DASH if row is None else value_cell(row, show)


THREADS = "threads"
NAMES = ("variant", "target", "threads")
FLOOR_COLUMN: Column = ("floor p99 (ms)", "floor_p99", milliseconds)
SLA_COLUMNS: tuple[Column, ...] = (
    ("p99 (ms)", "latency_p99", milliseconds),
    ("utilisation", "utilisation", share),
    ("fails at (requests/s)", "failing_rate", rate),
)


def sla_table(run: Results) -> Table:
    """Variant x target: the largest rate that was proven to meet the SLA, and what failed next."""
    found = lines_of(run, RATE_AT_SLA, THREADS)
    floors = any(FLOOR_COLUMN[1] in line.rows for line in found)
    columns = (*SLA_COLUMNS, *([FLOOR_COLUMN] if floors else []))
    headers = (
        *(*NAMES, "SLA p99 (ms)", "requests/s at SLA", "to reference [CI]"),
        *(heading for heading, _, _ in columns),
        "requests",
    )
    return Table(headers, tuple(_sla_row(run, line, columns) for line in found))


def _sla_row(run: Results, line: Line, columns: Sequence[Column]) -> tuple[Cell, ...]:
    found = line.rows.get(RATE_AT_SLA)
    return (
        *name_cells(line),
        _cell(line.rows.get("sla"), lambda value: f"{value * 1e3:g}"),
        _rate_cell(found),
        _to_reference(run, line.variant, found),
        *line_cells(line, columns),
        number_cell(found.n if found else None),
    )


def _rate_cell(row: Row | None) -> Cell:
    """The rate; what its row tells besides stands in columns of its own."""
    cell = value_cell(row, rate)
    if row is None or row.value is None:
        return cell
    return Cell(cell.text, _unranked(row))


def _unranked(row: Row) -> str | None:
    """Why the figure must not be ranked; None where it may be."""
    if row.verdict != NOT_RANKED:
        return None
    return f"{NOT_RANKED}: {row.reason}" if row.reason else FLOOR_NOTE


def _to_reference(run: Results, variant: Variant, row: Row | None) -> Cell:
    if run.is_baseline(variant):
        return Cell("baseline")
    return Cell(ratio_text(row)) if row and row.ratio is not None else DASH


def sla_threads(run: Results) -> int | None:
    """The fewest threads at which a rate at the SLA was searched; None when nowhere."""
    rows = (row for row in run.rows if row.scenario == RATE_AT_SLA and row.target is not None)
    return min((row.threads or 1 for row in rows), default=None)


def sla_title(run: Results) -> str:
    """The heading of a column of rates at the SLA, with the SLA where there is one only."""
    found = {
        row.value
        for row in run.rows
        if row.scenario == RATE_AT_SLA and row.metric == "sla" and row.value is not None
    }
    return f"requests/s at p99 {found.pop() * 1e3:g} ms" if len(found) == 1 else "requests/s at SLA"


def sla_cell(run: Results, variant: Variant, *, threads: int) -> Cell:
    """The variant's rate at the SLA at that thread count; n/a with the reason where none is."""
    rows = [
        row
        for row in run.of(variant, RATE_AT_SLA)
        if row.metric == RATE_AT_SLA and (row.threads or 1) == threads
    ]
    if not rows:
        failed = [row for row in run.of(variant, RATE_AT_SLA) if row.status != "ok"]
        return missing(failed[-1].reason if failed else "no rate was searched for it")
    return _rate_cell(rows[-1])


LOAD_COLUMNS: tuple[Column, ...] = (
    ("achieved (requests/s)", "achieved_rate", rate),
    ("achieved", "achieved_share", share),
    ("utilisation", "utilisation", share),
    ("alone (ms)", "service_p50", milliseconds),
    ("p50 (ms)", "latency_p50", milliseconds),
    ("p90 (ms)", "latency_p90", milliseconds),
    ("p99 (ms)", "latency_p99", milliseconds),
    FLOOR_COLUMN,
    ("largest backlog", "backlog_max", count),
)


def load_table(run: Results) -> Table:
    """Variant x target x offered rate: latency from the scheduled arrival, and how busy it was."""
    headers = (*NAMES, "offered (requests/s)", *(name for name, _, _ in LOAD_COLUMNS), "requests")
    found = lines_of(run, "server", THREADS, "offered_rate")
    return Table(headers, tuple(_load_row(line) for line in found))


def _load_row(line: Line) -> tuple[Cell, ...]:
    cells = list(line_cells(line, LOAD_COLUMNS))
    tail = line.rows.get("latency_p99")
    if tail is not None and tail.value is not None and _unranked(tail):
        cells[6] = Cell(cells[6].text, _unranked(tail))
    counts = [row.n for row in line.rows.values() if row.n is not None]
    offered = DASH if line.place[1] is None else Cell(rate(line.place[1]))
    return (*name_cells(line), offered, *cells, number_cell(max(counts, default=None)))


def probes_table(run: Results) -> Table:
    """Every probe of the search for the rate at the SLA, in the order of the rates."""
    rows = [
        (one, row)
        for one in run.variants
        for row in run.of(one, RATE_AT_SLA)
        if row.metric == "probe_p99" and row.offered_rate is not None
    ]
    order = {one: number for number, one in enumerate(run.variants)}
    rows.sort(key=lambda pair: (order[pair[0]], pair[1].threads or 0, pair[1].offered_rate or 0.0))
    lines = (
        (
            *(Cell(one.recipe), Cell(one.target), number_cell(row.threads)),
            *(Cell(rate(row.offered_rate or 0.0)), Cell(value_cell(row, milliseconds).text)),
            *(number_cell(row.n), Cell(row.verdict or "-"), Cell(row.reason or "-")),
        )
        for one, row in rows
    )
    headers = (*NAMES, "offered (requests/s)", "p99 (ms)", "requests", "outcome", "why")
    return Table(headers, tuple(lines))


COLD_COLUMNS: tuple[Column, ...] = (
    ("start to first scores (ms)", "cold_start", milliseconds),
    ("import (ms)", "cold_import", milliseconds),
    ("load (ms)", "cold_load", milliseconds),
    ("first call (ms)", "cold_first_call", milliseconds),
    ("calls 2 to 10 (ms)", "cold_calls_2_to_10", milliseconds),
)


def cold_table(run: Results) -> Table:
    """Variant x target: what a fresh process takes until it scores, medians over processes."""
    headers = (*NAMES, *(heading for heading, _, _ in COLD_COLUMNS), "processes")
    lines = []
    for line in lines_of(run, "cold", THREADS):
        counts = [row.n for row in line.rows.values() if row.n is not None]
        processes = number_cell(max(counts, default=None))
        lines.append((*name_cells(line), *line_cells(line, COLD_COLUMNS, bare=True), processes))
    return Table(headers, tuple(lines))


COST = "cost_per_million_requests"
COST_COLUMN: Column = ("cost per million requests", COST, significant)
USE_COLUMNS: tuple[Column, ...] = (
    ("CPU s per 1000 requests", "cpu_seconds_per_1000_requests", significant),
    ("J per 1000 requests", "joules_per_1000_requests", significant),
    ("CPU s to make", "making_cpu_seconds", significant),
)
TOLD = {"cold": COLD_COLUMNS, "resources": (*USE_COLUMNS[:2], COST_COLUMN)}
"""Columns whose rows' words are told under their table (what made a variant stands elsewhere)."""


def resources_table(run: Results) -> Table:
    """Variant x target: CPU time, energy and money for requests, and CPU time to make it."""
    units = {row.unit for row in run.rows if row.metric == COST and row.unit}
    money = f" ({units.pop()})" if len(units) == 1 else ""
    headers = (*NAMES, *(name for name, _, _ in USE_COLUMNS), f"{COST_COLUMN[0]}{money}")
    lines = (
        (
            *(*name_cells(one), *line_cells(one, USE_COLUMNS, bare=True)),
            _cost_cell(one.rows.get(COST), money),
        )
        for one in lines_of(run, "resources", THREADS)
    )
    return Table(headers, tuple(lines))


def _cost_cell(row: Row | None, money: str) -> Cell:
    if row is None or row.value is None or money or not row.unit:
        return _bare_cell(row, significant)
    return Cell(f"{value_cell(row, significant).text} {row.unit}")


def price_lines(run: Results) -> list[str]:
    """The prices that costs were counted with, one sentence each."""
    found = dict.fromkeys(
        (row.value, (row.unit or "").partition("/")[0])
        for row in run.rows
        if row.metric == "price_per_hour" and row.value is not None
    )
    return [
        f"Costs are at a price of {value:g} {unit or 'units of money'} for an hour of this machine."
        for value, unit in found
    ]
