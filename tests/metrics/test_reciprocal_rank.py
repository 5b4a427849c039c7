"""Reciprocal rank: by hand, against every order of the ties, and ranking against scikit-learn."""

import math
from itertools import groupby, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from harness import registry
from harness.metrics.base import Record


def made(*requests: list[tuple[float, int]], beyond: list[int] | None = None) -> Record:
    """Requests of (score, label), each of its own user."""
    request = np.repeat(np.arange(len(requests)), [len(one) for one in requests])
    score, label = (np.array(c, dtype=float) for c in zip(*(r for one in requests for r in one)))
    rest = None if beyond is None else np.array(beyond)
    return Record(label, score, request, request, np.arange(len(label)), rest)


def value(name: str, record: Record) -> float | None:
    return registry.resolve("metrics", name)(record).statistic(np.ones(record.rows))


def falling(*label: int) -> list[tuple[float, int]]:
    return [(-float(place), one) for place, one in enumerate(label)]


def test_only_the_first_positive_counts() -> None:
    assert value("mrr@10", made(falling(0, 0, 1, 1))) == pytest.approx(1 / 3)
    assert value("mrr@10", made(falling(1, 0), falling(0, 1))) == pytest.approx(3 / 4)


def test_nothing_after_the_tenth_place() -> None:
    assert value("mrr@10", made(falling(*[0] * 9, 1))) == pytest.approx(1 / 10)
    assert value("mrr@10", made(falling(*[0] * 10, 1))) == 0.0


def test_requests_without_a_positive_are_left_out_and_counted() -> None:
    found = registry.resolve("metrics", "mrr@10")(made(falling(0, 1), falling(0, 0)))
    assert found.statistic(np.ones(4)) == pytest.approx(1 / 2)
    assert found.facts == {"requests_left_out": 1.0}
    assert found.n == 1
    none = registry.resolve("metrics", "mrr@10")(made(falling(0, 0)))
    assert none.statistic(np.ones(2)) is None
    assert none.reason == "none of 1 requests has a positive row"


def test_a_tie_has_its_expected_value() -> None:
    # places 2, 3, 4 are equal and two of them positive: first at 2 in 2/3, at 3 in 1/3 of orders
    record = made([(0.9, 0), (0.5, 1), (0.5, 0), (0.5, 1)])
    assert value("mrr@10", record) == pytest.approx(2 / 3 / 2 + 1 / 3 / 3)


def test_a_tie_that_goes_on_is_as_long_as_is_told() -> None:
    record = made([(0.9, 0), (0.5, 1), (0.5, 0)], beyond=[8])
    assert value("mrr@10", record) == pytest.approx(sum(1 / p for p in range(2, 11)) / 10)
    assert value("recall@10", record) == pytest.approx(9 / 10)
    assert value("recall@10", made([(0.9, 0), (0.5, 1)], beyond=[8])) == 1.0  # one score: no tie


def test_what_is_beyond_belongs_to_the_last_finite_scores() -> None:
    record = made(
        [(0.5, 1), (0.5, 0), (-np.inf, 1)], [(0.9, 1), (0.9, 0), (0.1, 0), (0.1, 0)], beyond=[18, 9]
    )
    # 10 of 20 places, of two positives; the first of two places
    assert value("recall@10", record) == pytest.approx((10 / 20 / 2 + 1) / 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_no_hit(bad: float) -> None:
    assert value("mrr@10", made([(bad, 1), (0.5, 0), (0.4, 1)])) == pytest.approx(1 / 2)
    assert value("mrr@10", made([(bad, 1), (bad, 1)])) == 0.0


lines = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=6)


@given(lines)
def test_the_expected_value_is_the_mean_over_all_orders_of_ties(
    line: list[tuple[int, int]],
) -> None:
    if not any(label for _, label in line):
        return
    ordered = sorted(line, key=lambda one: -one[0])
    orders: list[list[int]] = [[]]
    for _, group in groupby(ordered, key=lambda one: one[0]):
        labels = [label for _, label in group]
        orders = [[*done, *more] for done in orders for more in permutations(labels)]
    ranks = [1 / (1 + order.index(1)) for order in orders]
    record = made([(float(score), label) for score, label in line])
    assert value("mrr@10", record) == pytest.approx(sum(ranks) / len(ranks))


def test_against_scikit_learn() -> None:
    """One positive a request: label ranking average precision is then the reciprocal rank."""
    random = np.random.default_rng(0)
    score = random.permutation(200 * 9).reshape(200, 9).astype(float)
    true = np.eye(9)[random.integers(0, 9, 200)]
    record = made(*[list(zip(s, t, strict=True)) for s, t in zip(score, true, strict=True)])
    expected = label_ranking_average_precision_score(true, score)
    assert value("mrr@10", record) == pytest.approx(expected)


def test_ndcg_and_recall_of_many_positives_and_ties_against_scikit_learn() -> None:
    random = np.random.default_rng(1)
    score = random.integers(0, 6, (100, 30)).astype(float)
    true = (random.random((100, 30)) < 0.2).astype(float)
    true[:, 0] = 1
    record = made(*[list(zip(s, t, strict=True)) for s, t in zip(score, true, strict=True)])
    assert value("ndcg@10", record) == pytest.approx(ndcg_score(true, score, k=10))
    assert value("recall@10", record) == pytest.approx(_recall(true, score))


def _recall(true: np.ndarray, score: np.ndarray) -> float:
    """Mean over many random orders of the ties would be this: hypergeometric by run of scores."""
    found = []
    for label, line in zip(true, score, strict=True):
        left, hits = 10, 0.0
        for level in sorted(set(line), reverse=True):
            own = label[line == level]
            hits += own.sum() * min(left, len(own)) / len(own)
            left -= min(left, len(own))
        found.append(hits / label.sum())
    return math.fsum(found) / len(found)
