"""The simple rivals: what they score, by hand and by construction."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from harness.results import Row
from harness.schema import FeatureSchema, Field
from harness.suites import references
from harness.suites.beyond import BEYOND
from harness.suites.references import history_logits, popularity_logits, reference_rows
from harness.tables import Prepared, Split

COMMON = {"recipe": "r", "baseline": "b"}
METRICS = ("auc", "logloss", "ndcg@10")


def made_split(name: str, item: np.ndarray, past: np.ndarray, label: np.ndarray) -> Split:
    """Requests of four rows, five users in turn."""
    requests = len(item) // 4
    arrays = {
        "user": (1 + np.arange(requests) % 5).astype(np.int32)[:, None],
        "candidates": item.astype(np.int32)[:, None],
        "candidate_values": past.astype(np.float32)[:, None],
    }
    offsets = np.arange(0, len(item) + 1, 4)
    return Split(name, arrays, label.astype(np.float32), offsets, np.arange(len(item)))


def schema(history: str | None = "past") -> FeatureSchema:
    fields = (
        Field("user", "categorical", "user", cardinality=6),
        Field("item", "categorical", "item", cardinality=5),
        Field("past", "numeric", "item"),
    )
    return FeatureSchema(fields, label="label", user="user", item="item", history=history)


def drawn(name: str, rows: int, seed: int) -> Split:
    """Labels that follow the item weakly and the user's past strongly."""
    random = np.random.default_rng(seed)
    item, past = random.integers(1, 5, rows), random.normal(size=rows)
    label = random.random(rows) < expit(0.5 * item + 2 * past - 2)
    return made_split(name, item, past, label)


@pytest.fixture
def data() -> Prepared:
    splits = {"train": drawn("train", 4000, 1), "test": drawn("test", 800, 2)}
    return Prepared(schema(), {}, splits, {}, "h", "rule", {})


def value(rows: list[Row], rival: str, metric: str) -> float:
    (row,) = [r for r in rows if r.recipe == f"reference:{rival}" and r.metric == metric]
    assert row.value is not None
    return row.value


def test_popularity_is_the_smoothed_rate_of_train() -> None:
    # item 1: 3 of 4; item 2: 1 of 4; base rate 1/2; items 3 and 4 are new
    train = made_split(
        "train", np.repeat([1, 2], 4), np.zeros(8), np.array([1, 1, 1, 0, 1, 0, 0, 0])
    )
    test = made_split("test", np.array([1, 2, 3, 0]), np.zeros(4), np.array([1, 0, 1, 0]))
    data = Prepared(schema(), {}, {"train": train, "test": test}, {}, "h", "rule", {})
    expected = [13 / 24, 11 / 24, 0.5, 0.5]
    assert expit(popularity_logits(data, test)) == pytest.approx(expected)


def test_rivals_rank_as_they_must(data: Prepared) -> None:
    rows = reference_rows(COMMON, data, metrics=METRICS, resamples=50, seed=4)
    assert {row.scenario for row in rows} == {"reference", "beyond"}
    assert {row.baseline for row in rows} == {"b"}
    beyond = [row for row in rows if row.scenario == "beyond"]
    assert {row.recipe for row in beyond} == {row.recipe for row in rows}
    assert {row.metric for row in beyond} == set(BEYOND)
    auc = {name: value(rows, name, "auc") for name in ("random", "popularity", "history")}
    assert auc["random"] == pytest.approx(0.5, abs=0.06)
    assert auc["random"] < auc["popularity"] < auc["history"]
    assert auc["history"] > 0.8
    assert value(rows, "history", "logloss") < value(rows, "popularity", "logloss")
    with_interval = [row for row in rows if row.metric in METRICS]
    assert all(row.ci_low <= row.value <= row.ci_high for row in with_interval)  # type: ignore[operator]


def test_the_history_rival_finds_the_planted_weights(data: Prepared) -> None:
    logits = history_logits(data, data.splits["test"], seed=0)
    past = data.splits["test"].arrays["candidate_values"][:, 0]
    design = np.stack(
        [popularity_logits(data, data.splits["test"]), past, np.ones(len(past))], axis=1
    )
    weights, *_ = np.linalg.lstsq(design, logits, rcond=None)
    assert weights[1] == pytest.approx(2.0, abs=0.25)


def test_popularity_and_history_are_deterministic_and_random_is_seeded(data: Prepared) -> None:
    one, again, other = (
        reference_rows(COMMON, data, metrics=["auc"], resamples=5, seed=seed) for seed in (1, 1, 2)
    )
    assert one == again
    assert value(one, "popularity", "auc") == value(other, "popularity", "auc")
    assert value(one, "history", "auc") == value(other, "history", "auc")
    assert value(one, "random", "auc") != value(other, "random", "auc")


def test_the_fit_takes_a_bounded_sample(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "FIT_ROWS", 500)
    test = data.splits["test"]
    sampled = [history_logits(data, test, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(sampled[0], sampled[1])
    assert not np.array_equal(sampled[0], sampled[2])


def test_without_a_history_there_is_no_such_rival(data: Prepared) -> None:
    rows = reference_rows(COMMON, replace(data, schema=schema(None)), metrics=["auc"], resamples=5)
    assert {row.recipe for row in rows} == {"reference:random", "reference:popularity"}


def constant(split: Split) -> Split:
    return replace(split, label=np.ones(split.rows, dtype=np.float32))


def empty(split: Split) -> Split:
    nothing = np.zeros(0, dtype=np.int64)
    return made_split(split.name, nothing, nothing, nothing)


@pytest.mark.parametrize(
    ("change", "reason"),
    [(constant, "train has one class only (label 1)"), (empty, "train has no rows")],
)
def test_what_can_not_be_fitted_is_skipped_with_the_reason(
    data: Prepared, change: Callable[[Split], Split], reason: str
) -> None:
    splits = {**data.splits, "train": change(data.splits["train"])}
    rows = reference_rows(COMMON, replace(data, splits=splits), metrics=["auc"], resamples=5)
    own = [row for row in rows if row.scenario == "reference"]
    found = {row.recipe: (row.status, row.value is None, row.reason) for row in own}
    assert found == {
        "reference:random": ("ok", False, None),
        "reference:popularity": ("skipped", True, reason),
        "reference:history": ("skipped", True, reason),
    }
