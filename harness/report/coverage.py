"""The picture of quality against catalogue coverage: what a gain in one costs in the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.beyond import SCENARIO, beyond_metrics, references
from harness.report.cells import significant
from harness.report.drawing import (
    BASELINE,
    legend,
    looks_of,
    new_figure,
    paired_bar,
    panel_title,
    png,
    quality_label,
    short_names,
)
from harness.report.labels import Label, place_labels
from harness.report.lookup import REFERENCE, Results, Variant
from harness.results import Row

REFERENCE_LOOK = ("#777777", "*")
OUTSIDE = "hollow: a simple ranking outside the axes, with its figures"
CROWDED = 0.25
"""Variants that would fill less of an axis than this get it to themselves."""
REACH, RING_REACH = 5.5, 8.0
"""Points that a marker, and the baseline's ring, reach around their spot."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A variant or a simple ranking: share of the catalogue in percent, quality with the interval
    of its difference to the baseline.
    """

    recipe: str
    coverage: float
    quality: float
    low: float
    high: float

    @property
    def simple(self) -> bool:
        """Whether it is a simple ranking."""
        return self.recipe.startswith(REFERENCE)


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: the variants of a baseline on a target, and the simple rankings of its data."""

    title: str
    baseline: str | None
    spots: tuple[Spot, ...]


def coverage_plot(run: Results) -> bytes | None:
    """PNG: the main metric against the share of the catalogue that stands in any list, a panel
    for each target (and baseline); None where no variant has both.
    """
    panels = list(coverage_panels(run))
    if not panels:
        return None
    figure, axes, spare = new_figure(len(panels), height=4.2)
    looks, metric, spans = looks_of(run), _metric(run), _spans(panels)
    for one, panel in zip(axes, panels, strict=True):
        _draw(one, panel, looks, spans)
        one.set_xlabel(f"{metric}: share of the catalogue in any list (%)", fontsize=9)
    for one in axes[::2]:
        one.set_ylabel(quality_label(run), fontsize=9)
    legend(figure, spare, _handles(panels, spans))
    _write_names(figure, axes, panels, looks=looks, spans=spans)
    return png(figure)


def _metric(run: Results) -> str | None:
    return next((name for name in beyond_metrics(run) if name.startswith("coverage@")), None)


def coverage_panels(run: Results) -> Iterator[Panel]:
    """What is drawn: a panel for each baseline and target where a variant has both figures."""
    for name, part in run.by_baseline.items():
        for target in part.targets:
            own = [one for one in part.ran if one.target == target]
            spots = tuple(_spots(part, own))
            if spots:
                baseline = next((one.recipe for one in own if part.is_baseline(one)), None)
                title = f"{name}, {target}" if len(run.by_baseline) > 1 else target
                yield Panel(title, baseline, (*spots, *_spots(part, references(part))))


def _spots(run: Results, found: Sequence[Variant]) -> Iterator[Spot]:
    for one in found:
        covered = run.find(one, _metric(run) or "", scenario=SCENARIO)
        quality = _quality(run, one)
        if covered is None or covered.value is None or quality is None or quality.value is None:
            continue
        change = run.find(one, f"{run.main_metric}_difference", scenario="accuracy")
        low, high = paired_bar(quality.value, change)
        yield Spot(one.recipe, covered.value * 100, quality.value, low, high)


def _quality(run: Results, one: Variant) -> Row | None:
    scenarios = ("reference", "accuracy") if one.recipe.startswith(REFERENCE) else ("accuracy",)
    rows = (run.find(one, run.main_metric, scenario=scenario) for scenario in scenarios)
    return next((row for row in rows if row is not None), None)


Span = tuple[float, float]
"""Where an axis begins and ends."""


def _span(own: Sequence[float], others: Sequence[float]) -> Span:
    """The axis of the variants; of the simple rankings too, unless those are so far away that the
    variants would lie on one spot.
    """
    low, high = min(own), max(own)
    left, right = min([low, *others]), max([high, *others])
    if 0 < high - low < CROWDED * (right - left):
        left, right = low, high
    room = 0.2 * (right - left) or 0.05 * abs(right) or 1.0
    return left - room, right + room


def _spans(panels: Sequence[Panel]) -> tuple[Span, Span]:
    spots = [spot for panel in panels for spot in panel.spots]
    own = [spot for spot in spots if not spot.simple]
    rest = [spot for spot in spots if spot.simple]
    left, right = _span([spot.coverage for spot in own], [spot.coverage for spot in rest])
    return (
        (max(left, -5.0), min(right, 105.0)),
        _span(
            [value for spot in own for value in (spot.low, spot.high)],
            [spot.quality for spot in rest],
        ),
    )


def _inside(spot: Spot, spans: tuple[Span, Span]) -> tuple[float, float]:
    """Where the spot is drawn: at the edge if it lies outside."""
    values = (spot.coverage, spot.quality)
    ends = ((low, high, 0.03 * (high - low)) for low, high in spans)
    x, y = (
        value if low <= value <= high else min(max(value, low + edge), high - edge)
        for value, (low, high, edge) in zip(values, ends, strict=True)
    )
    return x, y


def _is_outside(spot: Spot, spans: tuple[Span, Span]) -> bool:
    return _inside(spot, spans) != (spot.coverage, spot.quality)


def _draw(
    axes: Axes, panel: Panel, looks: Mapping[str, tuple[str, str]], spans: tuple[Span, Span]
) -> None:
    axes.set(xlim=spans[0], ylim=spans[1])
    line: dict[str, Any] = {"color": "#888888", "linewidth": 0.9, "linestyle": (0, (4, 3))}
    for spot in panel.spots:
        look = looks.get(spot.recipe, REFERENCE_LOOK)
        if spot.recipe == panel.baseline:
            axes.axhline(spot.quality, **line, zorder=1.5)
            axes.axvline(spot.coverage, **line, zorder=1.5)
            _scatter(axes, (spot.coverage, spot.quality), look, area=170, filled="none")
        else:
            _draw_spot(axes, spot, look, spans)
    panel_title(axes, panel.title)


def _draw_spot(axes: Axes, spot: Spot, look: tuple[str, str], spans: tuple[Span, Span]) -> None:
    at, area = _inside(spot, spans), 100 if spot.simple else 70
    errors = [[spot.quality - spot.low], [spot.high - spot.quality]]
    if spot.high > spot.low:
        axes.errorbar(*at, yerr=errors, color=look[0], alpha=0.45, linewidth=1, zorder=3)
    if _is_outside(spot, spans):
        _scatter(axes, at, look, area=area, filled="white")
    else:
        edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.8, "zorder": 4}
        axes.scatter(*at, area, color=look[0], marker=look[1], **edge)


def _scatter(
    axes: Axes, at: tuple[float, float], look: tuple[str, str], *, area: float, filled: str
) -> None:
    """A hollow marker; the baseline's ring (filled with nothing) lies over the others."""
    above: dict[str, Any] = {"linewidth": 1.2, "zorder": 5 if filled == "none" else 4}
    axes.scatter(*at, area, edgecolor=look[0], facecolor=filled, marker=look[1], **above)


def _handles(panels: Sequence[Panel], spans: tuple[Span, Span]) -> list[Line2D]:
    spots = [spot for panel in panels for spot in panel.spots]
    colour, marker = REFERENCE_LOOK
    star: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "", "markersize": 9}
    ring: dict[str, Any] = {"color": BASELINE, "marker": "o", "markersize": 10}
    ring |= {"linestyle": (0, (4, 3)), "linewidth": 0.9, "markerfacecolor": "none"}
    far = any(_is_outside(spot, spans) for spot in spots)
    near = any(spot.simple and not _is_outside(spot, spans) for spot in spots)
    bars = any(spot.high > spot.low for spot in spots)
    bar: dict[str, Any] = {"color": "#777777", "marker": "|"}
    return [
        Line2D([], [], label="baseline", **ring),
        *([Line2D([], [], label="a simple ranking", **star)] if near else []),
        *([Line2D([], [], label=OUTSIDE, **{**star, "markerfacecolor": "white"})] if far else []),
        *([Line2D([], [], label="bar: interval of the difference", **bar)] if bars else []),
    ]


def _write_names(
    figure: Figure,
    axes: Sequence[Axes],
    panels: Sequence[Panel],
    *,
    looks: Mapping[str, tuple[str, str]],
    spans: tuple[Span, Span],
) -> None:
    """Names beside the markers; the layout is made and kept first, since room decides places."""
    figure.canvas.draw()
    figure.set_layout_engine("none")
    names = [spot.recipe for panel in panels for spot in panel.spots]
    short = short_names([name.removeprefix(REFERENCE) for name in names])
    for one, panel in zip(axes, panels, strict=True):
        labels = []
        for spot in panel.spots:
            colour = looks.get(spot.recipe, REFERENCE_LOOK)[0]
            text = short[spot.recipe.removeprefix(REFERENCE)]
            if _is_outside(spot, spans):
                text += f" ({significant(spot.quality)} at {significant(spot.coverage, 2)} %)"
            reach = RING_REACH if spot.recipe == panel.baseline else REACH
            labels.append(Label(_inside(spot, spans), text, colour, reach))
        place_labels(one, labels)
