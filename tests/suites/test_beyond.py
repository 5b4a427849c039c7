"""What lists are made of, by hand; and laws of the values whatever the lists."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.base import RANKED
from harness.metrics.base import Record
from harness.results import Row
from harness.schema import FeatureSchema, Field
from harness.suites.accuracy import record
from harness.suites.beyond import (
    BEYOND,
    Items,
    Lists,
    beyond_rows,
    gini,
    items_of,
    lists_of,
    measure,
    record_lists,
    served_lists,
)
from harness.tables import Prepared, Split

COMMON = {"recipe": "r", "baseline": "b", "target": "t", "seed": 3}


def made(*items: list[int], user: list[int] | None = None) -> Lists:
    ten = np.zeros((len(items), 10), dtype=np.int64)
    for line, own in zip(ten, items, strict=True):
        line[: len(own)] = own
    return Lists(ten, np.array(user if user else range(len(items))))


# items 1..4 with shares 1/2, 1/4, 1/8, 1/8; attributes colour and shape
KNOWN = Items(
    np.array([0, 0.5, 0.25, 0.125, 0.125]),
    np.array([[0, 0], [1, 1], [1, 2], [2, 2], [3, 3]]),
)


def test_values_by_hand() -> None:
    values = measure(made([1, 2], [1, 2, 3]), KNOWN).values
    assert values["coverage@10"] == 3 / 4
    # list 1: one pair, shape differs: 1/2; list 2: (1,2) 1/2, (1,3) 1, (2,3) 1/2: mean 2/3
    assert values["diversity@10"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # places 1, 2, 1, 2, 3 have 1, 2, 1, 2 and 3 bits
    assert values["novelty@10"] == pytest.approx(9 / 5)
    assert values["popularity@10"] == pytest.approx((0.5 + 0.25 + 0.5 + 0.25 + 0.125) / 5)
    # counts 0, 1, 2, 2 with weights -3, -1, 1, 3: (-1 + 2 + 6) / 5 / 3
    assert values["gini@10"] == pytest.approx(7 / 15)


def test_an_item_outside_train_counts_for_coverage_only() -> None:
    shares = KNOWN.share * [1, 1, 1, 1, 0]
    with_it = measure(made([1, 2, 4]), Items(shares, KNOWN.attributes)).values
    without = measure(made([1, 2]), Items(shares, KNOWN.attributes)).values
    assert with_it["coverage@10"] == 3 / 4
    for name in ("diversity@10", "novelty@10", "popularity@10"):
        assert with_it[name] == without[name]


def test_gini_of_the_extremes() -> None:
    assert gini(np.array([4, 4, 4, 4])) == 0
    assert gini(np.array([0, 0, 0, 7])) == 1
    assert gini(np.array([3])) is None
    assert gini(np.array([0, 0])) is None


@given(st.lists(st.integers(0, 50), min_size=2, max_size=30).filter(any))
def test_gini_lies_between_0_and_1_in_any_order(counts: list[int]) -> None:
    found = gini(np.array(counts))
    assert found is not None
    assert -1e-12 <= found <= 1 + 1e-12
    assert found == pytest.approx(gini(np.array(counts[::-1])))
    assert found == pytest.approx(gini(3 * np.array(counts)))


LISTS = st.lists(st.lists(st.integers(0, 4), min_size=10, max_size=10), min_size=1, max_size=6)


@given(LISTS, LISTS)
def test_more_lists_never_cover_less(some: list[list[int]], more: list[list[int]]) -> None:
    few = measure(made(*some), KNOWN).values["coverage@10"]
    many = measure(made(*some, *more), KNOWN).values["coverage@10"]
    assert few is not None
    assert many is not None
    assert 0 <= few <= many <= 1


@given(LISTS, st.randoms(use_true_random=False))
def test_the_order_of_users_changes_no_value(lists: list[list[int]], random: object) -> None:
    user = list(range(len(lists)))
    shuffled = sorted(user, key=lambda _: random.random())  # type: ignore[attr-defined]
    one = measure(made(*lists, user=user), KNOWN).values
    other = measure(made(*(lists[at] for at in shuffled), user=user), KNOWN).values
    renamed = measure(made(*lists, user=shuffled), KNOWN).values
    for name, value in one.items():
        assert other[name] == (None if value is None else pytest.approx(value))
        assert renamed[name] == (None if value is None else pytest.approx(value))


def record_of(scores: list[list[float]], items: list[list[int]], user: list[int]) -> Record:
    lengths = [len(line) for line in scores]
    return Record(
        label=np.ones(sum(lengths)),
        score=np.concatenate([np.array(line, dtype=float) for line in scores]),
        user=np.repeat(user, lengths),
        request=np.repeat(np.arange(len(scores)), lengths),
        item=np.concatenate([np.array(line) for line in items]),
    )


def test_requests_of_more_than_ten_give_lists_with_ties_by_item() -> None:
    eleven = [5.0] + [1.0] * 10
    record = record_of([eleven, [9.0]], [[35, *range(30, 20, -1)], [40]], [7, 8])
    lists = record_lists(record)
    assert lists.items.tolist() == [[35, 21, 22, 23, 24, 25, 26, 27, 28, 29]]
    assert lists.user.tolist() == [0]


def test_an_item_that_comes_twice_counts_once_with_its_better_score() -> None:
    items = [*range(1, 12), 11]
    lists = record_lists(record_of([[float(-i) for i in range(11)] + [5.0]], [items], [0]))
    assert lists.items.tolist() == [[11, *range(1, 10)]]
    ten = record_lists(record_of([[1.0] * 11], [[*range(1, 11), 1]], [0]))
    assert ten.reason == "no request and no user has more than 10 items"


def test_short_requests_are_listed_by_user_and_unknown_items_are_0() -> None:
    scores = [[float(i)] for i in range(12)]
    record = record_of(scores, [[i if i else -5] for i in range(12)], [0] * 12)
    assert record_lists(record).items.tolist() == [[*range(11, 1, -1)]]
    turned = record_of([[-float(i)] for i in range(12)], [[i or -5] for i in range(12)], [0] * 12)
    assert record_lists(turned).items.tolist() == [[*range(10)]]


def test_a_score_that_is_not_finite_stands_last() -> None:
    scores = [np.nan, np.inf, *[float(i) for i in range(10)]]
    lists = record_lists(record_of([scores], [list(range(1, 13))], [0]))
    assert lists.items.tolist() == [[12, 11, 10, 9, 8, 7, 6, 5, 4, 3]]


def test_served_lists_are_padded_and_cut_to_ten() -> None:
    assert served_lists(np.array([[3, 1, 0]]), np.array([9])).items.tolist() == [[3, 1] + [0] * 8]
    assert served_lists(np.arange(1, 21)[None], np.array([9])).items.shape == (1, 10)
    nothing = served_lists(np.zeros((2, 3), dtype=int), np.array([1, 2]))
    assert nothing.reason == "no list holds an item"


def test_the_lists_of_an_answer_are_served_or_ranked(tiny: Prepared) -> None:
    test = tiny.splits["test"]
    logits = np.arange(test.rows, dtype=np.float32)
    found = lists_of(tiny, test, logits, record(tiny, test, logits))
    sizes = np.diff(test.offsets)
    assert len(found.items) < (sizes > 10).sum() + 1  # an item may come twice
    assert len(found.items) > 0
    served = np.zeros((test.requests, 2), dtype=RANKED)
    served["item"][:, 0] = 7
    data = replace(tiny, schema=replace(tiny.schema, task="next_item"))
    user = test.arrays["user"].copy()
    user[:2] = 0  # two unknown users are two
    split = replace(test, arrays={**test.arrays, "user": user})
    lists = lists_of(data, split, served, record(tiny, test, logits))
    assert lists.items[:, 0].tolist() == [7] * test.requests
    assert lists.user.max() + 1 == len(np.unique(user[2:])) + 2


def test_items_come_from_train_and_its_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = (
        Field("user", "categorical", "user", cardinality=3),
        Field("colour", "categorical", "item", cardinality=5),
        Field("item", "categorical", "item", cardinality=4),
    )
    candidates = np.array([[4, 2], [1, 1], [3, 2], [2, 0]], dtype=np.int32)
    arrays = {"user": np.ones((4, 1), dtype=np.int32), "candidates": candidates}
    train = Split("train", arrays, np.ones(4), np.arange(5), np.arange(4))
    schema = FeatureSchema(fields, label="label", user="user", item="item")
    data = Prepared(schema, {}, {"train": train}, {}, "h", "rule", {})
    found = items_of(data)
    assert found.share.tolist() == [0, 0.25, 0.5, 0]
    assert found.attributes[1:3].tolist() == [[1], [4]]
    monkeypatch.setattr("harness.suites.beyond.CHUNK_ROWS", 1)
    assert items_of(data).attributes.tolist() == found.attributes.tolist()


def test_chunks_of_train_change_nothing(tiny: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = items_of(tiny)
    assert whole.share.sum() == pytest.approx(1)
    assert whole.attributes[1:, 0].tolist() == [1 + item % 6 for item in range(1, 31)]
    monkeypatch.setattr("harness.suites.beyond.CHUNK_ROWS", 100)
    parts = items_of(tiny)
    assert whole.share.tolist() == parts.share.tolist()
    assert whole.attributes.tolist() == parts.attributes.tolist()


def many(seed: int, *, ids: int = 40) -> Lists:
    random = np.random.default_rng(seed)
    lists = np.stack([1 + random.permutation(ids)[:10] for _ in range(60)])
    return Lists(lists, np.arange(60) // 2)


def catalogue(*, attributes: int = 2) -> Items:
    share = np.arange(41) / 820
    colours = [np.arange(41) % (3 + at) for at in range(attributes)]
    return Items(share, np.stack(colours, axis=1) if colours else np.zeros((41, 0), dtype=int))


MEANS = ("diversity@10", "novelty@10", "popularity@10")


def figures(row: Row) -> list[float]:
    return [x for x in (row.value, row.ci_low, row.ci_high) if x is not None]


def test_rows_hold_values_differences_and_intervals_of_means() -> None:
    rows = beyond_rows(COMMON, many(1), items=catalogue(), baseline=many(2), seed=3)
    found = {row.metric: row for row in rows}
    assert list(found) == [m for name in BEYOND for m in (name, f"{name}_difference")]
    other = {row.metric: row for row in beyond_rows(COMMON, many(2), items=catalogue(), seed=3)}
    for name, (unit, direction) in BEYOND.items():
        value = found[name]
        assert (value.unit, value.direction, value.n) == (unit, direction, 30)
        one, two, change = (figures(r) for r in (value, other[name], found[f"{name}_difference"]))
        assert change[0] == pytest.approx(one[0] - two[0], abs=1e-12)
        assert len(one) == len(change) == (3 if name in MEANS else 1)
        if name in MEANS:
            assert one[1] < one[0] < one[2]
            # paired: narrower than what two independent intervals leave open
            assert one[1] - two[2] < change[1] < change[2] < one[2] - two[1]


def test_the_same_lists_differ_by_nothing() -> None:
    rows = beyond_rows(COMMON, many(1), items=catalogue(), baseline=many(1), seed=3)
    changes = [row for row in rows if row.metric.endswith("_difference")]
    assert len(changes) == 5
    assert {(row.value, row.ci_low or 0, row.ci_high or 0) for row in changes} == {(0, 0, 0)}


def test_missing_values_carry_their_reason() -> None:
    plain = beyond_rows(COMMON, many(1), items=catalogue(attributes=0), seed=3)
    assert {row.metric for row in plain if row.value is None} == {"diversity@10"}
    assert "no attribute but their id" in next(r.reason or "" for r in plain if r.value is None)
    none = Lists(np.zeros((0, 10), dtype=int), np.zeros(0, dtype=int), "nobody has ten")
    refused = beyond_rows(COMMON, none, items=catalogue(), baseline=none, seed=3)
    assert len(refused) == 10
    assert {(row.value, row.reason) for row in refused} == {(None, "nobody has ten")}


def test_chunks_of_lists_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(many(1), catalogue()).values
    monkeypatch.setattr("harness.suites.beyond.CHUNK_LISTS", 7)
    assert measure(many(1), catalogue()).values == whole
