"""Accuracy of a scored split: metrics with paired intervals, quality class, agreement, parity.

Everything is computed from what the exported artifact gave in its engine, never from the module
that it was made of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import kendalltau

from harness import registry, tables
from harness.engines.base import Engine
from harness.metrics.base import Prepared, Record, unusable
from harness.results import Row
from harness.schema import UNKNOWN
from harness.suites.statistics import Interval, bootstrap, percentile_interval

MAIN_METRIC = "auc"
CLASSES = ((0.999, "99.9 %"), (0.99, "99 %"))
"""Quality classes: what share of the baseline's main metric must at least be kept."""
TOP = 10
KENDALL_REQUESTS = 2000
"""Most requests that Kendall's tau is averaged over (a seeded sample of them)."""
ALONE_ROWS = 64
PARITY_ROWS = (1, 7, 1024)
"""Batch sizes at which an engine is held against the torch module: one, odd, large."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one record and their draws under ``resamples`` resamples of its users.

    Made once for a baseline, it serves every variant: the same seed draws the same users.
    """

    record: Record
    prepared: Mapping[str, Prepared]
    values: Mapping[str, float | None]
    draws: Mapping[str, np.ndarray]  # (resamples,) each, NaN where undefined
    seed: int


def score_split(
    engine: Engine,
    data: tables.Prepared,
    split: tables.Split,
    *,
    max_rows: int = 16384,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Logits of every row of the split, float32 (rows,), in the split's order.

    Requests are batched by length without padding; ``progress`` gets the rows of each batch.
    """
    logits = np.empty(split.rows, dtype=np.float32)
    seen = np.zeros(split.rows, dtype=np.int64)
    inputs = engine.artifact.inputs
    for batch in tables.request_batches(split, max_rows=max_rows):
        rows = batch.ravel()
        scored = engine.score(tables.feeds(data.schema, split, batch, inputs))
        assert scored.shape == rows.shape, f"{scored.shape} logits for {len(rows)} rows"
        logits[rows] = scored
        seen[rows] += 1
        if progress:
            progress(len(rows))
    assert (seen == 1).all(), "a row was scored twice or not at all"
    return logits


def record(data: tables.Prepared, split: tables.Split, logits: np.ndarray) -> Record:
    """The split's rows with their probabilities (sigmoid in float64).

    An unknown user can't be told from another one, so each of their requests counts as a user of
    its own; an unknown item gets an id of its own (negative).
    """
    names = [field.name for field in data.schema.group("candidates")]
    item = np.asarray(split.arrays["candidates"][:, names.index(data.schema.item)], dtype=np.int64)
    item = np.where(item == UNKNOWN, -1 - np.arange(split.rows), item)
    request = split.request_of_row
    user = np.asarray(split.user_of_row, dtype=np.int64)
    user = np.where(user == UNKNOWN, -1 - request, user)
    return Record(
        label=np.asarray(split.label),
        score=expit(logits.astype(np.float64)),
        user=np.unique(user, return_inverse=True)[1],
        request=np.unique(request, return_inverse=True)[1],
        item=item,
    )


def evaluate(
    record: Record, *, metrics: Sequence[str], resamples: int = 1000, seed: int
) -> Evaluation:
    """Value of every metric and its bootstrap over users."""
    prepared = {name: registry.resolve("metrics", name)(record) for name in metrics}
    whole = np.ones(record.rows)
    values = {name: metric.statistic(whole) for name, metric in prepared.items()}
    draws = bootstrap(prepared, record.user, resamples=resamples, seed=seed)
    return Evaluation(record, prepared, values, draws, seed)


def accuracy_rows(
    common: Mapping[str, Any],
    variant: Evaluation,
    baseline: Evaluation,
    *,
    noise_floor: float | None,
) -> list[Row]:
    """Per metric its value and its paired difference to the baseline, each with a 95 % interval
    over users, the counts beside it, and the quality class.

    ``common`` holds the other columns (recipe, baseline, target ...). ``noise_floor`` is how far
    the baseline's AUC moves from seed to seed; a gain above it is flagged in ``reason``.
    """
    _same_rows(variant, baseline)
    rows = value_rows(common, variant, scenario="accuracy")
    for name in variant.values:
        if name in baseline.values:
            rows.append(_difference_row(common, name, (variant, baseline), noise_floor))
    if MAIN_METRIC in variant.values and MAIN_METRIC in baseline.values:
        rows.append(_class_row(common, variant, baseline))
    return rows


def value_rows(common: Mapping[str, Any], evaluation: Evaluation, *, scenario: str) -> list[Row]:
    """Per metric its value with a 95 % interval over users, and a row for each count beside it."""
    rows = []
    users = evaluation.record.users
    for name, metric in evaluation.prepared.items():
        marks = registry.entry("metrics", name).marks
        found = percentile_interval(evaluation.values[name], evaluation.draws[name], users)
        columns = {"unit": marks["unit"], "direction": marks["direction"], "n": metric.n}
        rows.append(_row(common, scenario, name, found, reason=_reason(metric, found), **columns))
        rows += [_fact_row(common, scenario, f"{name}_{key}", metric, key) for key in metric.facts]
    return rows


def _reason(metric: Prepared, found: Interval) -> str | None:
    if found.value is None:
        return metric.reason or "undefined on these rows"
    return None


def _fact_row(
    common: Mapping[str, Any], scenario: str, name: str, metric: Prepared, key: str
) -> Row:
    unit = "count" if key.endswith("_left_out") else "share"
    value = Interval(metric.facts[key], None, None, metric.n)
    return _row(common, scenario, name, value, unit=unit, direction="none", n=metric.n)


def _row(
    common: Mapping[str, Any], scenario: str, metric: str, found: Interval, **columns: Any
) -> Row:
    own = {"scenario": scenario, "metric": metric, "value": found.value, "n": found.n}
    return Row(**{**common, **own, "ci_low": found.low, "ci_high": found.high, **columns})


def _same_rows(variant: Evaluation, baseline: Evaluation) -> None:
    one, other = variant.record, baseline.record
    assert np.array_equal(one.label, other.label), "variant and baseline scored different rows"
    assert np.array_equal(one.user, other.user), "variant and baseline scored different users"
    assert variant.seed == baseline.seed, "variant and baseline drew different users"


def _difference(name: str, variant: Evaluation, baseline: Evaluation) -> Interval:
    pair = variant.values[name], baseline.values[name]
    value = None if pair[0] is None or pair[1] is None else pair[0] - pair[1]
    draws = variant.draws[name] - baseline.draws[name]  # (resamples,)
    return percentile_interval(value, draws, variant.record.users)


def _difference_row(
    common: Mapping[str, Any],
    name: str,
    pair: tuple[Evaluation, Evaluation],
    noise_floor: float | None,
) -> Row:
    found = _difference(name, *pair)
    marks = registry.entry("metrics", name).marks
    direction = "none" if marks["direction"] == "one" else marks["direction"]
    columns = {"unit": marks["unit"], "direction": direction, "n": pair[0].prepared[name].n}
    reason = None
    if found.value is None:
        reason = _undefined(name, *pair)
    elif name == MAIN_METRIC and noise_floor is not None and found.value > noise_floor:
        reason = "better than the baseline beyond seed noise: look twice"
    return _row(common, "accuracy", f"{name}_difference", found, reason=reason, **columns)


def _undefined(name: str, variant: Evaluation, baseline: Evaluation) -> str:
    sides = {"variant": variant.prepared[name], "baseline": baseline.prepared[name]}
    reasons = [f"{side}: {metric.reason}" for side, metric in sides.items() if metric.reason]
    return f"{name} is undefined ({'; '.join(reasons) or 'no value on these rows'})"


def _class_row(common: Mapping[str, Any], variant: Evaluation, baseline: Evaluation) -> Row:
    """Share of the baseline's AUC that is kept at the difference's lower bound, and its class."""
    found = _difference(MAIN_METRIC, variant, baseline)
    whole = baseline.values[MAIN_METRIC]
    columns: dict[str, Any] = {"unit": "share", "direction": "higher"}
    if found.value is None or found.low is None or not whole:
        reason = _undefined(MAIN_METRIC, variant, baseline)
        if found.value is not None:
            reason = "too few users for an interval" if whole else "the baseline's AUC is 0"
        nothing = Interval(None, None, None, found.n)
        columns |= {"verdict": "undefined", "reason": reason}
        return _row(common, "accuracy", "quality_class", nothing, **columns)
    kept = 1 + found.low / whole
    verdict = next((label for least, label in CLASSES if kept >= least), "below 99 %")
    share = Interval(kept, None, None, found.n)
    return _row(common, "accuracy", "quality_class", share, verdict=verdict, **columns)


AGREEMENT = {
    "score_rmse": ("probability", "lower"),
    "worst_users_score_difference": ("probability", "lower"),
    "top10_overlap": ("share", "higher"),
    "top1_changed": ("share", "lower"),
    "kendall_tau": ("correlation", "higher"),
    "distinct_scores": ("count", "none"),
    "tie_rate_at_10": ("share", "lower"),
}
"""Unit and direction of every agreement row."""


def agreement_rows(
    common: Mapping[str, Any], variant: Record, baseline: Record, *, seed: int = 0
) -> list[Row]:
    """How far a variant's scores and orders are from the baseline's, one row each.

    ``score_rmse`` and ``worst_users_score_difference`` (mean absolute difference of the 1 % of
    users where it is largest) are of probabilities. Within requests, equal scores ordered by item
    id: ``top10_overlap`` is the mean share of common items over requests with more than 10
    candidates, ``top1_changed`` the share of requests with two or more whose first item differs,
    ``kendall_tau`` the mean tau-b over at most 2000 of those (a seeded sample; requests where one
    side has a single score have none). ``distinct_scores`` and ``tie_rate_at_10`` (share of the
    requests with more than 10 candidates whose 10th and 11th score are equal) are the variant's
    own.
    """
    wrong = unusable(variant) or unusable(baseline)
    if wrong:
        found: dict[str, tuple[float | None, int]] = dict.fromkeys(AGREEMENT, (None, 0))
    else:
        found = {**_score_agreement(variant, baseline), **_order_agreement(variant, baseline)}
        found["kendall_tau"] = _kendall(variant, baseline, seed)
    return [
        _row(
            common,
            "agreement",
            name,
            Interval(found[name][0], None, None, found[name][1]),
            unit=unit,
            direction=direction,
            reason=None if found[name][0] is not None else wrong or "no request is long enough",
        )
        for name, (unit, direction) in AGREEMENT.items()
    ]


def _score_agreement(variant: Record, baseline: Record) -> dict[str, tuple[float | None, int]]:
    gap = variant.score - baseline.score  # (rows,)
    per_user = np.bincount(variant.user, np.abs(gap)) / np.bincount(variant.user)  # (users,)
    worst = np.sort(per_user)[-max(1, len(per_user) // 100) :]
    return {
        "score_rmse": (float(np.sqrt(np.mean(gap**2))), len(gap)),
        "worst_users_score_difference": (float(worst.mean()), len(worst)),
        "distinct_scores": (float(len(np.unique(variant.score))), len(gap)),
    }


def _order_agreement(variant: Record, baseline: Record) -> dict[str, tuple[float | None, int]]:
    request = variant.request
    sizes = np.bincount(request)  # (requests,)
    long, several = sizes > TOP, sizes > 1
    places = [_places(side) for side in (variant, baseline)]  # (rows,) each
    both_top = np.bincount(request, (places[0] < TOP) & (places[1] < TOP))  # (requests,)
    same_first = np.bincount(request, (places[0] == 0) & (places[1] == 0))  # (requests,)
    ordered = variant.score[np.lexsort((-variant.score, request))]  # (rows,)
    last = (np.cumsum(sizes) - sizes)[long] + TOP - 1  # where each long request's 10th score is
    return {
        "top10_overlap": _mean(both_top[long] / TOP),
        "top1_changed": _mean(1 - same_first[several]),
        "tie_rate_at_10": _mean(ordered[last] == ordered[last + 1]),
    }


def _places(side: Record) -> np.ndarray:
    """Place of each row in its request, from 0, best score first, ties by item id, (rows,)."""
    order = np.lexsort((side.item, -side.score, side.request))
    sizes = np.bincount(side.request)
    places = np.empty(side.rows, dtype=np.int64)
    places[order] = np.arange(side.rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places


def _mean(values: np.ndarray) -> tuple[float | None, int]:
    return (float(values.mean()) if len(values) else None), len(values)


def _kendall(variant: Record, baseline: Record, seed: int) -> tuple[float | None, int]:
    sizes = np.bincount(variant.request)
    ends = np.cumsum(sizes)
    several = np.flatnonzero(sizes > 1)
    if len(several) > KENDALL_REQUESTS:
        rng = np.random.default_rng(seed)
        several = rng.choice(several, KENDALL_REQUESTS, replace=False)
    parts = (slice(ends[one] - sizes[one], ends[one]) for one in several)
    taus = np.array(
        [
            kendalltau(variant.score[part], baseline.score[part], method="asymptotic").statistic
            for part in parts
        ]
    )
    return _mean(taus[~np.isnan(taus)])


def invariance_rows(
    common: Mapping[str, Any],
    engine: Engine,
    data: tables.Prepared,
    split: tables.Split,
    *,
    seed: int = 0,
) -> list[Row]:
    """The largest difference in logits of the same rows scored alone (1 x 1), in their request,
    and in a large batch of requests; ``n`` rows are compared."""
    block = _block(split, PARITY_ROWS[-1], seed)  # (requests, candidates)
    few = block[: max(1, ALONE_ROWS // block.shape[1])]
    alone = few.ravel()[:ALONE_ROWS]
    score = _scorer(engine, data, split)
    large = score(block)[: few.size]
    singles = np.concatenate([score(row[None, None]) for row in alone])
    requests = np.concatenate([score(line[None]) for line in few])
    gaps = [_gap(singles, large[: len(alone)]), _gap(requests, large)]
    value = None if None in gaps else max(gap for gap in gaps if gap is not None)
    return [_gap_row(common, "batch_invariance", value, n=few.size, batch=block.size)]


def parity_rows(
    common: Mapping[str, Any],
    engines: tuple[Engine, Engine],
    data: tables.Prepared,
    split: tables.Split,
    *,
    seed: int = 0,
) -> list[Row]:
    """The largest difference in logits between an engine and the torch module on the same rows.

    ``engines`` are the two, each with its artifact. One row a batch size: a single row, an odd
    number of requests of one candidate, a large batch of whole requests.
    """
    block = _block(split, PARITY_ROWS[-1], seed)  # (requests, candidates)
    ones = np.unique(np.random.default_rng(seed).choice(split.rows, min(7, split.rows), False))
    score, reference = (_scorer(engine, data, split) for engine in engines)
    rows = []
    for batch in (ones[:1, None], ones[:, None], block):
        gap = _gap(score(batch), reference(batch))
        rows.append(_gap_row(common, "parity", gap, n=batch.size, batch=batch.size))
    return rows


def _scorer(
    engine: Engine, data: tables.Prepared, split: tables.Split
) -> Callable[[np.ndarray], np.ndarray]:
    inputs = engine.artifact.inputs
    return lambda batch: engine.score(tables.feeds(data.schema, split, batch, inputs))


def _block(split: tables.Split, max_rows: int, seed: int) -> np.ndarray:
    """Rows of seeded requests of one length, the length that most rows have among those of two or
    more, (requests, candidates)."""
    lengths = np.diff(split.offsets)
    mass = np.bincount(lengths, lengths)
    if len(mass) > 2 and mass[2:].any():
        mass[:2] = 0
    length = int(mass.argmax())
    starts = np.asarray(split.offsets[:-1])[lengths == length]
    count = min(len(starts), max(1, max_rows // length))
    chosen = np.random.default_rng(seed).choice(starts, count, replace=False)
    block: np.ndarray = np.sort(chosen)[:, None] + np.arange(length)
    return block


def _gap(one: np.ndarray, other: np.ndarray) -> float | None:
    """Largest absolute difference; None when a logit isn't finite."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    return float(np.abs(one.astype(np.float64) - other).max())


def _gap_row(
    common: Mapping[str, Any], metric: str, gap: float | None, *, n: int, batch: int
) -> Row:
    reason = None if gap is not None else "a logit isn't finite"
    columns = {"unit": "logit", "direction": "lower", "batch": batch, "reason": reason}
    return _row(common, "parity", metric, Interval(gap, None, None, n), **columns)
