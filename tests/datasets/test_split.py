"""Splits: every row in exactly one part, boundaries and ties by hand."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from harness.datasets.split import at_random, by_time, leave_last, ties


def test_leave_last_of_users_with_1_2_3_and_5_rows() -> None:
    user = pl.Series(["a", "b", "b", "c", "c", "c", "d", "d", "d", "d", "d"])
    time = pl.Series([10, 10, 20, 10, 20, 30, 10, 20, 30, 40, 50])
    parts = leave_last(user, time, validation=1, test=1).to_list()
    assert parts == [
        "train",
        *("train", "test"),
        *("train", "validation", "test"),
        *("train", "train", "train", "validation", "test"),
    ]


def test_leave_last_two_keeps_a_training_row_and_prefers_test() -> None:
    user, time = pl.Series(["a"] * 4), pl.Series([4, 3, 2, 1])
    parts = leave_last(user, time, validation=2, test=2).to_list()
    assert parts == ["test", "test", "validation", "train"]


def test_leave_last_breaks_ties_by_file_order() -> None:
    user, time = pl.Series(["a", "a", "a"]), pl.Series([5, 5, 5])
    parts = leave_last(user, time, validation=1, test=1).to_list()
    assert parts == ["train", "validation", "test"]


def test_by_time_cuts_the_latest_rows() -> None:
    time = pl.Series([5, 1, 4, 2, 3, 6, 7, 8, 9, 10])
    parts = by_time(time, validation=0.2, test=0.3)
    assert sorted(time.filter(parts == "test")) == [8, 9, 10]
    assert sorted(time.filter(parts == "validation")) == [6, 7]
    assert sorted(time.filter(parts == "train")) == [1, 2, 3, 4, 5]


def test_by_time_keeps_a_tie_at_the_boundary_together() -> None:
    time = pl.Series([1, 2, 3, 3, 3, 4])
    assert by_time(time, validation=0.0, test=0.34).to_list() == ["train"] * 2 + ["test"] * 4


def test_at_random_is_seeded_and_of_the_right_size() -> None:
    parts = at_random(100, validation=0.1, test=0.2, seed=1)
    assert dict(parts.value_counts().iter_rows()) == {"train": 70, "validation": 10, "test": 20}
    assert parts.equals(at_random(100, validation=0.1, test=0.2, seed=1))
    assert not parts.equals(at_random(100, validation=0.1, test=0.2, seed=2))


def test_ties_count_rows_of_one_user_and_time() -> None:
    report = ties(pl.Series(["a", "a", "b", "a"]), pl.Series([1, 1, 1, 2]))
    assert report == "2 of 4 rows (50.0%) share their time; file order decides"


SHARES = st.floats(0, 0.5)


@given(st.lists(st.integers(-5, 5), min_size=1), SHARES, SHARES)
def test_by_time_is_a_partition_in_time_order(
    times: list[int], validation: float, test: float
) -> None:
    time = pl.Series(times, dtype=pl.Int64)
    parts = by_time(time, validation=validation, test=test)
    assert len(parts) == len(times)
    assert parts.null_count() == 0
    places = sorted(zip(times, parts.to_physical().to_list(), strict=True))
    assert [part for _, part in places] == sorted(part for _, part in places)
    by = dict(places)
    assert all(by[moment] == part for moment, part in places)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=1))
def test_leave_last_never_tests_a_user_without_training(rows: list[tuple[str, int]]) -> None:
    user, time = pl.Series([u for u, _ in rows]), pl.Series([t for _, t in rows])
    parts = leave_last(user, time, validation=1, test=1).to_list()
    for name in set(user):
        mine = [part for who, part in zip(user, parts, strict=True) if who == name]
        assert mine.count("train") == max(1, len(mine) - 2)
        assert mine.count("test") == min(1, len(mine) - 1)
