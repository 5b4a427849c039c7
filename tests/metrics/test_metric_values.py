"""Values of every metric worked by hand, and held against scikit-learn."""

import doctest
import importlib
import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from harness import registry
from harness.metrics.base import Prepared, Record
from harness.metrics.ece import equal_mass_bins

ALL = registry.names("metrics")
MODULES = ["ranking", *(registry.entry("metrics", name).source.stem for name in ALL)]


def made(label: list[float], score: list[float], user: list[int] | None = None) -> Record:
    """A record in which each user has one request."""
    users = np.array(user if user is not None else [0] * len(label), dtype=np.int64)
    return Record(np.array(label), np.array(score), users, users, np.arange(len(label)))


def random_record(seed: int, *, rows: int = 400, ties: bool = False) -> Record:
    random = np.random.default_rng(seed)
    request = np.sort(random.integers(0, 40, rows))
    request = np.unique(request, return_inverse=True)[1]
    score = random.random(rows)
    return Record(
        label=(random.random(rows) < 0.2 + 0.5 * score).astype(np.float32),
        score=np.round(score, 1) * 0.9 + 0.05 if ties else score,
        user=(request % 13).astype(np.int64),
        request=request,
        item=random.permutation(rows),
    )


def prepared(name: str, record: Record) -> Prepared:
    found = registry.resolve("metrics", name)(record)
    assert isinstance(found, Prepared)
    return found


def value(name: str, record: Record, weights: np.ndarray | None = None) -> float | None:
    ones = np.ones(record.rows)
    return prepared(name, record).statistic(ones if weights is None else weights)


@pytest.mark.parametrize("module", sorted(set(MODULES)))
def test_doctests(module: str) -> None:
    found = importlib.import_module(f"harness.metrics.{module}")
    failed, attempted = doctest.testmod(found)
    assert attempted > 0
    assert failed == 0


def test_auc_by_hand() -> None:
    # pairs (positive, negative): .9>.6, .9>.1, .6=.6, .6>.1 -> 3.5 of 4
    assert value("auc", made([1, 0, 1, 0], [0.9, 0.6, 0.6, 0.1])) == 3.5 / 4
    assert value("auc", made([0, 1], [0.9, 0.1])) == 0.0
    assert value("auc", made([0, 1, 1], [0.5, 0.5, 0.5])) == 0.5


def test_auc_under_weights_by_hand() -> None:
    # positive weights 2 and 1, negative 3 and 1: won pairs 2*3 + 2*1 + 1*1 of 3 * 4
    record = made([1, 0, 1, 0], [0.9, 0.6, 0.5, 0.1])
    assert value("auc", record, np.array([2.0, 3.0, 1.0, 1.0])) == 9 / 12
    assert value("auc", record, np.array([0.0, 1.0, 0.0, 1.0])) is None


def test_group_auc_leaves_out_and_counts_users_of_one_class() -> None:
    # user 0: only positives; 1: AUC 1 on 3 rows; 2: only negatives; 3: AUC 1/3 on 4 rows
    label = [1, 1, 1, 0, 0, 0, 1, 0, 0, 0]
    score = [0.9, 0.8, 0.7, 0.2, 0.1, 0.4, 0.5, 0.6, 0.7, 0.1]
    user = [0, 0, 1, 1, 1, 2, 3, 3, 3, 3]
    found = prepared("gauc", made(label, score, user))
    assert found.statistic(np.ones(10)) == pytest.approx((3 * 1 + 4 / 3) / 7)
    assert found.facts == {"users_left_out": 2.0, "plain_mean": pytest.approx((1 + 1 / 3) / 2)}
    assert found.n == 2
    assert found.reason is None


def test_group_auc_ties_count_half() -> None:
    assert value("gauc", made([1, 0, 0], [0.3, 0.3, 0.1])) == 1.5 / 2


def test_calibration_and_entropy_by_hand() -> None:
    record = made([1, 0, 0, 0], [0.6, 0.2, 0.1, 0.3])
    loss = -(math.log(0.6) + math.log(0.8) + math.log(0.9) + math.log(0.7)) / 4
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert value("logloss", record) == pytest.approx(loss, abs=1e-12)
    assert value("normalised_entropy", record) == pytest.approx(loss / entropy, abs=1e-12)
    assert value("calibration_ratio", record) == pytest.approx(1.2)


def test_certain_mistakes_are_clipped() -> None:
    clip = np.finfo(float).eps
    found = value("logloss", made([0, 1], [1.0, 1.0]))
    assert found == pytest.approx(-math.log(clip) / 2)


def test_ece_of_equal_mass_bins_by_hand() -> None:
    # 30 rows, 15 bins of two rows with scores i/15 and one positive each: gaps |2 i/15 - 1|
    score = np.repeat(np.arange(15), 2) / 15 + np.tile([0.0, 1e-9], 15)
    label = np.tile([0, 1], 15)
    expected = sum(abs(2 * i / 15 - 1) for i in range(15)) / 30
    assert value("ece", made(list(label), list(score))) == pytest.approx(expected, abs=1e-8)


def test_equal_scores_share_the_bin_of_the_first() -> None:
    assert equal_mass_bins(np.array([0.4, 0.1, 0.4, 0.4, 0.9, 0.2]), 3).tolist() == [
        1,
        0,
        1,
        1,
        2,
        0,
    ]


def test_ranking_at_ten_by_hand() -> None:
    # request 0: 12 candidates, positives at places 1, 3 and 12; request 1 has no positive
    label = [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    score = [*np.linspace(0.9, 0.1, 12), 0.5, 0.4]
    record = made(label, score, [0] * 12 + [1] * 2)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    found = prepared("ndcg@10", record)
    assert found.statistic(np.ones(14)) == pytest.approx(1.5 / ideal)
    assert (found.n, found.facts) == (1, {"requests_left_out": 1.0})
    assert value("recall@10", record) == pytest.approx(2 / 3)
    assert value("precision@10", record) == pytest.approx(0.2)


def test_ties_count_their_expected_value() -> None:
    # 12 candidates of one score, 3 positives: each place holds a positive with chance 3/12
    record = made([1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0], [0.5] * 12)
    dcg = sum(1 / math.log2(place + 1) for place in range(1, 11)) * 3 / 12
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert value("ndcg@10", record) == pytest.approx(dcg / ideal)
    assert value("recall@10", record) == pytest.approx(10 / 12)
    assert value("precision@10", record) == pytest.approx(10 / 12 * 3 / 10)


def test_an_item_shown_twice_in_a_request_counts_once() -> None:
    one = np.zeros(4, dtype=int)
    record = Record(
        np.array([1, 1, 0, 1]), np.array([0.9, 0.8, 0.7, 0.6]), one, one, np.array([5, 5, 6, 7])
    )
    # candidates 5 (+), 6, 7 (+)
    assert value("recall@10", record) == 1.0
    assert value("precision@10", record) == pytest.approx(0.2)
    assert value("ndcg@10", record) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_never_a_hit(wrong: float) -> None:
    record = made([1, 0, 0], [wrong, 0.5, 0.4])
    assert value("ndcg@10", record) == 0.0
    assert value("recall@10", record) == 0.0
    half = made([1, 1, 0], [wrong, 0.5, 0.4])
    assert value("recall@10", half) == 0.5


@pytest.mark.parametrize("name", [name for name in ALL if "@" not in name])
def test_a_score_that_is_not_finite_leaves_the_metric_undefined(name: str) -> None:
    found = prepared(name, made([1, 0, 1, 0], [0.5, np.nan, 0.2, 0.1]))
    assert found.statistic(np.ones(4)) is None
    assert found.reason == "1 of 4 scores aren't finite numbers"


@pytest.mark.parametrize(
    ("name", "label", "reason"),
    [
        ("auc", 1, "one class only: all 3 labels are 1"),
        ("auc", 0, "one class only: all 3 labels are 0"),
        ("normalised_entropy", 1, "one class only: all 3 labels are 1"),
        ("gauc", 1, "none of 1 users has both classes"),
        ("calibration_ratio", 0, "no positive row among 3"),
        ("ndcg@10", 0, "none of 1 requests has a positive row"),
        ("recall@10", 0, "none of 1 requests has a positive row"),
        ("precision@10", 0, "none of 1 requests has a positive row"),
    ],
)
def test_one_class_is_undefined_with_a_reason(name: str, label: int, reason: str) -> None:
    found = prepared(name, made([label] * 3, [0.1, 0.2, 0.3]))
    assert found.statistic(np.ones(3)) is None
    assert found.reason == reason


@pytest.mark.parametrize("name", ["logloss", "ece"])
def test_one_class_still_has_a_loss(name: str) -> None:
    assert value(name, made([1, 1], [0.5, 0.5])) == pytest.approx(
        {"logloss": math.log(2)}.get(name, 0.5)
    )


@pytest.mark.parametrize("name", ALL)
def test_no_rows_are_undefined(name: str) -> None:
    found = prepared(name, made([], []))
    assert found.statistic(np.ones(0)) is None
    assert found.reason


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_and_logloss_against_scikit_learn(ties: bool, weighted: bool) -> None:
    record = random_record(3, ties=ties)
    weights = np.random.default_rng(9).random(record.rows) if weighted else np.ones(record.rows)
    auc = reference.roc_auc_score(record.label, record.score, sample_weight=weights)
    loss = reference.log_loss(record.label, record.score, sample_weight=weights)
    assert value("auc", record, weights) == pytest.approx(auc, abs=1e-12)
    assert value("logloss", record, weights) == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_grouped_metrics_against_scikit_learn(ties: bool) -> None:
    record = random_record(4, ties=ties)
    areas, sizes = [], []
    for user in range(record.users):
        own = record.user == user
        if np.ptp(record.label[own]):
            areas.append(reference.roc_auc_score(record.label[own], record.score[own]))
            sizes.append(own.sum())
    gains = []
    for request in range(record.request.max() + 1):
        own = record.request == request
        if record.label[own].any() and own.sum() > 1:
            gains.append(reference.ndcg_score([record.label[own]], [record.score[own]], k=10))
        elif record.label[own].any():
            gains.append(1.0)
    assert value("gauc", record) == pytest.approx(np.average(areas, weights=sizes))
    assert prepared("gauc", record).facts["plain_mean"] == pytest.approx(np.mean(areas))
    assert value("ndcg@10", record) == pytest.approx(np.mean(gains))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("ties", [False, True])
def test_quick_way_gives_what_row_weights_give(name: str, ties: bool) -> None:
    record = random_record(5, ties=ties)
    found = prepared(name, record)
    weights = np.random.default_rng(1).integers(0, 4, (6, record.users)).astype(float)
    weights[0] = 0  # nobody drawn
    assert found.resample is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick = found.resample(weights)
        slow = [found.statistic(line[record.user]) for line in weights]
    assert slow[0] is None
    assert np.isnan(quick[0])
    assert quick[1:] == pytest.approx(slow[1:], abs=1e-12)


@pytest.mark.parametrize("cells", [1, 100, 10**6])
@pytest.mark.parametrize("ties", [False, True])
def test_pairs_of_users_give_what_all_rows_give(
    ties: bool, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = random_record(6, ties=ties)
    weights = np.random.default_rng(1).integers(0, 4, (6, record.users)).astype(float)
    monkeypatch.setattr("harness.metrics.auc.CELLS", cells)
    pairs = prepared("auc", record)
    monkeypatch.setattr("harness.metrics.auc.MATRIX_USERS", record.users - 1)
    rows = prepared("auc", record)
    assert pairs.resample is not None
    assert rows.resample is not None
    assert pairs.resample(weights).tolist() == rows.resample(weights).tolist()  # sums of halves
    weights[:, ::2] = 0  # as of a group of users
    group = pairs.resample(weights).tolist()
    assert group == rows.resample(weights).tolist()
    assert group == [rows.statistic(line[record.user]) for line in weights]


def test_marks_are_read_from_the_source() -> None:
    assert registry.entry("metrics", "auc").marks["direction"] == "higher"
    assert registry.entry("metrics", "calibration_ratio").marks["direction"] == "one"
    assert {registry.entry("metrics", name).marks["over"] for name in ALL} == {
        "row",
        "user",
        "request",
    }
