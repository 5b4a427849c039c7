"""Intervals, percentiles and verdicts against worked values."""

import doctest
import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from harness.metrics.auc import auc
from harness.metrics.base import Prepared, Record
from harness.metrics.logloss import logloss
from harness.suites import statistics
from harness.suites.statistics import (
    Interval,
    bootstrap,
    holm,
    median_interval,
    paired_difference,
    percentile,
    percentile_interval,
    queries_needed,
    speed_verdict,
    user_weights,
)


def made(seed: int, *, users: int = 50, noise: float = 0.3) -> Record:
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), 8)
    label = (np.random.default_rng(0).random(len(user)) < 0.4).astype(float)
    score = np.clip(0.3 + 0.3 * label + noise * random.normal(size=len(user)), 0.01, 0.99)
    return Record(label, score, user, user, np.arange(len(user)))


def test_doctests() -> None:
    assert doctest.testmod(statistics).failed == 0
    assert ">>>" in inspect.getdoc(holm)  # type: ignore[operator]


def test_a_resample_draws_as_many_users_as_there_are() -> None:
    weights = np.concatenate(list(user_weights(7, 50, 3)))
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean() == 1.0
    again = np.concatenate(list(user_weights(7, 50, 3)))
    assert np.array_equal(weights, again)
    assert not np.array_equal(weights, np.concatenate(list(user_weights(7, 50, 4))))


def test_resamples_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(user_weights(9, 20, 1)))
    for chunk in (1, 9, 27, 100):
        monkeypatch.setattr(statistics, "CHUNK", chunk)
        chunks = list(user_weights(9, 20, 1))
        assert np.array_equal(np.concatenate(chunks), whole)
        assert max(map(len, chunks)) <= max(1, chunk // 9)


def test_bootstrap_of_a_mean_has_the_standard_error() -> None:
    # one row a user: the bootstrap of a mean has standard error s / sqrt(n)
    record = made(1, users=400)
    first = np.arange(0, 3200, 8)
    single = Record(
        record.label[first], record.score[first], np.arange(400), np.arange(400), np.arange(400)
    )
    draws = bootstrap({"logloss": logloss(single)}, single.user, resamples=2000, seed=2)["logloss"]
    losses = -np.log(np.where(single.label > 0, single.score, 1 - single.score))
    assert draws.std() == pytest.approx(losses.std() / 20, rel=0.1)
    assert draws.mean() == pytest.approx(losses.mean(), abs=0.02)


def test_a_metric_without_a_quick_way_is_evaluated_on_row_weights() -> None:
    record = made(2)
    quick = auc(record)
    slow = Prepared(quick.statistic, quick.n)
    draws = bootstrap({"quick": quick, "slow": slow}, record.user, resamples=20, seed=0)
    assert draws["quick"] == pytest.approx(draws["slow"])


def test_an_undefined_metric_has_no_draws() -> None:
    nothing = Prepared(lambda weights: None, 0, "why")
    draws = bootstrap({"x": nothing}, np.arange(4), resamples=5, seed=0)["x"]
    assert np.isnan(draws).all()


def test_a_paired_difference_to_itself_is_exactly_zero() -> None:
    record = made(1)
    found = paired_difference(auc(record), auc(record), record.user, resamples=100, seed=0)
    assert found == Interval(0.0, 0.0, 0.0, 50)


def test_pairing_makes_the_interval_of_a_small_difference_narrow() -> None:
    one = made(1)
    other = Record(one.label, one.score * 0.999, one.user, one.request, one.item)
    paired = paired_difference(logloss(other), logloss(one), one.user, resamples=500, seed=0)
    alone = percentile_interval(
        0.5, bootstrap({"x": logloss(one)}, one.user, resamples=500, seed=0)["x"], 50
    )
    assert paired.low is not None
    assert paired.high is not None
    assert alone.high is not None
    assert alone.low is not None
    assert paired.low < paired.value < paired.high  # type: ignore[operator]
    assert paired.high - paired.low < 0.02 * (alone.high - alone.low)


def test_percentile_interval_by_hand() -> None:
    draws = np.arange(101.0)
    with_gap = np.concatenate([draws, [np.nan] * 20])
    for drawn in (draws, with_gap):
        found = percentile_interval(50.0, drawn, 9, level=0.9)
        assert (found.value, found.n) == (50.0, 9)
        assert (found.low, found.high) == (pytest.approx(5.0), pytest.approx(95.0))


@pytest.mark.parametrize(
    ("value", "draws", "n"),
    [
        (None, np.arange(9.0), 9),
        (1.0, np.ones(9), 1),
        (1.0, np.array([1.0, np.nan, np.nan]), 9),
        (1.0, np.array([]), 9),
    ],
)
def test_no_bounds_where_there_is_too_little(
    value: float | None, draws: np.ndarray, n: int
) -> None:
    assert percentile_interval(value, draws, n) == Interval(value, None, None, n)


def test_median_interval_of_ratios() -> None:
    assert median_interval([2.0] * 40, seed=1) == Interval(2.0, 2.0, 2.0, 40)
    ratios = np.linspace(0.8, 1.6, 41)
    found = median_interval(ratios, seed=1)
    assert found.value == pytest.approx(1.2)
    # order statistics around the median at 99 %: binomial(41, 1/2) gives ranks 12 and 29
    ranks = binom.ppf([0.005, 0.995], 41, 0.5).astype(int)
    assert found.low == pytest.approx(ratios[ranks[0]], abs=0.03)
    assert found.high == pytest.approx(ratios[ranks[1]], abs=0.03)
    narrower = median_interval(ratios, level=0.5, seed=1)
    assert narrower.low > found.low  # type: ignore[operator]
    assert median_interval(ratios, seed=1) == found


def test_one_pair_has_no_interval() -> None:
    assert median_interval([1.3]) == Interval(1.3, None, None, 1)


@pytest.mark.parametrize("ratios", [[], [1.0, 0.0], [1.0, float("nan")], [1.0, -2.0]])
def test_ratios_that_are_none_are_refused(ratios: list[float]) -> None:
    with pytest.raises(ValueError, match="expected positive numbers, at least one"):
        median_interval(ratios)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1, then never decreasing
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("q", "counts"),
    [
        (0.9, (44, 64, 81)),
        (0.95, (90, 130, 165)),
        (0.99, (459, 662, 838)),
        (0.999, (4603, 6636, 8403)),
    ],
)
def test_counts_that_prove_a_percentile(q: float, counts: tuple[int, int, int]) -> None:
    # MLPerf's early stopping at 99 % confidence for 0, 1 and 2 late queries
    assert tuple(queries_needed(q, late) for late in range(3)) == counts


@given(st.floats(0.5, 0.995), st.integers(0, 4))
def test_one_query_fewer_proves_nothing(q: float, late: int) -> None:
    needed = queries_needed(q, late)
    assert binom.cdf(late, needed, 1 - q) <= 0.01 + 1e-12
    assert binom.cdf(late, needed - 1, 1 - q) > 0.01 - 1e-12


def test_percentile_needs_its_count() -> None:
    assert percentile(np.arange(43.0), 0.9) is None
    assert percentile(np.arange(44.0), 0.9) == 39.0  # 40th of 44: 0.9 * 44 = 39.6
    assert percentile(np.arange(458.0), 0.99) is None
    assert percentile(np.arange(459.0)[::-1], 0.99) == 454.0
    assert percentile([], 0.5) is None
    assert percentile([3.0] * 7, 0.5) == 3.0


@pytest.mark.parametrize("q", [0.0, 1.0, 99.0])
def test_a_quantile_is_a_share(q: float) -> None:
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        percentile([1.0], q)


@pytest.mark.parametrize(
    ("low", "high", "aa", "expected"),
    [
        (1.04, 1.5, 1.0, "faster"),
        (0.7, 0.96, 1.0, "slower"),
        (1.02, 1.5, 1.0, "no difference shown"),
        (0.7, 0.98, 1.0, "no difference shown"),
        (1.04, 1.5, 1.045, "no difference shown"),
        (0.7, 0.96, 0.955, "no difference shown"),
        (0.9, 1.1, 1.0, "no difference shown"),
        (1.0, 1.1, 1.0, "no difference shown"),
        (0.9, 1.0, 1.0, "no difference shown"),
        (1.2, 1.5, 0.94, "inconclusive"),
        (1.2, 1.5, 1.06, "inconclusive"),
        (1.2, 1.5, 0.95, "faster"),
        (1.2, 1.5, None, "inconclusive"),
        (1.2, 1.5, float("nan"), "inconclusive"),
        (None, None, 1.0, "inconclusive"),
        (float("nan"), 1.5, 1.0, "inconclusive"),
    ],
)
def test_verdicts(low: float | None, high: float | None, aa: float | None, expected: str) -> None:
    assert speed_verdict(low, high, aa_ratio=aa) == expected
