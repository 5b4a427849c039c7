"""How far a variant's scores and orders are from its baseline's, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from harness.metrics.base import Record
from harness.suites.agreement import AGREEMENT, agreement_rows

COMMON = {"recipe": "r", "baseline": "b"}


def made(scores: list[list[float]]) -> Record:
    """One user and one request a list."""
    lengths = [len(one) for one in scores]
    request = np.repeat(np.arange(len(scores)), lengths)
    score = np.concatenate(scores)
    label = np.zeros(len(score))
    return Record(label, score, request, request, np.arange(len(score)))


def found(variant: Record, baseline: Record) -> dict[str, tuple[float | None, int | None]]:
    rows = agreement_rows(COMMON, variant, baseline)
    assert {row.scenario for row in rows} == {"agreement"}
    assert [row.metric for row in rows] == list(AGREEMENT)
    return {row.metric: (row.value, row.n) for row in rows}


def test_the_same_scores_agree() -> None:
    random = np.random.default_rng(0)
    record = made([list(random.random(12)), [0.1, 0.2], [0.7]])
    assert found(record, record) == {
        "score_rmse": (0.0, 15),
        "worst_users_score_difference": (0.0, 1),
        "top10_overlap": (1.0, 1),
        "top1_changed": (0.0, 2),
        "rank_biased_overlap": (pytest.approx(1.0), 2),
        "kendall_tau": (pytest.approx(1.0), 2),
        "distinct_scores": (15.0, 15),
        "tie_rate": (0.0, 1),
    }


def test_values_by_hand() -> None:
    down = list(np.linspace(0.9, 0.1, 12))
    # the last two enter the first ten; requests 1 and 2: swapped, and 1 of 3 pairs swapped
    baseline = made([down, [0.2, 0.4], [0.3, 0.2, 0.1]])
    variant = made([[*down[:8], 0.01, 0.02, *down[8:10]], [0.4, 0.2], [0.3, 0.1, 0.2]])
    values = found(variant, baseline)
    assert values["top10_overlap"] == (pytest.approx(0.8), 1)
    assert values["top1_changed"] == (pytest.approx(1 / 3), 3)
    gap = variant.score - baseline.score
    assert values["score_rmse"] == (pytest.approx(np.sqrt((gap**2).mean())), 17)
    assert values["worst_users_score_difference"] == (pytest.approx(0.2), 1)
    # request 0: 12 * 11 / 2 = 66 pairs; places 8, 9 against 10, 11 and 8 against 9 are swapped: 5
    expected = ((66 - 2 * 5) / 66 - 1 + 1 / 3) / 3
    assert values["kendall_tau"] == (pytest.approx(expected), 3)


def test_rank_biased_overlap_by_hand() -> None:
    # swapped places 1 and 2 of three: no common item at depth 1; weights .1, .09, .081 of .271
    baseline, variant = made([[0.9, 0.8, 0.1]]), made([[0.8, 0.9, 0.1]])
    expected = (0.09 + 0.081) / 0.271
    assert found(variant, baseline)["rank_biased_overlap"] == (pytest.approx(expected), 1)
    random = np.random.default_rng(0)
    long = made([list(random.random(300)) for _ in range(2)])
    assert found(long, long)["rank_biased_overlap"] == (pytest.approx(1.0), 2)
    # the same first 100 of 101 places, then nothing that is looked at
    down = list(np.linspace(1, 0.1, 102))
    end = found(made([[*down[:100], 0.01, 0.02]]), made([[*down[:100], 0.02, 0.01]]))
    assert end["rank_biased_overlap"] == (pytest.approx(1.0), 1)


def test_ties_at_the_cut_and_distinct_scores() -> None:
    flat = [0.9] * 9 + [0.5] * 3
    clear = list(np.linspace(0.9, 0.1, 12))
    values = found(made([flat, clear]), made([clear, clear]))
    assert values["tie_rate"] == (0.5, 2)
    assert values["distinct_scores"] == (float(len({*flat, *clear})), 24)


def test_equal_scores_are_ordered_by_item() -> None:
    baseline = made([[0.2, 0.2, 0.1]])
    assert found(replace(baseline, item=np.array([2, 1, 0])), baseline)["top1_changed"][0] == 1.0


def test_kendall_is_taken_of_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.suites.agreement.KENDALL_REQUESTS", 5)
    random = np.random.default_rng(0)
    record = made([list(random.random(3)) for _ in range(20)])
    assert found(record, record)["kendall_tau"] == (pytest.approx(1.0), 5)


def test_no_long_request_is_a_reason() -> None:
    record = made([[0.1], [0.2]])
    rows = {row.metric: row for row in agreement_rows(COMMON, record, record)}
    short = ("top10_overlap", "top1_changed", "rank_biased_overlap", "kendall_tau", "tie_rate")
    for name in short:
        assert (rows[name].value, rows[name].n) == (None, 0)
        assert rows[name].reason == "no request is long enough"


def test_scores_that_are_not_finite_are_a_reason() -> None:
    record = made([[0.1, 0.2]])
    broken = replace(record, score=np.array([np.nan, 0.2]))
    rows = agreement_rows(COMMON, broken, record)
    assert {row.value for row in rows} == {None}
    assert {row.reason for row in rows} == {"1 of 2 scores aren't finite numbers"}
