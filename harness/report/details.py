"""The report's detailed tables: everything beyond the summary, each made from the rows by name."""

from harness import registry
from harness.report.cells import (
    DASH,
    Cell,
    Formatter,
    Table,
    count,
    interval_cell,
    milliseconds,
    missing,
    ratio_text,
    times,
    value_cell,
)
from harness.report.lookup import (
    LATENCY,
    NON_INFERIORITY,
    REFERENCE,
    TIMED,
    Point,
    Results,
    Variant,
    is_reference,
)
from harness.results import Row


def title(metric: str) -> str:
    """A metric's name as a heading."""
    names = {
        "auc": "AUC",
        "gauc": "GAUC",
        "ece": "ECE",
        "macs": "MACs",
        "rmse": "RMSE",
        "mae": "MAE",
        "ndcg": "NDCG",
        "mrr": "MRR",
    }
    first, _, rest = metric.partition("_")
    name, at, depth = first.partition("@")
    return " ".join(filter(None, (names.get(name, name) + at + depth, rest.replace("_", " "))))


def target_cell(run: Results, variant: Variant) -> Cell:
    """The target asked for; a note says so when another engine ran."""
    ran = {row.engine for row in run.of(variant, *TIMED, "accuracy") if row.engine}
    other = sorted(ran - {variant.target})
    note = f"asked for {variant.target}, ran on {', '.join(other)}" if other else None
    return Cell(variant.target, note)


def request_title(run: Results, point: Point) -> str:
    """The heading of the median latency at the request's point."""
    return f"p50 {run.words(point)} (ms)"


def speedup_cell(run: Results, variant: Variant, point: Point) -> Cell:
    """The paired speedup at a point, with its interval."""
    row = run.paired(variant, point)
    if row is not None and row.ratio is not None:
        return Cell(ratio_text(row))
    if run.is_baseline(variant) and row is not None and row.value is not None:
        return Cell("baseline")
    return missing(row.reason if row else f"{point.label} was not measured here")


def references_table(run: Results) -> Table:
    """The simple rankings and the baseline on the same rows, metric by metric; with several
    baselines each has its own rankings, on its own data.
    """
    rows = [row for row in run.rows if _of_reference(row) or _of_baseline(run, row)]
    known = {row.metric for row in rows if is_reference(row)}
    metrics = [name for name in registry.names("metrics") if name in known]
    found = {(row.baseline, row.recipe, row.metric): row for row in reversed(rows)}
    baselines = list(dict.fromkeys(row.baseline for row in rows))
    names = dict.fromkeys((row.baseline, row.recipe) for row in rows)
    order = sorted(names, key=lambda pair: (baselines.index(pair[0]), _reference_order(pair[1])))
    several = len(baselines) > 1
    lines = (
        (
            *([Cell(baseline)] if several else []),
            Cell(recipe.removeprefix(REFERENCE)),
            *(interval_cell(found.get((baseline, recipe, metric))) for metric in metrics),
        )
        for baseline, recipe in order
    )
    headings = (*(["baseline"] if several else []), "ranking", *map(title, metrics))
    return Table(headings, tuple(lines) if metrics else ())


def _of_reference(row: Row) -> bool:
    return is_reference(row) and row.scenario in ("reference", "accuracy")


def _of_baseline(run: Results, row: Row) -> bool:
    one = Variant(row.recipe, row.target or "")
    return row.scenario == "accuracy" and run.is_baseline(one)


def _reference_order(recipe: str) -> int:
    names = ("random", "popularity", "history", "own_frequency", "mean", "bias")
    known = [f"{REFERENCE}{name}" for name in names]
    return known.index(recipe) if recipe in known else len(known)


def effects_table(run: Results) -> Table:
    """What each stage was asked to change and what it did, with its notes.

    A stage that did exactly the same for an earlier variant (an export of the same model) is left
    out: it is the same artifact.
    """
    found: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in run.rows:
        if row.scenario == "effect":
            name, _, part = (
                row.metric.rpartition(":") if row.value is not None else (row.metric, "", "note")
            )
            number, stage, effect = (*name.split(".", 2), "", "")[:3]
            effects = found.setdefault((row.recipe, f"{number}. {stage}"), {})
            effects.setdefault(effect, {})[part] = row
    lines: list[tuple[Cell, ...]] = []
    seen: set[tuple[tuple[Cell, ...], ...]] = set()
    for (recipe, stage), effects in found.items():
        own = tuple(_effect_cells(effect, parts) for effect, parts in effects.items())
        if "export" in stage and own in seen:
            continue
        seen.add(own)
        lines += [(Cell(recipe), Cell(stage), *cells) for cells in own]
    return Table(("variant", "stage", "effect", "before", "asked", "achieved"), tuple(lines))


def _effect_cells(effect: str, parts: dict[str, Row]) -> tuple[Cell, ...]:
    if "note" in parts:
        return (Cell(f"note: {parts['note'].reason}"), DASH, DASH, DASH)
    asked = value_cell(parts["asked"]) if "asked" in parts else DASH
    before, achieved = (value_cell(parts.get(part)) for part in ("before", "achieved"))
    return (Cell(effect), before, asked, achieved)


def data_table(run: Results) -> Table:
    """Rows read, kept and dropped, and what else a reader should know of the data."""
    found = dict.fromkeys(
        (row.baseline, row.metric, count(row.value) if row.value is not None else row.reason or "")
        for row in run.rows
        if row.scenario == "data"
    )
    lines = (tuple(Cell(text) for text in one) for one in found)
    return Table(("baseline", "fact", "value"), tuple(lines))


def training_table(run: Results) -> Table:
    """What the baseline and each stage cost to make."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in run.rows:
        if row.scenario == "training":
            name, _, part = row.metric.rpartition(".")
            if part in ("seconds", "cpu_seconds"):
                found.setdefault((row.recipe, name), {})[part] = row
    lines = (
        (
            Cell(recipe),
            Cell(name or "training"),
            *(value_cell(parts.get(part), _seconds) for part in ("seconds", "cpu_seconds")),
        )
        for (recipe, name), parts in found.items()
    )
    return Table(("variant", "step", "seconds", "CPU seconds"), tuple(lines))


def _seconds(value: float) -> str:
    return f"{value:,.1f}"


def threads_table(run: Results, *, threads: int) -> Table:
    """Variant x target at another thread count: speedup at each point and p50 of a request."""
    points = run.points(threads=threads)
    request = run.request_point(threads=threads)
    last = (request_title(run, request),) if request else ()
    lines = (
        (
            Cell(one.recipe),
            target_cell(run, one),
            *(speedup_cell(run, one, point) for point in points),
            *(
                (value_cell(run.find(one, LATENCY, point=request), milliseconds),)
                if request
                else ()
            ),
        )
        for one in run.ran
    )
    return Table(("variant", "target", *(p.label for p in points), *last), tuple(lines))


def points_table(run: Results) -> Table:
    """Every measured point of every variant, with its A/A ratio and verdict."""
    headers = (
        *("variant", "target", "threads", "point", "region", "p50 (ms)", "p90 (ms)", "p99 (ms)"),
        *(name for name, _ in _rates(run)),
        *("CPU ms/call", "speedup [CI]", "to best fp32", "A/A", "verdict"),
    )
    points = [p for threads in run.thread_counts for p in run.every_point(threads=threads)]
    lines = (_point_row(run, one, p) for one in run.ran for p in points if run.measured(one, p))
    return Table(headers, tuple(lines))


def _rates(run: Results) -> tuple[tuple[str, str], ...]:
    """Headings and metrics of the rates; where a row is a request, they are one and the same."""
    if run.task.lists:
        return (("requests/s", "rows_per_second"),)
    return ("rows/s", "rows_per_second"), ("requests/s", "requests_per_second")


def _point_row(run: Results, one: Variant, point: Point) -> tuple[Cell, ...]:
    def cell(metric: str, show: Formatter) -> Cell:
        return value_cell(run.find(one, metric, point=point), show)

    row = run.paired(one, point)
    aa_ratio = row.aa_ratio if row else None
    return (
        *(Cell(one.recipe), Cell(one.target), Cell(str(point.threads)), Cell(point.label)),
        Cell(point.region or "-"),
        *(cell(f"latency_p{name}", milliseconds) for name in (50, 90, 99)),
        *(cell(metric, _rate) for _, metric in _rates(run)),
        cell("cpu_seconds_per_call", milliseconds),
        speedup_cell(run, one, point),
        cell("speedup_vs_best_fp32", times),
        Cell("-" if aa_ratio is None else f"{aa_ratio:.3f}"),
        Cell((row.verdict if row else None) or "-"),
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}"


def accuracy_table(run: Results) -> Table:
    """Variant x target x every accuracy metric, with intervals."""
    apart = ("_difference", "quality_class", NON_INFERIORITY, f"{NON_INFERIORITY}_p")
    return _wide(run, ("accuracy",), skip=apart)


def differences_table(run: Results) -> Table:
    """Variant x target: the paired difference to the baseline of every metric."""
    return _wide(run, ("accuracy",), only="_difference")


def agreement_table(run: Results) -> Table:
    """Variant x target: how far the scores and rankings are the baseline's, and parity."""
    return _wide(run, ("agreement", "parity"), skip_start=("timed_",))


def sizes_table(run: Results) -> Table:
    """Variant x target: bytes, parameters, operations and memory."""
    return _wide(run, ("size", "memory"))


def _wide(
    run: Results,
    scenarios: tuple[str, ...],
    *,
    skip: tuple[str, ...] = (),
    only: str = "",
    skip_start: tuple[str, ...] = (),
) -> Table:
    names = dict.fromkeys(
        (row.scenario, row.metric)
        for row in run.rows
        if row.scenario in scenarios
        and row.metric.endswith(only)
        and not row.metric.endswith(skip)
        and not row.metric.startswith(skip_start)
    )
    lines = (
        (
            Cell(one.recipe),
            Cell(one.target),
            *(_own_cell(run, one, scenario, metric) for scenario, metric in names),
        )
        for one in run.ran
    )
    titles = (title(metric) for _, metric in names)
    return Table(("variant", "target", *titles), tuple(lines) if names else ())


def _own_cell(run: Results, one: Variant, scenario: str, metric: str) -> Cell:
    row = run.find(one, metric, scenario=scenario)
    if row is None and run.is_baseline(one):
        return Cell("-")
    return interval_cell(row)


def engines_table(run: Results) -> Table:
    """What really ran: engine, version, device and precision, as read back from the engine."""
    found = dict.fromkeys(
        (one.recipe, one.target, row.engine, row.engine_version, row.device, row.precision)
        for one in run.ran
        for row in run.of(one, *TIMED, "accuracy")
        if row.engine and row.target
    )
    lines = (tuple(Cell(text) if text else missing("not told") for text in one) for one in found)
    headers = ("variant", "target asked for", "engine", "version", "device", "precision")
    return Table(headers, tuple(lines))


def gates_table(run: Results) -> Table:
    """How each gate of each recipe ended."""
    lines = (
        (
            Cell(row.recipe),
            Cell(row.target or "-"),
            Cell(row.metric),
            Cell(row.verdict or "-"),
            Cell((row.reason or "").split(": ", 2)[-1]),
        )
        for row in run.rows
        if row.scenario == "gate"
    )
    return Table(("variant", "target", "gate", "outcome", "found"), tuple(lines))


def not_run_table(run: Results) -> Table:
    """Skipped and failed variants with their reasons."""
    rows = [row for row in run.rows if row.scenario == "run" and row.status != "ok"]
    lines = (
        (Cell(row.recipe), Cell(row.target or "all"), Cell(row.status), Cell(row.reason or "-"))
        for row in rows
    )
    return Table(("variant", "target", "status", "reason"), tuple(lines))
