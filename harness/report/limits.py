"""The machine's limits: its measured peaks, and how near to them each variant comes."""

from harness.report.cells import (
    DASH,
    Cell,
    Table,
    count,
    mebibytes,
    milliseconds,
    share,
    significant,
    value_cell,
)
from harness.report.lines import Line, lines_of, machine_rows
from harness.report.lookup import HEADLINE, LATENCY, Point, Results, Variant
from harness.report.service import Column, line_cells, name_cells, number_cell
from harness.results import Row

PEAKS = {
    "peak_fp32": "fp32 arithmetic (GFLOP/s)",
    "peak_int8": "int8 arithmetic (Gop/s)",
    "stream_bandwidth": "streaming reads (GB/s)",
    "random_row_bandwidth": "reads of random rows (GB/s)",
    "gpu_peak_fp32": "GPU: fp32 arithmetic, TF32 off (GFLOP/s)",
    "gpu_peak_fp16": "GPU: fp16 arithmetic (GFLOP/s)",
    "gpu_peak_bf16": "GPU: bf16 arithmetic (GFLOP/s)",
    "gpu_peak_int8": "GPU: int8 arithmetic (Gop/s)",
    "gpu_stream_bandwidth": "GPU: copies, read and written (GB/s)",
    "gpu_random_row_bandwidth": "GPU: reads of random rows (GB/s)",
    "gpu_to_device_bandwidth": "GPU: host to device (GB/s)",
    "gpu_to_host_bandwidth": "GPU: device to host (GB/s)",
}
LIMIT_SHARE = "share_of_limit"


def peaks_table(run: Results) -> Table:
    """What the machine does at most, measured in this run: a line a peak, a column a thread
    count; bandwidths for each size of the working set.
    """
    found = {
        (row.metric, row.batch, row.threads): row
        for row in machine_rows(run, "roofline")
        if row.metric in PEAKS
    }
    threads = sorted({n for _, _, n in found}, key=lambda n: n or 0)
    names = sorted(
        {(metric, size) for metric, size, _ in found},
        key=lambda name: (list(PEAKS).index(name[0]), name[1] or 0),
    )
    lines = (
        (
            Cell(PEAKS[metric]),
            Cell(mebibytes(size)) if size and metric.endswith("bandwidth") else DASH,
            *(_peak_cell(found.get((metric, size, n))) for n in threads),
        )
        for metric, size in names
    )
    heads = (f"{n} thread{'' if n == 1 else 's'}" if n else "threads not told" for n in threads)
    return Table(("limit", "working set (MiB)", *heads), tuple(lines))


def _peak_cell(row: Row | None) -> Cell:
    if row is None or row.value is None:
        return DASH if row is None else value_cell(row)
    return Cell(_giga(row).text)


def _giga(row: Row) -> Cell:
    return value_cell(row, lambda value: significant(value / 1e9))


def how_table(run: Results) -> Table:
    """How each peak was had: what was tried, and the best of how many repeats it is."""
    rows = [row for row in machine_rows(run, "roofline") if row.metric in PEAKS and row.reason]
    rows.sort(key=lambda row: (list(PEAKS).index(row.metric), row.batch or 0, row.threads or 0))
    lines = (
        (
            Cell(PEAKS[row.metric]),
            Cell(mebibytes(row.batch)) if row.batch else DASH,
            *(number_cell(row.threads), number_cell(row.n), Cell(row.reason or "-")),
        )
        for row in rows
    )
    return Table(("limit", "working set (MiB)", "threads", "repeats", "how"), tuple(lines))


def shares_table(run: Results, *, threads: int) -> Table:
    """Variant x target: the share of the limit at the summary's points, and what bounds it."""
    points = run.summary_points(threads=threads)
    found = _shares(run)
    lines = [
        (
            *(Cell(one.recipe), Cell(one.target)),
            *(_share_cell(found.get((one, point.threads, _load(point)))) for point in points),
        )
        for one in run.ran
        if any((one, point.threads, _load(point)) in found for point in points)
    ]
    return Table(("variant", "target", *(point.label for point in points)), tuple(lines))


Load = tuple[int, int]
"""Rows of one call and candidates of a request, as rows of the roofline tell them."""


def _load(point: Point) -> Load:
    return point.rows, point.candidates


def _shares(run: Results) -> dict[tuple[Variant, int, Load], Row]:
    found = {}
    for line in _lines(run):
        threads, batch, candidates = (int(part or 1) for part in line.place)
        if LIMIT_SHARE in line.rows:
            found[line.variant, threads, (batch, candidates)] = line.rows[LIMIT_SHARE]
    return found


def _lines(run: Results) -> list[Line]:
    return lines_of(run, "roofline", "threads", "batch", "candidates")


def _share_cell(row: Row | None) -> Cell:
    if row is None or row.value is None:
        return DASH if row is None else value_cell(row)
    text = value_cell(row, share).text
    return Cell(f"{text} {row.verdict}" if row.verdict else text)


COLUMNS: tuple[Column, ...] = (
    ("operations", "operations_per_call", count),
    ("MiB moved", "bytes_per_call", mebibytes),
    ("limit (ms)", "limit_seconds", milliseconds),
)


def roofline_table(run: Results) -> Table:
    """Every variant at every point: work of one call, its least time, its time, what bounds it."""
    headers = ("variant", "target", "threads", "point", *(name for name, _, _ in COLUMNS))
    lines = (_roofline_row(run, line) for line in _lines(run))
    return Table((*headers, "p50 (ms)", "share of limit", "bound by"), tuple(lines))


def _roofline_row(run: Results, line: Line) -> tuple[Cell, ...]:
    threads, batch, candidates = (int(part or 1) for part in line.place)
    names = [
        Point(candidates, max(1, batch // candidates), threads, scenario, run.region)
        for scenario in HEADLINE
    ]
    point = next((one for one in names if run.measured(line.variant, one)), names[0])
    limit = line.rows.get(LIMIT_SHARE)
    return (
        *name_cells(line),
        Cell(point.label),
        *line_cells(line, COLUMNS),
        value_cell(run.find(line.variant, LATENCY, point=point), milliseconds),
        *line_cells(line, [("", LIMIT_SHARE, share)]),
        Cell((limit.verdict if limit else None) or "-"),
    )
