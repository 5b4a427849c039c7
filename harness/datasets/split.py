"""Which part each row goes to: by time, by leaving the last ones of a user out, or at random."""

import numpy as np
import polars as pl

from harness.tables import SPLITS

PART = pl.Enum(list(SPLITS))


def by_time(time: pl.Series, *, validation: float, test: float) -> pl.Series:
    """Split of each row: the latest ``test`` share, before it the ``validation`` share.

    Rows of the same time stay together, in the later part, so that nothing in training is later
    than anything in test. A share above 0 has at least one row.
    """
    ordered = time.sort()
    tested, validated = _sizes(len(time), validation, test)
    parts = pl.Series("split", ["train"], dtype=PART).new_from_index(0, len(time))
    for name, size in (("validation", validated + tested), ("test", tested)):
        if size:
            parts = _assign(parts, time >= ordered[len(time) - size], name)
    return parts


def leave_last(user: pl.Series, time: pl.Series, *, validation: int, test: int) -> pl.Series:
    """Split of each row: the last ``test`` rows of every user, before them ``validation`` rows.

    The first row of a user is always for training; test goes before validation where a user has
    too few rows. Rows of the same time keep the order of the file.
    """
    frame = pl.DataFrame({"user": user, "time": time}).with_row_index("row")
    ranked = frame.sort("user", "time", "row").with_columns(
        pl.int_range(pl.len()).over("user").alias("place"), pl.len().over("user").alias("size")
    )
    spare = pl.col("size").cast(pl.Int64) - 1
    tested = pl.min_horizontal(spare, pl.lit(test))
    validated = pl.min_horizontal(spare - tested, pl.lit(validation))
    from_end = pl.col("size").cast(pl.Int64) - pl.col("place").cast(pl.Int64)
    part = (
        pl.when(from_end <= tested)
        .then(pl.lit("test"))
        .when(from_end <= tested + validated)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )
    return ranked.with_columns(part.cast(PART).alias("split")).sort("row")["split"]


def at_random(rows: int, *, validation: float, test: float, seed: int) -> pl.Series:
    """Split of each row by a seeded permutation; a share above 0 has at least one row."""
    place = np.random.default_rng(seed).permutation(rows)
    tested, validated = _sizes(rows, validation, test)
    codes = np.where(place < tested, "test", "train")
    codes = np.where((place >= tested) & (place < tested + validated), "validation", codes)
    return pl.Series("split", codes.tolist(), dtype=PART)


def ties(user: pl.Series, time: pl.Series) -> str:
    """How many rows share their time with another row of the same user."""
    size = pl.DataFrame({"user": user, "time": time}).select(pl.len().over("user", "time"))
    tied = int((size.to_series() > 1).sum())
    share = tied / len(user) if len(user) else 0.0
    return f"{tied:,} of {len(user):,} rows ({share:.1%}) share their time; file order decides"


def _sizes(rows: int, validation: float, test: float) -> tuple[int, int]:
    tested = max(round(rows * test), 1) if test else 0
    validated = max(round(rows * validation), 1) if validation else 0
    return min(tested, rows), min(validated, rows - min(tested, rows))


def _assign(parts: pl.Series, where: pl.Series, name: str) -> pl.Series:
    chosen = pl.when(where).then(pl.lit(name)).otherwise(parts.cast(pl.String))
    return pl.select(chosen.cast(PART).alias("split")).to_series()
