"""What must hold for any scored rows."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import registry
from harness.metrics.base import Record

ALL = registry.names("metrics")
SHARES = ("auc", "gauc", "ece", "ndcg@10", "recall@10", "precision@10")
# bins of equal mass are cut from the rows as they are, so repeating rows may move them
REPEATABLE = tuple(name for name in ALL if name != "ece")


@st.composite
def records(draw: st.DrawFn) -> Record:
    rows = draw(st.integers(2, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    grid = draw(st.sampled_from([4, 20, 1000]))
    random = np.random.default_rng(seed)
    request = np.unique(np.sort(random.integers(0, 6, rows)), return_inverse=True)[1]
    user = np.unique(request // 2, return_inverse=True)[1]
    label = (random.random(rows) < draw(st.sampled_from([0.1, 0.5, 0.9]))).astype(np.float32)
    score = random.integers(1, grid, rows) / grid
    return Record(label, score, user, request, random.integers(0, 15, rows))


def value(name: str, record: Record, weights: np.ndarray | None = None) -> float | None:
    ones = np.ones(record.rows)
    found: float | None = registry.resolve("metrics", name)(record).statistic(
        ones if weights is None else weights
    )
    return found


def same(one: float | None, other: float | None) -> bool:
    return one == pytest.approx(other, abs=1e-9) if one is not None else other is None


def taken(record: Record, rows: np.ndarray) -> Record:
    request = np.unique(record.request[rows], return_inverse=True)[1]
    user = np.unique(record.user[rows], return_inverse=True)[1]
    return Record(record.label[rows], record.score[rows], user, request, record.item[rows])


@settings(max_examples=60, deadline=None)
@given(records())
def test_auc_depends_on_order_only(record: Record) -> None:
    bent = replace(record, score=record.score**3 / 2)
    flipped = replace(record, score=1 - record.score)
    for name in ("auc", "gauc"):
        straight, upside_down = value(name, record), value(name, flipped)
        assert same(straight, value(name, bent))
        if straight is not None and upside_down is not None:
            assert straight + upside_down == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(records(), st.integers(0, 1000))
def test_order_of_rows_does_not_matter(record: Record, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(record.rows)
    shuffled = shuffled[np.argsort(record.request[shuffled], kind="stable")]
    other = taken(record, shuffled)
    for name in ALL:
        assert same(value(name, record), value(name, other)), name


@settings(max_examples=60, deadline=None)
@given(records())
def test_shares_lie_between_zero_and_one(record: Record) -> None:
    for name in SHARES:
        found = value(name, record)
        assert found is None or 0 <= found <= 1, name


@settings(max_examples=60, deadline=None)
@given(records(), st.integers(0, 1000))
def test_a_weight_of_two_is_the_user_twice(record: Record, seed: int) -> None:
    times = np.random.default_rng(seed).integers(0, 3, record.users)
    parts, requests, users = [], [], []
    for user, count in enumerate(times):
        for copy in range(count):
            rows = np.flatnonzero(record.user == user)
            parts.append(rows)
            requests.append(record.request[rows] * 3 + copy)
            users.append(np.full(len(rows), user * 3 + copy))
    if not parts:
        return
    rows, request = np.concatenate(parts), np.concatenate(requests)
    user = np.concatenate(users)
    order = np.argsort(request, kind="stable")
    repeated = Record(
        record.label[rows][order],
        record.score[rows][order],
        np.unique(user[order], return_inverse=True)[1],
        np.unique(request[order], return_inverse=True)[1],
        record.item[rows][order],
    )
    for name in REPEATABLE:
        weighted = value(name, record, times[record.user].astype(float))
        assert same(weighted, value(name, repeated)), name
