from dataclasses import replace

import numpy as np
import pytest

from harness.errors import DataError
from harness.schema import FeatureSchema, Field
from harness.tables import (
    Split,
    TensorSpec,
    feeds,
    read_prepared,
    request_batches,
    write_prepared,
)

SCHEMA = FeatureSchema(
    (
        Field("u", "categorical", "user", 9),
        Field("i", "categorical", "item", 99),
        Field("brand", "categorical", "item", 9),
        Field("age", "numeric", "user"),
        Field("price", "numeric", "item"),
    ),
    "y",
    "u",
    "i",
)
# Three requests of 2, 1 and 2 rows.
SPLIT = Split(
    "test",
    {
        "user": np.array([[7], [8], [5]], dtype=np.int32),
        "candidates": np.array([[10, 1], [11, 2], [12, 3], [13, 4], [14, 5]], dtype=np.int32),
        "user_values": np.array([[0.1], [0.2], [0.3]], dtype=np.float32),
        "candidate_values": np.array([[1], [2], [3], [4], [5]], dtype=np.float32),
    },
    np.array([0, 1, 0, 0, 1], dtype=np.float32),
    np.array([0, 2, 3, 5]),
    np.array([100, 101, 102, 103, 104]),
)


def test_rows_know_their_request_and_user():
    assert (SPLIT.rows, SPLIT.requests) == (5, 3)
    np.testing.assert_array_equal(SPLIT.request_of_row, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(SPLIT.user_of_row, [7, 7, 8, 5, 5])


def test_feeds_of_requests_take_user_side_once():
    inputs = (
        TensorSpec("user", "int64", ("requests", 1), ("u",)),
        TensorSpec("candidates", "int64", ("requests", "candidates", 2), ("i", "brand")),
        TensorSpec("user_values", "float32", ("requests", 1), ("age",)),
        TensorSpec("candidate_values", "float32", ("requests", "candidates", 1), ("price",)),
    )
    made = feeds(SCHEMA, SPLIT, np.array([[0, 1], [3, 4]]), inputs)
    np.testing.assert_array_equal(made["user"], [[7], [5]])
    np.testing.assert_array_equal(made["candidates"], [[[10, 1], [11, 2]], [[13, 4], [14, 5]]])
    np.testing.assert_allclose(made["user_values"], [[0.1], [0.3]])
    np.testing.assert_array_equal(made["candidate_values"], [[[1], [2]], [[4], [5]]])
    assert {name: str(array.dtype) for name, array in made.items()} == {
        "user": "int64",
        "candidates": "int64",
        "user_values": "float32",
        "candidate_values": "float32",
    }


def test_feeds_of_flat_models_are_columns():
    inputs = (
        TensorSpec("user", "int64", ("rows",), ("u",)),
        TensorSpec("brand", "int64", ("rows",), ("brand",)),
        TensorSpec("dense", "float32", ("rows", 2), ("age", "price")),
    )
    made = feeds(SCHEMA, SPLIT, np.array([[0, 1], [3, 4]]), inputs)
    np.testing.assert_array_equal(made["user"], [7, 7, 5, 5])
    np.testing.assert_array_equal(made["brand"], [1, 2, 4, 5])
    np.testing.assert_allclose(made["dense"], [[0.1, 1], [0.1, 2], [0.3, 4], [0.3, 5]])


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(KeyError, match="colour"):
        feeds(SCHEMA, SPLIT, np.array([[0]]), (TensorSpec("c", "int64", ("rows",), ("colour",)),))


@pytest.mark.parametrize("max_rows", [1, 8, 30, 100_000])
def test_request_batches_hold_every_row_once_and_whole_requests(tiny, max_rows):
    split = tiny.splits["train"]
    batches = list(request_batches(split, max_rows=max_rows))
    rows = np.concatenate([batch.ravel() for batch in batches])
    np.testing.assert_array_equal(np.sort(rows), np.arange(split.rows))
    for batch in batches:
        assert batch.size <= max_rows or len(batch) == 1
        requests = split.request_of_row[batch]
        assert (requests == requests[:, :1]).all()
        np.testing.assert_array_equal(batch[:, 0], split.offsets[requests[:, 0]])
        np.testing.assert_array_equal(batch[:, -1] + 1, split.offsets[requests[:, 0] + 1])


def test_empty_requests_give_no_batch():
    split = replace(SPLIT, offsets=np.array([0, 0, 2, 5, 5]))
    assert [batch.tolist() for batch in request_batches(split, max_rows=10)] == [
        [[0, 1]],
        [[2, 3, 4]],
    ]


def test_written_and_read_are_equal_and_memory_mapped(tiny, tmp_path):
    write_prepared(tmp_path, tiny)
    read = read_prepared(tmp_path)
    assert read.schema == tiny.schema
    assert read.vocabularies == tiny.vocabularies
    assert (read.hash, read.split_rule) == (tiny.hash, tiny.split_rule)
    assert (read.counts, read.facts) == (tiny.counts, tiny.facts)
    for name, split in tiny.splits.items():
        again = read.splits[name]
        assert again.name == name
        assert set(again.arrays) == set(split.arrays)
        for group, array in split.arrays.items():
            np.testing.assert_array_equal(again.arrays[group], array)
            assert again.arrays[group].dtype == array.dtype
            assert isinstance(again.arrays[group], np.memmap)
        np.testing.assert_array_equal(again.label, split.label)
        np.testing.assert_array_equal(again.offsets, split.offsets)
        np.testing.assert_array_equal(again.row_id, split.row_id)


def test_an_array_of_objects_is_refused_and_never_unpickled(tiny, tmp_path):
    mark = tmp_path / "MARK.txt"

    class Mark:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    write_prepared(tmp_path, tiny)
    evil = np.array([Mark()], dtype=object)
    np.save(tmp_path / "train" / "label.npy", evil, allow_pickle=True)
    with pytest.raises(DataError, match=r"label\.npy: not a plain array"):
        read_prepared(tmp_path)
    assert not mark.exists()
