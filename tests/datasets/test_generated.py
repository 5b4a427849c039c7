"""The generator: seeded, with a known optimum that nothing beats."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from harness.datasets.base import Tables
from harness.datasets.generated import fingerprint, load
from harness.datasets.prepare import prepare

HERE = Path()


@pytest.fixture(scope="module")
def made() -> Tables:
    return load(HERE, rows=60_000, users=500, items=300)


def test_the_true_probabilities_are_calibrated_and_informative(made: Tables) -> None:
    label, chance = made.frame["label"].to_numpy(), made.frame["probability"].to_numpy()
    assert abs(label.mean() - chance.mean()) < 4 * np.sqrt(0.25 / len(label))
    best = roc_auc_score(label, chance)
    assert 0.75 < best < 0.9
    ranked = np.sort(chance)[::-1]  # expected AUC of p under its own labels
    share = np.cumsum(ranked * 1.0)
    expected = (share * (1 - ranked)).sum() / (ranked.sum() * (1 - ranked).sum())
    assert abs(best - expected) < 0.01


def test_nothing_beats_the_optimum(made: Tables) -> None:
    label, chance = made.frame["label"].to_numpy(), made.frame["probability"].to_numpy()
    noisy = np.clip(chance + np.random.default_rng(0).normal(0, 0.1, len(chance)), 0.01, 0.99)
    assert roc_auc_score(label, noisy) < roc_auc_score(label, chance)
    assert log_loss(label, noisy) > log_loss(label, chance)
    item = made.frame.select(pl.col("label").mean().over("item"))["label"].to_numpy()
    assert 0.55 < roc_auc_score(label, item) < roc_auc_score(label, chance)


def test_the_probability_is_no_feature(made: Tables) -> None:
    assert "probability" not in {column.name for column in made.columns}


def test_ids_are_zipf(made: Tables) -> None:
    counts = made.frame["item"].value_counts(sort=True)["count"]
    assert counts[0] / len(made.frame) == pytest.approx(np.log(2) / np.log(301), rel=0.05)


def test_the_same_seed_gives_the_same_rows(made: Tables) -> None:
    again = load(HERE, rows=60_000, users=500, items=300)
    other = load(HERE, rows=60_000, users=500, items=300, seed=8)
    assert made.frame.equals(again.frame)
    assert not made.frame.equals(other.frame)


def test_requests_are_whole_and_in_order_of_time(made: Tables) -> None:
    per_request = made.frame.group_by("request").agg(
        pl.col("user").n_unique(), pl.col("split").n_unique(), pl.len()
    )
    assert per_request["user"].max() == per_request["split"].max() == 1
    assert made.frame["time"].is_sorted()


@pytest.mark.parametrize("rows", [1000, 1003, 10])
def test_small_sets_lose_no_row(rows: int) -> None:
    tables = load(HERE, rows=rows, users=20, candidates=3, numeric=0, fields=0)
    prepared = prepare(tables)
    assert prepared.counts == {"read": rows, "kept": rows}


def test_a_billion_items_cost_what_occurs() -> None:
    tables = load(HERE, rows=1000, items=1_000_000_000)
    assert tables.frame["item"].max() < 1_000_000_000
    assert prepare(tables).schema.field("item").cardinality <= 1001


def test_numbers_and_fields_are_columns() -> None:
    tables = load(HERE, rows=100, fields=3, numeric=1)
    names = [column.name for column in tables.columns]
    assert names == [
        *("user", "user_group", "item", "item_group"),
        *("field_0", "field_1", "field_2", "number_0"),
    ]


def test_the_fingerprint_follows_the_parameters() -> None:
    assert fingerprint(HERE, rows=10) == fingerprint(HERE, rows=10)
    assert fingerprint(HERE, rows=10) != fingerprint(HERE, rows=11)
