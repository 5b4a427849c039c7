"""Data of others: character sets that unpack, separators that are none, bombs, huge cells,
odd types, damaged bytes; and what a spreadsheet or a terminal would obey stays text.
"""

import codecs
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.datasets import files, movielens_files
from harness.datasets.base import Column, Tables
from harness.datasets.decoding import in_utf8
from harness.datasets.movielens_files import place_of
from harness.datasets.parquet import LONGEST, check_cells
from harness.datasets.prepare import prepare
from harness.datasets.table import load
from harness.errors import DataError

NAMES: dict[str, Any] = {"user": "u", "item": "i", "label": "l"}
CSV = b"u,i,l\n" + b"".join(b"u%d,i%d,%d\n" % (k % 5, k % 7, k % 2) for k in range(50))


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """``read(content, **parameters)``: the table of a csv file of that content."""

    def load_text(content: bytes, **parameters: Any) -> Tables:
        (tmp_path / "d.csv").write_bytes(content)
        return load(tmp_path, path="d.csv", **NAMES, **parameters)

    return load_text


@pytest.fixture
def refused(read: Any) -> Any:
    """``refused(content, **parameters)``: the one sentence about it, which names the file."""

    def sentence(content: bytes, **parameters: Any) -> str:
        with pytest.raises(DataError) as caught:
            read(content, **parameters)
        text = str(caught.value)
        assert "d.csv" in text
        assert "\n" not in text
        return text

    return sentence


class TestText:
    @pytest.mark.parametrize(
        "encoding",
        [
            *("bz2", "zlib", "zip", "base64", "hex", "uu", "quopri", "rot13", "idna", "punycode"),
            *(
                "unicode_escape",
                "raw_unicode_escape",
                "undefined",
                "",
                "a\0b",
                "\ud800",
                "a" * 9999,
            ),
            *("os", "../utf_8", "utf-8\n1"),
        ],
    )
    def test_an_encoding_that_is_no_character_set(self, refused: Any, encoding: str) -> None:
        assert "unknown encoding" in refused(CSV, encoding=encoding)

    def test_a_bomb_is_not_unpacked_as_an_encoding(self, refused: Any) -> None:
        packed = codecs.encode(b"\0" * 10**8, "zlib")
        before = psutil.Process().memory_info().rss
        assert "unknown encoding 'zlib'" in refused(packed, encoding="zlib")
        assert psutil.Process().memory_info().rss - before < 5 * 10**7

    @pytest.mark.parametrize(
        "encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252", "cp037", "gb18030"]
    )
    def test_every_character_set_gives_the_same_rows(self, read: Any, encoding: str) -> None:
        text = "u,i,l\nü1,é,1\nü2,x,0\n"
        tables = read(text.encode(encoding), encoding=encoding)
        assert tables.frame["u"].to_list() == ["ü1", "ü2"]
        assert tables.frame["i"].to_list() == ["é", "x"]

    @pytest.mark.parametrize(
        ("content", "encoding", "told"),
        [
            (CSV + b"u\xc3", "utf-8", "byte 0xc3 at position"),
            (CSV.decode().encode("utf-16-le"), "utf-16", "isn't utf-16"),
            (CSV + b"\0", "utf-8", "NUL"),
            (CSV, "ascii", None),
            (CSV + "é".encode(), "ascii", "byte 0xc3"),
        ],
    )
    def test_what_cant_be_decoded(
        self, refused: Any, read: Any, content: bytes, encoding: str, told: str | None
    ) -> None:
        if told is None:
            assert read(content, encoding=encoding).read == 50
        else:
            assert told in refused(content, encoding=encoding)

    def test_utf_8_is_read_where_it_stands(self, tmp_path: Path) -> None:
        path = tmp_path / "d.csv"
        path.write_bytes(CSV)
        assert in_utf8(path, "utf-8") == path
        assert in_utf8(path, "latin-1").to_pybytes() == CSV  # type: ignore[union-attr]

    @pytest.mark.parametrize("mark", ["", "||", '"', "\n", "\r", "\0", "é", "\u2028"])
    @pytest.mark.parametrize("option", ["separator", "escape"])
    def test_marks_are_single_ascii_characters(self, refused: Any, mark: str, option: str) -> None:
        assert f"{option} {mark!r}: expected one character" in refused(CSV, **{option: mark})

    def test_one_mark_has_one_job(self, refused: Any) -> None:
        assert "both 'separator' and 'escape'" in refused(CSV, escape=",")

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (CSV + b"u1," + b"x" * 3_000_000 + b",1\n", "d.csv:52: 1,048,576 characters or more"),
            (CSV + b'u1,"' + b"x" * 200_000 + b'",1\n', "a cell has 200,000 bytes"),
            (b"x" * 3_000_000 + b"\n1\n", "d.csv:1: 1,048,576 characters or more"),
            (b"u,i,l" + b",c" * 30_000 + b"\n", "d.csv:1: over 20,000 columns; is ',' the"),
            (b"," * 900_000 + b"\n", "d.csv:1: over 20,000 columns"),
            (b'"' * 900_000, "field larger than field limit"),
            (b"\n" * 100_000, "no column 'u'"),
            (CSV + b"u1,i1\n", "d.csv:52: 2 cells, expected 3"),
            (CSV + b"u1,i1,1,9,9\n", "d.csv:52: 5 cells, expected 3"),
        ],
        ids=["line", "cell", "header", "columns", "commas", "quotes", "blank", "short", "ragged"],
    )
    def test_lines_cells_and_columns_are_bounded(
        self, refused: Any, content: bytes, told: str
    ) -> None:
        assert told in refused(content)

    @pytest.mark.parametrize("quote", [b'u1,"i1,1\n', b'u1,"i1,1\n' + CSV])
    def test_a_quote_that_never_ends_loses_no_row_unsaid(self, refused: Any, quote: bytes) -> None:
        assert "cells, expected 3" in refused(CSV + quote)

    @pytest.mark.parametrize(
        "word", ["=cmd|' /C calc'!A0", "+1", "@SUM(1)", "\x1b[31m", "\u202eabc", "<script>", "NULL"]
    )
    def test_what_others_would_obey_is_a_word(self, read: Any, word: str) -> None:
        tables = read(CSV + f'"{word}",i1,1\n'.encode())
        assert tables.frame["u"][-1] == word

    def test_a_bad_file_ends_its_process_orderly(self, tmp_path: Path) -> None:
        """A reader that was left alone in the middle of a file used to abort at exit."""
        (tmp_path / "d.csv").write_bytes(CSV)
        code = (
            "import sys; from pathlib import Path; from harness.datasets.table import load\n"
            "try: load(Path(sys.argv[1]), path='d.csv', user='u', item='i', label='l', "
            "encoding='cp037')\n"
            "except Exception as error: sys.exit(type(error).__name__)"
        )
        for _ in range(3):
            done = subprocess.run(
                [sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=60
            )
            assert (done.returncode, done.stderr) == (1, b"DataError\n")


@given(
    st.lists(
        st.floats(allow_nan=True, allow_infinity=True)
        | st.sampled_from([0.0, 5e-324, 1e38, 3.4e38, 1e300, -1e308]),
        min_size=12,
        max_size=12,
    )
)
def test_numbers_of_any_size_are_finite_or_counted(values: list[float]) -> None:
    import polars as pl

    frame = pl.DataFrame(
        {
            "u": ["a"] * 12,
            "i": [f"i{k}" for k in range(12)],
            "x": values,
            "l": [k % 2 for k in range(12)],
            "request": range(12),
            "split": ["train"] * 6 + ["validation"] * 3 + ["test"] * 3,
        }
    )
    columns = (
        Column("u", "categorical", "user"),
        Column("i", "categorical", "item"),
        Column("x", "numeric", "context"),
    )
    tables = Tables(frame, columns, "l", "u", "i", "made", 12)
    fits = [abs(v) <= float(np.finfo(np.float32).max) for v in values]  # NaN doesn't
    if not all(any(part) for part in (fits[:6], fits[6:9], fits[9:])):
        return  # a split without a row, which is refused
    prepared = prepare(tables)
    assert prepared.counts["kept"] == sum(fits)
    for split in prepared.splits.values():
        assert np.isfinite(split.arrays["context_values"]).all()


class TestParquet:
    @pytest.fixture
    def load(self, tmp_path: Path) -> Any:
        def load_table(table: pa.Table, **how: Any) -> Tables:
            parquet.write_table(table, tmp_path / "d.parquet", **how)
            return load(tmp_path, path="d.parquet", **NAMES)

        return load_table

    @pytest.mark.parametrize(
        "ids",
        [
            pa.array([[1]] * 4),
            pa.array([{"a": 1}] * 4),
            pa.array([b"\xff\xfe"] * 4),
            pa.array([b"ab"] * 4, pa.binary(2)),
            pa.array([1] * 4, pa.duration("s")),
            pa.array([1] * 4, pa.time32("s")),
            pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64())),
        ],
        ids=lambda array: str(array.type),
    )
    def test_types_that_are_no_ids(self, load: Any, ids: pa.Array) -> None:
        with pytest.raises(DataError, match=r"d\.parquet: column 'u' is of type .*; expected text"):
            load(pa.table({"u": ids, "i": ["a"] * 4, "l": [0, 1, 0, 1]}))

    def test_a_dictionary_is_text(self, load: Any) -> None:
        words = pa.array(["a", "b", "a", "a"]).dictionary_encode()
        found = load(pa.table({"u": words, "i": words, "l": [0, 1, 0, 1]}))
        assert found.frame["u"].to_list() == ["a", "b", "a", "a"]

    def test_rows_that_no_memory_holds_are_refused_unread(
        self, load: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A bomb in small: 2 million rows in some kilobytes, on a machine of 200 MB."""
        there = psutil.virtual_memory()._replace(total=200_000_000)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
        monkeypatch.setattr("polars.read_parquet", None)  # it would fail in another way
        same = pa.repeat("a", 2_000_000)
        with pytest.raises(DataError, match=r"2,000,000 rows of 3 columns take at least 0\.3 GiB"):
            load(pa.table({"u": same, "i": same, "l": pa.repeat(1, 2_000_000)}))

    @pytest.mark.parametrize("shared", [True, False])
    def test_a_cell_is_a_word_and_not_a_book(self, load: Any, shared: bool) -> None:
        words = pa.array(["x" * (LONGEST + 1), "y"] * 200)
        ids = words.dictionary_encode() if shared else words
        with pytest.raises(
            DataError, match=r"column 'u': a cell has 65,537 bytes, expected 65,536"
        ):
            load(pa.table({"u": ids, "i": ["a"] * 400, "l": [0, 1] * 200}))

    def test_all_cells_together_are_bounded_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import polars as pl

        there = psutil.virtual_memory()._replace(total=1000)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
        assert check_cells(pl.DataFrame({"u": ["x" * 10] * 100}), Path("d")).height == 100
        with pytest.raises(DataError, match="the text of column 'u' take at least"):
            check_cells(pl.DataFrame({"u": ["x" * 10] * 101}), Path("d"))

    def test_damaged_files_end_in_one_sentence(self, tmp_path: Path) -> None:
        path = tmp_path / "d.parquet"
        table = pa.table({"u": ["a", "b"] * 100, "i": ["b", "c"] * 100, "l": [0, 1] * 100})
        parquet.write_table(table, path)
        whole, random = path.read_bytes(), np.random.default_rng(0)
        for _ in range(150):
            damaged = bytearray(whole[: int(random.integers(5, len(whole) + 1))])
            for at in random.integers(4, len(damaged), size=4):
                damaged[at] = int(random.integers(256))
            path.write_bytes(damaged)
            try:
                load(tmp_path, path="d.parquet", **NAMES)
            except DataError as error:
                assert "d.parquet" in str(error)  # noqa: PT017
                assert "\n" not in str(error)  # noqa: PT017


class TestZip:
    @pytest.fixture
    def packed(self, tmp_path: Path) -> Path:
        path = tmp_path / "ml-100k.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("ml-100k/u.data", b"1\t2\t3\t4\n" * 1000)
        return path

    def test_a_bomb_is_refused_before_it_is_unpacked(
        self, packed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(movielens_files, "LARGEST", 7999)
        with pytest.raises(DataError, match=r"u\.data unpacks to over 7,999 bytes; no set does"):
            place_of(packed).read("u.data")
        monkeypatch.setattr(movielens_files, "LARGEST", 8000)
        assert len(place_of(packed).read("u.data")) == 8000

    @pytest.mark.parametrize(
        ("at", "byte"),
        [(6, 1), (8, 99), (40, 255), (30, 0)],
        ids=["encrypted", "method", "content", "name"],
    )
    def test_what_cant_be_unpacked(self, packed: Path, at: int, byte: int) -> None:
        content = bytearray(packed.read_bytes())
        central = content.index(b"PK\1\2")
        content[at] = byte
        if at < 10:
            content[central + at + 2] = byte
        packed.write_bytes(content)
        with pytest.raises(DataError, match=r"ml-100k\.zip: "):
            place_of(packed).read("u.data")


@pytest.mark.parametrize("name", ["a\0b.csv", "x" * 300 + ".csv", "absent/**/*.csv", "[", "~", ""])
def test_paths_of_any_kind_are_looked_for_and_no_more(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such csv or parquet file, folder or pattern"):
        files.find_files(tmp_path, name)
