"""Tasks: which metrics judge which, what they see of a score, what a class of an error means."""

from dataclasses import replace

import numpy as np
import pytest

from harness.metrics.base import Record
from harness.suites import accuracy
from harness.suites.references import bias_ratings, mean_ratings, reference_rows
from harness.tables import Prepared, Split
from harness.tasks import TASKS, tasks_of


def test_every_metric_belongs_to_a_task_and_every_task_has_its_main_metric() -> None:
    assert TASKS["rating"].metrics == ("rmse", "mae")
    assert "auc" in TASKS["click"].metrics
    assert not set(TASKS["click"].metrics) & set(TASKS["rating"].metrics)
    for task in TASKS.values():
        assert task.main_metric in task.metrics
        assert all(set(tasks_of(name)) <= set(TASKS) for name in task.metrics)
    assert [task.lower_is_better for task in TASKS.values()] == [False, True, False]


def test_metrics_see_probabilities_of_clicks_and_ratings_as_they_are() -> None:
    logits = np.array([0.0, 2.0], np.float32)
    clicks, ratings = (accuracy.seen_score(logits, TASKS[name]) for name in ("click", "rating"))
    np.testing.assert_allclose(clicks, [0.5, 1 / (1 + np.exp(-2.0))])
    np.testing.assert_array_equal(ratings, [0.0, 2.0])


def evaluation(errors: np.ndarray) -> accuracy.Evaluation:
    at = np.arange(len(errors))
    record = Record(np.full(len(errors), 3.0), 3.0 + errors, at, at, at)
    return accuracy.evaluate(record, metrics=("rmse",), resamples=200, seed=1)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0005, "99.9 %"), (1.005, "99 %"), (1.05, "below 99 %"), (0.9, "99.9 %")],
)
def test_a_class_of_an_error_is_how_little_it_grows(factor: float, expected: str) -> None:
    errors = np.random.default_rng(0).normal(size=500)
    rows = accuracy.accuracy_rows(
        {"recipe": "r", "baseline": "b"},
        evaluation(errors * factor),
        evaluation(errors),
        task=TASKS["rating"],
        noise_floor=0.01,
    )
    row = next(row for row in rows if row.metric == "quality_class")
    assert row.verdict == expected
    # every error grows by the same share, so every resample does
    assert row.value == pytest.approx(2 - factor, abs=1e-2)
    change = next(row for row in rows if row.metric == "rmse_difference")
    flagged = change.reason == "better than the baseline beyond seed noise: look twice"
    assert flagged == (factor < 1)


@pytest.fixture
def ratings(tiny: Prepared) -> Prepared:
    """The tiny data with ratings of 3 + the user's bias + the item's, and nothing else."""

    def rated(split: Split) -> Split:
        item = np.asarray(split.arrays["candidates"][:, 0], dtype=np.float64)
        label = 3 + 0.1 * (split.user_of_row % 5) - 0.2 * (item % 3)
        return replace(split, label=label.astype(np.float32))

    splits = {name: rated(split) for name, split in tiny.splits.items()}
    return replace(tiny, schema=replace(tiny.schema, task="rating"), splits=splits)


def test_simple_ratings_are_the_mean_and_the_biases(ratings: Prepared) -> None:
    test, train = ratings.splits["test"], ratings.splits["train"]
    mean, bias = mean_ratings(ratings, test), bias_ratings(ratings, test)
    assert set(mean) == {float(np.mean(train.label))}
    rows = {
        (r.recipe, r.metric): r
        for r in reference_rows({"recipe": "x", "baseline": "b"}, ratings)
        if r.scenario == "reference"
    }
    assert set(rows) == {
        (f"reference:{name}", metric) for name in ("mean", "bias") for metric in ("rmse", "mae")
    }
    errors = [np.sqrt(np.mean((guess - test.label) ** 2)) for guess in (mean, bias)]
    assert rows["reference:mean", "rmse"].value == pytest.approx(errors[0], rel=1e-6)
    assert errors[1] < 0.5 * errors[0]  # all that the biases miss is their damping


def test_one_round_of_biases_by_hand() -> None:
    """Two users, two items: ratings 5 and 3 of item 1, 1 of item 2; mean 3. After many rounds the
    biases solve b_i = sum(r - 3 - b_u) / (10 + n) and b_u = sum(r - 3 - b_i) / (15 + n).
    """
    from harness.schema import FeatureSchema, Field

    schema = FeatureSchema(
        (Field("u", "categorical", "user", 3), Field("i", "categorical", "item", 3)),
        "r",
        "u",
        "i",
        task="rating",
    )
    label = np.array([5.0, 1.0, 3.0], np.float32)
    arrays = {"user": np.array([[1], [2]]), "candidates": np.array([[1], [2], [1]])}
    split = Split("train", arrays, label, np.array([0, 2, 3]), np.arange(3))
    data = Prepared(schema, {}, {"train": split}, {}, "h", "s", {})
    b_i, b_u = np.zeros(3), np.zeros(3)
    for _ in range(10):
        b_i[1] = ((5 - 3 - b_u[1]) + (3 - 3 - b_u[2])) / 12
        b_i[2] = (1 - 3 - b_u[1]) / 11
        b_u[1] = ((5 - 3 - b_i[1]) + (1 - 3 - b_i[2])) / 17
        b_u[2] = (3 - 3 - b_i[1]) / 16
    expected = [3 + b_u[1] + b_i[1], 3 + b_u[1] + b_i[2], 3 + b_u[2] + b_i[1]]
    np.testing.assert_allclose(bias_ratings(data, split), expected, rtol=1e-12)
