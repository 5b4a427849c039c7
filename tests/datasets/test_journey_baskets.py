"""Baskets as events: hand-made lines in the order of time, repeats told, every line counted."""

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from harness.datasets import complete_journey
from harness.datasets.base import Tables
from harness.datasets.complete_journey import DEMOGRAPHICS, HIERARCHY
from harness.datasets.journey_baskets import fingerprint, load
from harness.datasets.prepare import prepare
from harness.errors import DataError

# household, basket, product, quantity, week, hours since the first basket
LINES = [
    (1, 11, 100, 1, 1, 0),
    (1, 11, 300, 2, 1, 0),
    (1, 11, 100, 1, 1, 0),  # again in the same basket
    (2, 21, 200, 1, 1, 5),
    (2, 21, 100, 0, 1, 5),  # a return
    (1, 13, 200, 1, 2, 200),  # stands before basket 12, comes after it
    (1, 12, 100, 1, 2, 199),
    (2, 22, 200, 1, 3, 400),
    (1, 14, 300, 1, 4, 600),
    (1, 14, 999, 1, 4, 600),  # a product that the list doesn't know
    (3, 31, 200, 1, 4, 601),  # a household without a past
    (2, 23, 100, 1, 5, 700),
]
WEEKS = {"train_until": 2, "validate_until": 3, "test_until": 4}
NAMES = ["household_id", "basket_id", "product_id", "quantity", "week"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    begin = datetime(2017, 1, 1, 12)
    rows = [(*line[:5], begin + timedelta(hours=line[5])) for line in LINES]
    lines = pl.DataFrame(rows, [*NAMES, "transaction_timestamp"], orient="row")
    words = {name: ["p", "q", "r"] for name in HIERARCHY.values()}
    products = pl.DataFrame({"product_id": [100, 200, 300], **words})
    people = pl.DataFrame({"household_id": [1], **{name: ["x"] for name in DEMOGRAPHICS}})
    frames = {"transactions": lines, "products": products, "demographics": people}
    for name, frame in {**frames, "promotions": lines}.items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    found = hashlib.sha256((tmp_path / "transactions.parquet").read_bytes()).hexdigest()
    monkeypatch.setattr(complete_journey, "TRANSACTIONS_SHA256", found)
    return tmp_path


def read(folder: Path, **parameters: Any) -> Tables:
    return load(folder, path=".", **{**WEEKS, **parameters})


def test_events_in_the_order_of_time(folder: Path) -> None:
    tables = read(folder)
    assert tables.frame.select("household", "product", "split").rows() == [
        (1, 100, "train"),
        (1, 300, "train"),  # of one basket: the order of the file
        (2, 200, "train"),
        (1, 100, "train"),
        (1, 200, "train"),
        (2, 200, "validation"),
        (1, 300, "test"),
        (1, 999, "test"),
        (3, 200, "test"),
    ]
    assert tables.frame["request"].to_list() == tables.frame["household"].to_list()


def test_every_line_is_kept_or_counted(folder: Path) -> None:
    assert prepare(read(folder)).counts == {
        "read": 12,
        "kept": 9,
        "dropped: quantity 0": 1,
        "dropped: again in the same basket": 1,
        "dropped: after week 4": 1,
    }
    assert read(folder, first_week=2).dropped["before week 2"] == 3


def test_fewer_households_are_a_counted_drop(folder: Path) -> None:
    tables = read(folder, max_households=2)
    assert set(tables.frame["household"]) == {1, 2}
    assert tables.dropped["household beyond max_households"] == 1
    assert prepare(tables).counts["kept"] == 8


def test_what_is_said_of_the_past(folder: Path) -> None:
    facts = prepare(read(folder)).facts
    assert facts["repeats"] == (
        "an item that the user had before may be recommended again; 1 of 3 (33.3%) test rows are "
        "such items"
    )
    assert facts["test without a past"] == "1 of 2 (50.0%) users, 1 of 3 (33.3%) rows"
    assert facts["cold items in test"] == "1 of 3 items (33.3%), 1 of 3 rows (33.3%)"
    assert facts["ties"].startswith("4 of 9 rows (44.4%) share their time")
    assert facts["baskets"] == "7 of 3 households"
    assert facts["leakage check"].startswith("passed: every past ends before its row")


def test_fields_and_what_is_unknown(folder: Path) -> None:
    tables = read(folder, length=4)
    assert (tables.task, tables.length, tables.repeats) == ("next_item", 4, True)
    roles = {role: [c.name for c in tables.columns if c.role == role] for role in ("user", "item")}
    assert roles == {
        "user": ["household", *DEMOGRAPHICS],
        "item": ["product", *HIERARCHY],
    }
    described = {row[0]: row[1:] for row in tables.frame.select("product", "brand", "type").rows()}
    assert described == {100: ("p", "p"), 200: ("q", "q"), 300: ("r", "r"), 999: (None, None)}
    assert dict(tables.frame.select("household", "age").unique().rows()) == {
        1: "x",
        2: None,
        3: None,
    }


def test_weeks_out_of_order_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="complete-journey-baskets: weeks must be ordered"):
        read(folder, train_until=3)


def test_changed_transactions_are_refused(folder: Path) -> None:
    first = fingerprint(folder, path=".")
    lines = pl.read_parquet(folder / "transactions.parquet")
    lines.head(5).write_parquet(folder / "transactions.parquet")
    with pytest.raises(DataError, match=r"transactions.parquet: sha256 is .*, expected"):
        read(folder)
    assert fingerprint(folder, path=".") != first
    assert fingerprint(folder, path=".", length=3) != fingerprint(folder, path=".")
