"""Rows of a run with three tasks: a click, a rating and a next-item baseline, two variants each."""

from dataclasses import dataclass, replace
from typing import Any

from harness.results import Row

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Made:
    """A baseline of the demo run: its main metric, and what its figures look like."""

    name: str
    main: str
    quality: float
    losses: dict[str, float]
    groups: dict[str, tuple[str, ...]]


CLICK = Made(
    "clicks",
    "auc",
    0.80,
    {"clicks-int8": 0.0004, "clicks-pruned": 0.0100},
    {"age": ("18-24", "25-44", "45+"), "item_popularity": ("1", "2", "10")},
)
RATING = Made(
    "ratings",
    "rmse",
    0.90,
    {"ratings-int8": -0.0010, "ratings-pruned": -0.0200},
    {"user_activity": ("low", "middle", "high")},
)
NEXT = Made(
    "next",
    "ndcg@10",
    0.17,
    {"next-int8": 0.0002, "next-pruned": 0.0060},
    {"user_activity": ("low", "middle", "high")},
)
TASKS = (CLICK, RATING, NEXT)
BEYOND = {
    "coverage@10": (0.42, "share"),
    "diversity@10": (0.61, "share"),
    "novelty@10": (9.5, "bits"),
    "popularity@10": (0.0021, "share"),
    "gini@10": (0.83, "share"),
}
FIELDS = ("user", "item", "hour", "device|type")


def task_rows(make: Any, made: Made, targets: tuple[str, ...] = ("ort-cpu",)) -> list[Row]:
    """Every row of a baseline and its variants; ``make(**columns)`` gives a row."""
    rows = []
    for target in targets:
        whole = {"baseline": made.name, "target": target, "engine": target, "data_hash": made.name}
        for recipe, loss in {f"{made.name}-fp32": 0.0, **made.losses}.items():
            common = make(recipe=recipe, technique="closed_like", value=0.0, **whole)
            if loss == 0.0:
                common = replace(common, technique="reference")
            rows += _quality(common, made, loss) + _fairness(common, made, loss)
            rows += _beyond(common, loss) + _timed(common, made, 1.0 if loss == 0.0 else 1.7)
            rows += [] if made is NEXT else _importance(common, loss)
    for name, share in (("random", 0.02), ("popularity", 0.4)):
        plain = make(recipe=f"reference:{name}", baseline=made.name, scenario="reference", value=0)
        away = 1 / share if made is RATING else share
        away = min(away, 1.4)
        rows.append(replace(plain, metric=made.main, value=made.quality * away, n=100))
        rows += _beyond(plain, 0.0, coverage=1.0 if name == "random" else 0.01)
    if made is NEXT:
        columns = {"scenario": "data", "recipe": "next", "baseline": "next", "unit": "count"}
        rows.append(make(**columns, metric="catalogue items", value=3706.0))
        rows.append(make(**columns, metric="list places", value=50.0))
    return rows


def _around(row: Row, width: float) -> Row:
    assert row.value is not None
    return replace(row, ci_low=row.value - width, ci_high=row.value + width)


def _quality(common: Row, made: Made, loss: float) -> list[Row]:
    one = replace(common, metric=made.main, value=made.quality - loss, unit="share", n=5000)
    rows = [_around(one, 0.002)]
    if made is NEXT:
        rows.append(_around(replace(one, metric="recall@10", value=0.29), 0.002))
        rows.append(replace(common, scenario="agreement", metric="top1_changed", value=0.03))
    if loss == 0.0:
        return rows
    kept = 1 - abs(loss) / made.quality
    word = "99.9 %" if kept >= 0.999 else "99 %" if kept >= 0.99 else "below 99 %"
    told = "the margin is 0.1 % of the baseline's, 2 variants"
    sure = abs(loss) < 0.002
    return [
        *rows,
        _around(replace(one, metric=f"{made.main}_difference", value=-loss), 0.0001),
        replace(common, metric="quality_class", value=kept, verdict=word, unit="share"),
        replace(common, metric="non_inferiority_p", value=0.001 if sure else 0.4),
        replace(
            common,
            metric="non_inferiority",
            value=0.002 if sure else 0.8,
            verdict="non-inferior" if sure else "not shown",
            reason=told,
        ),
    ]


def _fairness(common: Row, made: Made, loss: float) -> list[Row]:
    """The first group of each grouping is the worst and loses three times as much as all rows."""
    sign = 1 if made is RATING else -1
    rows = []
    for grouping, names in made.groups.items():
        for number, name in enumerate(names):
            value = made.quality + sign * (0.03 - 0.01 * number)
            own = loss * (3.0 if number == 0 else 0.5)
            at = f"[{grouping}={name}]"
            one = replace(common, scenario="fairness", unit="share", n=300 + number)
            rows.append(_around(replace(one, metric=f"{made.main}{at}", value=value - own), 0.004))
            if loss:
                change = replace(one, metric=f"{made.main}_difference{at}", value=-own)
                rows.append(_around(change, 0.0003))
        worst = made.quality + sign * 0.03 - 3 * loss
        figures = {"worst": worst, "gap": 0.02 + 2.5 * abs(loss)}
        changes = {"worst_difference": -3 * loss, "gap_difference": 2.5 * abs(loss)}
        common = replace(common, scenario="fairness", unit="share")
        for name, value in {**figures, **(changes if loss else {})}.items():
            row = replace(common, metric=f"{name}[{grouping}]", value=value, reason=None)
            rows.append(_around(row, 0.0003) if "difference" in name else row)
    return rows


def _beyond(common: Row, loss: float, *, coverage: float | None = None) -> list[Row]:
    rows = []
    for name, (value, unit) in BEYOND.items():
        own = coverage if coverage is not None and name == "coverage@10" else value - 10 * loss
        one = replace(common, scenario="beyond", metric=name, value=own, unit=unit)
        rows.append(one)
        if loss:
            change = replace(one, metric=f"{name}_difference", value=-10 * loss)
            rows.append(_around(change, abs(loss)))
    return rows


def _importance(common: Row, loss: float) -> list[Row]:
    one = replace(common, scenario="importance", unit="share")
    rows = [
        replace(one, metric=f"importance[{name}]", value=0.01 * (number + 1) - loss)
        for number, name in enumerate(FIELDS)
    ]
    if loss:
        rows.append(replace(one, metric="importance_rank_correlation", value=0.8, unit=None))
        rows.append(replace(one, metric="importance_top3_kept", value=2 / 3))
    return rows


def _timed(common: Row, made: Made, gain: float) -> list[Row]:
    candidates = 1 if made is NEXT else 256
    points = ((1, 1, "sweep"), (64, 1, "sweep"), (candidates, candidates, "single"))
    place: dict[str, Any] = {"region": "model_only", "threads": 1}
    rows = []
    for batch, width, scenario in points:
        one = replace(common, scenario=scenario, batch=batch, candidates=width, **place)
        seconds = 1e-4 * (1 + 0.01 * batch) / gain
        ratio: dict[str, Any] = {"ratio": gain, "ratio_low": gain - 0.05, "ratio_high": gain + 0.05}
        ratio |= {"verdict": "faster", "aa_ratio": 1.002}
        given = ratio if gain > 1 else {}
        rows.append(replace(one, metric="latency_p50", value=seconds, unit="seconds", **given))
        rows.append(replace(one, metric="rows_per_second", value=batch / seconds, unit="rows/s"))
    size = replace(common, scenario="size", metric="bytes", unit="bytes", value=9 * MIB / gain)
    return [*rows, size]
