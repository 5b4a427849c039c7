"""The pictures of speed: latency distributions, rows/s against batch, p99 against offered rate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.drawing import (
    dashes_of,
    legend,
    log_axis,
    looks_of,
    name_handles,
    new_figure,
    panel_title,
    png,
)
from harness.report.latencies import Distribution
from harness.report.lookup import Results, Variant
from harness.report.service import RATE_AT_SLA, sla_threads

HEIGHT = 4.0
GREY: dict[str, Any] = {"color": "#888888", "linewidth": 0.9, "linestyle": (0, (4, 3))}
HOLLOW: dict[str, Any] = {"marker": "o", "linestyle": "", "color": "#555555"}


@dataclass(frozen=True, slots=True)
class Curve:
    """A variant's line: its points, ascending; a picture draws one for each variant."""

    recipe: str
    target: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


def latency_plot(run: Results, distributions: Sequence[Distribution]) -> bytes | None:
    """PNG: share of requests that took at most so long, one in flight, 1 thread; a panel for each
    target, a marker at each p50, and at each p99 that the rows have. None without distributions.
    """
    curves = latency_curves(run, distributions)
    if not curves:
        return None
    figure, panels, spare = _panels(run, curves)
    request = run.request_point()
    words = run.words(request) if request else "?"
    for axes, target in zip(panels, _targets(run, curves), strict=True):
        log_axis(axes, [x for one in curves if one.target == target for x in one.xs], room=1.1)
        axes.set_xlabel(f"latency of {words} (ms), 1 thread, log")
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.99], ["0", "25 %", "p50", "75 %", "p99"])
        for share in (0.5, 0.99):
            axes.axhline(share, **GREY, zorder=1.5)
    known = {one for one in run.ran if _has_p99(run, one)}
    for axes, curve, look in _drawn(run, panels, curves):
        spots = (0.5, 0.99) if Variant(curve.recipe, curve.target) in known else (0.5,)
        at = [_nearest(curve.ys, share) for share in spots]
        axes.plot(curve.xs, curve.ys, markevery=at, **look)
    told = Line2D([], [], **HOLLOW, markersize=5, label="marked: p50, and p99 where proven")
    _finish(run, figure, spare, curves, axis="share of the requests", extra=[told])
    return png(figure)


def latency_curves(run: Results, distributions: Iterable[Distribution]) -> list[Curve]:
    """Milliseconds and shares of the request point's distributions, in the run's order."""
    request = run.request_point()
    found = {
        Variant(one.recipe, one.target): one
        for one in distributions
        if request is not None
        and (one.scenario, one.region) == (request.scenario, request.region)
        and (one.batch, one.threads) == (request.rows, request.threads)
        and max(one.seconds) > 0
    }
    return [_latency_curve(found[one]) for one in run.ran if one in found]


def _latency_curve(one: Distribution) -> Curve:
    # A logarithmic axis has no place for a clock that saw no time pass.
    known = [(x, y) for x, y in zip(one.seconds, one.quantiles, strict=True) if x > 0]
    xs, ys = tuple(x * 1e3 for x, _ in known), tuple(y for _, y in known)
    return Curve(one.recipe, one.target, xs, ys)


def _has_p99(run: Results, one: Variant) -> bool:
    request = run.request_point()
    row = run.find(one, "latency_p99", point=request) if request else None
    return row is not None and row.value is not None


def _nearest(values: Sequence[float], wanted: float) -> int:
    return min(range(len(values)), key=lambda at: abs(values[at] - wanted))


def throughput_plot(run: Results) -> bytes | None:
    """PNG: rows/s against the rows of a call in the 1-thread sweep, both logarithmic, a panel for
    each target; None where no variant has two points.
    """
    curves = throughput_curves(run)
    if not curves:
        return None
    figure, panels, spare = _panels(run, curves)
    log_axis(panels[0], [y for curve in curves for y in curve.ys], room=1.4, name="y")
    rows = "requests" if run.task.lists else "rows"
    batches = sorted({x for curve in curves for x in curve.xs})
    for axes in panels:
        log_axis(axes, batches, room=1.25)
        axes.set_xticks(batches, [f"{batch:g}" for batch in batches])
        axes.set_xlabel(f"{rows} in one call, 1 thread, log")
    for axes, curve, look in _drawn(run, panels, curves):
        axes.plot(curve.xs, curve.ys, **look)
    _finish(run, figure, spare, curves, axis=f"{rows}/s, log", extra=[])
    return png(figure)


def throughput_curves(run: Results) -> list[Curve]:
    """Rows of a call and rows/s of each variant, of the headline's region at 1 thread."""
    points = [point for point in run.points(threads=1) if point.scenario == "sweep"]
    points = sorted((p for p in points if p.candidates == 1), key=lambda point: point.rows)
    found = []
    for one in run.ran:
        rows = [(p, run.find(one, "rows_per_second", point=p)) for p in points]
        known = [(float(p.rows), row.value) for p, row in rows if row and row.value]
        if len(known) > 1:
            xs, ys = zip(*known, strict=True)
            found.append(Curve(one.recipe, one.target, xs, ys))
    return found


@dataclass(frozen=True, slots=True)
class Load:
    """A variant under load: curve of offered rate and p99 (ms), the points that failed the SLA,
    the rate that was found to meet it, and the SLA in ms.
    """

    curve: Curve
    failed: tuple[int, ...]
    found: tuple[float, float] | None
    sla: float | None


def load_plot(run: Results) -> bytes | None:
    """PNG: p99 from the scheduled arrival against the offered rate, both logarithmic, a panel for
    each target, with the SLA, hollow markers where a probe failed and rings at the found rates.
    """
    loads = load_curves(run)
    if not loads:
        return None
    curves = [load.curve for load in loads]
    figure, panels, spare = _panels(run, curves)
    slas = sorted({load.sla for load in loads if load.sla is not None})
    tails = [y for curve in curves for y in curve.ys]
    log_axis(panels[0], [*tails, *slas], room=1.4, name="y")
    for axes, target in zip(panels, _targets(run, curves), strict=True):
        log_axis(axes, [x for one in curves if one.target == target for x in one.xs], room=1.2)
        axes.set_xlabel(f"offered requests/s, {_threads_word(sla_threads(run) or _threads(run))}")
        for sla in slas:
            axes.axhline(sla, color="#000000", linewidth=1, linestyle=(0, (6, 3)), zorder=1.5)
    by_curve = {load.curve: load for load in loads}
    for axes, curve, look in _drawn(run, panels, curves):
        _draw_load(axes, by_curve[curve], look)
    _finish(run, figure, spare, curves, axis="p99 (ms), log", extra=_load_handles(slas, loads))
    return png(figure)


def _draw_load(axes: Axes, load: Load, look: Mapping[str, Any]) -> None:
    xs, ys = load.curve.xs, load.curve.ys
    axes.plot(xs, ys, **{**look, "marker": "", "linewidth": 1.2, "alpha": 0.75})
    passed = [at for at in range(len(xs)) if at not in load.failed]
    spots = {**look, "linestyle": "", "markersize": 4.5}
    axes.plot([xs[at] for at in passed], [ys[at] for at in passed], **spots)
    hollow = {**spots, "markerfacecolor": "white", "markeredgecolor": look["color"]}
    hollow |= {"markeredgewidth": 1.2}
    axes.plot([xs[at] for at in load.failed], [ys[at] for at in load.failed], **hollow)
    if load.found:
        ring = {**spots, "markersize": 9, "markeredgecolor": "#000000", "markeredgewidth": 1.3}
        axes.plot(*([value] for value in load.found), **{**ring, "zorder": 5})


def _load_handles(slas: Sequence[float], loads: Sequence[Load]) -> list[Line2D]:
    ring: dict[str, Any] = {"markersize": 8, "markeredgecolor": "#000000", "markeredgewidth": 1.3}
    ring |= {"markerfacecolor": "#AAAAAA"}
    hollow = {**HOLLOW, "markerfacecolor": "white", "markersize": 5}
    dashed: dict[str, Any] = {"color": "#000000", "linewidth": 1, "linestyle": (0, (6, 3))}
    words = " and ".join(f"{sla:g}" for sla in slas)
    return [
        *([Line2D([], [], label=f"SLA: p99 {words} ms", **dashed)] if slas else []),
        *(
            [Line2D([], [], label="largest rate proven", **{**HOLLOW, **ring})]
            if any(load.found for load in loads)
            else []
        ),
        *(
            [Line2D([], [], label="hollow: a probe that failed", **hollow)]
            if any(load.failed for load in loads)
            else []
        ),
    ]


def load_curves(run: Results) -> list[Load]:
    """Each variant's loads and probes at the fewest threads that were put under load."""
    threads = sla_threads(run) or _threads(run)
    found = (_load(run, one, threads) for one in run.ran)
    return [load for load in found if load is not None]


def _threads(run: Results) -> int:
    loaded = (row.threads or 1 for row in run.rows if row.scenario == "server" and row.target)
    return min(loaded, default=1)


def _threads_word(threads: int) -> str:
    return f"{threads} thread{'' if threads == 1 else 's'}, log"


def _load(run: Results, one: Variant, threads: int) -> Load | None:
    rows = [row for row in run.of(one, "server", RATE_AT_SLA) if (row.threads or 1) == threads]
    tails = [
        (row.offered_rate, row.value * 1e3, row.verdict == "failed")
        for row in rows
        if row.metric in ("latency_p99", "probe_p99") and row.offered_rate and row.value
    ]
    if not tails:
        return None
    xs, ys, failed = zip(*sorted(tails), strict=True)
    known = {row.metric: row.value for row in rows if row.scenario == RATE_AT_SLA and row.value}
    rate, tail, sla = (known.get(name) for name in (RATE_AT_SLA, "latency_p99", "sla"))
    return Load(
        Curve(one.recipe, one.target, xs, ys),
        tuple(at for at, bad in enumerate(failed) if bad),
        (rate, tail * 1e3) if rate and tail else None,
        sla * 1e3 if sla else None,
    )


def _targets(run: Results, curves: Iterable[Curve]) -> list[str]:
    drawn = {curve.target for curve in curves}
    return [target for target in run.targets if target in drawn]


def _panels(run: Results, curves: Sequence[Curve]) -> tuple[Figure, list[Axes], Axes | None]:
    targets = _targets(run, curves)
    figure, panels, spare = new_figure(len(targets), height=HEIGHT)
    for axes, target in zip(panels, targets, strict=True):
        panel_title(axes, target)
    return figure, panels, spare


def _drawn(
    run: Results, panels: Sequence[Axes], curves: Sequence[Curve]
) -> Iterable[tuple[Axes, Curve, dict[str, Any]]]:
    """Each curve with its panel and its look; the baseline is drawn on top."""
    looks, targets = looks_of(run), _targets(run, curves)
    dashes = dashes_of(looks)
    for curve in curves:
        colour, marker = looks[curve.recipe]
        top = run.is_baseline(Variant(curve.recipe, curve.target))
        look = {"color": colour, "marker": marker, "linestyle": dashes[curve.recipe]}
        look |= {"linewidth": 1.6, "markersize": 5.5, "zorder": 4 if top else 3}
        yield panels[targets.index(curve.target)], curve, look


def _finish(
    run: Results,
    figure: Figure,
    spare: Axes | None,
    curves: Sequence[Curve],
    *,
    axis: str,
    extra: Sequence[Line2D],
) -> None:
    """Axis names of one size, and the legend."""
    panels = [axes for axes in figure.axes if axes is not spare]
    for axes in panels:
        axes.xaxis.label.set_fontsize(9)
    for axes in panels[::2]:
        axes.set_ylabel(axis, fontsize=9)
    names = list(dict.fromkeys(curve.recipe for curve in curves))
    order = [name for name in looks_of(run) if name in names]
    legend(figure, spare, [*name_handles(order, looks_of(run)), *extra])
