"""Points and their inputs: which there are, whose rows, in what order, and the file they use."""

from pathlib import Path

import numpy as np
import pytest
from made_events import made_data

from harness.errors import DataError
from harness.profile import Load, Spread
from harness.suites.points import (
    Point,
    closed_points,
    draw_rows,
    read_feeds,
    request_point,
    write_feeds,
)
from harness.tables import Prepared, Split, TensorSpec

POINT = Point("sweep", 8, 1, 1)
SPREAD = Spread(low=4, high=12, mean=6.5)


def test_closed_points_of_a_load() -> None:
    points = closed_points(Load(batches=(1, 64), candidates=256, offline_batch=512), threads=2)
    assert points == (
        Point("sweep", 1, 1, 2),
        Point("sweep", 1, 1, 2, "device_only"),
        Point("sweep", 64, 1, 2),
        Point("sweep", 64, 1, 2, "device_only"),
        Point("single", 1, 256, 2),
        Point("single", 1, 256, 2, "end_to_end"),
        Point("single", 1, 256, 2, "device_only"),
        Point("offline", 512, 1, 2, "end_to_end"),
    )
    assert [point.rows for point in points] == [1, 1, 64, 64, 256, 256, 256, 512]
    assert closed_points(Load(scenarios=("cold", "server")), threads=2) == ()


def test_a_request_of_drawn_candidates_goes_by_their_mean() -> None:
    point = request_point(Load(candidates=SPREAD), threads=1)
    assert (point.candidates, point.spread) == (6, SPREAD)  # 6.5 rounds to even
    assert request_point(Load(candidates=9), threads=1).spread is None


def test_drawn_candidates_are_seeded_and_keep_to_their_bounds(tiny: Prepared) -> None:
    point = request_point(Load(candidates=Spread(low=4, high=12, mean=6)), threads=1)
    batches = draw_rows(tiny.splits["test"], point, seed=1)
    counts = [batch.shape[1] for batch in batches]
    assert len(batches) == point.batches == 1024
    assert 4 <= min(counts) < 5
    assert 9 < max(counts) <= 12
    assert np.mean(counts) == pytest.approx(6, abs=0.2)  # 1024 of them, deviation about 1.3
    again = draw_rows(tiny.splits["test"], point, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize(
    ("rows", "batches"),
    [(1, 1024), (256, 256), (1024, 64), (65536, 64), (1 << 17, 32), (1 << 20, 4)],
)
def test_there_are_64_batches_until_their_rows_would_be_many(rows: int, batches: int) -> None:
    assert Point("sweep", rows, 1, 1).batches == batches


def test_a_sweep_uses_every_row_before_one_comes_again(tiny: Prepared) -> None:
    split = tiny.splits["test"]
    rows = np.stack(draw_rows(split, POINT, seed=1))
    assert rows.shape == (POINT.batches, 8, 1)
    first = rows.ravel()[: split.rows]
    assert sorted(first) == list(range(split.rows))
    assert not np.array_equal(first, np.arange(split.rows))
    np.testing.assert_array_equal(rows, np.stack(draw_rows(split, POINT, seed=1)))
    assert not np.array_equal(rows, np.stack(draw_rows(split, POINT, seed=2)))


def test_a_request_has_its_own_rows_first_and_is_filled_up(tiny: Prepared) -> None:
    split = tiny.splits["test"]
    rows = np.stack(draw_rows(split, Point("single", 1, 16, 1), seed=1))
    for line in rows[:, 0]:
        request = split.request_of_row[line[0]]
        own = np.arange(split.offsets[request], split.offsets[request + 1])
        np.testing.assert_array_equal(line[: len(own)], own)
    assert set(split.request_of_row[rows[:, 0, 0]]) == set(range(split.requests))


def test_a_request_longer_than_a_point_is_cut(tiny: Prepared) -> None:
    split = tiny.splits["test"]
    rows = np.stack(draw_rows(split, Point("single", 1, 2, 1), seed=1))
    assert rows.shape[2] == 2


def test_a_split_without_rows_is_refused(tiny: Prepared) -> None:
    empty = Split("test", {}, np.zeros(0), np.zeros(1, dtype=np.int64), np.zeros(0))
    with pytest.raises(DataError, match="split 'test' has no rows to time a model on"):
        draw_rows(empty, POINT, seed=1)


def test_flat_models_get_flat_inputs(tiny: Prepared, tmp_path: Path) -> None:
    split = tiny.splits["test"]
    rows = draw_rows(split, POINT, seed=1)
    specs = (
        TensorSpec("user", "int64", ("rows",), ("household",)),
        TensorSpec("dense", "float32", ("rows", 2), ("spend", "price")),
    )
    batches = read_feeds(write_feeds(tmp_path / "f.npz", tiny.schema, split, rows, specs))
    assert len(batches) == POINT.batches
    assert batches[2]["user"].shape == (8,)
    assert batches[2]["dense"].shape == (8, 2)
    np.testing.assert_array_equal(batches[2]["user"], split.user_of_row[rows[2].ravel()])


def test_batches_of_different_sizes_come_back_as_they_were(tiny: Prepared, tmp_path: Path) -> None:
    split = tiny.splits["test"]
    rows = draw_rows(split, Point("single", 1, 6, 1, spread=SPREAD), seed=1)
    specs = (
        TensorSpec("user", "int64", ("requests", 1), ("household",)),
        TensorSpec("candidates", "int64", ("requests", "candidates", 2), ("product", "brand")),
    )
    batches = read_feeds(write_feeds(tmp_path / "f.npz", tiny.schema, split, rows, specs))
    assert [b["candidates"].shape for b in batches] == [(1, r.shape[1], 2) for r in rows]
    np.testing.assert_array_equal(batches[3]["candidates"], split.arrays["candidates"][rows[3]])


def test_a_damaged_file_of_inputs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    full = np.zeros(6)
    np.savez(path, a=full, **{"a/shape": np.array([[3], [3]])}, b=full)
    with pytest.raises(DataError, match="not a file of batches"):
        read_feeds(path)  # b has no shapes
    np.savez(path, a=full, **{"a/shape": np.array([[3], [4]])})
    with pytest.raises(DataError, match="don't fill shapes"):
        read_feeds(path)
    shapes = {"a/shape": np.array([[3], [3]]), "b/shape": np.array([[6]])}
    np.savez(path, a=full, b=full, **shapes)
    with pytest.raises(DataError, match=r"inputs have \[1, 2\] batches, expected one number"):
        read_feeds(path)
    np.savez(path, a=np.array([{"x": 1}], dtype=object), **{"a/shape": np.array([[1]])})
    with pytest.raises(DataError, match="not a file of batches"):
        read_feeds(path)  # unread: an object is a pickle
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="not a file of batches"):
        read_feeds(path)


def test_a_request_for_a_list_is_its_first_row(tiny_sequences: Prepared) -> None:
    split = made_data([[1], [2], [3]], [[4, 5], [6], [7, 8, 9]], items=9).splits["test"]
    batches = draw_rows(split, Point("sweep", 2, 1, 1), seed=1)
    assert {batch.shape for batch in batches} == {(2, 1)}
    drawn = np.concatenate(batches).ravel()
    assert sorted(drawn[:3]) == [0, 2, 3]
    assert set(drawn.tolist()) == {0, 2, 3}
    schema, many = tiny_sequences.schema, tiny_sequences.splits["test"]
    once = np.concatenate(draw_rows(many, Point("sweep", 3, 1, 1), seed=1)).ravel()[:300]
    np.testing.assert_array_equal(np.sort(once), many.offsets[:-1])
    assert schema.task == "next_item"


def test_a_list_has_no_candidates_to_be_asked_for() -> None:
    split = made_data([[1]], [[2]], items=9).splits["test"]
    with pytest.raises(DataError, match=r"no candidates, 16 were asked for: time it with cand"):
        draw_rows(split, Point("single", 1, 16, 1), seed=1)
