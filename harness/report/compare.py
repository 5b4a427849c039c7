"""Two runs side by side: speedups and sizes of one machine, quality on the same data.

Times of different machines are refused. Quality doesn't depend on the machine's speed, so
``accuracy_only`` compares it across machines, as long as both runs scored the same rows.
"""

from pathlib import Path

from harness.comparable import read_environment, require_same_data, require_same_environment
from harness.report import markdown
from harness.report.cells import (
    Cell,
    Table,
    interval_cell,
    mebibytes,
    milliseconds,
    missing,
    ratio_text,
    value_cell,
)
from harness.report.lookup import LATENCY, Point, Results, Variant, in_order, results
from harness.report.service import sla_cell, sla_threads, sla_title
from harness.report.sureness import mark_lines
from harness.results import Row, read_rows


def compare(folder_a: Path, folder_b: Path, *, accuracy_only: bool = False) -> str:
    """Markdown with both runs side by side, by variant and target.

    Raises ``EnvironmentMismatch`` when the data differ, or when the machines do and times were
    asked for; ``DataError`` when a folder holds no run.
    """
    rows_a, rows_b = read_rows(folder_a), read_rows(folder_b)
    require_same_data(rows_a, rows_b)
    if not accuracy_only:
        require_same_environment(read_environment(folder_a), read_environment(folder_b))
    a, b = results(rows_a), results(rows_b)
    parts = [
        "# Two runs side by side",
        f"A: {markdown.escape(str(folder_a))}\\\nB: {markdown.escape(str(folder_b))}",
        "## Quality",
        *(markdown.table(_quality(*pair)) for pair in _by_task(a, b)),
    ]
    if not accuracy_only:
        parts += ["## Speed, size and memory", _SPEED_NOTE]
        parts += [markdown.table(_speed(*pair)) for pair in _by_task(a, b)]
        meanings = dict.fromkeys([*mark_lines(a), *mark_lines(b)])
        parts += [markdown.escape(meaning) for meaning in meanings]
    return "\n\n".join(parts) + "\n"


_SPEED_NOTE = (
    "Speedups were measured against the baseline in the same minutes, so they can be compared; "
    "latencies of two runs differ by the state of the machine too and are here to look at."
)


def _by_task(a: Results, b: Results) -> list[tuple[Results, Results]]:
    """The two runs task by task; a run without a task has no rows there."""
    ours, theirs = ({part.task.name: part for part in run.by_task} for run in (a, b))
    nothing = results(())
    names = dict.fromkeys([*ours, *theirs])
    return [(ours.get(name, nothing), theirs.get(name, nothing)) for name in names]


def _variants(a: Results, b: Results) -> list[Variant]:
    return list(dict.fromkeys([*a.variants, *b.variants]))


def _quality(a: Results, b: Results) -> Table:
    task = (a if a.rows else b).task
    metric = task.main_metric
    better = ", lower is better" if task.lower_is_better else ""
    lines = []
    for one in _variants(a, b):
        rows = [run.find(one, metric, scenario="accuracy") for run in (a, b)]
        absent = [_absent(run, one) for run in (a, b)]
        cells = [interval_cell(row, reason=why) for row, why in zip(rows, absent, strict=True)]
        lines.append((Cell(one.recipe), Cell(one.target), *cells, _change(*rows)))
    headings = (f"{metric} A", f"{metric} B", f"B - A{better}")
    return Table(("variant", "target", *headings), tuple(lines))


def _change(a: Row | None, b: Row | None) -> Cell:
    if a is None or b is None or a.value is None or b.value is None:
        return missing("not in both runs")
    return Cell(f"{b.value - a.value:+.4f}")


def _absent(run: Results, one: Variant) -> str:
    status = run.status(one)
    return f"{status.status}: {status.reason}" if status else "not in this run"


def _speed(a: Results, b: Results) -> Table:
    points = in_order([*a.points(threads=1), *b.points(threads=1)])
    request, threads = a.request_point() or b.request_point(), _sla_threads(a, b)
    words = (a if a.rows else b).words
    headers = ["variant", "target"]
    headers += [f"{point.label} {side}" for point in points for side in "AB"]
    headers += [f"p50 {words(request)} {side} (ms)" for side in "AB"] if request else []
    if threads is not None:
        headers += [f"{sla_title(run)} {side}" for run, side in ((a, "A"), (b, "B"))]
    headers += [f"{name} {side} (MiB)" for name in ("size", "peak memory") for side in "AB"]
    lines = []
    for one in _variants(a, b):
        cells = [Cell(one.recipe), Cell(one.target)]
        cells += [_paired(run, one, point=point) for point in points for run in (a, b)]
        if request:
            found = [run.find(one, LATENCY, point=request) for run in (a, b)]
            cells += [value_cell(row, milliseconds) for row in found]
        if threads is not None:
            cells += [_rate(run, one, threads=threads) for run in (a, b)]
        for scenario, metric in (("size", "bytes"), ("memory", "peak_memory")):
            cells += [
                value_cell(run.find(one, metric, scenario=scenario), mebibytes) for run in (a, b)
            ]
        lines.append(tuple(cells))
    return Table(tuple(headers), tuple(lines))


def _sla_threads(a: Results, b: Results) -> int | None:
    """The one thread count whose rates stand side by side; None when neither run has any."""
    found = [n for n in (sla_threads(a), sla_threads(b)) if n is not None]
    return max(found, default=None)


def _rate(run: Results, one: Variant, *, threads: int) -> Cell:
    status = run.status(one)
    absent = status is not None or one not in run.variants
    return missing(_absent(run, one)) if absent else sla_cell(run, one, threads=threads)


def _paired(run: Results, one: Variant, *, point: Point) -> Cell:
    row = run.paired(one, point)
    if row is not None and row.ratio is not None:
        return Cell(ratio_text(row))
    if run.is_baseline(one):
        return Cell("baseline")
    return missing(row.reason if row else _absent(run, one))
