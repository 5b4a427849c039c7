"""The report's pictures of the summary: quality against latency, and the speedup at every point."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.cells import MIB, significant
from harness.report.drawing import (
    COLOURS,
    MARKERS,
    legend,
    literal,
    log_axis,
    looks_of,
    new_figure,
    paired_bar,
    panel_title,
    png,
    quality_label,
    short_names,
)
from harness.report.labels import Label, place_labels
from harness.report.lookup import LATENCY, Point, Results, Variant


@dataclass(frozen=True, slots=True)
class Spot:
    """One variant on one target: latency in ms, quality with interval, MiB."""

    recipe: str
    latency: float
    quality: float
    low: float
    high: float
    size: float | None
    baseline: bool


def pareto_plot(run: Results) -> bytes | None:
    """PNG: main metric against p50 of one request at 1 thread, a panel for each target, with the
    frontier, the baseline's lines and marker areas by size; None when nothing can be drawn.
    """
    request = run.request_point()
    groups = {target: list(_spots(run, target, request)) for target in run.targets if request}
    groups = {target: found for target, found in groups.items() if found}
    if not groups or request is None:
        return None
    every = [spot for found in groups.values() for spot in found]
    figure, panels, spare = new_figure(len(groups), height=4.2)
    largest = max((spot.size or 0 for spot in every), default=0)
    looks = looks_of(run)
    _limits(panels, every)
    for axes, (target, found) in zip(panels, groups.items(), strict=True):
        front = frontier(found, lower=run.task.lower_is_better)
        _panel(axes, target, found, looks=looks, largest=largest, front=front)
        axes.set_xlabel(f"p50 of {_words(run, request)} (ms), 1 thread", fontsize=9)
    for axes in panels[::2]:
        axes.set_ylabel(quality_label(run), fontsize=9)
    legend(figure, spare, _size_handles(largest))
    _write_names(figure, panels, list(groups.values()), looks=looks, largest=largest)
    return png(figure)


def _write_names(
    figure: Figure,
    panels: Sequence[Axes],
    groups: Sequence[Sequence[Spot]],
    *,
    looks: Mapping[str, tuple[str, str]],
    largest: float,
) -> None:
    """Names beside the markers; the layout is made and kept first, since room decides places."""
    figure.canvas.draw()
    figure.set_layout_engine("none")
    short = short_names([spot.recipe for found in groups for spot in found])
    for axes, found in zip(panels, groups, strict=True):
        labels = []
        for spot in found:
            reach = _area(spot.size, largest) ** 0.5 / 2
            colour = looks[spot.recipe][0]
            labels.append(Label((spot.latency, spot.quality), short[spot.recipe], colour, reach))
        place_labels(axes, labels)


def speedup_plot(run: Results) -> bytes | None:
    """PNG: paired speedup with its interval at each 1-thread point, a panel for each target; None
    when no speedup was measured. Hollow markers: no difference was shown.
    """
    points = run.points(threads=1)
    variants = [one for one in run.ran if not run.is_baseline(one) and _measured(run, one, points)]
    recipes = list(dict.fromkeys(one.recipe for one in variants))
    targets = [name for name in run.targets if any(one.target == name for one in variants)]
    if not variants:
        return None
    figure, panels, spare = new_figure(
        len(targets), height=1.2 + max(0.46, 0.1 * len(points)) * len(recipes)
    )
    for axes, target in zip(panels, targets, strict=True):
        for one in variants:
            if one.target == target:
                _draw_speedups(axes, run, one, line=recipes.index(one.recipe), points=points)
        _finish_speedups(axes, target, len(recipes))
    short = short_names(recipes)
    panels[0].set_yticks(range(len(recipes)), [short[name] for name in recipes])
    for axes in panels:
        literal(axes.get_yticklabels())
    legend(figure, spare, _point_handles(points))
    return png(figure)


def _point_handles(points: Sequence[Point]) -> list[Line2D]:
    looks = [(COLOURS[i % 8], MARKERS[i % 11], point.label) for i, point in enumerate(points)]
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=label)
        for colour, marker, label in looks
    ]
    hollow: dict[str, Any] = {
        "color": "#555555",
        "marker": "o",
        "markerfacecolor": "white",
        "linestyle": "",
    }
    return [*handles, Line2D([], [], label="hollow: no difference proven", **hollow)]


def _spots(run: Results, target: str, request: Point | None) -> Iterator[Spot]:
    for one in run.ran:
        speed = run.find(one, LATENCY, point=request)
        quality = run.find(one, run.main_metric, scenario="accuracy")
        size = run.find(one, "bytes", scenario="size")
        if one.target != target or speed is None or quality is None:
            continue
        if speed.value is None or quality.value is None:
            continue
        low, high = paired_bar(
            quality.value, run.find(one, f"{run.main_metric}_difference", scenario="accuracy")
        )
        bytes_ = size.value if size else None
        latency = speed.value * 1e3
        yield Spot(one.recipe, latency, quality.value, low, high, bytes_, run.is_baseline(one))


def _limits(panels: Sequence[Axes], spots: Sequence[Spot]) -> None:
    low, high = min(s.low for s in spots), max(s.high for s in spots)
    room = 0.12 * (high - low) or 0.01
    for axes in panels:
        axes.set_ylim(low - room, high + room)


def _panel(
    axes: Axes,
    target: str,
    spots: Sequence[Spot],
    *,
    looks: Mapping[str, tuple[str, str]],
    largest: float,
    front: Sequence[Spot],
) -> None:
    log_axis(axes, [spot.latency for spot in spots], room=1.35)
    for spot in (one for one in spots if one.baseline):
        line: dict[str, Any] = {
            "color": "#888888",
            "linewidth": 0.9,
            "linestyle": (0, (4, 3)),
            "zorder": 1.5,
        }
        axes.axhline(spot.quality, **line)
        axes.axvline(spot.latency, **line)
    axes.step(
        *([s.latency for s in front], [s.quality for s in front]),
        where="post",
        color="#9A9A9A",
        linewidth=1.6,
        zorder=2,
    )
    for spot in spots:
        _draw_spot(axes, spot, look=looks[spot.recipe], largest=largest)
    panel_title(axes, target)


def _draw_spot(axes: Axes, spot: Spot, *, look: tuple[str, str], largest: float) -> None:
    colour, marker = look
    errors = [[spot.quality - spot.low], [spot.high - spot.quality]]
    at = (spot.latency, spot.quality)
    axes.errorbar(*at, yerr=errors, color=colour, alpha=0.45, linewidth=1, zorder=3)
    area = _area(spot.size, largest)
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.8}
    axes.scatter(*at, area, color=colour, marker=marker, zorder=4, **edge)


def frontier(spots: Sequence[Spot], *, lower: bool = False) -> list[Spot]:
    """The spots that no other one beats in both latency and quality, fastest first; ``lower``: the
    quality is an error.
    """
    sign = -1 if lower else 1
    found: list[Spot] = []
    for spot in sorted(spots, key=lambda one: (one.latency, -sign * one.quality)):
        if not found or sign * spot.quality > sign * found[-1].quality:
            found.append(spot)
    return found


def _area(size: float | None, largest: float) -> float:
    return 40.0 + (260.0 * size / largest if size and largest else 0.0)


def _size_handles(largest: float) -> list[Line2D]:
    grey: dict[str, Any] = {"linestyle": "", "marker": "o", "color": "#AAAAAA"}
    sizes = [
        Line2D(
            *([], []),
            markersize=_area(size, largest) ** 0.5,
            label=f"{significant(size / MIB, 2)} MiB to score",
            **grey,
        )
        for size in (largest, largest / 2, largest / 8)
        if size
    ]
    return [
        *sizes,
        Line2D([], [], color="#9A9A9A", linewidth=1.6, label="frontier: none is better in both"),
        Line2D([], [], color="#888888", linewidth=0.9, linestyle=(0, (4, 3)), label="baseline"),
        Line2D([], [], color="#777777", marker="|", label="bar: interval of the difference"),
    ]


def _measured(run: Results, one: Variant, points: Sequence[Point]) -> bool:
    rows = [run.paired(one, point) for point in points]
    return any(row is not None and row.ratio is not None for row in rows)


def _draw_speedups(
    axes: Axes, run: Results, one: Variant, *, line: int, points: Sequence[Point]
) -> None:
    spread = 0.62 if len(points) <= 4 else 0.8
    for number, point in enumerate(points):
        row = run.paired(one, point)
        if row is None or row.ratio is None:
            continue
        low = row.ratio if row.ratio_low is None else row.ratio_low
        high = row.ratio if row.ratio_high is None else row.ratio_high
        height = line + spread * ((number + 0.5) / len(points) - 0.5)
        colour = COLOURS[number % 8]
        proven = row.verdict in ("faster", "slower")
        axes.plot([low, high], [height, height], color=colour, linewidth=1.6, zorder=3)
        axes.plot(
            *([row.ratio], [height], MARKERS[number % 11]),
            color=colour,
            markerfacecolor=colour if proven else "white",
            markersize=5.5,
            zorder=4,
        )


def _finish_speedups(axes: Axes, target: str, lines: int) -> None:
    low, high = axes.dataLim.intervalx
    log_axis(axes, [min(low, 0.9), max(high, 1.1)], room=1.08)
    axes.axvspan(axes.get_xlim()[0], 1.0, color="#F4F4F4", zorder=0)
    axes.axvline(1.0, color="#000000", linewidth=1, zorder=2)
    axes.set_ylim(lines - 0.5, -0.5)
    for edge in range(1, lines):
        axes.axhline(edge - 0.5, color="#D8D8D8", linewidth=0.6, zorder=1)
    axes.grid(False, axis="y")
    axes.set_xlabel("speedup over the baseline on this engine, 1 thread", fontsize=9)
    panel_title(axes, target)


def _words(run: Results, point: Point) -> str:
    if run.task.lists:
        return run.words(point)
    if point.batch == 1:
        return f"a {point.candidates}-candidate request"
    return f"a call of {point.batch} rows"
