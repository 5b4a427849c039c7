"""What the report's pictures have in common: panels, colours, markers, names, legends, PNG.

Drawn on an Agg canvas of their own, without pyplot's global state. Colours are Okabe and Ito's,
which colour-blind readers can tell apart; every colour comes with a marker shape.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.report.lookup import Results, Variant
from harness.results import Row

DPI = 150
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#555555")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "<", ">")
BASELINE = "#000000"
NAME_LENGTH = 34
TIGHT_LINE = 0.22
"""Inches that a line of a legend takes."""


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name as it can be drawn, shortened in its middle; different names stay different."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        text = drawable(name)
        if len(text) > NAME_LENGTH:
            half = NAME_LENGTH // 2
            text = f"{text[: half - 1]}…{text[-half:]}"
        taken = set(found.values())
        number, wanted = 2, text
        while text in taken:
            text, number = f"{wanted} #{number}", number + 1
        found[name] = text
    return found


def drawable(name: str) -> str:
    """Characters that the font lacks become a box, white space one space."""
    font = get_font(findfont("DejaVu Sans"))
    line = " ".join(name.split())
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in line)


def new_figure(panels: int, *, height: float) -> tuple[Figure, list[Axes], Axes | None]:
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


def legend(figure: Figure, spare: Axes | None, handles: Sequence[Line2D]) -> None:
    """In the empty place if there is one with room, otherwise under the panels, in as many lines
    as it takes (the figure grows by them).
    """
    room = spare is not None and len(handles) * TIGHT_LINE < figure.get_figheight() / 2 - 0.3
    common: dict[str, Any] = {"frameon": False, "fontsize": 9}
    if spare is not None and room:
        spacing = 1.1 if len(handles) <= 10 else 0.6
        made = spare.legend(handles=handles, loc="center", labelspacing=spacing, **common)
    else:
        columns = _columns(figure.get_figwidth(), handles)
        lines = math.ceil(len(handles) / columns)
        figure.set_figheight(figure.get_figheight() + (lines - 1) * TIGHT_LINE)
        common |= {"loc": "outside lower center", "ncols": columns, "labelspacing": 0.6}
        made = figure.legend(handles=handles, **common)
    for text in made.get_texts():
        text.set_parse_math(False)


def _columns(width: float, handles: Sequence[Line2D]) -> int:
    """The most columns whose labels fit side by side into that many inches."""
    lengths = [0.075 * len(str(handle.get_label())) + 0.65 for handle in handles]
    for columns in range(len(lengths), 1, -1):
        longer, spare = divmod(len(lengths), columns)
        cuts = [at * longer + min(at, spare) for at in range(columns + 1)]
        widths = (max(lengths[start:end]) for start, end in pairwise(cuts))
        if sum(widths) <= width:
            return columns
    return 1


def name_handles(
    names: Sequence[str], looks: Mapping[str, tuple[str, str]], **line: Any
) -> list[Line2D]:
    """A legend's entry for each recipe, with its colour, marker and dashes."""
    short, dashes = short_names(names), dashes_of(looks)
    return [
        Line2D(
            *([], []),
            # Matplotlib leaves out labels that begin with an underscore.
            label=f" {short[name]}" if short[name].startswith("_") else short[name],
            color=looks[name][0],
            marker=looks[name][1],
            **{"linestyle": dashes[name], "markersize": 6, "linewidth": 1.6, **line},
        )
        for name in names
    ]


def dashes_of(looks: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Recipe -> line style: dashed where an earlier recipe has the same colour."""
    seen: set[str] = set()
    found: dict[str, Any] = {}
    for name, (colour, _) in looks.items():
        found[name] = (0, (4, 2)) if colour in seen else "-"
        seen.add(colour)
    return found


def looks_of(run: Results) -> dict[str, tuple[str, str]]:
    """Recipe -> colour and marker, the same in every panel; the baseline is black."""
    recipes = list(dict.fromkeys(one.recipe for one in run.variants))
    plain = [name for name in recipes if not run.is_baseline(Variant(name, ""))]
    looks = {name: (COLOURS[i % 8], MARKERS[1 + i % 10]) for i, name in enumerate(plain)}
    return {name: looks.get(name, (BASELINE, "o")) for name in recipes}


LEAST, MOST = 1e-15, 1e15
"""Of a logarithmic axis: what is beyond isn't drawn."""


def log_axis(axes: Axes, values: Iterable[float], *, room: float, name: str = "x") -> None:
    """Make ``x`` or ``y`` logarithmic from the least to the largest value, and ``room`` times
    beyond, with ticks that read as plain numbers.
    """
    # Whatever rows of others say: an axis ends.
    known = [min(max(value, LEAST), MOST) for value in values]
    low, high = min(known) / room, max(known) * room
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=_ticks(high / low)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axis.set_minor_locator(NullLocator())


def _ticks(span: float) -> tuple[float, ...]:
    if span < 2:
        return (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0)
    if span < 8:
        return (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    if span < 60:
        return (1.0, 2.0, 3.0, 5.0)
    return (1.0, 3.0) if span < 1000 else (1.0,)


def _tick(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


def quality_label(run: Results) -> str:
    """The name of an axis of the main metric."""
    better = " (lower is better)" if run.task.lower_is_better else ""
    return f"{run.main_metric.upper()}, test split{better}"


def paired_bar(quality: float, change: Row | None) -> tuple[float, float]:
    """The paired interval of the difference to the baseline, drawn around the variant's quality:
    intervals of the qualities themselves overlap whenever the users differ more than the models.
    """
    if change is None or change.value is None or change.ci_low is None or change.ci_high is None:
        return quality, quality
    return quality + change.ci_low - change.value, quality + change.ci_high - change.value


def panel_title(axes: Axes, target: str) -> None:
    """The target's name over its panel, as it is."""
    look: dict[str, Any] = {"fontsize": 10, "fontweight": "bold", "loc": "left"}
    axes.set_title(drawable(target), parse_math=False, **look)


def literal(texts: Sequence[Text]) -> None:
    """Names on an axis, small and without markup."""
    for text in texts:
        text.set_parse_math(False)
        text.set_fontsize(8.5)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
