"""Columns of text as labels, numbers and times; what can't be read becomes null."""

import polars as pl

FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
)
ZONED = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")
WORDS = {"true": 1.0, "false": 0.0}
LARGEST_WHOLE = 1 << 53
"""Up to here every whole number is a float of its own."""


def as_words(column: pl.Series) -> pl.Series:
    """The column as text, as it stands. A float without a fraction is the whole number that it was
    before a missing one made floats of its column, and NaN is null.
    """
    if not column.dtype.is_float():
        return column.cast(pl.String)
    numbers = column.cast(pl.Float64)
    whole = (numbers.abs() <= LARGEST_WHOLE) & (numbers == numbers.floor())
    told = numbers.set(~whole, None).cast(pl.Int64).cast(pl.String)
    rest = column.cast(pl.String).set(column.is_nan(), None)
    return told.zip_with(whole.fill_null(value=False), rest)


def text(column: pl.Series) -> pl.Series:
    """``as_words`` of the column; blank cells are null."""
    words = as_words(column)
    return words.set(words.str.strip_chars() == "", None)


def number(column: pl.Series) -> pl.Series:
    """float64; null where a cell is blank or no number (``inf`` and ``nan`` stay)."""
    if column.dtype == pl.String:
        return column.str.strip_chars().cast(pl.Float64, strict=False)
    return column.cast(pl.Float64, strict=False)


def label(column: pl.Series, *, threshold: float | None) -> pl.Series:
    """0 or 1 as int8; null where it is neither. With a threshold: is the number at least it?"""
    if column.dtype == pl.String:
        lower = column.str.strip_chars().str.to_lowercase()
        values = lower.replace_strict(WORDS, default=None, return_dtype=pl.Float64)
        values = pl.select(pl.coalesce(values, number(column))).to_series()
    else:
        values = number(column)
    values = values.set(~values.is_finite(), None)
    if threshold is not None:
        return (values >= threshold).cast(pl.Int8)
    return values.set(~values.is_in([0.0, 1.0]), None).cast(pl.Int8)


def time(column: pl.Series) -> pl.Series:
    """int64, never by way of float32: whole numbers as they are, dates as UTC microseconds, and
    numbers with a fraction as millionths. One column is read in one way; other cells are null.
    """
    if column.dtype.is_integer():
        return column.cast(pl.Int64, strict=False)
    if column.dtype.is_temporal():
        return _stamps(column)
    if column.dtype.is_float():
        return _millionths(column)
    words = column.cast(pl.String).str.strip_chars()
    ways = (words.cast(pl.Int64, strict=False), _dates(words), _millionths(number(words)))
    return max(ways, key=lambda way: len(way) - way.null_count())


def _stamps(column: pl.Series) -> pl.Series:
    if column.dtype == pl.Date:
        return column.cast(pl.Datetime("us")).to_physical()
    return column.dt.cast_time_unit("us").to_physical()


def _millionths(numbers: pl.Series) -> pl.Series:
    finite = numbers.set(~numbers.is_finite(), None)
    return (finite * 1e6).round(0).cast(pl.Int64, strict=False)


def _dates(words: pl.Series) -> pl.Series:
    frame = words.alias("t").to_frame()
    col = pl.col("t")
    plain = [col.str.to_datetime(form, time_unit="us", strict=False) for form in FORMATS]
    day = col.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    zoned = [
        col.str.replace("Z$", "+00:00")
        .str.to_datetime(form, time_unit="us", strict=False, time_zone="UTC")
        .dt.replace_time_zone(None)
        for form in ZONED
    ]
    return frame.select(pl.coalesce(*plain, *zoned, day)).to_series().to_physical()
