"""p-values of non-inferiority by hand, planted inferior variants, Holm's adjustment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.base import Record
from harness.results import Row
from harness.suites.accuracy import Evaluation, evaluate
from harness.suites.multiplicity import non_inferiority_rows, p_of, p_row
from harness.tasks import TASKS

COMMON = {"recipe": "r", "baseline": "b", "target": "t", "seed": 3}


def test_p_by_hand() -> None:
    gains = np.array([0.0, -0.09, -0.1, -0.2, 0.3, np.nan])
    assert p_of(gains, margin=0.1) == pytest.approx((1 + 2) / (1 + 5))
    assert p_of(gains, margin=0.5) == pytest.approx(1 / 6)
    assert p_of(np.array([np.nan]), margin=0.1) is None


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_wider_margin_is_never_harder(gains: list[float], one: float, other: float) -> None:
    narrow, wide = (p_of(np.array(gains), margin=m) for m in sorted((one, other)))
    assert narrow is not None
    assert wide is not None
    assert 0 < wide <= narrow <= 1


def ratings(miss: float) -> Evaluation:
    """Errors of about 1, the same noise for every ``miss``: larger by this share."""
    random = np.random.default_rng(1)
    each, error = np.repeat(np.arange(100), 3), random.normal(0, 1, 300)
    found = Record(np.full(300, 3.0), 3 + (1 + miss) * error, each, each, np.arange(300))
    return evaluate(found, metrics=["rmse"], resamples=200, seed=4)


@pytest.mark.parametrize(
    ("miss", "expected"),
    [(0.0, 1 / 201), (-0.5, 1 / 201), (0.0005, 1 / 201), (0.002, 1.0), (0.5, 1.0)],
)
def test_an_error_that_grows_by_more_than_the_margin_is_inferior(
    miss: float, expected: float
) -> None:
    row = p_row(COMMON, ratings(miss), ratings(0), task=TASKS["rating"])
    assert (row.scenario, row.metric) == ("accuracy", "non_inferiority_p")
    assert (row.unit, row.direction, row.n) == ("probability", "none", 100)
    # every resample of proportional errors grows by the same share, of its own size
    assert row.value == pytest.approx(expected, abs=0.02)


def clicks(order: float, *, users: int = 80) -> Evaluation:
    random = np.random.default_rng(2)
    user = np.repeat(np.arange(users), 10)
    label = np.tile([1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0], users)
    score = random.random(10 * users) + order * label
    found = Record(label, score, user, user, np.arange(10 * users))
    return evaluate(found, metrics=["auc"], resamples=200, seed=4)


def test_a_planted_inferior_variant_is_not_shown_and_the_others_are() -> None:
    task = TASKS["click"]
    orders = {"same": 0.5, "better": 0.9, "worse": 0.1, "reference": 0.5}
    rows = [
        p_row({**COMMON, "recipe": name}, clicks(order), clicks(0.5), task=task)
        for name, order in orders.items()
    ]
    found = {row.recipe: row for row in non_inferiority_rows(rows, references={"reference"})}
    assert {name: row.verdict for name, row in found.items()} == {
        "same": "non-inferior", "better": "non-inferior", "worse": "not shown"
    }  # fmt: skip
    assert found["same"].value == found["better"].value == pytest.approx(3 / 201)
    assert found["worse"].value == 1.0
    assert found["same"].reason == "margin 0.1% of the baseline's, Holm over 3 variants"
    assert {row.metric for row in found.values()} == {"non_inferiority"}


def test_undefined_metrics_and_a_single_user_have_a_reason() -> None:
    one = clicks(0.5, users=1)
    assert p_row(COMMON, one, one, task=TASKS["click"]).reason == "too few users for resamples"
    label = np.zeros(4)
    flat = evaluate(Record(label, np.arange(4), *[np.arange(4)] * 3), metrics=["auc"], seed=4)
    row = p_row(COMMON, flat, flat, task=TASKS["click"])
    assert row.reason == "auc is undefined for the variant or the baseline"


def raw(recipe: str, value: float | None, *, metric: str = "non_inferiority_p") -> Row:
    reason = None if value is not None else "no AUC"
    return Row(recipe=recipe, baseline="b", scenario="accuracy", metric=metric, value=value,
               reason=reason)  # fmt: skip


def test_rows_without_a_p_value_keep_their_reason_and_are_not_counted() -> None:
    rows = [raw("a", 0.02), raw("a", 0.9, metric="auc"), raw("b", None), raw("c", 0.03)]
    found = non_inferiority_rows(rows, references=set())
    assert [(row.recipe, row.value) for row in found] == [("a", 0.04), ("b", None), ("c", 0.04)]
    assert [row.verdict for row in found] == ["non-inferior", None, "non-inferior"]
    assert found[1].reason == "no AUC"
    assert non_inferiority_rows(rows, references={"a", "b", "c"}) == []


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_adjusted_is_never_smaller_than_raw(values: list[float]) -> None:
    rows = [raw(f"v{at}", value) for at, value in enumerate(values)]
    for before, after in zip(rows, non_inferiority_rows(rows, references=()), strict=True):
        assert after.value is not None
        assert before.value is not None
        assert before.value <= after.value <= min(1, len(values) * before.value) + 1e-12
