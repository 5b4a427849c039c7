"""The report's pictures: quality against latency, and the speedup at every point.

Drawn on an Agg canvas of their own, without pyplot's global state. Colours are Okabe and Ito's,
which colour-blind readers can tell apart; every colour comes with a marker shape.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.report.cells import MIB, significant
from harness.report.labels import Label, place_labels
from harness.report.lookup import LATENCY, Point, Results, Variant
from harness.results import Row

DPI = 150
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#555555")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "<", ">")
BASELINE = "#000000"
NAME_LENGTH = 34


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
    figure, panels, spare = _figure(len(groups), height=4.2)
    largest = max((spot.size or 0 for spot in every), default=0)
    looks = _looks(run)
    _limits(panels, every)
    for axes, (target, found) in zip(panels, groups.items(), strict=True):
        _panel(axes, target, found, looks=looks, largest=largest)
        axes.set_xlabel(f"p50 of {_words(request)} (ms), 1 thread", fontsize=9)
    for axes in panels[::2]:
        axes.set_ylabel(f"{run.main_metric.upper()}, test split", fontsize=9)
    _legend(figure, spare, _size_handles(largest))
    _write_names(figure, panels, list(groups.values()), looks=looks, largest=largest)
    return _png(figure)


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
    figure, panels, spare = _figure(len(targets), height=1.2 + 0.46 * len(recipes))
    for axes, target in zip(panels, targets, strict=True):
        for one in variants:
            if one.target == target:
                _draw_speedups(axes, run, one, line=recipes.index(one.recipe), points=points)
        _finish_speedups(axes, target, len(recipes))
    short = short_names(recipes)
    panels[0].set_yticks(range(len(recipes)), [short[name] for name in recipes])
    for axes in panels:
        _literal(axes.get_yticklabels())
    _legend(figure, spare, _point_handles(points))
    return _png(figure)


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


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name as it can be drawn, shortened in its middle; different names stay different."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        text = _drawable(name)
        if len(text) > NAME_LENGTH:
            half = NAME_LENGTH // 2
            text = f"{text[: half - 1]}…{text[-half:]}"
        taken = set(found.values())
        number, wanted = 2, text
        while text in taken:
            text, number = f"{wanted} #{number}", number + 1
        found[name] = text
    return found


def _drawable(name: str) -> str:
    """Characters that the font lacks become a box, white space one space."""
    font = get_font(findfont("DejaVu Sans"))
    line = " ".join(name.split())
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in line)


def _figure(panels: int, *, height: float) -> tuple[Figure, list[Axes], Axes | None]:
    """A figure with two panels a line, its panels, and the empty place where one is left over."""
    lines, columns = -(-panels // 2), min(2, panels)
    size = (5.0 * columns if columns > 1 else 7.0, height * lines)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for one in axes[:panels]:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(True, color="#E6E6E6", linewidth=0.7)
        one.set_axisbelow(True)
        one.tick_params(labelsize=8.5)
    spare = axes[panels] if len(axes) > panels else None
    if spare is not None:
        spare.set_axis_off()
    return figure, axes[:panels], spare


def _legend(figure: Figure, spare: Axes | None, handles: Sequence[Line2D]) -> None:
    """In the empty place if there is one, otherwise under the panels."""
    common: dict[str, Any] = {
        "frameon": False,
        "fontsize": 9,
        "labelspacing": 1.1,
    }
    if spare is not None:
        spare.legend(handles=handles, loc="center", **common)
    else:
        columns = len(handles)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, **common)


def _looks(run: Results) -> dict[str, tuple[str, str]]:
    """Recipe -> colour and marker, the same in every panel; the baseline is black."""
    recipes = list(dict.fromkeys(one.recipe for one in run.variants))
    plain = [name for name in recipes if not run.is_baseline(Variant(name, ""))]
    looks = {name: (COLOURS[i % 8], MARKERS[1 + i % 10]) for i, name in enumerate(plain)}
    return {name: looks.get(name, (BASELINE, "o")) for name in recipes}


def _spots(run: Results, target: str, request: Point | None) -> Iterator[Spot]:
    for one in run.ran:
        speed = run.find(one, LATENCY, point=request)
        quality = run.find(one, run.main_metric, scenario="accuracy")
        size = run.find(one, "bytes", scenario="size")
        if one.target != target or speed is None or quality is None:
            continue
        if speed.value is None or quality.value is None:
            continue
        low, high = _bar(
            quality.value, run.find(one, f"{run.main_metric}_difference", scenario="accuracy")
        )
        bytes_ = size.value if size else None
        latency = speed.value * 1e3
        yield Spot(one.recipe, latency, quality.value, low, high, bytes_, run.is_baseline(one))


def _bar(quality: float, change: Row | None) -> tuple[float, float]:
    """The paired interval of the difference to the baseline, drawn around the variant's quality:
    intervals of the qualities themselves overlap whenever the users differ more than the models.
    """
    if change is None or change.value is None or change.ci_low is None or change.ci_high is None:
        return quality, quality
    return quality + change.ci_low - change.value, quality + change.ci_high - change.value


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
) -> None:
    _log_axis(axes, [spot.latency for spot in spots], room=1.35)
    for spot in (one for one in spots if one.baseline):
        line: dict[str, Any] = {
            "color": "#888888",
            "linewidth": 0.9,
            "linestyle": (0, (4, 3)),
            "zorder": 1.5,
        }
        axes.axhline(spot.quality, **line)
        axes.axvline(spot.latency, **line)
    front = frontier(spots)
    axes.step(
        *([s.latency for s in front], [s.quality for s in front]),
        where="post",
        color="#9A9A9A",
        linewidth=1.6,
        zorder=2,
    )
    for spot in spots:
        _draw_spot(axes, spot, look=looks[spot.recipe], largest=largest)
    axes.set_title(_drawable(target), fontsize=10, fontweight="bold", loc="left", parse_math=False)


def _draw_spot(axes: Axes, spot: Spot, *, look: tuple[str, str], largest: float) -> None:
    colour, marker = look
    errors = [[spot.quality - spot.low], [spot.high - spot.quality]]
    at = (spot.latency, spot.quality)
    axes.errorbar(*at, yerr=errors, color=colour, alpha=0.45, linewidth=1, zorder=3)
    area = _area(spot.size, largest)
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.8}
    axes.scatter(*at, area, color=colour, marker=marker, zorder=4, **edge)


def frontier(spots: Sequence[Spot]) -> list[Spot]:
    """The spots that no other one beats in both latency and quality, fastest first."""
    found: list[Spot] = []
    for spot in sorted(spots, key=lambda one: (one.latency, -one.quality)):
        if not found or spot.quality > found[-1].quality:
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


def _log_axis(axes: Axes, values: Sequence[float], *, room: float) -> None:
    low, high = min(values) / room, max(values) * room
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=_ticks(high / low)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _ticks(span: float) -> tuple[float, ...]:
    if span < 8:
        return (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    return (1.0, 2.0, 3.0, 5.0) if span < 60 else (1.0,)


def _measured(run: Results, one: Variant, points: Sequence[Point]) -> bool:
    rows = [run.paired(one, point) for point in points]
    return any(row is not None and row.ratio is not None for row in rows)


def _draw_speedups(
    axes: Axes, run: Results, one: Variant, *, line: int, points: Sequence[Point]
) -> None:
    for number, point in enumerate(points):
        row = run.paired(one, point)
        if row is None or row.ratio is None:
            continue
        low = row.ratio if row.ratio_low is None else row.ratio_low
        high = row.ratio if row.ratio_high is None else row.ratio_high
        height = line + 0.62 * ((number + 0.5) / len(points) - 0.5)
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
    _log_axis(axes, [min(low, 0.9), max(high, 1.1)], room=1.08)
    axes.axvspan(axes.get_xlim()[0], 1.0, color="#F4F4F4", zorder=0)
    axes.axvline(1.0, color="#000000", linewidth=1, zorder=2)
    axes.set_ylim(lines - 0.5, -0.5)
    for edge in range(1, lines):
        axes.axhline(edge - 0.5, color="#D8D8D8", linewidth=0.6, zorder=1)
    axes.grid(False, axis="y")
    axes.set_xlabel("speedup over the baseline on this engine, 1 thread", fontsize=9)
    axes.set_title(_drawable(target), fontsize=10, fontweight="bold", loc="left", parse_math=False)


def _literal(texts: Sequence[Text]) -> None:
    for text in texts:
        text.set_parse_math(False)
        text.set_fontsize(8.5)


def _words(point: Point) -> str:
    if point.batch == 1:
        return f"a {point.candidates}-candidate request"
    return f"a call of {point.batch} rows"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
