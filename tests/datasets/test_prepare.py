"""Encoding: vocabularies and statistics of training rows only, every row counted, nothing NaN."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.datasets.base import Column, Tables
from harness.datasets.prepare import prepare
from harness.errors import DataError
from harness.tables import read_prepared, write_prepared

COLUMNS = (
    Column("user", "categorical", "user"),
    Column("item", "categorical", "item"),
    Column("price", "numeric", "item"),
)


def rows(**changes: list[object]) -> pl.DataFrame:
    """Eight rows: requests 0 and 1 train, 2 validation, 3 test, two candidates each."""
    columns: dict[str, list[object]] = {
        "user": ["b", "b", "a", "a", "b", "b", "new", "new"],
        "item": ["x", "y", "x", "z", "x", "y", "y", "cold"],
        "price": [1.0, 3.0, 1.0, 3.0, 2.0, 2.0, 5.0, None],
        "label": [1, 0, 0, 1, 1, 0, 0, 1],
        "request": [0, 0, 1, 1, 2, 2, 3, 3],
        "split": ["train"] * 4 + ["validation"] * 2 + ["test"] * 2,
    }
    return pl.DataFrame({**columns, **changes}, strict=False)


def tables(frame: pl.DataFrame, **changes: object) -> Tables:
    values = {"columns": COLUMNS, "read": frame.height, "split_rule": "by hand", **changes}
    return Tables(frame=frame, label="label", user="user", item="item", **values)  # type: ignore[arg-type]


def test_ids_count_training_rows_most_frequent_first_then_by_value() -> None:
    prepared = prepare(tables(rows()))
    assert prepared.vocabularies["user"].values == ("a", "b")  # twice each: by value
    assert prepared.vocabularies["item"].values == ("x", "y", "z")  # twice, once, once
    assert prepared.schema.field("item").cardinality == 4
    test = prepared.splits["test"]
    assert test.arrays["user"].tolist() == [[0]]  # 'new' isn't in training
    assert test.arrays["candidates"].tolist() == [[2], [0]]


def test_numbers_are_scaled_by_training_rows_and_missing_is_the_mean() -> None:
    prepared = prepare(tables(rows()))
    field = prepared.schema.field("price")
    assert (field.mean, field.scale) == (2.0, 1.0)
    assert prepared.splits["train"].arrays["candidate_values"].ravel().tolist() == [-1, 1, -1, 1]
    assert prepared.splits["test"].arrays["candidate_values"].ravel().tolist() == [3.0, 0.0]
    assert prepared.facts["missing in price"] == "1 rows, taken as the training mean"


def test_user_values_are_stored_once_a_request() -> None:
    prepared = prepare(tables(rows()))
    train = prepared.splits["train"]
    assert train.arrays["user"].tolist() == [[2], [1]]
    assert train.offsets.tolist() == [0, 2, 4]
    assert train.user_of_row.tolist() == [2, 2, 1, 1]
    assert {name: array.dtype for name, array in train.arrays.items()} == {
        "user": np.int32,
        "candidates": np.int32,
        "candidate_values": np.float32,
    }


def test_rows_are_put_in_request_order_and_keep_their_number() -> None:
    shuffled = rows()[[7, 0, 4, 2, 6, 1, 3, 5]]
    prepared = prepare(tables(shuffled))
    ids = {name: split.row_id.tolist() for name, split in prepared.splits.items()}
    assert ids == {"train": [1, 5, 3, 6], "validation": [2, 7], "test": [0, 4]}
    assert prepared.splits["train"].label.tolist() == [1.0, 0.0, 0.0, 1.0]


def test_a_constant_number_is_zero_everywhere() -> None:
    prepared = prepare(tables(rows(price=[3.0] * 8)))
    assert prepared.schema.field("price").scale == 0.0
    assert not np.any(prepared.splits["test"].arrays["candidate_values"])
    assert prepared.facts["constant price"] == "one value only, encoded as 0.0"


def test_a_blank_number_column_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="numeric column 'price' has no number"):
        prepare(tables(rows(price=[None] * 8)))


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_not_finite_drop_their_row_with_a_count(bad: float) -> None:
    prices = [1.0, 3.0, bad, 3.0, 2.0, 2.0, 5.0, 1.0]
    prepared = prepare(tables(rows(price=prices)))
    assert prepared.counts == {"read": 8, "kept": 7, "dropped: not finite in price": 1}
    assert all(np.isfinite(s.arrays["candidate_values"]).all() for s in prepared.splits.values())


def test_what_the_dataset_dropped_is_counted_too() -> None:
    prepared = prepare(tables(rows(), read=11, dropped={"too early": 3}))
    assert prepared.counts == {"read": 11, "kept": 8, "dropped: too early": 3}


def test_lost_rows_are_refused() -> None:
    with pytest.raises(DataError, match="9 rows were read, but 8 kept and 0 dropped"):
        prepare(tables(rows(), read=9))


def test_an_empty_split_says_which_and_why() -> None:
    frame = rows().filter(pl.col("split") != "test")
    message = "test split empty: 'by hand' gave train 4, validation 2, test 0 rows"
    with pytest.raises(DataError, match=message):
        prepare(tables(frame))


def test_a_test_split_with_one_class_is_fine() -> None:
    prepared = prepare(tables(rows(label=[1, 0, 0, 1, 1, 0, 1, 1])))
    assert prepared.splits["test"].label.tolist() == [1.0, 1.0]


def test_a_user_column_that_differs_within_a_request_is_refused() -> None:
    frame = rows(user=["b", "a", "a", "a", "b", "b", "new", "new"])
    with pytest.raises(DataError, match="'user' is a user or context feature but differs"):
        prepare(tables(frame))


@pytest.mark.parametrize("label", [2, -1, None])
def test_labels_are_0_or_1(label: int | None) -> None:
    with pytest.raises(DataError, match="'label' must be 0 or 1"):
        prepare(tables(rows(label=[label, 0, 0, 1, 1, 0, 0, 1])))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="no column 'price'"):
        prepare(tables(rows().drop("price")))


def test_cold_users_and_items_are_reported() -> None:
    facts = prepare(tables(rows())).facts
    assert facts["cold users in test"] == "1 of 1 users (100.0%), 2 of 2 rows (100.0%)"
    assert facts["cold items in test"] == "1 of 2 items (50.0%), 1 of 2 rows (50.0%)"
    assert facts["train"] == "4 rows in 2 requests"


def test_the_hash_follows_the_content() -> None:
    same, other = rows(), rows(label=[1, 0, 0, 1, 1, 0, 1, 1])
    assert prepare(tables(same)).hash == prepare(tables(rows())).hash
    assert prepare(tables(same)).hash != prepare(tables(other)).hash


def test_written_and_read_again_it_is_the_same(tmp_path: object) -> None:
    prepared = prepare(tables(rows()))
    write_prepared(tmp_path, prepared)  # type: ignore[arg-type]
    again = read_prepared(tmp_path)  # type: ignore[arg-type]
    assert (again.schema, again.hash, again.counts) == (
        prepared.schema,
        prepared.hash,
        prepared.counts,
    )
    for name, split in prepared.splits.items():
        for group, array in split.arrays.items():
            assert np.array_equal(again.splits[name].arrays[group], array)


WORDS = st.one_of(st.none(), st.sampled_from(["NA", "null", "nan", "é", "a b", "0"]), st.text())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, st.floats(width=32)), min_size=3, max_size=30))
def test_every_row_is_encoded_back_or_counted(values: list[tuple[str | None, float]]) -> None:
    extra = [("x", 1.0)] * 3
    all_rows = [*extra, *values]
    frame = pl.DataFrame(
        {
            "user": ["u"] * len(all_rows),
            "item": [item for item, _ in all_rows],
            "price": [price for _, price in all_rows],
            "label": [0] * len(all_rows),
            "request": list(range(len(all_rows))),
            "split": ["train", "validation", "test", *["train"] * len(values)],
        },
        schema_overrides={"item": pl.String},
    )
    prepared = prepare(tables(frame))
    finite = [i for i, (_, price) in enumerate(all_rows) if np.isfinite(price)]
    back = {}
    for split in prepared.splits.values():
        words = (None, *prepared.vocabularies["item"].values)
        back |= {
            int(row): words[split.arrays["candidates"][at, 0]]
            for at, row in enumerate(split.row_id)
        }
        assert np.isfinite(split.arrays["candidate_values"]).all()
    known = {all_rows[i][0] for i in finite if i not in (1, 2)}
    assert back == {i: w if (w := all_rows[i][0]) in known else None for i in finite}
    assert prepared.counts["read"] == prepared.counts["kept"] + len(all_rows) - len(finite)
