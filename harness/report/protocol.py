"""How a run was measured, in sentences: only what its rows themselves tell."""

from collections.abc import Iterable, Iterator

from harness.outcomes import AA_BOUNDS
from harness.report.details import title
from harness.report.lookup import TIMED, Results, is_primary, is_reference
from harness.results import MACHINE, Row

SEED_NOISE = "_seed_noise"
ACCURACY_LEVEL, TIME_LEVEL = 95, 99
"""Percent of the intervals of quality (over users) and of speedups (over pairs)."""


def protocol_lines(run: Results) -> Iterator[str]:
    """How the figures came about, as far as the rows themselves tell."""
    timed = [row for row in run.rows if row.scenario in TIMED]
    yield from _accuracy_protocol(run)
    if not timed:
        yield "No speed was measured."
        return
    points = (point for threads in run.thread_counts for point in run.every_point(threads=threads))
    labels = listed(dict.fromkeys(point.label for point in points))
    yield (
        f"Points: {labels}, at {listed(run.thread_counts)} threads; timed region: "
        f"{_regions(timed)}."
    )
    yield from _paired_protocol([row for row in timed if is_primary(row) and row.ratio is not None])
    yield (
        "Latencies and rates are of this machine in these minutes; between runs only the paired "
        "speedups may be compared. A percentile with too few calls to prove it is n/a."
    )
    yield from _open_loop_protocol(run)
    yield from _other_protocol(run)


def _regions(timed: list[Row]) -> str:
    """The timed regions; of several, each with the scenarios it was of."""
    found: dict[str, dict[str, None]] = {}
    for row in timed:
        found.setdefault(row.region or "not told", {})[row.scenario] = None
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{region} ({listed(scenarios)})" for region, scenarios in found.items())


def _open_loop_protocol(run: Results) -> Iterator[str]:
    loads = [row for row in run.rows if row.scenario == "server" and row.offered_rate is not None]
    if loads:
        yield (
            f"Under load: requests came at seeded random (Poisson) times whether or not the model "
            f"was ready, {_span(loads)} requests a load; latency counts from the scheduled "
            f"arrival; timed region: {_regions(loads)}."
        )
    probes = [row for row in run.rows if row.metric == "probe_p99"]
    slas = {row.value for row in run.rows if row.metric == "sla" and row.value is not None}
    if probes and slas:
        yield (
            f"Rate at the SLA: the largest offered rate whose p99 was proven to be within "
            f"{listed(f'{sla * 1e3:g}' for sla in sorted(slas))} ms, searched with {len(probes)} "
            f"probes of {_span(probes)} requests, and run once more."
        )


def _other_protocol(run: Results) -> Iterator[str]:
    cold = [row for row in run.rows if row.scenario == "cold" and row.value is not None]
    if cold:
        yield f"Cold start: medians over {_span(cold)} fresh processes a variant."
    if any(row.scenario == "roofline" and row.recipe == MACHINE for row in run.rows):
        yield (
            "The machine's peaks were measured in this run; a call's least time is the longest of "
            "its arithmetic and its memory traffic at those peaks."
        )
    checks = [row for row in run.rows if row.scenario == "loadgen" and row.ratio is not None]
    if checks:
        yield (
            f"MLPerf LoadGen drove the same artifacts, {_span(checks)} pairs of its runs and ours."
        )


def _span(rows: list[Row]) -> str:
    """The least and the largest ``n`` of the rows: ``12 to 40``."""
    counts = sorted({row.n for row in rows if row.n is not None})
    ends = dict.fromkeys(f"{n:,}" for n in (*counts[:1], *counts[-1:]))
    return " to ".join(ends) or "an unknown number of"


def _accuracy_protocol(run: Results) -> Iterator[str]:
    several = len(run.by_task) > 1
    for part in run.by_task:
        yield from _quality_sentence(part, several=several)
    for row in run.rows:
        if row.metric.endswith(SEED_NOISE) and row.value is not None:
            name = title(row.metric.removesuffix(SEED_NOISE))
            yield (
                f"Noise floor of {row.baseline}: {name} has a standard deviation of "
                f"{row.value:.5f} over {row.n} seeds."
            )
    if any(is_reference(row) for row in run.rows):
        yield "The simple rankings were scored on the same rows, without an engine."


def _quality_sentence(part: Results, *, several: bool) -> Iterator[str]:
    main, lists = part.main_metric, part.task.lists
    rows = [row for row in part.rows if row.scenario == "accuracy" and row.metric == main]
    counts = dict.fromkeys(f"{row.n:,}" for row in rows if row.n is not None)
    if rows:
        yield (
            f"Quality{f' ({title(main)})' if several else ''} is of the exported model in its "
            f"engine, on {listed(counts) or 'an untold number of'} "
            f"{'requests' if lists else 'rows'} of the test split"
            f"{', each ranked over the full catalogue' if lists else ''}; intervals "
            f"({ACCURACY_LEVEL} %) are a bootstrap over users, and differences are paired: both "
            "sides are evaluated on the same resampled users."
        )


def _paired_protocol(paired: list[Row]) -> Iterator[str]:
    if not paired:
        yield "No paired speedup was measured."
        return
    yield (
        "Speedups are medians over pairs of blocks: baseline and variant took turns on the same "
        f"engine, inputs and threads; intervals ({TIME_LEVEL} %) are a bootstrap over pairs; "
        f"there were {_span(paired)} pairs."
    )
    controls = [row.aa_ratio for row in paired if row.aa_ratio is not None]
    if not controls:
        yield "No A/A ratio was measured, so no speedup is proven."
        return
    outside = sum(not AA_BOUNDS[0] <= ratio <= AA_BOUNDS[1] for ratio in controls)
    yield (
        f"Control: a second copy of the baseline ran in every comparison; its ratio was "
        f"{min(controls):.3f} to {max(controls):.3f}, and {outside} of {len(controls)} lay outside "
        f"{AA_BOUNDS[0]} to {AA_BOUNDS[1]}, where a comparison counts as inconclusive."
    )


def listed(values: Iterable[object]) -> str:
    """The values with commas between them."""
    return ", ".join(map(str, values))
