"""Planted leaks are refused with their count; ties at a boundary are none."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.datasets.base import Column, Tables
from harness.datasets.leakage import check_pasts
from harness.datasets.prepare import prepare
from harness.datasets.split import by_time, leave_last
from harness.errors import DataError
from harness.histories import Histories
from harness.tables import SPLITS, Prepared

COLUMNS = (Column("user", "categorical", "user"), Column("item", "categorical", "item"))
PARTS = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2


def tables(time: list[int], *, task: str = "click", **changes: object) -> Tables:
    """Users a and b in turn: two train rows, one of validation and one of test each."""
    user = ["a", "b"] * 4
    frame = pl.DataFrame(
        {
            "user": user,
            "item": [f"i{row // 2}" for row in range(8)],
            "label": [1] * 8,
            "request": [0, 1] * 4 if task == "next_item" else list(range(8)),
            "split": PARTS,
            "when": time,
        }
    )
    values: dict[str, object] = {"frame": frame, "time": "when", "task": task, **changes}
    if task == "next_item":
        values["length"] = 3
    fixed = {"columns": COLUMNS, "label": "label", "user": "user", "item": "item", "read": 8}
    return Tables(split_rule="by hand", **fixed, **values)  # type: ignore[arg-type]


def fact(made: Tables) -> str:
    return prepare(made).facts["leakage check"]


def test_rows_in_order_pass() -> None:
    made = tables([1, 2, 3, 4, 5, 6, 7, 8], protocol="time")
    assert fact(made) == "passed: no row is later than one of a later part"


def test_a_train_row_of_the_future_is_refused() -> None:
    made = tables([1, 2, 99, 4, 5, 6, 7, 8], protocol="time")
    message = (
        r"leak: 1 train rows are later than the first validation row \(when 5\), but the split is "
        r"'by hand'; split by that time"
    )
    with pytest.raises(DataError, match=message):
        prepare(made)


def test_a_validation_row_later_than_a_test_row_is_refused() -> None:
    made = tables([1, 2, 3, 4, 8, 9, 7, 10], protocol="time")
    with pytest.raises(DataError, match=r"leak: 2 validation rows are later than the first test"):
        prepare(made)


def test_a_tie_at_the_boundary_is_no_leak() -> None:
    assert fact(tables([1, 2, 3, 5, 5, 6, 6, 7], protocol="time")).startswith("passed")
    assert fact(tables([1, 1, 5, 5, 5, 5, 5, 9], protocol="leave_last")) == (
        "passed: no row of a user is later than one of theirs in a later part; 1 test rows share "
        "their time with an earlier part's row, put in order as stated"
    )


def test_leave_last_holds_for_each_user_alone() -> None:
    times = [1, 101, 2, 102, 3, 103, 4, 104]  # b's training is later than a's test
    assert fact(tables(times, protocol="leave_last")).startswith("passed")
    with pytest.raises(DataError, match="leak: 1 train rows are later than the first validation"):
        prepare(tables([1, 101, 2, 3, 3, 103, 4, 104], protocol="time"))
    with pytest.raises(DataError, match="leak: 1 train rows are later than a test row of the same"):
        prepare(tables([1, 101, 2, 105, 3, 106, 4, 104], protocol="leave_last"))


def test_times_that_nothing_is_promised_of_are_counted() -> None:
    assert fact(tables([1, 9, 3, 8, 5, 6, 7, 8])) == (
        "not applicable: the split promises nothing about time; 2 of 4 training rows are later "
        "than the first test row"
    )
    timeless = replace(tables([0] * 8), time=None)
    assert fact(timeless) == "not done: times were not compared, the dataset has none"


def test_a_row_without_a_time_is_refused() -> None:
    made = tables([1, 2, 3, 4, 5, 6, 7, 8], protocol="time")
    blank = made.frame.with_columns(pl.when(pl.col("when") > 3).then("when").alias("when"))
    with pytest.raises(DataError, match="the time column 'when' has rows without a time"):
        prepare(replace(made, frame=blank))


class TestPasts:
    ORDER = (1, 2, 3, 4, 5, 6, 7, 8)

    def test_what_is_checked_is_said(self) -> None:
        found = fact(tables(list(self.ORDER), task="next_item", protocol="time"))
        assert found == (
            "passed: every past ends before its row and is of earlier parts; no row is later than "
            "one of a later part"
        )

    def test_training_events_out_of_order_are_refused(self) -> None:
        made = tables([3, 2, 1, 4, 5, 6, 7, 8], task="next_item", protocol="time")
        with pytest.raises(DataError, match=r"leak: 1 train rows are earlier than the event befor"):
            prepare(made)

    def test_parts_of_its_own_are_compared_too(self) -> None:
        made = tables([1, 2, 9, 4, 5, 6, 7, 8], task="next_item")
        with pytest.raises(DataError, match="train rows are later than a validation row of the"):
            prepare(made)

    @pytest.mark.parametrize("name", SPLITS)
    @pytest.mark.parametrize("by", [1, -1])
    def test_a_past_that_is_longer_or_shorter_is_refused(self, name: str, by: int) -> None:
        made = tables(list(self.ORDER), task="next_item", protocol="time")
        prepared = prepare(made)
        check_pasts(made, parts(made), prepared.splits)
        split = prepared.splits[name]
        assert split.histories is not None
        end = split.histories.end.copy()
        end[-1] += by
        leaky = replace(
            split, histories=Histories(split.histories.events, split.histories.start, end)
        )
        with pytest.raises(DataError, match=f"leak: the past of .*{name} row"):
            check_pasts(made, parts(made), {**prepared.splits, name: leaky})

    def test_the_past_of_another_user_is_refused(self) -> None:
        made = tables(list(self.ORDER), task="next_item", protocol="time")
        prepared = prepare(made)
        split = prepared.splits["train"]
        assert split.histories is not None
        start = np.zeros_like(split.histories.start)  # b's past begins with a's events
        leaky = replace(split, histories=replace(split.histories, start=start))
        with pytest.raises(DataError, match="the past of a train row isn't what stands before it"):
            check_pasts(made, parts(made), {**prepared.splits, "train": leaky})


def parts(made: Tables) -> dict[str, pl.DataFrame]:
    """The rows of each split in the order of the prepared ones."""
    frame = made.frame.sort("request", maintain_order=True)
    return {name: frame.filter(pl.col("split") == name) for name in SPLITS}


EVENTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(-3, 3)), min_size=6
)


@given(EVENTS, st.sampled_from(["time", "leave_last"]))
def test_the_splits_of_this_project_never_leak(
    events: list[tuple[str, str, int]], protocol: str
) -> None:
    frame = pl.DataFrame(events, ["user", "item", "when"], orient="row")
    split = (
        by_time(frame["when"], validation=0.2, test=0.2)
        if protocol == "time"
        else leave_last(frame["user"], frame["when"], validation=1, test=1)
    )
    frame = frame.with_columns(
        split.alias("split"),
        label=pl.lit(1),
        request=pl.col("user").rank("dense").cast(pl.Int64),
    ).sort("when", maintain_order=True)
    if frame["split"].n_unique() < 3:
        return
    made = tables([0] * 8, task="next_item", protocol=protocol)
    prepared: Prepared = prepare(replace(made, frame=frame, read=frame.height))
    assert prepared.facts["leakage check"].startswith("passed: every past")
