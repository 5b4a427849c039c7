"""The summary of a run: a table for each task, a sentence for each target, and the terminal's."""

import re
from collections.abc import Iterable, Sequence

from harness.report.cells import (
    DASH,
    Cell,
    Table,
    interval_cell,
    mebibytes,
    milliseconds,
    missing,
    ratio_text,
    significant,
    value_cell,
)
from harness.report.compare import compare
from harness.report.details import (
    not_run_table,
    references_table,
    request_title,
    speedup_cell,
    target_cell,
    title,
)
from harness.report.lookup import LATENCY, NON_INFERIORITY, Point, Results, Variant, results
from harness.report.markdown import notes, plain
from harness.report.service import sla_cell, sla_threads, sla_title
from harness.report.sureness import mark_lines
from harness.results import Row

__all__ = ["best_lines", "compare", "summary_for_terminal", "summary_table", "verdict"]

Terminal = tuple[list[str], list[list[str]]]


def summary_table(run: Results) -> Table:
    """Variant x target: quality, speedup at each 1-thread point, size, memory and a verdict."""
    points = run.summary_points()
    request = run.request_point()
    threads = sla_threads(run)
    name = title(run.main_metric)
    headers = (
        *("variant", "target", name, f"{name} difference [CI]", "class"),
        *(("non-inferior",) if _judges_inferiority(run) else ()),
        *(point.label for point in points),
        *((request_title(run, request),) if request else ()),
        *((sla_title(run),) if threads is not None else ()),
        *("size (MiB)", "peak memory (MiB)", "verdict"),
    )
    rows = (_summary_row(run, one, points, threads) for one in run.variants)
    return Table(headers, tuple(rows))


def _summary_row(
    run: Results, variant: Variant, points: Sequence[Point], threads: int | None
) -> tuple[Cell, ...]:
    status, request = run.status(variant), run.request_point()
    cells = [Cell(variant.recipe), target_cell(run, variant)]
    if status is not None:
        known = (request is not None, threads is not None, _judges_inferiority(run))
        blank = [DASH] * (5 + len(points) + sum(known))
        return (*cells, *blank, Cell(status.status, status.reason))
    metric = run.main_metric
    size = run.find(variant, "bytes", scenario="size")
    peak = run.find(variant, "peak_memory", scenario="memory")
    cells += [
        value_cell(run.find(variant, metric, scenario="accuracy")),
        _difference(run, variant),
        _class(run, variant),
        *([_non_inferior(run, variant)] if _judges_inferiority(run) else []),
        *(speedup_cell(run, variant, point) for point in points),
    ]
    if request:
        cells.append(value_cell(run.find(variant, LATENCY, point=request), milliseconds))
    if threads is not None:
        cells.append(sla_cell(run, variant, threads=threads))
    cells += [value_cell(size, mebibytes), value_cell(peak, mebibytes)]
    return (*cells, Cell(verdict(run, variant)))


def _difference(run: Results, variant: Variant) -> Cell:
    row = run.find(variant, f"{run.main_metric}_difference", scenario="accuracy")
    if row is None and run.is_baseline(variant):
        return Cell("baseline")
    return interval_cell(row)


def _class(run: Results, variant: Variant) -> Cell:
    row = run.find(variant, "quality_class", scenario="accuracy")
    if row is None and run.is_baseline(variant):
        return Cell("baseline")
    if row is None or row.value is None or not row.verdict:
        return missing(row.reason if row else None)
    return Cell(row.verdict)


def _judges_inferiority(run: Results) -> bool:
    return any(row.metric == NON_INFERIORITY for row in run.rows)


def _non_inferior(run: Results, variant: Variant) -> Cell:
    """The verdict and its adjusted p: ``non-inferior, p 0.012``."""
    row = run.find(variant, NON_INFERIORITY, scenario="accuracy")
    if row is None and run.is_baseline(variant):
        return Cell("baseline")
    if row is None or row.value is None:
        return missing(row.reason if row else None)
    return Cell(f"{row.verdict or 'not told'}, p {significant(row.value, 2)}", row.reason)


def verdict(run: Results, variant: Variant) -> str:
    """The variant in words: speed at the request point (and where another point says the
    opposite), what it saves when it isn't faster, and its quality class.
    """
    if run.is_baseline(variant):
        return "baseline"
    row = run.find(variant, "quality_class", scenario="accuracy")
    quality = row.verdict if row and row.value is not None else "quality unknown"
    return f"{_speed_words(run, variant)}, {quality}"


def _speed_words(run: Results, variant: Variant) -> str:
    request = run.request_point()
    by_point = {
        point: row.verdict
        for point in run.points(threads=1)
        if (row := run.paired(variant, point)) and row.verdict
    }
    head = by_point.get(request) if request else None
    if head is None:
        return "speed not measured"
    smaller = head != "faster" and _smaller(run, variant)
    words = f"smaller but {head}" if smaller and head == "slower" else head
    words = f"{words} but smaller" if smaller and head != "slower" else words
    opposite = {"faster": "slower", "slower": "faster"}.get(head, "slower")
    other = [point.label for point, said in by_point.items() if said == opposite]
    return f"{words} ({opposite} at {', '.join(other)})" if other else words


def _smaller(run: Results, variant: Variant) -> bool:
    baseline = run.baseline_of(variant)
    own = run.find(variant, "bytes", scenario="size")
    theirs = run.find(baseline, "bytes", scenario="size") if baseline else None
    if own is None or theirs is None or own.value is None or theirs.value is None:
        return False
    return own.value < 0.98 * theirs.value


def best_lines(run: Results) -> list[str]:
    """One sentence a target: the fastest variant that was proven faster within each class."""
    request = run.request_point()
    return [_best(run, target, request) for target in run.targets if request] if request else []


def _best(run: Results, target: str, request: Point) -> str:
    found = []
    for one in run.variants:
        row = run.paired(one, request)
        quality = run.find(one, "quality_class", scenario="accuracy")
        if one.target != target or row is None or row.verdict != "faster" or row.ratio is None:
            continue
        if quality is not None and quality.verdict == "99.9 %":
            found.append((row.ratio, one, row))
    if not found:
        if all(run.status(one) for one in run.variants if one.target == target):
            return f"{target}: nothing ran."
        return (
            f"{target}: nothing was proven faster at {run.words(request)} within 99.9 % of the "
            "baseline."
        )
    _, one, row = max(found, key=lambda item: item[0])
    return (
        f"{target}: {one.recipe} is the fastest within 99.9 % of the baseline: "
        f"{ratio_text(row)} times as fast at {run.words(request)}, 1 thread."
    )


def summary_for_terminal(rows: Iterable[Row]) -> list[Terminal]:
    """Headings and rows to print: the summary, the simple rankings, what did not run, the notes.

    Intervals stand in the report only: a terminal has no room for them.
    """
    run = results(rows)
    summaries = [summary_table(part) for part in run.by_task]
    both = zip(summaries, map(references_table, run.by_task), strict=True)
    tables = [_without_intervals(plain(table)) for pair in both for table in pair]
    missed = not_run_table(run)
    if missed.rows:
        tables.append(plain(missed))
    reasons = {cell.text for row in missed.rows for cell in row}
    shown = "".join(cell.text for table in summaries for row in table.rows for cell in row)
    meanings = [line for line in mark_lines(run) if line[0] in shown]
    noted = dict.fromkeys(note for table in summaries for note in notes(table))
    told = [[note] for note in (*noted, *meanings) if note not in reasons]
    return [*tables, *([(["note"], told)] if told else [])]


def _without_intervals(table: Terminal) -> Terminal:
    headings, lines = table
    return (
        [re.sub(r" \[CI\]", "", heading) for heading in headings],
        [[re.sub(r" \[[^\]]*\]", "", cell) for cell in line] for line in lines],
    )
