"""Lists and their records: metrics by hand, ties at the end of a list, batches."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_events import made_data, made_lists, ranking

from harness import registry
from harness.artifact import Artifact, ModelSpec
from harness.engines.base import RANKED, Engine, EngineFacts, Probe, host_form
from harness.suites import lists as suite
from harness.suites.lists import (
    batches,
    forbidden,
    list_record,
    past_lengths,
    recommend_split,
    record_of,
)
from harness.tables import Prepared, TensorSpec

METRICS = ("ndcg@10", "recall@10", "precision@10", "mrr@10")


def values(data: Prepared, lists: np.ndarray) -> dict[str, float | None]:
    record = list_record(data, data.splits["test"], lists)
    ones = np.ones(record.rows)
    return {name: registry.resolve("metrics", name)(record).statistic(ones) for name in METRICS}


class Fixed(Engine):
    """Ranks all unseen items by ``score[user, item]``, as the catalogue of a model does."""

    def __init__(self, score: np.ndarray, *, top: int) -> None:
        inputs = (
            TensorSpec("seen", "int64", ("requests", "seen"), ("item",)),
            TensorSpec("user", "int64", ("requests", 1), ("user",)),
        )
        super().__init__(Artifact(Path(), "torch", ModelSpec("x", {}), inputs, ()), threads=1)
        self.table, self.top = score, top
        self.sizes: list[int] = []

    @classmethod
    def probe(cls) -> Probe:
        return Probe("ok")

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        return feeds

    def run(self, prepared: Any) -> Any:
        self.sizes.append(len(prepared["user"]))
        scores = self.table[prepared["user"][:, 0]].copy()  # (requests, items)
        np.put_along_axis(scores, prepared["seen"], -1e4, axis=1)
        scores[:, 0] = -1e4
        items = np.argsort(-scores, axis=1, kind="stable")[:, : self.top]
        best = np.take_along_axis(scores, items, axis=1)
        return best, np.where(best > -1e3, items, 0)

    def fetch(self, outputs: Any) -> np.ndarray:
        return host_form(outputs)

    def describe(self) -> EngineFacts:
        return EngineFacts("fixed", "1", "cpu", "fp32", "numpy", 1)


def test_metrics_of_one_list_by_hand() -> None:
    # 3 true items: one in place 2, one in place 4, one not served
    data = made_data([[9]], [[3, 5, 8]], items=30)
    found = values(data, made_lists(ranking(1, 3, 2, 5, 4, 6, 7, 10, 11, 12, 13)))
    gained = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert found["ndcg@10"] == pytest.approx(gained / ideal)
    assert found["recall@10"] == pytest.approx(2 / 3)
    assert found["precision@10"] == pytest.approx(2 / 10)
    assert found["mrr@10"] == pytest.approx(1 / 2)


def test_the_ideal_has_ten_places_for_more_true_items() -> None:
    true = list(range(1, 13))
    found = values(made_data([[20]], [true], items=30), made_lists(ranking(*true[:11])))
    assert found == {
        "ndcg@10": pytest.approx(1.0),
        "recall@10": pytest.approx(10 / 12),
        "precision@10": 1.0,
        "mrr@10": 1.0,
    }


def test_the_eleventh_place_is_no_hit() -> None:
    found = values(made_data([[20]], [[11]], items=30), made_lists(ranking(*range(1, 12))))
    assert set(found.values()) == {0.0}


def test_users_are_averaged_and_true_duplicates_count_once() -> None:
    data = made_data([[20], [21]], [[1, 1, 1], [2]], items=30)
    lists = made_lists(ranking(1, *range(3, 13)), ranking(*range(3, 14)))
    found = values(data, lists)
    assert found["recall@10"] == pytest.approx((1 + 0) / 2)
    assert found["ndcg@10"] == pytest.approx(1 / 2)


def test_cold_items_are_misses_each_of_its_own() -> None:
    data = made_data([[20]], [[0, 1, 0]], items=30)
    record = list_record(data, data.splits["test"], made_lists(ranking(1, *range(3, 13))))
    assert record.label.sum() == 3
    missed = record.score == -np.inf
    assert len(set(record.item[missed])) == 2
    assert (record.item[missed] < 0).all()
    assert values(data, made_lists(ranking(1, *range(3, 13))))["recall@10"] == pytest.approx(1 / 3)


def test_an_unknown_user_is_a_user_of_each_request() -> None:
    data = made_data([[1], [2], [3]], [[4], [5], [6]], items=30)
    split = data.splits["test"]
    split.arrays["user"][:2] = 0
    record = list_record(data, split, made_lists(*[ranking(*range(7, 18))] * 3))
    assert record.users == 3
    split.arrays["user"][:] = 2
    assert list_record(data, split, made_lists(*[ranking(*range(7, 18))] * 3)).users == 1


def test_a_constant_model_gains_what_chance_gains() -> None:
    # 40 items, 4 seen (one twice): 36 could stand anywhere; ids 1..11 of them are shown
    data = made_data([[37, 38, 39, 40, 40]], [[5]], items=40)
    lists = made_lists([(item, 0.5) for item in range(1, 12)])
    found = values(data, lists)
    assert found["recall@10"] == pytest.approx(10 / 36)
    assert found["mrr@10"] == pytest.approx(sum(1 / place for place in range(1, 11)) / 36)
    dcg = sum(1 / math.log2(place + 1) for place in range(1, 11))
    assert found["ndcg@10"] == pytest.approx(dcg / 36)


def test_with_repeats_the_rest_of_the_catalogue_is_all_of_it() -> None:
    data = made_data([[37, 38, 39, 40, 40]], [[5]], items=40, repeats=True)
    found = values(data, made_lists([(item, 0.5) for item in range(1, 12)]))
    assert found["recall@10"] == pytest.approx(10 / 40)


def test_ties_across_the_tenth_place_share_it() -> None:
    # nine clear places; 10, 11 and 12 are equal and the list goes on below them
    data = made_data([[40]], [[22]], items=40)
    clear = [(item, 9.0 - item / 10) for item in range(1, 10)]
    lists = made_lists([*clear, (20, 1.0), (21, 1.0), (22, 1.0), (30, 0.5)])
    found = values(data, lists)
    assert found["recall@10"] == pytest.approx(1 / 3)
    assert found["mrr@10"] == pytest.approx(1 / 3 / 10)
    assert found["ndcg@10"] == pytest.approx(1 / 3 / math.log2(11))


def test_a_tie_that_ends_a_list_goes_on_through_the_rest() -> None:
    # of 39 unseen items 9 stand above; 30 share the places from 10 on, whatever is shown of them
    data = made_data([[40]], [[22]], items=40)
    clear = [(item, 9.0 - item / 10) for item in range(1, 10)]
    found = values(data, made_lists([*clear, (20, 1.0), (21, 1.0), (22, 1.0)]))
    assert found["recall@10"] == pytest.approx(1 / 30)


def test_a_single_last_score_is_no_tie() -> None:
    data = made_data([[40]], [[10]], items=40)
    assert values(data, made_lists(ranking(*range(1, 11))))["recall@10"] == 1.0


def test_a_short_list_that_ends_in_a_tie_goes_on_nowhere() -> None:
    data = made_data([[*range(1, 10)]], [[12]], items=12)
    found = values(data, made_lists([(10, 0.5), (11, 0.5), (12, 0.5), (0, -1e4), (0, -1e4)]))
    assert found["mrr@10"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["precision@10"] == pytest.approx(1 / 10)


def test_a_user_who_saw_everything_gets_nothing() -> None:
    data = made_data([[1, 2, 3]], [[2]], items=3)
    found = values(data, made_lists([(0, -1e4), (0, -1e4)]))
    assert found == dict.fromkeys(METRICS, 0.0)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.inf])
def test_a_score_that_is_not_finite_is_never_a_hit(bad: float) -> None:
    data = made_data([[20]], [[3]], items=30)
    found = values(data, made_lists([(3, bad), *ranking(*range(4, 14))]))
    assert found == dict.fromkeys(METRICS, 0.0)


def test_an_item_that_is_served_twice_hits_once() -> None:
    data = made_data([[20]], [[3, 4]], items=30)
    found = values(data, made_lists(ranking(3, 3, *range(5, 14))))
    assert found["recall@10"] == pytest.approx(1 / 2)


def test_a_request_may_be_judged_twice() -> None:
    data = made_data([[20], [21]], [[1], [2]], items=30)
    lists = made_lists(*[ranking(2, *range(3, 13))] * 3)
    record = list_record(data, data.splits["test"], lists, requests=np.array([1, 0, 1]))
    found = registry.resolve("metrics", "recall@10")(record).statistic(np.ones(record.rows))
    assert found == pytest.approx(2 / 3)
    assert record.users == 2


def test_what_nobody_may_be_given_is_named() -> None:
    data = made_data([[1, 2], [3]], [[5], [5]], items=12)
    test, good = data.splits["test"], [ranking(3, 4, 5), ranking(1, 2, 4)]
    assert forbidden(data, test, made_lists(*good)) is None
    assert forbidden(data, test, made_lists(good[0], ranking(3, 2, 4))) == (
        "1 items were recommended to users who had them before"
    )
    assert forbidden(data, test, made_lists(good[0], ranking(4, 2, 4))) == (
        "1 items stand in a list twice"
    )
    assert forbidden(data, test, made_lists(good[0], ranking(1, 2, 13))) == (
        "1 places hold an id outside 0..12"
    )
    again = made_data([[1, 2], [3]], [[5], [5]], items=12, repeats=True)
    assert forbidden(again, test, made_lists(good[0], ranking(3, 2, 4))) is None


@pytest.fixture(scope="module")
def many() -> Prepared:
    random = np.random.default_rng(0)
    train = [random.integers(1, 41, random.integers(1, 30)).tolist() for _ in range(300)]
    return made_data(train, [random.integers(1, 41, 2).tolist() for _ in train], items=40)


@given(st.sampled_from([1, 7, 64, 256, 1000]), st.sampled_from([3, 200, 1 << 20]))
def test_every_request_is_in_one_batch_that_fits(size: int, ids: int) -> None:
    random = np.random.default_rng(1)
    train = [[1] * random.integers(1, 9) for _ in range(100)]
    data = made_data(train, [[2]] * 100, items=5)
    split = data.splits["test"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "MAX_IDS", ids)
        found = list(batches(data, split, max_requests=size))
    assert sorted(np.concatenate(found)) == list(range(100))
    longest = past_lengths(split)
    for part in found:
        assert len(part) <= size
        assert len(part) == 1 or len(part) * (4 + longest[part].max()) <= ids


def test_the_size_of_batches_changes_no_list(many: Prepared) -> None:
    split, random = many.splits["test"], np.random.default_rng(2)
    table = random.integers(0, 30, (301, 41)).astype(np.float32)  # with ties
    found = []
    for size in (1, 7, 256):
        engine, told = Fixed(table, top=12), []
        found.append(recommend_split(engine, many, split, max_requests=size, progress=told.append))
        assert max(engine.sizes) == size
        assert told == engine.sizes
        assert sum(told) == 300
    for lists in found[1:]:
        np.testing.assert_array_equal(lists, found[0])
    assert found[0].dtype == RANKED
    assert forbidden(many, split, found[0]) is None
    record = record_of(many, split, found[0])
    assert record.beyond is not None
    assert (record.beyond > 0).any()


def test_metrics_of_lists_are_those_of_the_whole_ranking() -> None:
    """A list of all unseen items, and its first 12 where those have no ties, judge alike."""
    random = np.random.default_rng(3)
    train = [random.permutation(40)[:10] + 1 for _ in range(50)]
    test = [random.permutation(40)[:3] + 1 for _ in range(50)]
    data = made_data(
        [list(map(int, own)) for own in train], [list(map(int, own)) for own in test], items=40
    )
    table = random.permutation(51 * 41).reshape(51, 41).astype(np.float32)
    whole, part = (
        values(data, recommend_split(Fixed(table, top=top), data, data.splits["test"]))
        for top in (40, 12)
    )
    assert whole == pytest.approx(part)
    assert whole["recall@10"]
