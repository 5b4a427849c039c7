"""What stands in a table cell: a text, and why there is no number when there is none.

Numbers become text through two tables, metric -> formatter and unit -> formatter; a metric that
neither names is shown with four significant digits.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.results import Row

Formatter = Callable[[float], str]

MIB = 2**20
NOT_AVAILABLE = "n/a"
DIFFERENCE = "_difference"
NOISY, UNCONVERGED = "†", "‡"
"""Marks behind a figure of a noisy host, and behind one whose stopping rule was not met."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The text of one cell; a ``note`` becomes a numbered footnote under the table."""

    text: str
    note: str | None = None


DASH = Cell("-")
"""Nothing to show: not asked for, or it has no meaning here."""


@dataclass(frozen=True, slots=True)
class Table:
    """Headings and rows of cells; every row has as many cells as there are headings."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"{len(row)} cells under {len(self.headers)} headings: {row}")


def significant(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits, thousands apart; tiny ones as 1.2e-07."""
    if value == 0:
        return "0"
    if not math.isfinite(value):  # a large figure in small units
        return "beyond any number"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, three significant digits."""
    return significant(seconds * 1e3)


def mebibytes(size: float) -> str:
    """Bytes as MiB, one digit after the point, three where there is less than one MiB."""
    return f"{size / MIB:,.{1 if size >= MIB else 3}f}"


def times(ratio: float) -> str:
    """A speedup or another ratio, two digits after the point."""
    return f"{ratio:.2f}"


def count(value: float) -> str:
    """A whole number with thousands apart; a fraction keeps its digits."""
    return f"{value:,.0f}" if float(value).is_integer() else significant(value, 4)


def rate(value: float) -> str:
    """A number per second, at least three significant digits and never a fraction of many."""
    return significant(value)


def share(value: float) -> str:
    """A share as a percentage, two significant digits."""
    return f"{significant(value * 100, 2)} %"


def fixed(digits: int) -> Formatter:
    """A formatter with ``digits`` digits after the point."""
    return lambda value: f"{value:.{digits}f}"


def percent(value: float) -> str:
    """A share as a percentage, two digits after the point."""
    return f"{value * 100:.2f} %"


BY_METRIC: Mapping[str, Formatter] = {
    **dict.fromkeys(("auc", "gauc", "logloss", "normalised_entropy", "ece"), fixed(4)),
    **dict.fromkeys(("calibration_ratio", "rmse", "mae", "kendall_tau"), fixed(4)),
    **dict.fromkeys(("distinct_scores", "parameters", "embedding_parameters", "macs"), count),
    "speedup_vs_best_fp32": times,
    "rank_biased_overlap": fixed(4),
}
BY_UNIT: Mapping[str, Formatter] = {
    **dict.fromkeys(("s", "second", "seconds"), lambda value: f"{milliseconds(value)} ms"),
    **dict.fromkeys(("B", "byte", "bytes"), lambda value: f"{mebibytes(value)} MiB"),
    **dict.fromkeys(("count", "rows", "parameters", "macs"), count),
    "share": percent,
    **dict.fromkeys(("percent", "%"), lambda value: f"{significant(value)} %"),
}
RANKING = ("ndcg@", "recall@", "precision@", "mrr@")
BEYOND: Mapping[str, Formatter] = {
    "coverage@": fixed(4),
    "diversity@": fixed(4),
    "novelty@": fixed(3),
    "popularity@": fixed(5),
    "gini@": fixed(4),
}
"""What lists are judged by besides accuracy, and how many digits tell two of them apart."""


def formatter(metric: str, unit: str | None) -> Formatter:
    """How values of ``metric`` are written; the difference of a metric carries its sign."""
    name = metric.removesuffix(DIFFERENCE)
    family = f"{name.partition('@')[0]}@" if "@" in name else ""
    known = name in BY_METRIC or family in RANKING or family in BEYOND
    if name != metric and known:
        plain = formatter(name, unit)
        return lambda value: f"+{plain(value)}" if value >= 0 else plain(value)
    if family in RANKING:
        return fixed(4)
    return (
        BEYOND.get(family)
        or BY_METRIC.get(metric)
        or BY_UNIT.get(unit or "")
        or (lambda value: significant(value, 4))
    )


def missing(reason: str | None) -> Cell:
    """A cell without a number, with the reason."""
    return Cell(NOT_AVAILABLE, reason or "not measured")


EXACT = ("ratio", "bytes", "count")
"""Units of figures that a noisy host doesn't change: both sides of a ratio had the same noise."""


def marks(row: Row) -> str:
    """The marks behind a row's value: noise spoils times and rates only."""
    noisy = row.noise is not None and row.unit not in EXACT
    return (NOISY if noisy else "") + (UNCONVERGED if row.converged is False else "")


def value_cell(
    row: Row | None, show: Formatter | None = None, *, reason: str | None = None
) -> Cell:
    """The row's value with its marks, and what the row says about it as a note; without a value,
    n/a and the row's reason (or ``reason`` without a row).
    """
    if row is None:
        return missing(reason)
    if row.value is None:
        return missing(row.reason)
    return Cell((show or formatter(row.metric, row.unit))(row.value) + marks(row), row.reason)


def interval_cell(row: Row | None, *, reason: str | None = None) -> Cell:
    """Value with its interval: ``-0.0003 [-0.0006, +0.0001]``."""
    cell = value_cell(row, reason=reason)
    if row is None or row.value is None or row.ci_low is None or row.ci_high is None:
        return cell
    show = formatter(row.metric, row.unit)
    return Cell(f"{cell.text} [{show(row.ci_low)}, {show(row.ci_high)}]", cell.note)


def ratio_text(row: Row) -> str:
    """The paired ratio with its interval: ``1.62 [1.58, 1.66]``; empty without a ratio. It is
    marked where the stopping rule was not met; noise met both sides alike.
    """
    if row.ratio is None:
        return ""
    mark = UNCONVERGED if row.converged is False else ""
    if row.ratio_low is None or row.ratio_high is None:
        return times(row.ratio) + mark
    return f"{times(row.ratio)} [{times(row.ratio_low)}, {times(row.ratio_high)}]{mark}"
