"""Labels beside markers that neither cover each other nor leave the panel."""

import math
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

_RADII = (13, 20, 28, 38, 50, 64, 80, 98, 118, 140)
_ANGLES = (0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90)
_MARKER = 9.0


def place_labels(
    axes: Axes,
    spots: Sequence[tuple[float, float]],
    *,
    texts: Sequence[str],
    colours: Sequence[str],
) -> None:
    """Write one text beside each spot (data coordinates), as near as there is room, and a thin
    line to those that had to go further away."""
    scale = axes.figure.dpi / 72
    pixels = [tuple(axes.transData.transform(spot)) for spot in spots]
    taken = [_around(x, y, _MARKER * scale) for x, y in pixels]
    inside = axes.get_window_extent()
    order = sorted(range(len(spots)), key=lambda number: -pixels[number][1])
    for number in order:
        size = _measure(axes, texts[number])
        offset = _free(pixels[number], size, taken=taken, inside=inside, scale=scale)
        taken.append(_box(pixels[number], offset, size, scale))
        _write(axes, spots[number], offset, text=texts[number], colour=colours[number])


def _measure(axes: Axes, text: str) -> tuple[float, float]:
    probe = axes.text(0, 0, text, fontsize=8, parse_math=False, transform=None)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width, extent.height


def _free(
    spot: tuple[float, ...],
    size: tuple[float, float],
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

    return min(_offsets(), key=lambda offset: (round(cost(offset)), math.hypot(*offset)))


def _offsets() -> Iterator[tuple[float, float]]:
    for radius in _RADII:
        for angle in _ANGLES:
            turn = math.radians(angle)
            yield radius * math.cos(turn), radius * math.sin(turn)


def _box(
    spot: tuple[float, ...], offset: tuple[float, float], size: tuple[float, float], scale: float
) -> Bbox:
    x, y = spot[0] + offset[0] * scale, spot[1] + offset[1] * scale
    left = x - size[0] * _anchor(offset)
    return Bbox.from_extents(left - 2, y - size[1] / 2 - 2, left + size[0] + 2, y + size[1] / 2 + 2)


def _anchor(offset: tuple[float, float]) -> float:
    """Share of the text that stands left of its point: 0 to the right of a marker, 1 to its left."""
    return 0.5 if abs(offset[0]) < 1 else 0.0 if offset[0] > 0 else 1.0


def _around(x: float, y: float, reach: float) -> Bbox:
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _write(
    axes: Axes, spot: tuple[float, float], offset: tuple[float, float], *, text: str, colour: str
) -> None:
    far = math.hypot(*offset) > _RADII[1]
    label = axes.annotate(
        text,
        spot,
        xytext=offset,
        textcoords="offset points",
        ha={0.0: "left", 0.5: "center", 1.0: "right"}[_anchor(offset)],
        va="center",
        fontsize=8,
        color=colour,
        parse_math=False,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.7}
        if far
        else None,
        zorder=6,
    )
    label.set_in_layout(False)
