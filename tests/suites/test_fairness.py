"""Groups by hand, the worst and the gap of planted groups, and what permuting users leaves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.base import RANKED
from harness.histories import Histories
from harness.metrics.base import Record
from harness.results import Row
from harness.schema import FeatureSchema, Field, TaskName, Vocabulary
from harness.suites.accuracy import evaluate, record
from harness.suites.fairness import (
    LEAST_USERS,
    Grouping,
    Groups,
    evaluate_groups,
    fairness_rows,
    groupings_of,
)
from harness.suites.lists import list_record
from harness.suites.statistics import user_weights
from harness.tables import Prepared, Split

COMMON = {"recipe": "r", "baseline": "b", "target": "t", "seed": 3}


def split_of(name: str, user: list[list[int]], lengths: list[int], item: list[int]) -> Split:
    arrays = {
        "user": np.array(user, dtype=np.int32),
        "candidates": np.array(item, dtype=np.int32)[:, None],
    }
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = len(item)
    return Split(name, arrays, np.ones(rows, np.float32), offsets, np.arange(rows))


def data_of(train: Split, test: Split, *, task: TaskName = "click") -> Prepared:
    fields = (
        Field("user", "categorical", "user", cardinality=200),
        Field("gender", "categorical", "user", cardinality=3),
        Field("town", "categorical", "user", cardinality=27),
        Field("item", "categorical", "item", cardinality=12),
    )
    words = {f.name: Vocabulary(tuple("abcdefghijklmnopqrstuvwxyz"[: f.cardinality - 1]))
             for f in fields}  # fmt: skip
    schema = FeatureSchema(fields, label="label", user="user", item="item", task=task, length=3)
    return Prepared(schema, words, {"train": train, "test": test}, {}, "h", "rule", {})


def text(grouping: Grouping) -> list[str | None]:
    return [None if at < 0 else grouping.values[at] for at in grouping.of]


def small() -> Prepared:
    # users 1, 2, 3 have 1, 2 and 3 rows of train; items 1..10 have 1..10 rows, less item 0's
    train_items = [i for i in range(1, 11) for _ in range(i)]
    users = [[1, 1, 1], [2, 2, 1], [3, 1, 1], [0, 0, 0]]
    train = split_of("train", users, [1, 2, 3, 49], train_items)
    test = split_of("test", [[3, 2, 1], [1, 1, 1], [0, 0, 1], [9, 1, 1]], [2, 1, 1, 1],
                    [10, 1, 5, 0, 11])  # fmt: skip
    return data_of(train, test)


def test_users_are_grouped_by_small_fields_and_activity_items_by_popularity() -> None:
    data = small()
    test = data.splits["test"]
    groupings = groupings_of(data, test, record(data, test, np.zeros(5)))
    found = {grouping.name: text(grouping) for grouping in groupings}
    assert found == {  # town has more than 25 values
        "gender": ["b", "b", "a", "unknown", "a"],
        "user_activity": ["high", "high", "low", "new", "new"],
        "item_popularity": ["10", "1", "5", "new", "new"],
    }


def test_equal_counts_share_a_group() -> None:
    train = split_of("train", [[1, 1, 1], [2, 1, 1], [3, 1, 1]], [1, 1, 1], [1, 2, 3])
    data = data_of(train, train)
    groups = groupings_of(data, train, record(data, train, np.zeros(3)))
    assert [set(text(g)) for g in groups[1:]] == [{"high"}, {"10"}]


def test_lists_are_grouped_by_what_should_have_been_found() -> None:
    train = split_of("train", [[1, 1, 1], [2, 2, 1]], [3, 3], [1, 1, 1, 1, 2, 2])
    test = split_of("test", [[1, 1, 1], [2, 2, 1]], [1, 1], [2, 0])
    past = Histories(np.zeros(0, np.int32), np.zeros(2, np.int64), np.zeros(2, np.int64))
    test = replace(test, histories=past)
    data = data_of(train, test, task="next_item")
    lists = np.array([[(2.0, 2), (1.0, 1)], [(2.0, 2), (1.0, 1)]], dtype=RANKED)
    groupings = groupings_of(data, test, list_record(data, test, lists))
    found = {grouping.name: text(grouping) for grouping in groupings}
    assert found["gender"] == ["a", "a", "b", "b", "b"]
    assert found["item_popularity"] == ["5", None, None, None, "new"]
    assert [g.positives for g in groupings] == [False, False, True]


def errors(size: int, gaps: dict[str, float]) -> tuple[Record, Grouping]:
    """Users of one row each whose predictions miss by their group's gap."""
    rows = size * len(gaps)
    miss = np.repeat(list(gaps.values()), size)
    each = np.arange(rows)
    found = Record(np.full(rows, 3.0), 3.0 + miss, each, each, each)
    return found, Grouping("town", tuple(gaps), np.repeat(np.arange(len(gaps)), size))


def groups_of(
    found: Record, *groupings: Grouping, metric: str, seed: int = 1, resamples: int = 200
) -> Groups:
    whole = evaluate(found, metrics=[metric], resamples=1, seed=seed)
    return evaluate_groups(whole, groupings, metric=metric, resamples=resamples)


def by_metric(rows: list[Row]) -> dict[str, Row]:
    assert len({row.metric for row in rows}) == len(rows)
    return {row.metric: row for row in rows}


def test_worst_and_gap_of_errors_by_hand() -> None:
    one, grouping = errors(LEAST_USERS, {"a": 1.0, "b": 2.0, "c": 1.5})
    two, _ = errors(LEAST_USERS, {"a": 1.25, "b": 1.0, "c": 1.0})
    variant, baseline = (groups_of(r, grouping, metric="rmse") for r in (one, two))
    found = by_metric(fairness_rows(COMMON, variant, metric="rmse", baseline=baseline))
    expected = {
        "rmse[town=a]": 1.0, "rmse_difference[town=a]": -0.25,
        "rmse[town=b]": 2.0, "rmse_difference[town=b]": 1.0,
        "rmse[town=c]": 1.5, "rmse_difference[town=c]": 0.5,
        "worst[town]": 2.0, "worst_difference[town]": 0.75,
        "gap[town]": 1.0, "gap_difference[town]": 0.75,
    }  # fmt: skip
    assert {name: row.value for name, row in found.items()} == pytest.approx(expected)
    for row in found.values():  # every user of a group misses by as much
        assert row.ci_low == pytest.approx(row.value)
        assert row.ci_high == pytest.approx(row.value)
        assert (row.scenario, row.direction, row.n) == ("fairness", "lower", 50)
    assert found["worst[town]"].reason == "worst group: b"
    assert found["gap[town]"].reason == "best group: a; worst group: b"
    assert found["worst_difference[town]"].reason == "worst group: b; baseline: worst group: a"


def ranked_users(size: int, orders: dict[str, int]) -> tuple[Record, Grouping]:
    """Users of two rows: the positive above (1) or below (-1) the negative."""
    sign = np.repeat(list(orders.values()), size)
    rows = 2 * len(sign)
    user = np.repeat(np.arange(len(sign)), 2)
    score = 0.5 + 0.25 * np.stack([sign, -sign], axis=1).ravel()
    found = Record(np.tile([1.0, 0.0], len(sign)), score, user, user, np.arange(rows))
    return found, Grouping("town", tuple(orders), np.repeat(np.arange(len(orders)), 2 * size))


def test_the_least_value_is_worst_where_more_is_better() -> None:
    found, grouping = ranked_users(LEAST_USERS, {"a": 1, "b": -1})
    groups = groups_of(found, grouping, metric="auc")
    rows = by_metric(fairness_rows(COMMON, groups, metric="auc"))
    assert {name: row.value for name, row in rows.items()} == {
        "auc[town=a]": 1.0, "auc[town=b]": 0.0, "worst[town]": 0.0, "gap[town]": 1.0
    }  # fmt: skip
    directions = {name: row.direction for name, row in rows.items()}
    assert (directions["worst[town]"], directions["gap[town]"]) == ("higher", "lower")


def test_small_and_one_class_groups_have_a_reason_and_are_never_worst() -> None:
    found, _ = ranked_users(60, {"a": 1, "b": -1})
    town = np.repeat([0, 1, 2], [2 * 60, 2 * 49, 2 * 11])
    ones = np.where(found.label > 0, 0, -1)
    groups = [
        Grouping("town", ("a", "b", "c"), town),
        Grouping("kind", ("positive",), ones),
    ]
    rows = by_metric(fairness_rows(COMMON, groups_of(found, *groups, metric="auc"), metric="auc"))
    assert rows["auc[town=a]"].value == 1.0
    assert rows["auc[town=b]"].reason == "49 users, fewer than 50"
    assert rows["auc[town=c]"].reason == "11 users, fewer than 50"
    assert "one class only" in str(rows["auc[kind=positive]"].reason)
    for name in ("worst[town]", "gap[town]", "worst[kind]", "gap[kind]"):
        assert rows[name].value is None
        assert rows[name].reason == "fewer than two groups have a value"


def noisy(seed: int, *, users: int = 150) -> Record:
    random = np.random.default_rng(seed)
    rows = 6 * users
    user = np.repeat(np.arange(users), 6)
    label = np.tile([1.0, 0, 0, 1, 0, 0], users)
    return Record(label, random.random(rows) + 0.2 * label, user, user, np.arange(rows))


@pytest.mark.parametrize("metric", ["auc", "ndcg@10"])
def test_a_group_of_everyone_is_the_whole(metric: str) -> None:
    whole = noisy(1)
    everyone = Grouping("all", ("us",), np.zeros(whole.rows, dtype=int))
    part = groups_of(whole, everyone, metric=metric, seed=5)["all"]["us"]
    found = evaluate(whole, metrics=[metric], resamples=200, seed=5)
    assert part.value == found.values[metric]
    np.testing.assert_allclose(part.draws, found.draws[metric])


def test_a_group_of_rows_equals_its_rows_alone() -> None:
    whole = noisy(1)
    odd = Grouping("place", ("even", "odd"), np.arange(whole.rows) % 2)
    part = groups_of(whole, odd, metric="auc", seed=5)["place"]["odd"]
    alone = replace(whole, label=whole.label[1::2], score=whole.score[1::2],
                    user=whole.user[1::2], request=whole.request[1::2],
                    item=whole.item[1::2])  # fmt: skip
    assert part.value == evaluate(alone, metrics=["auc"], seed=5).values["auc"]
    assert part.users == 150
    low, high = np.quantile(part.draws, [0.025, 0.975])
    assert part.value is not None
    assert low < part.value < high


@pytest.mark.parametrize("metric", ["auc", "rmse"])
def test_a_group_of_users_equals_their_rows_alone(metric: str) -> None:
    whole = noisy(1)
    town = Grouping("town", ("a", "b"), (whole.user // 75).astype(int))
    part = groups_of(whole, town, metric=metric, seed=5)["town"]["a"]
    first = slice(0, 6 * 75)
    alone = replace(whole, label=whole.label[first], score=whole.score[first],
                    user=whole.user[first], request=whole.request[first],
                    item=whole.item[first])  # fmt: skip
    prepared = evaluate(alone, metrics=[metric], resamples=1, seed=5).prepared[metric]
    assert prepared.resample is not None
    assert part.value == pytest.approx(prepared.statistic(np.ones(alone.rows)))
    weights = np.concatenate(list(user_weights(150, 200, 5)))[:, :75]
    np.testing.assert_allclose(part.draws, prepared.resample(weights))


def test_of_lists_each_group_has_its_own_positives() -> None:
    # one request a user, two places; users 0-59 should get item 1, the others item 2
    users = np.repeat(np.arange(120), 2)
    item = np.tile([1, 2], 120)
    label = (item == np.where(users < 60, 1, 2)).astype(float)
    score = np.tile([2.0, 1.0], 120)  # item 1 stands first in every list
    lists = Record(label, score, users, users, item, np.zeros(120, dtype=int))
    own = np.where(label > 0, item - 1, -1)
    grouping = Grouping("item_popularity", ("10", "1"), own, positives=True)
    found = groups_of(lists, grouping, metric="ndcg@10")["item_popularity"]
    assert found["10"].value == 1.0
    assert found["1"].value == pytest.approx(1 / np.log2(3))
    assert (found["10"].users, found["1"].users) == (60, 60)


@settings(max_examples=15)
@given(st.permutations(range(150)))
def test_renaming_users_changes_no_value(names: list[int]) -> None:
    whole = noisy(2)
    town = Grouping("town", ("a", "b"), (whole.user % 2).astype(int))
    one = groups_of(whole, town, metric="auc", resamples=2)["town"]
    renamed = replace(whole, user=np.array(names)[whole.user])
    other = groups_of(renamed, town, metric="auc", resamples=2)["town"]
    assert {value: part.value for value, part in one.items()} == {
        value: part.value for value, part in other.items()
    }
