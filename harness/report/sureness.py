"""How sure we are: A/A ratios, the host's health, convergence, and the checks on the harness."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from harness.report.cells import (
    DASH,
    NOISY,
    UNCONVERGED,
    Cell,
    Formatter,
    Table,
    count,
    marks,
    milliseconds,
    missing,
    rate,
    share,
    significant,
    value_cell,
)
from harness.report.details import title
from harness.report.lines import lines_of, machine_rows
from harness.report.lookup import Point, Results, Variant, is_primary, is_reference, point_of
from harness.report.service import NOT_RANKED, Column, number_cell
from harness.results import Row

SHOWN = 6
"""Names in one cell, before the rest is only counted."""


def mark_lines(run: Results) -> list[str]:
    """What the marks mean, one sentence for each that the run's figures bear."""
    found = "".join({marks(row) for row in run.rows if row.value is not None})
    lines = {
        NOISY: "measured while the host was noisy: a figure to look at, not to compare; speedups "
        "are paired, so both sides had the same noise",
        UNCONVERGED: "the stopping rule was not met in the time allowed: the interval is wider "
        "than was asked for",
    }
    return [f"{mark} {meaning}." for mark, meaning in lines.items() if mark in found]


def aa_table(run: Results) -> Table:
    """How far a second copy of the baseline was from the baseline, by target and thread count."""
    found: dict[tuple[str, int], dict[tuple[Point, float], None]] = {}
    for row in run.rows:
        point = point_of(row)
        if point and is_primary(row) and row.target is not None and row.aa_ratio is not None:
            ratios = found.setdefault((row.target, point.threads), {})
            ratios[point, row.aa_ratio] = None
    lines = (
        (Cell(target), Cell(str(threads)), *_aa_cells([ratio for _, ratio in ratios]))
        for (target, threads), ratios in sorted(found.items(), key=lambda one: _order(run, one[0]))
    )
    headers = ("target", "threads", "comparisons", "smallest", "median", "largest")
    return Table((*headers, "within 1 %", "within 5 %"), tuple(lines))


def _order(run: Results, key: tuple[str, int]) -> tuple[int, int]:
    return run.targets.index(key[0]), key[1]


def _aa_cells(ratios: list[float]) -> tuple[Cell, ...]:
    near = (sum(1 - wide <= ratio <= 1 + wide for ratio in ratios) for wide in (0.01, 0.05))
    spread = (min(ratios), median(ratios), max(ratios))
    return (
        Cell(str(len(ratios))),
        *(Cell(f"{ratio:.3f}") for ratio in spread),
        *(Cell(f"{n} of {len(ratios)}") for n in near),
    )


HEALTH: tuple[Column, ...] = (
    ("noisy blocks", "noisy_blocks", share),
    ("pressure", "pressure", share),
    ("steal", "steal", share),
    ("throttled (s)", "throttled", significant),
    ("load", "load", significant),
    ("MHz", "mhz", count),
)


def health_table(run: Results) -> Table:
    """How quiet the host was while it was measured, by thread count."""
    rows = {(row.threads, row.metric): row for row in machine_rows(run, "health")}
    lines = []
    for threads in sorted({n for n, _ in rows}, key=lambda n: n or 0):
        own = {metric: row for (n, metric), row in rows.items() if n == threads}
        blocks = max((row.n for row in own.values() if row.n is not None), default=None)
        cells = (_health_cell(own.get(metric), show) for _, metric, show in HEALTH)
        lines.append((number_cell(threads), number_cell(blocks), *cells))
    headers = ("threads", "blocks", *(heading for heading, _, _ in HEALTH))
    return Table(headers, tuple(lines))


def _health_cell(row: Row | None, show: Formatter) -> Cell:
    """Without marks: this is where noise itself is told."""
    if row is None or row.value is None:
        return DASH if row is None else missing(row.reason)
    return Cell(show(row.value))


@dataclass(slots=True)
class _Timed:
    """The timed points of one target and thread count, by what became of them."""

    points: dict[tuple[Variant, Point], None] = field(default_factory=dict)
    open: dict[tuple[Variant, Point], None] = field(default_factory=dict)
    noisy: set[tuple[Variant, Point]] = field(default_factory=set)


def convergence_table(run: Results) -> Table:
    """How many timed points met the stopping rule, which did not, and how many were noisy."""
    found: dict[tuple[str, int], _Timed] = {}
    for row in run.rows:
        point = point_of(row)
        if point is None or row.target is None or row.converged is None:
            continue
        group = found.setdefault((row.target, point.threads), _Timed())
        key = Variant(row.recipe, row.target), point
        group.points[key] = None
        if row.converged is False:
            group.open[key] = None
        if row.noise is not None:
            group.noisy.add(key)
    lines = (
        (
            *(Cell(key[0]), Cell(str(key[1])), Cell(str(len(group.points)))),
            Cell(str(len(group.points) - len(group.open))),
            *(Cell(str(len(group.noisy))), Cell(_names(run, list(group.open)) or "-")),
        )
        for key, group in sorted(found.items(), key=lambda one: _order(run, one[0]))
    )
    headers = ("target", "threads", "timed points", "converged", "on a noisy host")
    return Table((*headers, "not converged"), tuple(lines))


def _names(run: Results, found: list[tuple[Variant, Point]]) -> str:
    names = [
        f"{one.recipe} {point.label}"
        + ("" if point.region in (run.region, "") or point.scenario == "offline" else " end to end")
        for one, point in found
    ]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*names[:SHOWN], *more])


CHECKED: dict[str, tuple[str, Formatter]] = {
    "single_latency_p50": ("single: p50 (ms)", milliseconds),
    "offline_rows_per_second": ("offline: rows/s", rate),
    "server_latency_p50": ("server: p50 (ms)", milliseconds),
}


def loadgen_table(run: Results) -> Table:
    """MLPerf LoadGen's figures of the same artifacts, and ours divided by them."""
    lines = (
        (
            *(Cell(line.variant.recipe), Cell(line.variant.target), number_cell(line.place[0])),
            *_checked_cells(line.rows[metric], metric),
        )
        for line in lines_of(run, "loadgen", "threads")
        for metric in CHECKED
        if metric in line.rows
    )
    headers = ("variant", "target", "threads", "figure", "LoadGen's", "ours / LoadGen's [CI]")
    return Table((*headers, "pairs", "verdict", "besides"), tuple(lines))


def _checked_cells(row: Row, metric: str) -> tuple[Cell, ...]:
    heading, show = CHECKED[metric]
    ratio = DASH if row.ratio is None else Cell(f"{row.ratio:.3f}")
    if row.ratio is not None and row.ratio_low is not None and row.ratio_high is not None:
        ratio = Cell(f"{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]")
    verdict = Cell(row.verdict or "-")
    theirs = missing(row.reason) if row.value is None else Cell(value_cell(row, show).text)
    told = Cell(row.reason or "-") if row.value is not None else DASH
    return (Cell(heading), theirs, ratio, number_cell(row.n), verdict, told)


def outputs_table(run: Results) -> Table:
    """How far the outputs of the timed processes are from those that the quality is of: the
    largest difference over all points; of one task.
    """
    main = run.main_metric
    metrics = ("timed_max_abs_difference", f"timed_{main}_difference")
    lines = []
    for one in run.variants:
        rows = [row for row in run.of(one, "parity") if row.metric in metrics]
        if any(row.status == "ok" for row in rows):
            own = [[row for row in rows if row.metric == metric] for metric in metrics]
            points = {(row.threads, row.batch, row.candidates) for row in rows}
            names = (Cell(one.recipe), Cell(one.target), Cell(str(len(points))))
            lines.append((*names, *(_largest(found) for found in own)))
    headers = (
        "variant",
        "target",
        "points",
        "largest score difference",
        f"{title(main)} difference",
    )
    return Table(headers, tuple(lines))


def _largest(rows: list[Row]) -> Cell:
    known = [row.value for row in rows if row.value is not None]
    if known:
        return Cell(significant(max(known, key=abs)))
    return missing(rows[0].reason) if rows else DASH


def trust_lines(run: Results) -> list[str]:
    """Sentences on the load generator, its floor, and what made the host noisy."""
    return [*_generator_lines(run), *_floor_lines(run), *_noise_lines(run)]


def _generator_lines(run: Results) -> Iterator[str]:
    for row in machine_rows(run, "server"):
        if row.metric == "generator_rate" and row.value is not None:
            yield (
                f"The load generator sustains {rate(row.value)} requests/s with a null model, a "
                "model that does nothing."
            )
        elif row.metric == "generator_rate" and row.status == "ok":
            yield f"What the load generator sustains was not measured: {row.reason}."


def _floor_lines(run: Results) -> Iterator[str]:
    rows = [row for row in run.rows if row.scenario == "server" and not is_reference(row)]
    floors = [row.value for row in rows if row.metric == "floor_p99" and row.value is not None]
    if not floors:
        return
    tails = [row for row in rows if row.metric == "latency_p99" and row.value is not None]
    low = sum(row.verdict == NOT_RANKED for row in tails)
    span = " to ".join(dict.fromkeys(milliseconds(end) for end in (min(floors), max(floors))))
    yield (
        f"The floor: with the null model at about the same rates p99 was {span} ms; {low} of "
        f"{len(tails)} loads stayed under 3 times their floor and are not ranked."
    )


def _noise_lines(run: Results) -> Iterator[str]:
    timed = [row for row in run.rows if is_primary(row)]
    reasons = list(dict.fromkeys(row.noise for row in timed if row.noise is not None))
    if reasons:
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        yield f"The host counts as noisy where marked: {'; '.join(reasons[:3])}{more}."
