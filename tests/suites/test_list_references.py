"""Rivals for next items, by hand: popularity exact, random seeded, own frequency with repeats."""

import numpy as np
import pytest
from made_events import made_data

from harness.suites.list_references import (
    TOP,
    own_frequency_lists,
    popularity,
    popularity_lists,
    random_lists,
    reference_lists,
)
from harness.suites.lists import forbidden, seen_items
from harness.suites.references import reference_rows
from harness.tables import Prepared

TRAIN = [[3, 3, 2], [3, 2, 5], [1]]
"""Item 3 has three events, 2 two, 1 and 5 one, 4 none."""


def made(*, repeats: bool = False) -> Prepared:
    return made_data(TRAIN, [[4], [1], [3]], items=5, repeats=repeats)


def items(lists: np.ndarray) -> list[list[int]]:
    return [[int(item) for item in line if item] for line in lists["item"]]


def test_popularity_counts_train_and_breaks_ties_by_id() -> None:
    assert popularity(made()).tolist() == [3, 2, 1, 5, 4]


def test_popular_items_without_what_was_seen() -> None:
    data = made()
    found = popularity_lists(data, data.splits["test"])
    assert items(found) == [[1, 5, 4], [1, 4], [3, 2, 5, 4]]
    assert found.shape == (3, TOP)
    assert (np.diff(found["score"], axis=1) < 0).all()


def test_with_repeats_everybody_gets_the_same_popular_items() -> None:
    data = made(repeats=True)
    assert items(popularity_lists(data, data.splits["test"])) == [[3, 2, 1, 5, 4]] * 3


def test_own_items_first_then_the_popular_ones() -> None:
    data = made(repeats=True)
    found = own_frequency_lists(data, data.splits["test"])
    assert items(found) == [[3, 2, 1, 5, 4], [3, 2, 5, 1, 4], [1, 3, 2, 5, 4]]
    more = made_data([[4, 4, 1], [1]], [[1], [1]], items=5, repeats=True)
    assert items(own_frequency_lists(more, more.splits["test"]))[0] == [4, 1, 2, 3, 5]


def test_a_long_past_fills_the_list_with_its_most_frequent() -> None:
    past = [item for item in range(1, 31) for _ in range(item)]
    data = made_data([past], [[1]], items=60, repeats=True)
    (found,) = items(own_frequency_lists(data, data.splits["test"]))
    assert found == list(range(30, 30 - TOP, -1))


@pytest.fixture(scope="module")
def many() -> Prepared:
    random = np.random.default_rng(0)
    train = [random.integers(1, 51, random.integers(1, 60)).tolist() for _ in range(400)]
    return made_data(train, [[1]] * 400, items=50)


def test_lists_hold_nothing_twice_or_seen_and_all_that_is_left(many: Prepared) -> None:
    split = many.splits["test"]
    seen = seen_items(split, np.arange(split.requests))
    left = np.array([50 - len(set(line.tolist()) - {0}) for line in seen])
    for lists in reference_lists(many, split, seed=1).values():
        assert forbidden(many, split, lists) is None
        np.testing.assert_array_equal(
            np.count_nonzero(lists["item"], axis=1), np.minimum(left, TOP)
        )


def test_popularity_is_the_first_unseen_of_one_order(many: Prepared) -> None:
    split, order = many.splits["test"], popularity(many).tolist()
    found = items(popularity_lists(many, split))
    for line, own in zip(found, seen_items(split, np.arange(split.requests)), strict=True):
        assert line == [item for item in order if item not in set(own.tolist())][:TOP]


def test_random_lists_are_seeded_and_even(many: Prepared) -> None:
    split = many.splits["test"]
    one, again, other = (random_lists(many, split, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    fresh = made_data([[1]] * 5000, [[2]] * 5000, items=50)
    first = random_lists(fresh, fresh.splits["test"], seed=3)["item"][:, 0]
    share = np.bincount(first, minlength=51)[2:] / 5000
    # 1 of 49 each but for the one after item 1 in the order, which has twice that; sd 0.002
    assert share.max() < 2 / 49 + 0.012
    assert share.min() > 1 / 49 - 0.008


def test_rows_of_all_rivals() -> None:
    rows = reference_rows({"baseline": "b"}, made(), resamples=10)
    assert {row.recipe for row in rows} == {"reference:random", "reference:popularity"}
    recall = {r.recipe: r.value for r in rows if r.metric == "recall@10"}
    assert recall["reference:popularity"] == pytest.approx(1.0)  # all that is left is shown
    ndcg = {r.recipe: r.value for r in rows if r.metric == "ndcg@10"}
    places = [1 / np.log2(4), 1.0, 1.0]  # item 4 third of the first user, the others' first
    assert ndcg["reference:popularity"] == pytest.approx(np.mean(places))
    rows = reference_rows({"baseline": "b"}, made(repeats=True), resamples=10)
    assert "reference:own_frequency" in {row.recipe for row in rows}
