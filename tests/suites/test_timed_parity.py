"""Outputs of timed processes against the accuracy pass; differences worked out by hand."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_events import made_data, made_lists, ranking

from harness.results import Row
from harness.suites.lists import list_record
from harness.suites.timed_parity import row_judge, timed_parity_rows
from harness.tasks import TASKS

COMMON = {"recipe": "r", "baseline": "b", "target": "t"}
COMMON |= {"threads": 2, "batch": 4, "candidates": 2, "region": "model_only"}  # type: ignore[dict-item]
LABEL = np.array([1.0, 0.0, 1.0, 0.0])
SCORED = np.array([2.0, 1.0, 0.5, -1.0], dtype=np.float32)
"""AUC 3/4: of the four pairs only (0.5, 1.0) stands the wrong way."""


def rows_of(
    timed: object, *, scored: np.ndarray = SCORED, label: np.ndarray = LABEL
) -> tuple[Row, Row]:
    array = np.asarray(timed, dtype=np.float32)
    judged = row_judge(label, TASKS["click"])
    one, other = timed_parity_rows(COMMON, timed=array, scored=scored, judged=judged)
    return one, other


def test_the_same_logits_differ_by_nothing() -> None:
    largest, area = rows_of(SCORED)
    assert (largest.metric, largest.value, largest.unit, largest.direction) == (
        *("timed_max_abs_difference", 0.0),
        *("logit", "lower"),
    )
    assert (area.metric, area.value, area.unit) == ("timed_auc_difference", 0.0, "share")
    for row in (largest, area):
        assert (row.scenario, row.region, row.n, row.status) == ("parity", "model_only", 4, "ok")
        assert (row.threads, row.batch, row.candidates, row.target) == (2, 4, 2, "t")
        assert row.reason is None


def test_differences_worked_by_hand() -> None:
    largest, area = rows_of([2.0, 1.0, 1.5, -1.25])  # every pair stands right now: AUC 1
    assert (largest.value, area.value) == (1.0, 0.25)
    largest, area = rows_of([2.0, 1.0, 1.0, -1.0])  # a tie counts half: AUC 3.5/4
    assert (largest.value, area.value) == (0.5, 0.125)
    largest, area = rows_of([0.0, 1.0, 0.5, -1.0])  # AUC 2/4
    assert (largest.value, area.value) == (2.0, -0.25)


def test_one_class_has_a_difference_of_logits_but_none_of_auc() -> None:
    largest, area = rows_of(SCORED + 0.5, label=np.ones(4))
    assert largest.value == 0.5
    assert (area.value, area.status) == (None, "ok")
    assert area.reason == "one class only: all 4 labels are 1"


@pytest.mark.parametrize(
    ("timed", "scored", "reason"),
    [
        ([1.0, 2.0], SCORED, "the timed process gave 2 logits, the accuracy pass 4 logits"),
        (SCORED, SCORED[:3], "the timed process gave 4 logits, the accuracy pass 3 logits"),
        ([1.0, np.nan, np.inf, 0], SCORED, "2 of 4 scores of the timed process aren't finite"),
        (SCORED, SCORED * np.nan, "4 of 4 scores of the accuracy pass aren't finite"),
    ],
)
def test_logits_that_cannot_be_compared_are_failed_rows(
    timed: object, scored: np.ndarray, reason: str
) -> None:
    for row in rows_of(timed, scored=scored):
        assert (row.value, row.status, row.reason, row.unit is None) == (
            *(None, "failed"),
            *(reason, False),
        )


def test_no_rows_are_no_comparison() -> None:
    nothing = np.zeros(0)
    assert {row.reason for row in rows_of(nothing, scored=nothing, label=nothing)} == {
        "there are no rows"
    }


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("a: the worker was killed by SIGKILL during outputs",) * 2,
        (None, "the timed process gave no outputs"),
    ],
)
def test_a_process_without_outputs_fails_with_its_reason(failure: str | None, reason: str) -> None:
    judged = row_judge(LABEL, TASKS["click"])
    rows = timed_parity_rows(COMMON, timed=None, scored=SCORED, judged=judged, failure=failure)
    assert [(row.status, row.value, row.reason) for row in rows] == [("failed", None, reason)] * 2


@given(
    st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40), st.booleans()), min_size=1),
    st.randoms(use_true_random=False),
)
def test_neither_the_order_of_rows_nor_the_side_matters(rows, random) -> None:
    def values(lines: list[tuple[int, int, bool]]) -> list[float | None]:
        timed, scored, label = (np.array(column, dtype=np.float64) for column in zip(*lines))
        judged = row_judge(label, TASKS["click"])
        found = timed_parity_rows(COMMON, timed=timed, scored=scored, judged=judged)
        return [row.value for row in found]

    shuffled = random.sample(rows, len(rows))
    assert values(shuffled) == pytest.approx(values(rows))
    largest, area = values([(scored, timed, label) for timed, scored, label in rows])
    assert largest == values(rows)[0]
    assert area == pytest.approx(None if values(rows)[1] is None else -values(rows)[1])


def test_lists_are_compared_place_by_place_and_by_their_own_metric() -> None:
    data = made_data([[20], [21]], [[1], [2]], items=30)
    scored = made_lists(ranking(1, *range(3, 13)), ranking(*range(3, 14)))
    timed = made_lists(ranking(1, *range(3, 13)), ranking(2, *range(4, 14)))
    timed["score"][0, 3] -= 0.25
    judged = partial(list_record, data, data.splits["test"], requests=np.arange(2))
    task = TASKS["next_item"]
    largest, gain = timed_parity_rows(COMMON, timed=timed, scored=scored, judged=judged, task=task)
    assert (largest.metric, largest.value, largest.unit) == (
        *("timed_max_abs_difference", 0.25, "score"),
    )
    assert (gain.metric, gain.value, gain.unit) == ("timed_ndcg@10_difference", 0.5, "share")
    assert largest.n == gain.n == 2
    (row, _) = timed_parity_rows(COMMON, timed=timed[:1], scored=scored, judged=judged, task=task)
    assert row.reason == "the timed process gave 1 lists of 11, the accuracy pass 2 lists of 11"
