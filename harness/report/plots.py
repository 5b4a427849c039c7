"""The report's pictures: quality against latency, and the speedup at every point.

Drawn on an Agg canvas of their own, without pyplot's global state. Colours are Okabe and Ito's,
which colour-blind readers can tell apart; every colour comes with a marker shape.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.report.cells import MIB, significant
from harness.report.labels import place_labels
from harness.report.lookup import LATENCY, Point, Results, Variant

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
    frontier, the baseline's lines and marker areas by size; None when nothing can be drawn."""
    request = run.request_point()
    spots = {target: list(_spots(run, target, request)) for target in run.targets if request}
    spots = {target: found for target, found in spots.items() if found}
    if not spots or request is None:
        return None
    figure, panels = _figure(len(spots), height=4.9)
    looks = _looks(run)
    largest = max((spot.size or 0 for found in spots.values() for spot in found), default=0)
    _limits(panels, [spot for found in spots.values() for spot in found])
    for axes, (target, found) in zip(panels, spots.items(), strict=True):
        _panel(axes, target, found, looks=looks, largest=largest)
        axes.set_xlabel(f"p50 latency of {_words(request)} (ms), 1 thread")
    panels[0].set_ylabel(f"{_metric(run)} on the test split (higher is better)")
    _size_legend(figure, spots.values(), largest)
    figure.canvas.draw()
    short = short_names([spot.recipe for found in spots.values() for spot in found])
    for axes, found in zip(panels, spots.values(), strict=True):
        place_labels(
            axes,
            [(spot.latency, spot.quality) for spot in found],
            texts=[short[spot.recipe] for spot in found],
            colours=[looks[spot.recipe][0] for spot in found],
        )
    return _png(figure)


def speedup_plot(run: Results) -> bytes | None:
    """PNG: paired speedup with its interval at each 1-thread point, a panel for each target; None
    when no speedup was measured. Hollow markers: no difference was shown."""
    points = run.points(threads=1)
    variants = [one for one in run.ran if not run.is_baseline(one) and _speedups(run, one, points)]
    recipes = list(dict.fromkeys(one.recipe for one in variants))
    targets = [name for name in run.targets if any(one.target == name for one in variants)]
    if not variants:
        return None
    figure, panels = _figure(len(targets), height=1.9 + 0.55 * len(recipes))
    for axes, target in zip(panels, targets, strict=True):
        for one in variants:
            if one.target == target:
                _draw_speedups(axes, run, one, line=recipes.index(one.recipe), points=points)
        _finish_speedups(axes, target, len(recipes))
    short = short_names(recipes)
    panels[0].set_yticks(range(len(recipes)), [short[name] for name in recipes])
    _literal(panels[0].get_yticklabels())
    handles = [
        Line2D([], [], color=COLOURS[i % 8], marker=MARKERS[i % 11], linestyle="", label=p.label)
        for i, p in enumerate(points)
    ]
    handles.append(
        Line2D([], [], color="#555555", marker="o", mfc="white", linestyle="", label="not proven")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return _png(figure)


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


def _figure(panels: int, *, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(max(7.0, 1.2 + 4.6 * panels), height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, panels, sharey=True, squeeze=False)
    axes = list(grid[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(True, color="#E6E6E6", linewidth=0.7)
        one.set_axisbelow(True)
        one.tick_params(labelsize=8)
    return figure, axes


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
        low = quality.value if quality.ci_low is None else quality.ci_low
        high = quality.value if quality.ci_high is None else quality.ci_high
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
    looks: dict[str, tuple[str, str]],
    largest: float,
) -> None:
    _log_axis(axes, [spot.latency for spot in spots], room=1.35)
    for spot in (one for one in spots if one.baseline):
        line = {"color": "#888888", "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1.5}
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
        colour, marker = looks[spot.recipe]
        errors = [[spot.quality - spot.low], [spot.high - spot.quality]]
        axes.errorbar(
            spot.latency, spot.quality, yerr=errors, color=colour, alpha=0.45, linewidth=1, zorder=3
        )
        axes.scatter(
            *(spot.latency, spot.quality, _area(spot.size, largest)),
            color=colour,
            marker=marker,
            edgecolor="white",
            linewidth=0.8,
            zorder=4,
        )
    axes.set_title(_drawable(target), fontsize=10, fontweight="bold", loc="left", parse_math=False)


def frontier(spots: Sequence[Spot]) -> list[Spot]:
    """The spots that no other one beats in both latency and quality, fastest first."""
    found: list[Spot] = []
    for spot in sorted(spots, key=lambda one: (one.latency, -one.quality)):
        if not found or spot.quality > found[-1].quality:
            found.append(spot)
    return found


def _area(size: float | None, largest: float) -> float:
    return 40.0 + (260.0 * size / largest if size and largest else 0.0)


def _size_legend(figure: Figure, groups: object, largest: float) -> None:
    if not largest:
        return
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color="#AAAAAA",
            markersize=_area(size, largest) ** 0.5,
            label=f"{significant(size / MIB, 2)} MiB",
        )
        for size in (largest, largest / 2, largest / 8)
    ]
    handles += [
        Line2D([], [], color="#9A9A9A", linewidth=1.6, label="frontier"),
        Line2D([], [], color="#888888", linewidth=0.9, linestyle=(0, (4, 3)), label="baseline"),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        handletextpad=0.8,
        columnspacing=2.2,
    )


def _log_axis(axes: Axes, values: Sequence[float], *, room: float) -> None:
    low, high = min(values) / room, max(values) * room
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    subs = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 8 else subs
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _speedups(run: Results, one: Variant, points: Sequence[Point]) -> list[float]:
    rows = [run.paired(one, point) for point in points]
    return [row.ratio for row in rows if row is not None and row.ratio is not None]


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
    axes.set_xlabel("speedup over the baseline on the same engine, 1 thread", fontsize=8.5)
    axes.set_title(_drawable(target), fontsize=10, fontweight="bold", loc="left", parse_math=False)


def _literal(texts: Sequence[Text]) -> None:
    for text in texts:
        text.set_parse_math(False)
        text.set_fontsize(8.5)


def _words(point: Point) -> str:
    if point.batch == 1:
        return f"a {point.candidates}-candidate request"
    return f"a call of {point.batch} rows"


def _metric(run: Results) -> str:
    return run.main_metric.upper()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
