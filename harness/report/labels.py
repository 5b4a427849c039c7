"""Labels beside markers that neither cover each other nor leave the panel."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

_RADII = (3, 10, 18, 28, 40, 54, 70, 88, 108, 130)
_ANGLES = (0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90)


@dataclass(frozen=True, slots=True)
class Label:
    """A text for a spot (data coordinates) whose marker reaches ``reach`` points around it."""

    spot: tuple[float, float]
    text: str
    colour: str
    reach: float


def place_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each text beside its spot, as near as there is room, and draw a thin line to those
    that stand further away. The figure's layout must be final.
    """
    scale = axes.figure.dpi / 72
    pixels = {label: _pixel(axes, label) for label in labels}
    taken = [_around(pixels[label], label.reach * scale) for label in labels]
    for label in sorted(labels, key=lambda one: -pixels[one][1]):
        spot = pixels[label]
        size = _measure(axes, label.text)
        offset = _free(spot, size, label, taken=taken, inside=axes.get_window_extent(), scale=scale)
        taken.append(_box(spot, offset, size, scale))
        _write(axes, label, offset)


def _pixel(axes: Axes, label: Label) -> tuple[float, float]:
    x, y = axes.transData.transform(label.spot)
    return float(x), float(y)


def _measure(axes: Axes, text: str) -> tuple[float, float]:
    probe = axes.text(0, 0, text, fontsize=8.5, parse_math=False, transform=None)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width, extent.height


def _free(
    spot: tuple[float, float],
    size: tuple[float, float],
    label: Label,
    *,
    taken: Sequence[Bbox],
    inside: Bbox,
    scale: float,
) -> tuple[float, float]:
    """The nearest offset (in points) with the least overlap, none if there is room at all."""

    def cost(offset: tuple[float, float]) -> float:
        box = _box(spot, offset, size, scale)
        covered = sum(_overlap(box, other) for other in taken)
        outside = box.width * box.height - _overlap(box, inside)
        return covered + 4 * outside

    return min(_offsets(label.reach), key=lambda at: (round(cost(at)), math.hypot(*at)))


def _offsets(reach: float) -> Iterator[tuple[float, float]]:
    for radius in _RADII:
        for angle in _ANGLES:
            turn = math.radians(angle)
            yield (reach + radius) * math.cos(turn), (reach + radius) * math.sin(turn)


def _box(
    spot: tuple[float, float], offset: tuple[float, float], size: tuple[float, float], scale: float
) -> Bbox:
    x, y = spot[0] + offset[0] * scale, spot[1] + offset[1] * scale
    left = x - size[0] * _anchor(offset)
    return Bbox.from_extents(left - 2, y - size[1] / 2 - 2, left + size[0] + 2, y + size[1] / 2 + 2)


def _anchor(offset: tuple[float, float]) -> float:
    """Share of the text that stands left of its point: 0 right of a marker, 1 left of it."""
    return 0.5 if abs(offset[0]) < 1 else 0.0 if offset[0] > 0 else 1.0


def _around(spot: tuple[float, float], reach: float) -> Bbox:
    x, y = spot
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _write(axes: Axes, label: Label, offset: tuple[float, float]) -> None:
    far = math.hypot(*offset) > label.reach + _RADII[0] + 1
    line = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.7, "alpha": 0.8}
    axes.annotate(
        label.text,
        label.spot,
        xytext=offset,
        textcoords="offset points",
        ha={0.0: "left", 0.5: "center", 1.0: "right"}[_anchor(offset)],
        va="center",
        fontsize=8.5,
        color=label.colour,
        parse_math=False,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        arrowprops={**line, "shrinkA": 0, "shrinkB": label.reach} if far else None,
        zorder=6,
    )
