"""TensorRT in the report: graphs checked without a GPU, and int8 beside its rival fp16."""

from harness import registry
from harness.report.cells import DASH, Cell, Table, milliseconds, missing
from harness.report.lines import lines_of
from harness.report.lookup import LATENCY, Point, Results, Variant
from harness.results import Row

CHECK = "tensorrt_check"
PHASES = ("parsed", "typed", "built")
HALVES = ("fp16", "bf16")


def check_title(run: Results) -> str:
    """What checked the graphs, and for which device."""
    checks = [row for row in run.rows if row.scenario == CHECK]
    if not checks:
        return "TensorRT"
    found = dict.fromkeys(
        f"{row.engine} {row.engine_version}, {(row.device or '').removeprefix('none ').strip('()')}"
        for row in checks
    )
    return f"TensorRT, checked without a GPU: {'; '.join(found)}"


def check_table(run: Results) -> Table:
    """Variant x target: whether its graph was parsed, typed and built, and why not."""
    lines = (
        (
            *(Cell(line.variant.recipe), Cell(line.variant.target)),
            Cell(next(row.precision for row in line.rows.values()) or "-"),
            *(_phase(line.rows.get(phase)) for phase in PHASES),
            _seconds(line.rows.get("build_seconds")),
        )
        for line in lines_of(run, CHECK)
    )
    return Table(("variant", "target", "precision", *PHASES, "build (s)"), tuple(lines))


def _seconds(row: Row | None) -> Cell:
    return DASH if row is None or row.value is None else Cell(f"{row.value:,.1f}")


def _phase(row: Row | None) -> Cell:
    if row is None or row.value is None:
        return missing(row.reason if row else None)
    return Cell("yes" if row.value else "no", row.reason)


def rival_lines(run: Results) -> list[str]:
    """For each int8 variant on a TensorRT engine how its time compares with the quickest half
    precision one of the same baseline there, point by point; or that there is none.
    """
    told, of = [], {row.recipe: row.baseline for row in run.rows}
    precisions = {one: _precision(run, one) for one in run.variants if _takes_plan(one)}
    for one, precision in precisions.items():
        if not precision.startswith("int8"):
            continue
        rivals = [
            other
            for other, kind in precisions.items()
            if kind in HALVES and other.target == one.target and of[other.recipe] == of[one.recipe]
        ]
        told.append(_beside(run, one, rivals))
    return told


def _beside(run: Results, one: Variant, rivals: list[Variant]) -> str:
    name = f"{one.recipe} on {one.target}"
    if not rivals:
        return (
            f"{name}: its fp16 rival is missing in this run, and int8 is often slower than fp16; "
            "run a recipe with convert_fp16 beside it"
        )
    points = [p for n in run.thread_counts for p in run.points(threads=n)]
    found = [text for point in points if (text := _compared(run, one, rivals, point))]
    if not found:
        return f"{name}: not timed beside its fp16 rival ({', '.join(r.recipe for r in rivals)})"
    return f"{name}: {'; '.join(found)}"


def _compared(run: Results, one: Variant, rivals: list[Variant], point: Point) -> str | None:
    """``int8 slower than fp16 at b64 (1.20 ms, x-fp16 1.00 ms)``; None where one wasn't timed."""
    own = run.find(one, LATENCY, point=point)
    times = [(row, r) for r in rivals if (row := run.find(r, LATENCY, point=point)) and row.value]
    if own is None or own.value is None or not times:
        return None
    best, rival = min(times, key=lambda each: each[0].value or 0.0)
    assert best.value is not None
    word = "not told apart from"
    if (own.ci_low or own.value) > (best.ci_high or best.value):
        word = "slower than"
    elif (own.ci_high or own.value) < (best.ci_low or best.value):
        word = "faster than"
    figures = f"{milliseconds(own.value)} ms, {rival.recipe} {milliseconds(best.value)} ms"
    return f"int8 {word} fp16 at {point.label} ({figures})"


def _precision(run: Results, one: Variant) -> str:
    """What the plan's layers are, else what the graph is that was checked."""
    rows = run.of(one, "sweep", "single", "offline", "accuracy", CHECK)
    return next((row.precision for row in rows if row.precision), "")


def _takes_plan(one: Variant) -> bool:
    known = one.target in registry.names("engines")
    return known and registry.entry("engines", one.target).marks["accepts"] == "tensorrt"
