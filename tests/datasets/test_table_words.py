"""Ids that another tool made floats of, and ratings beyond the numbers that a model computes in."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.datasets.parse import as_words, text
from harness.datasets.prepare import LARGEST, prepare
from harness.datasets.table import load
from harness.tables import Prepared

ROWS = 40
FRAME = pl.DataFrame(
    {
        "u": [at % 4 for at in range(ROWS)],
        "i": [f"i{at % 5}" for at in range(ROWS)],
        "l": [at // 2 % 2 for at in range(ROWS)],
        "t": list(range(ROWS)),
    }
)
FLOATS = pl.col("u").cast(pl.Float64)


def prepared(folder: Path, path: str, **more: Any) -> Prepared:
    return prepare(load(folder, path=path, user="u", item="i", label="l", time="t", **more))


@pytest.mark.parametrize(
    "change",
    [FLOATS, pl.col("u").cast(pl.Int32), pl.col("u").cast(pl.Float32), pl.col("u").cast(pl.String)],
    ids=["float64", "int32", "float32", "text"],
)
def test_a_user_is_one_user_whatever_the_type_of_a_file(tmp_path: Path, change: pl.Expr) -> None:
    """A column of whole numbers becomes one of floats where another tool met a missing one."""
    FRAME[:20].write_parquet(tmp_path / "a.parquet")
    FRAME[20:].with_columns(change).write_parquet(tmp_path / "b.parquet")
    found = prepared(tmp_path, "*.parquet")
    assert found.vocabularies["u"].values == ("0", "1", "2", "3")
    assert found.counts == {"read": ROWS, "kept": ROWS}


@pytest.mark.parametrize("name", ["validation", "test"])
def test_nor_is_one_cold_for_the_type_of_a_split(tmp_path: Path, name: str) -> None:
    FRAME[:30].write_parquet(tmp_path / "train.parquet")
    FRAME[30:35].with_columns(FLOATS).write_parquet(tmp_path / "float.parquet")
    FRAME[35:].write_csv(tmp_path / "whole.csv")
    other = {"validation": "test", "test": "validation"}[name]
    found = prepared(tmp_path, "train.parquet", **{name: "float.parquet", other: "whole.csv"})
    assert all((split.arrays["user"] > 0).all() for split in found.splits.values())


def test_a_missing_float_is_a_blank_id(tmp_path: Path) -> None:
    for missing in (None, float("nan")):
        users = FRAME.with_columns(u=pl.Series([missing, *FRAME["u"][1:].cast(pl.Float64)]))
        users.write_parquet(tmp_path / "a.parquet")
        found = prepared(tmp_path, "a.parquet")
        assert found.counts == {"read": ROWS, "kept": ROWS - 1, "dropped: blank u": 1}
        assert found.vocabularies["u"].values == ("1", "2", "3", "0")


def test_ids_of_a_csv_stay_as_they_stand(tmp_path: Path) -> None:
    rows = "".join(
        f"{('1.0', '1', '01', 'NaN')[at % 4]},i,{at // 2 % 2},{at}\n" for at in range(ROWS)
    )
    (tmp_path / "a.csv").write_text("u,i,l,t\n" + rows)
    assert set(prepared(tmp_path, "a.csv").vocabularies["u"].values) == {"1.0", "1", "01", "NaN"}


@given(st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=20))
def test_whole_numbers_have_the_words_of_whole_numbers(values: list[int]) -> None:
    whole = pl.Series(values, dtype=pl.Int64)
    assert as_words(whole.cast(pl.Float64)).to_list() == [str(value) for value in values]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_two_floats_are_one_word_only_if_they_are_one_number(values: list[float]) -> None:
    words = text(pl.Series(values, dtype=pl.Float64)).to_list()
    assert [float(word) for word in words] == values
    assert len(set(words)) == len(set(values))


@pytest.mark.parametrize(
    "rating", ["inf", "-inf", "nan", "1e39", "-4e38", "five", "", "9" * 400], ids=lambda r: r[:8]
)
def test_a_rating_that_no_model_can_reach_drops_its_row(tmp_path: Path, rating: str) -> None:
    rows = [f"u{at % 4},i{at % 5},{at % 5 + 1},{at}\n" for at in range(ROWS)]
    rows[7] = f"u1,i2,{rating},7\n"
    (tmp_path / "a.csv").write_text("u,i,l,t\n" + "".join(rows))
    found = prepared(tmp_path, "a.csv", task="rating")
    assert found.counts == {"read": ROWS, "kept": ROWS - 1, "dropped: unusable label in l": 1}
    assert all(np.isfinite(split.label).all() for split in found.splits.values())


def test_the_largest_rating_is_kept(tmp_path: Path) -> None:
    rows = [f"u{at % 4},i{at % 5},{LARGEST if at == 7 else 1},{at}\n" for at in range(ROWS)]
    (tmp_path / "a.csv").write_text("u,i,l,t\n" + "".join(rows))
    found = prepared(tmp_path, "a.csv", task="rating")
    assert found.counts == {"read": ROWS, "kept": ROWS}
    assert found.splits["train"].label.max() == np.float32(LARGEST)
