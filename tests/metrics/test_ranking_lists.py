"""Ranking metrics of one recommended list: values by hand, and bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import dcg_score

from harness.metrics.ranking import (
    cumulative_discount,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

LISTS = {
    # name: (recommended, relevant, recall, precision, ndcg) at 3
    "a repeated relevant item": (["k", "m", "n"], ["k", "k", "l"], 1 / 2, 1 / 3, 0.613147),
    "more relevant items than places": (["k", "l", "m"], list("klmno"), 3 / 5, 1.0, 1.0),
    "a hit in the second place": (["s", "t", "u"], ["t"], 1.0, 1 / 3, 0.630930),
    "a repeated recommended item": (["k", "k", "l"], ["k"], 1.0, 1 / 3, 1.0),
    "a repeat wastes its place": (["k", "k", "l"], ["k", "l"], 1.0, 2 / 3, 0.919721),
    "a list shorter than k": (["k"], ["k", "l"], 1 / 2, 1 / 3, 0.613147),
    "no hit": (["v", "w", "x"], ["k"], 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("name", LISTS)
def test_values_at_three(name: str) -> None:
    recommended, relevant, recall, precision, ndcg = LISTS[name]
    assert recall_at_k(recommended, relevant, 3) == pytest.approx(recall)
    assert precision_at_k(recommended, relevant, 3) == pytest.approx(precision)
    assert ndcg_at_k(recommended, relevant, 3) == pytest.approx(ndcg, abs=1e-6)


def test_graded_relevance_has_linear_gain_and_an_ideal_of_all_relevant_items() -> None:
    # places earn 3 2 3 0 1 2; two more items, of gain 3 and 2, were not retrieved
    gains = {"a": 3, "b": 2, "c": 3, "e": 1, "f": 2, "g": 3, "h": 2}
    earned = [3, 2, 3, 0, 1, 2]
    dcg = sum(gain / math.log2(place + 2) for place, gain in enumerate(earned))
    ideal = sum(gain / math.log2(place + 2) for place, gain in enumerate([3, 3, 3, 2, 2, 2]))
    found = ndcg_at_k(list("abcdef"), gains, 6)
    assert found == pytest.approx(dcg / ideal)
    assert found == pytest.approx(0.785, abs=5e-4)


def test_graded_dcg_against_scikit_learn() -> None:
    earned = np.array([[3.0, 2.0, 3.0, 0.0, 1.0, 2.0]])
    places = np.arange(6, 0, -1.0)[None]
    ours = earned[0, :4] @ np.diff(cumulative_discount(4))
    assert ours == pytest.approx(dcg_score(earned, places, k=4))


@pytest.mark.parametrize("function", [ndcg_at_k, recall_at_k, precision_at_k])
def test_nothing_relevant_is_undefined(function: object) -> None:
    assert function(["a"], [], 3) is None  # type: ignore[operator]
    assert function(["a"], {"a": 0.0}, 3) is None  # type: ignore[operator]


@pytest.mark.parametrize("function", [ndcg_at_k, recall_at_k, precision_at_k])
def test_no_places_are_refused(function: object) -> None:
    with pytest.raises(ValueError, match="k is 0, expected 1 or more"):
        function(["a"], ["a"], 0)  # type: ignore[operator]


@pytest.mark.parametrize("gain", [-1.0, math.nan, math.inf])
def test_gains_that_are_no_gains_are_refused(gain: float) -> None:
    with pytest.raises(ValueError, match="expected a number of 0 or more"):
        ndcg_at_k(["a"], {"a": gain}, 3)


items = st.integers(0, 8)


@given(
    st.lists(items, max_size=12),
    st.one_of(st.lists(items, max_size=12), st.dictionaries(items, st.floats(0, 5))),
    st.integers(1, 15),
)
def test_never_outside_zero_and_one(
    recommended: list[int], relevant: list[int] | dict[int, float], k: int
) -> None:
    for function in (ndcg_at_k, recall_at_k, precision_at_k):
        found = function(recommended, relevant, k)
        assert found is None or 0 <= found <= 1
