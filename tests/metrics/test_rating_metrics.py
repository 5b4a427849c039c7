"""Errors of predicted ratings, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from harness import registry
from harness.metrics.base import Record

ERRORS = {"rmse": root_mean_squared_error, "mae": mean_absolute_error}


def rated(label: list[float] | np.ndarray, score: list[float] | np.ndarray) -> Record:
    at = np.arange(len(label))
    return Record(np.array(label, np.float32), np.array(score, np.float64), at // 2, at, at)


@pytest.mark.parametrize(("name", "expected"), [("rmse", np.sqrt((4 + 0 + 1) / 3)), ("mae", 1.0)])
def test_by_hand(name: str, expected: float) -> None:
    record = rated([5, 3, 1], [3, 3, 2])  # off by 2, 0 and 1
    metric = registry.resolve("metrics", name)(record)
    assert metric.statistic(np.ones(3)) == pytest.approx(expected)
    assert metric.n == 3


@pytest.mark.parametrize("name", ERRORS)
def test_as_scikit_learn_has_it_with_weights(name: str) -> None:
    random = np.random.default_rng(1)
    record = rated(random.integers(1, 6, 400), random.normal(3, 1, 400))
    weights = random.integers(0, 4, 400).astype(float)
    expected = ERRORS[name](record.label, record.score, sample_weight=weights)
    found = registry.resolve("metrics", name)(record).statistic(weights)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ERRORS)
def test_a_rating_that_isnt_finite_has_no_error(name: str) -> None:
    metric = registry.resolve("metrics", name)(rated([5, 3], [np.nan, 3]))
    assert metric.statistic(np.ones(2)) is None
    assert metric.reason == "1 of 2 scores aren't finite numbers"
