"""Scoring a split through an engine, metric rows with paired intervals, quality classes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import registry
from harness.artifact import Artifact, ModelSpec
from harness.engines.base import Engine, EngineFacts, Probe
from harness.metrics.base import Record
from harness.results import Row, to_frame
from harness.schema import FeatureSchema, Field
from harness.suites.accuracy import accuracy_rows, evaluate, record, score_split, value_rows
from harness.tables import Prepared, Split, TensorSpec

COMMON = {"recipe": "r", "baseline": "b", "target": "t", "seed": 3}
METRICS = registry.names("metrics")


class Linear(Engine):
    """Scores a candidate as product id minus price; remembers the batches that it was given."""

    def __init__(self) -> None:
        inputs = (
            TensorSpec("candidates", "int32", ("requests", "candidates", 2), ("product", "brand")),
            TensorSpec("candidate_values", "float32", ("requests", "candidates", 1), ("price",)),
        )
        output = (TensorSpec("logit", "float32", ("requests", "candidates")),)
        artifact = Artifact(Path(), "torch", ModelSpec("x", {}), inputs, output)
        super().__init__(artifact, threads=1)
        self.batches: list[tuple[int, ...]] = []

    @classmethod
    def probe(cls) -> Probe:
        return Probe("ok")

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        return feeds

    def run(self, prepared: Any) -> Any:
        product, price = prepared["candidates"][..., 0], prepared["candidate_values"][..., 0]
        self.batches.append(product.shape)
        return product.astype(np.float32) - price

    def fetch(self, outputs: Any) -> np.ndarray:
        return np.asarray(outputs, dtype=np.float32).ravel()

    def describe(self) -> EngineFacts:
        return EngineFacts("linear", "1", "cpu", "fp32", "numpy", 1)


class Deaf(Linear):
    def fetch(self, outputs: Any) -> np.ndarray:
        return super().fetch(outputs)[:-1]


def split_of(
    user: list[int], lengths: list[int], item: list[int], label: list[int]
) -> tuple[Prepared, Split]:
    fields = (
        Field("user", "categorical", "user", cardinality=9),
        Field("brand", "categorical", "item", cardinality=9),
        Field("item", "categorical", "item", cardinality=9),
    )
    arrays = {
        "user": np.array(user, dtype=np.int32)[:, None],
        "candidates": np.stack([np.zeros(len(item)), item], axis=1).astype(np.int32),
    }
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    split = Split("test", arrays, np.array(label, np.float32), offsets, np.arange(len(item)))
    schema = FeatureSchema(fields, label="label", user="user", item="item")
    return Prepared(schema, {}, {"test": split}, {}, "h", "rule", {}), split


def scored(*, rows: int = 600, seed: int = 0, one_class: bool = False) -> Record:
    random = np.random.default_rng(seed)
    request = np.repeat(np.arange(rows // 6), 6)
    logit = random.normal(size=rows)
    label = (random.random(rows) < 1 / (1 + np.exp(-2 * logit))).astype(np.float32)
    label = np.ones_like(label) if one_class else label
    return Record(label, 1 / (1 + np.exp(-logit)), request % 30, request, np.arange(rows))


def by_metric(rows: list[Row]) -> dict[str, Row]:
    found = {row.metric: row for row in rows}
    assert len(found) == len(rows)
    return found


def rows_of(variant: Record, baseline: Record, floor: float | None = None) -> dict[str, Row]:
    pair = [evaluate(one, metrics=METRICS, resamples=200, seed=1) for one in (variant, baseline)]
    return by_metric(accuracy_rows(COMMON, pair[0], pair[1], noise_floor=floor))


@pytest.mark.parametrize("max_rows", [1, 7, 64, 100_000])
def test_every_row_is_scored_once_whatever_the_batch(tiny: Prepared, max_rows: int) -> None:
    split = tiny.splits["test"]
    seen: list[int] = []
    with Linear() as engine:
        logits = score_split(engine, tiny, split, max_rows=max_rows, progress=seen.append)
    product = split.arrays["candidates"][:, 0]
    price = split.arrays["candidate_values"][:, 0]
    assert logits.dtype == np.float32
    assert np.array_equal(logits, product.astype(np.float32) - price)
    assert sum(seen) == split.rows
    longest = int(np.diff(split.offsets).max())
    assert max(seen) <= max(max_rows, longest)
    assert all(count * width <= max(max_rows, width) for count, width in engine.batches)


def test_metrics_do_not_depend_on_the_batch(tiny: Prepared) -> None:
    split = tiny.splits["test"]
    found = [
        evaluate(
            record(tiny, split, score_split(Linear(), tiny, split, max_rows=size)),
            metrics=METRICS,
            resamples=10,
            seed=0,
        ).values
        for size in (1, 33, 5000)
    ]
    assert found[0] == found[1] == found[2]
    assert None not in found[0].values()


def test_an_engine_that_loses_a_row_is_caught(tiny: Prepared) -> None:
    with pytest.raises(AssertionError, match="logits for"):
        score_split(Deaf(), tiny, tiny.splits["test"])


def test_record_maps_logits_users_and_items() -> None:
    data, split = split_of([5, 2, 5], [2, 1, 2], [3, 4, 3, 8, 1], [1, 0, 1, 0, 0])
    found = record(data, split, np.array([0.0, np.log(3), -np.log(3), 40, -40], np.float32))
    assert found.score[:3] == pytest.approx([0.5, 0.75, 0.25])
    assert found.score.dtype == np.float64
    assert found.score[4] == pytest.approx(np.exp(-40.0), rel=1e-6)
    assert found.user.tolist() == [1, 1, 0, 1, 1]
    assert found.request.tolist() == [0, 0, 1, 2, 2]
    assert found.item.tolist() == [3, 4, 3, 8, 1]
    assert found.users == 2


def test_unknown_users_and_items_are_not_taken_for_one() -> None:
    data, split = split_of([0, 2, 0], [2, 1, 2], [0, 0, 3, 0, 0], [1, 0, 1, 0, 0])
    found = record(data, split, np.zeros(5, np.float32))
    assert found.users == 3
    assert len(np.unique(found.item)) == 5
    assert len(np.unique(found.user[[0, 2, 3]])) == 3


def test_rows_of_a_variant_against_its_baseline() -> None:
    baseline = scored()
    noise = np.random.default_rng(5).normal(size=baseline.rows)
    worse = replace(baseline, score=np.clip(baseline.score + 0.2 * noise, 0.01, 0.99))
    rows = rows_of(worse, baseline)
    auc, difference = rows["auc"], rows["auc_difference"]
    assert (auc.scenario, auc.unit, auc.direction, auc.n) == ("accuracy", "share", "higher", 600)
    assert auc.ci_low < auc.value < auc.ci_high  # type: ignore[operator]
    assert (auc.recipe, auc.target, auc.seed) == ("r", "t", 3)
    assert difference.value < 0  # type: ignore[operator]
    assert difference.ci_high < 0  # type: ignore[operator]
    width = difference.ci_high - difference.ci_low  # type: ignore[operator]
    assert width < auc.ci_high - auc.ci_low  # type: ignore[operator]
    assert rows["logloss_difference"].direction == "lower"
    assert rows["logloss_difference"].value > 0  # type: ignore[operator]
    assert rows["calibration_ratio"].direction == "one"
    assert rows["calibration_ratio_difference"].direction == "none"
    assert rows["ndcg@10"].n == 100 - rows["ndcg@10_requests_left_out"].value  # type: ignore[operator]
    assert rows["gauc_plain_mean"].unit == "share"
    assert {f"{name}_difference" for name in METRICS} <= set(rows)
    to_frame(rows.values())


def test_the_baseline_against_itself_is_of_the_best_class() -> None:
    rows = rows_of(scored(), scored())
    difference = rows["auc_difference"]
    assert (difference.value, difference.ci_low, difference.ci_high) == (0.0, 0.0, 0.0)
    assert (rows["quality_class"].value, rows["quality_class"].verdict) == (1.0, "99.9 %")
    assert rows["quality_class"].direction == "higher"


@pytest.mark.parametrize(
    ("noise", "verdict"), [(0.001, "99.9 %"), (0.03, "99 %"), (0.5, "below 99 %")]
)
def test_class_follows_the_lower_bound(noise: float, verdict: str) -> None:
    baseline = scored(rows=3000)
    jitter = noise * np.random.default_rng(5).normal(size=baseline.rows)
    rows = rows_of(replace(baseline, score=np.clip(baseline.score + jitter, 0, 1)), baseline)
    found, difference = rows["quality_class"], rows["auc_difference"]
    whole = rows["auc"].value - difference.value  # type: ignore[operator]
    assert found.value == pytest.approx((whole + difference.ci_low) / whole)
    assert found.verdict == verdict


def test_a_gain_beyond_seed_noise_is_flagged() -> None:
    baseline = scored()
    better = replace(baseline, score=0.9 * baseline.score + 0.05 * baseline.label)
    gain = rows_of(better, baseline, 0.01)["auc_difference"]
    assert gain.value > 0.01  # type: ignore[operator]
    assert gain.reason == "better than the baseline beyond seed noise: look twice"
    assert rows_of(better, baseline, 0.5)["auc_difference"].reason is None
    assert rows_of(better, baseline, None)["auc_difference"].reason is None
    assert rows_of(baseline, better, 0.01)["auc_difference"].reason is None


def test_one_class_has_no_auc_but_a_loss() -> None:
    record = scored(one_class=True)
    rows = rows_of(record, record)
    assert rows["auc"].value is None
    assert rows["auc"].reason == "one class only: all 600 labels are 1"
    assert rows["auc_difference"].value is None
    assert "auc is undefined (variant: one class only" in str(rows["auc_difference"].reason)
    assert rows["quality_class"].value is None
    assert rows["quality_class"].verdict is None
    assert "auc is undefined" in str(rows["quality_class"].reason)
    assert rows["logloss"].value is not None
    assert rows["gauc_users_left_out"].value == 30.0


def test_a_variant_with_nan_scores_is_undefined_with_the_reason() -> None:
    baseline = scored()
    broken = replace(baseline, score=np.where(np.arange(600) == 7, np.nan, baseline.score))
    rows = rows_of(broken, baseline)
    assert rows["auc"].reason == "1 of 600 scores aren't finite numbers"
    expected = "auc is undefined (variant: 1 of 600 scores aren't finite numbers)"
    assert rows["quality_class"].reason == expected
    assert rows["ndcg@10"].value is not None


def test_one_user_has_values_but_no_interval() -> None:
    one = replace(scored(), user=np.zeros(600, dtype=int))
    rows = rows_of(one, one)
    assert rows["auc"].value is not None
    assert rows["auc"].ci_low is None
    assert rows["quality_class"].value is None
    assert rows["quality_class"].reason == "too few users for an interval"


def test_different_rows_are_not_compared() -> None:
    one = evaluate(scored(), metrics=["auc"], resamples=5, seed=1)
    other = evaluate(scored(seed=1), metrics=["auc"], resamples=5, seed=1)
    with pytest.raises(AssertionError, match="scored different rows"):
        accuracy_rows(COMMON, one, other, noise_floor=None)
    later = evaluate(scored(), metrics=["auc"], resamples=5, seed=2)
    with pytest.raises(AssertionError, match="drew different users"):
        accuracy_rows(COMMON, one, later, noise_floor=None)


def test_value_rows_are_the_same_for_the_same_seed() -> None:
    found = [
        value_rows(COMMON, evaluate(scored(), metrics=METRICS, resamples=50, seed=1), scenario="x")
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert {row.scenario for row in found[0]} == {"x"}
