"""How far a variant's lists are from its baseline's, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_events import made_lists, ranking

from harness.suites.list_agreement import LIST_AGREEMENT, list_agreement_rows

COMMON = {"recipe": "r", "baseline": "b"}
Values = dict[str, tuple[float | None, int | None]]


def found(variant: np.ndarray, baseline: np.ndarray, user: list[int] | None = None) -> Values:
    users = np.arange(len(variant)) if user is None else np.array(user)
    rows = list_agreement_rows(COMMON, variant, baseline, user=users)
    assert {row.scenario for row in rows} == {"agreement"}
    assert {row.metric: (row.unit, row.direction) for row in rows} == LIST_AGREEMENT
    return {row.metric: (row.value, row.n) for row in rows}


def test_the_same_lists_agree() -> None:
    lists = made_lists(ranking(*range(1, 13)), ranking(*range(5, 17)), ranking(7, 8))
    assert found(lists, lists) == {
        "top10_overlap": (1.0, 3),
        "top1_changed": (0.0, 3),
        "rank_biased_overlap": (pytest.approx(1.0), 3),
        "kendall_tau": (pytest.approx(1.0), 3),
        "score_rmse": (0.0, 26),
        "worst_users_overlap": (1.0, 1),
        "distinct_scores": (12.0, 26),
        "tie_rate": (0.0, 2),
    }


def test_lists_without_a_common_item() -> None:
    values = found(made_lists(ranking(1, 2, 3)), made_lists(ranking(4, 5, 6)))
    assert values["top10_overlap"] == (0.0, 1)
    assert values["top1_changed"] == (1.0, 1)
    assert values["rank_biased_overlap"] == (0.0, 1)
    assert values["kendall_tau"] == values["score_rmse"] == (None, 0)


def test_rank_biased_overlap_by_hand() -> None:
    # common items at depth 1: none, 2: both, 3: both; weights .1, .09, .081 of .271
    variant, baseline = made_lists(ranking(1, 2, 3)), made_lists(ranking(2, 1, 4))
    expected = (0.09 * 2 / 2 + 0.081 * 2 / 3) / 0.271
    assert found(variant, baseline)["rank_biased_overlap"] == (pytest.approx(expected), 1)


def test_a_shorter_list_has_nothing_at_the_greater_depths() -> None:
    # depths 1 and 2 agree; at 3 two of three
    variant, baseline = made_lists(ranking(1, 2)), made_lists(ranking(1, 2, 3))
    expected = (0.1 + 0.09 + 0.081 * 2 / 3) / 0.271
    values = found(variant, baseline)
    assert values["rank_biased_overlap"] == (pytest.approx(expected), 1)
    assert values["top10_overlap"] == (pytest.approx(2 / 3), 1)


def test_only_the_first_ten_places_overlap() -> None:
    variant = made_lists(ranking(*range(1, 9), 11, 12, 9, 10))
    baseline = made_lists(ranking(*range(1, 13)))
    values = found(variant, baseline)
    assert values["top10_overlap"] == (pytest.approx(0.8), 1)
    # of 66 pairs the four of (9, 10) with (11, 12) are the other way round
    assert values["kendall_tau"] == (pytest.approx((66 - 2 * 4) / 66), 1)


def test_scores_are_compared_where_both_have_the_item() -> None:
    variant = made_lists([(1, 0.9), (2, 0.5), (3, 0.1)])
    baseline = made_lists([(2, 0.9), (1, 0.6), (4, 0.5)])
    values = found(variant, baseline)
    assert values["score_rmse"] == (pytest.approx(np.sqrt((0.3**2 + 0.4**2) / 2)), 2)
    assert values["kendall_tau"] == (pytest.approx(-1.0), 1)


def test_the_worst_users_are_users_not_requests() -> None:
    same, other = ranking(1, 2), ranking(3, 4)
    variant = made_lists(*[same] * 3, other, *[same] * 196)
    baseline = made_lists(*[same] * 200)
    # 199 users: request 3 is the second one of user 2; 1 % of the users is one
    values = found(variant, baseline, user=[0, 1, 2, 2, *range(3, 199)])
    assert values["worst_users_overlap"] == (0.5, 1)
    assert values["top10_overlap"] == (pytest.approx(199 / 200), 200)


def test_ties_at_the_cut_and_distinct_scores() -> None:
    tied = [(item, 0.5) for item in range(1, 12)]
    values = found(made_lists(tied, ranking(*range(1, 12))), made_lists(tied, tied))
    assert values["tie_rate"] == (0.5, 2)
    assert values["distinct_scores"] == (12.0, 22)


def test_users_without_anything_to_recommend_are_left_out() -> None:
    nothing = made_lists([(0, -1e4)])
    rows = list_agreement_rows(COMMON, nothing, nothing, user=np.zeros(1, dtype=int))
    assert {(row.value, row.n, row.reason) for row in rows} == {
        (None, 0, "no list is long enough"),
    }
    both = made_lists(ranking(1, 2), [])
    assert found(both, both)["top10_overlap"] == (1.0, 1)


def test_kendall_is_taken_of_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.suites.agreement.KENDALL_REQUESTS", 5)
    lists = made_lists(*[ranking(1, 2, 3)] * 20)
    assert found(lists, lists)["kendall_tau"] == (pytest.approx(1.0), 5)


orders = st.lists(st.permutations(range(1, 9)), min_size=1, max_size=4)


@given(orders, st.integers(1, 8), st.integers(1, 8), st.randoms(use_true_random=False))
def test_overlaps_are_the_same_both_ways(orders, one: int, other: int, random) -> None:
    variant = made_lists(*[ranking(*order[:one]) for order in orders])
    shuffled = [random.sample(order, len(order)) for order in orders]
    baseline = made_lists(*[ranking(*order[:other]) for order in shuffled])
    ways = found(variant, baseline), found(baseline, variant)
    for name in ("top10_overlap", "rank_biased_overlap", "kendall_tau", "top1_changed"):
        values = [way[name] for way in ways]
        assert values[0] == pytest.approx(values[1])
        assert values[0][0] is None or -1 <= values[0][0] <= 1
    expected = [_overlap(a[:one], b[:other]) for a, b in zip(orders, shuffled, strict=True)]
    assert ways[0]["rank_biased_overlap"][0] == pytest.approx(np.mean(expected))


def _overlap(one: list[int], other: list[int]) -> float:
    """Rank-biased overlap depth by depth, as its definition says."""
    depth = max(len(one), len(other))
    weights = [0.1 * 0.9**d for d in range(depth)]
    shares = [len({*one[: d + 1]} & {*other[: d + 1]}) / (d + 1) for d in range(depth)]
    return float(np.dot(weights, shares) / sum(weights))
