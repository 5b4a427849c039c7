"""A user's own files: odd encodings, missing words, ragged lines; every row kept or counted."""

import datetime
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.datasets.base import Tables
from harness.datasets.prepare import prepare
from harness.datasets.table import fingerprint, load
from harness.errors import DataError
from harness.registry import bind

IDS = {"user": "user_id", "item": "item_id"}
CLICKS = {**IDS, "label": "label"}
WORDS = b"""user_id,item_id,label
u1,NA,1
u2,null,0
u3,None,1
u4,nan,0
u5,,1
,i9,1
u6,i1,
u7,i2,nan
u8,i1,1
u1,i1,0
u2,i2,1
"""
SHEET = (
    b"\xef\xbb\xbfuser_id;item_id;title;rating\r\n"
    b'101;A-1;"Caf\xc3\xa9; part \\"one\\"";5\r\n'
    b'102;A-2;"two\r\nlines";3\r\n'
    b"103;A-3;plain;4\r\n101;A-2;plain;1\r\n102;A-3;x;2\r\n"
)
EVENTS = b"""user_id,item_id,ts
a,i1,10
b,i1,10
b,i2,20
c,i1,10
c,i2,20
c,i3,30
d,i1,10
d,i2,20
d,i3,30
d,i4,40
d,i5,50
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """``read(content, name="data.csv", **parameters)``: write a file and load it."""

    def load_text(content: bytes, *, name: str = "data.csv", **parameters: Any) -> Tables:
        (tmp_path / name).write_bytes(content)
        return load(tmp_path, path=name, **parameters)

    return load_text


def lines(*rows: str) -> bytes:
    return "\n".join(rows).encode() + b"\n"


class TestMissing:
    def test_words_for_missing_are_real_ids(self, read: Any) -> None:
        tables = read(WORDS, **CLICKS)
        assert set(tables.frame["item_id"]) == {"NA", "null", "None", "nan", "i1", "i2"}
        assert set(tables.frame["user_id"]) == {"u1", "u2", "u3", "u4", "u8"}
        assert tables.frame["label"].to_list() == [1, 0, 1, 0, 1, 0, 1]

    def test_unusable_rows_are_counted_by_reason(self, read: Any) -> None:
        prepared = prepare(read(WORDS, **CLICKS))
        assert prepared.counts == {
            "read": 11,
            "kept": 7,
            "dropped: blank user_id": 1,
            "dropped: blank item_id": 1,
            "dropped: unusable label in label": 2,
        }

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"", r"data.csv: the file is empty"), (b"user_id,item_id,label\n", "data.csv: no rows")],
    )
    def test_empty_files_are_refused(self, read: Any, content: bytes, message: str) -> None:
        with pytest.raises(DataError, match=message):
            read(content, **CLICKS)

    def test_a_file_without_a_usable_row_says_why(self, read: Any) -> None:
        with pytest.raises(DataError, match=r"none of 2 rows can be used \(unusable label in"):
            read(lines("user_id,item_id,label", "a,b,5", "a,c,x"), **CLICKS)

    def test_blank_extra_ids_are_missing_not_dropped(self, read: Any) -> None:
        content = lines("user_id,item_id,label,c", "a,b,1,x", "a,b,0,", "a,b,1, ")
        tables = read(content, categorical=("c",), **CLICKS)
        assert tables.frame["c"].to_list() == ["x", None, None]


class TestEncoding:
    def test_bom_crlf_and_quoted_newlines(self, read: Any) -> None:
        tables = read(
            SHEET, label="rating", threshold=3, separator=";", categorical=("title",), **IDS
        )
        assert tables.read == tables.frame.height == 5
        assert tables.frame["user_id"].n_unique() == tables.frame["item_id"].n_unique() == 3
        assert tables.frame["title"][1] == "two\r\nlines"
        assert tables.frame["rating"].to_list() == [1, 1, 1, 0, 0]

    def test_an_escape_character(self, read: Any) -> None:
        parameters = {"label": "rating", "threshold": 3, "separator": ";", "escape": "\\"}
        tables = read(SHEET, categorical=("title",), **parameters, **IDS)
        assert tables.frame["title"][0] == 'Café; part "one"'

    def test_a_missing_separator_is_recognised_by_its_one_column(self, read: Any) -> None:
        message = r"data.csv: no column 'user_id'; found 1 column: .*set 'separator' to ';'"
        with pytest.raises(DataError, match=message):
            read(SHEET, label="rating", **IDS)

    def test_undecodable_bytes_name_file_line_position_and_option(self, read: Any) -> None:
        content = lines("user_id,item_id,label", "1,a,1") + "1,ï,0\n".encode("latin-1")
        message = r"data.csv:3: byte 0xef at position 30 isn't utf-8; set 'encoding'"
        with pytest.raises(DataError, match=message):
            read(content, **CLICKS)
        tables = read(content, encoding="latin-1", **CLICKS)
        assert tables.frame["item_id"].to_list() == ["a", "ï"]

    def test_undecodable_bytes_in_an_unused_column_are_found_too(self, read: Any) -> None:
        content = lines("user_id,item_id,label,x") + b"1,a,1,\xe9\n"
        with pytest.raises(DataError, match="byte 0xe9"):
            read(content, **CLICKS)

    def test_the_position_is_right_beyond_the_first_block(self, read: Any) -> None:
        head = b"user_id,item_id,label\n" + b"1,a,1\n" * 300_000
        with pytest.raises(DataError, match=f"csv:300002: byte 0xff at position {len(head) + 2} "):
            read(head + b"1,\xff,1\n", **CLICKS)

    def test_utf_16(self, read: Any) -> None:
        content = "user_id,item_id,label\nü,b,1\n".encode("utf-16")
        assert read(content, encoding="utf-16", **CLICKS).frame["user_id"].to_list() == ["ü"]

    def test_an_unknown_encoding(self, read: Any) -> None:
        with pytest.raises(DataError, match="unknown encoding 'utf-9'"):
            read(WORDS, encoding="utf-9", **CLICKS)


class TestShape:
    def test_a_missing_column_names_file_and_columns(self, read: Any) -> None:
        with pytest.raises(DataError, match=r"data.csv: no column 'label'; found 2 columns: \['us"):
            read(lines("user_id,item_id", "a,b"), **CLICKS)

    def test_a_column_that_is_there_twice(self, read: Any) -> None:
        with pytest.raises(DataError, match="column 'label' is there 2 times"):
            read(lines("user_id,item_id,label,label", "a,b,1,0"), **CLICKS)

    @pytest.mark.parametrize("bad", ["a,b,1,9", "a,b"])
    def test_ragged_lines_name_their_line(self, read: Any, bad: str) -> None:
        content = lines("user_id,item_id,label", '"a\nb",x,1', bad, "a,b,0")
        with pytest.raises(DataError, match=r"data.csv:4: [24] cells, expected 3"):
            read(content, **CLICKS)

    @pytest.mark.parametrize("name", ["data.npy", "data.pkl", "data.pt", "data.csv.gz"])
    def test_other_files_are_refused_by_name(self, read: Any, name: str) -> None:
        with pytest.raises(DataError, match=f"{name}: refused, only .csv"):
            read(pickle.dumps({"a": 1}), name=name, **CLICKS)

    def test_pickles_under_another_name_are_not_loaded(self, read: Any, tmp_path: Path) -> None:
        class Mark:
            def __reduce__(self) -> tuple[Any, ...]:
                return (open, (str(tmp_path / "MARK.txt"), "w"))

        np.save(tmp_path / "evil.npy", np.array([Mark()], dtype=object), allow_pickle=True)
        evil = (tmp_path / "evil.npy").read_bytes()
        for name in ("evil.csv", "evil.parquet"):
            with pytest.raises(DataError, match=name):
                read(evil, name=name, **CLICKS)
        assert not (tmp_path / "MARK.txt").exists()

    def test_text_with_nul_characters_is_refused(self, read: Any) -> None:
        with pytest.raises(DataError, match="not a text file"):
            read(b"user_id,item_id,label\na,\0,1\n", **CLICKS)

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nope.csv: no such csv or parquet file"):
            load(tmp_path, path="nope.csv", **CLICKS)


class TestNumbers:
    HEAD = "user_id,item_id,label,x"

    def test_blank_is_missing_words_are_dropped_infinity_is_counted(self, read: Any) -> None:
        cells = ["1.5", "", "abc", "inf", "nan", "-2e3", "7", "8"]
        content = lines(self.HEAD, *(f"u,i,1,{cell}" for cell in cells))
        tables = read(content, numeric=("x",), **CLICKS)
        assert tables.dropped == {"not a number in x": 1}
        prepared = prepare(tables)
        assert prepared.counts == {
            "read": 8,
            "kept": 5,
            "dropped: not a number in x": 1,
            "dropped: not finite in x": 2,
        }
        assert prepared.facts["missing in x"] == "1 rows, taken as the training mean"

    def test_a_constant_column_is_zero_and_a_blank_one_refused(self, read: Any) -> None:
        content = lines("user_id,item_id,label,c,b", *(f"u{i},i,1,3.0," for i in range(10)))
        prepared = prepare(read(content, numeric=("c",), **CLICKS))
        assert not any(np.any(s.arrays["context_values"]) for s in prepared.splits.values())
        with pytest.raises(DataError, match="numeric column 'b' has no number"):
            prepare(read(content, numeric=("c", "b"), **CLICKS))

    def test_labels(self, read: Any) -> None:
        cells = ["1", "0", "1.0", " 0 ", "true", "False", "2", "-1", "0.5", "inf", "yes"]
        content = lines("user_id,item_id,label", *(f"u,i,{cell}" for cell in cells))
        tables = read(content, **CLICKS)
        assert tables.frame["label"].to_list() == [1, 0, 1, 0, 1, 0]
        assert tables.dropped == {"unusable label in label": 5}


class TestTime:
    def test_neighbouring_milliseconds_stay_apart(self, read: Any) -> None:
        stamps = [1_700_000_000_000 + i for i in range(10)]
        content = lines("user_id,item_id,label,t", *(f"u,i{i},1,{t}" for i, t in enumerate(stamps)))
        tables = read(content, time="t", **CLICKS)
        assert tables.frame["__time__"].to_list() == stamps
        assert tables.frame.filter(pl.col("split") == "test")["item_id"].to_list() == ["i9"]
        assert tables.split_rule == (
            "global time split: 10.0% test, 10.0% validation; rows of one time stay together, in "
            "the later part"
        )

    @pytest.mark.parametrize(
        ("cell", "second"),
        [
            ("2024-02-29T12:00:01", 1),
            ("2024-02-29 12:00:01.000", 1),
            ("2024-02-29T12:00:01Z", 1),
            ("2024-02-29T14:00:01+02:00", 1),
        ],
    )
    def test_dates_are_microseconds_in_utc(self, read: Any, cell: str, second: int) -> None:
        noon = datetime.datetime(2024, 2, 29, 12, 0, second, tzinfo=datetime.UTC)
        content = lines("user_id,item_id,label,t", f"u,i,1,{cell}", "u,i,1,soon")
        tables = read(content, time="t", **CLICKS)
        assert tables.frame["__time__"].to_list() == [int(noon.timestamp()) * 1_000_000]
        assert tables.dropped == {"unusable time in t": 1}

    def test_seconds_with_a_fraction(self, read: Any) -> None:
        content = lines("user_id,item_id,label,t", "u,i,1,1.5", "u,i,1,2")
        frame = read(content, time="t", **CLICKS).frame
        assert frame["__time__"].to_list() == [1_500_000, 2_000_000]

    def test_ties_are_reported(self, read: Any) -> None:
        content = lines("user_id,item_id,label,t", "u,i,1,1", "u,j,1,1", "v,i,1,1")
        facts = read(content, time="t", **CLICKS).facts
        assert facts["ties"].startswith("2 of 3 rows (66.7%) share their time")


class TestSplit:
    def test_leave_last_of_short_histories(self, read: Any) -> None:
        tables = read(EVENTS, time="ts", split="leave_last", negatives=1, **IDS)
        kept = tables.frame.filter(pl.col("label") == 1)
        assert kept.height == 11
        parts = {
            (user, part): sorted(group["item_id"])
            for (user, part), group in kept.group_by("user_id", "split")
        }
        assert parts == {
            ("a", "train"): ["i1"],
            ("b", "train"): ["i1"],
            ("b", "test"): ["i2"],
            ("c", "train"): ["i1"],
            ("c", "validation"): ["i2"],
            ("c", "test"): ["i3"],
            ("d", "train"): ["i1", "i2", "i3"],
            ("d", "validation"): ["i4"],
            ("d", "test"): ["i5"],
        }
        assert "of 3 users" in prepare(tables).facts["cold users in test"]

    def test_a_single_event_leaves_no_test(self, read: Any) -> None:
        tables = read(
            b"user_id,item_id,ts\na,i1,10\n", time="ts", split="leave_last", negatives=1, **IDS
        )
        with pytest.raises(DataError, match="validation and test split empty: 'leave last out"):
            prepare(tables)

    def test_a_test_file_of_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_bytes(
            lines("user_id,item_id,label", *(f"u{i % 6},i{i % 6},{i % 2}" for i in range(18)))
        )
        (tmp_path / "test.csv").write_bytes(lines("user_id,item_id,label", "u0,i0,1", "u1,i1,1"))
        tables = load(tmp_path, path="train.csv", test="test.csv", **CLICKS)
        parts = dict(tables.frame["split"].value_counts().iter_rows())
        assert parts == {"train": 16, "validation": 2, "test": 2}
        assert tables.frame.filter(pl.col("split") == "test")["label"].to_list() == [1, 1]
        assert tables.split_rule.endswith("test from 'test.csv'")

    def test_a_request_is_split_as_a_whole(self, read: Any) -> None:
        rows = [f"u{i // 4},i{i},{i % 2},r{i // 4},{i}" for i in range(80)]
        content = lines("user_id,item_id,label,session,t", *rows)
        tables = read(content, request="session", time="t", **CLICKS)
        sizes = tables.frame.group_by("request").agg(pl.len(), pl.col("split").n_unique())
        assert set(sizes["len"]) == {4}
        assert set(sizes["split"]) == {1}
        assert prepare(tables).splits["test"].requests == 2

    def test_the_same_request_number_in_another_file_is_another_request(
        self, tmp_path: Path
    ) -> None:
        for name in ("train.csv", "validation.csv", "test.csv"):
            rows = (f"u{i},{name},1,{i}" for i in range(3))
            (tmp_path / name).write_bytes(lines("user_id,item_id,label,session", *rows))
        files = {"path": "train.csv", "validation": "validation.csv", "test": "test.csv"}
        tables = load(tmp_path, request="session", **files, **CLICKS)
        pairs = tables.frame.select("split", "item_id").unique().rows()
        assert {f"{split}.csv" for split, _ in pairs} == {item for _, item in pairs}
        assert len(pairs) == tables.frame["request"].n_unique() / 3 == 3
        assert tables.split_rule == "validation from 'validation.csv'; test from 'test.csv'"

    def test_split_by_time_needs_a_time(self, read: Any) -> None:
        with pytest.raises(DataError, match="split 'time' needs 'time'"):
            read(WORDS, split="time", **CLICKS)


class TestFiles:
    def test_a_partitioned_folder(self, tmp_path: Path) -> None:
        for day, rows in {"2024-01-01": ["u,i,1"], "2024-01-02": ["u,j,0", "v,i,1"]}.items():
            (tmp_path / "log" / f"day={day}").mkdir(parents=True)
            place = tmp_path / "log" / f"day={day}" / "part-0.csv"
            place.write_bytes(lines("user_id,item_id,label", *rows))
        (tmp_path / "log" / "_SUCCESS").write_text("")
        tables = load(tmp_path, path="log", time="day", categorical=("day",), **CLICKS)
        assert tables.frame["day"].to_list() == ["2024-01-01", "2024-01-02", "2024-01-02"]
        assert tables.read == 3

    def test_a_pattern(self, tmp_path: Path) -> None:
        for name in ("a.csv", "b.csv", "c.csv"):
            (tmp_path / name).write_bytes(lines("user_id,item_id,label", f"u,{name},1"))
        frame = load(tmp_path, path="[ab].csv", **CLICKS).frame
        assert frame["item_id"].to_list() == ["a.csv", "b.csv"]

    def test_parquet_reads_like_csv(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(
            {
                "user_id": [1, 2, None],
                "item_id": ["NA", "x", "y"],
                "label": [True, False, True],
                "t": [datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 2), None],
                "x": [1.5, None, 2.0],
            }
        )
        frame.write_parquet(tmp_path / "data.parquet")
        tables = load(tmp_path, path="data.parquet", time="t", numeric=("x",), **CLICKS)
        assert tables.frame["user_id"].to_list() == ["1", "2"]
        assert tables.frame["label"].to_list() == [1, 0]
        assert tables.frame["x"].to_list() == [1.5, None]
        assert tables.dropped == {"blank user_id": 1}

    def test_the_fingerprint_is_that_of_the_content(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(WORDS)
        first = fingerprint(tmp_path, path="a.csv", seed=1)
        (tmp_path / "a.csv").touch()
        assert fingerprint(tmp_path, path="a.csv", seed=1) == first
        (tmp_path / "a.csv").write_bytes(WORDS + b"u9,i9,1\n")
        assert fingerprint(tmp_path, path="a.csv", seed=1) != first


class TestNegatives:
    def test_only_items_that_the_user_has_nowhere(self, read: Any) -> None:
        tables = read(EVENTS, time="ts", negatives=2, **IDS)
        seen = set(tables.frame.filter(pl.col("label") == 1)["user_id", "item_id"].iter_rows())
        drawn = tables.frame.filter(pl.col("label") == 0)
        pairs = list(drawn["user_id", "item_id"].iter_rows())
        assert not seen & set(pairs)
        # a: 4 unseen, b: 3, c: 2, d: none; two for each of 1, 2, 3 and 5 events
        assert Counter(user for user, _ in pairs) == {"a": 2, "b": 4, "c": 6}
        assert drawn.select("request", "item_id").is_unique().all()
        assert tables.read == tables.frame.height == 11 + 12
        assert tables.facts["negatives"] == "12 drawn for 11 positives"

    def test_drawn_rows_carry_the_columns_of_their_item_and_request(self, read: Any) -> None:
        rows = [f"u{i},i{i},b{i},s{i}" for i in range(6)]
        content = lines("user_id,item_id,brand,store", *rows)
        tables = read(
            content, negatives=3, categorical=("brand", "store"), roles={"brand": "item"}, **IDS
        )
        for row in tables.frame.iter_rows(named=True):
            assert row["brand"][1:] == row["item_id"][1:]
            assert row["store"][1:] == row["user_id"][1:]
        prepare(tables)

    def test_they_are_seeded(self, read: Any) -> None:
        first = read(EVENTS, time="ts", negatives=1, **IDS).frame
        assert first.equals(read(EVENTS, time="ts", negatives=1, **IDS).frame)
        others = [read(EVENTS, time="ts", negatives=1, seed=s, **IDS).frame for s in range(3)]
        assert any(not first.equals(other) for other in others)

    def test_the_place_in_a_request_says_nothing(self, read: Any) -> None:
        rows = [f"u{i},i{i % 30}" for i in range(300)]
        frame = read(lines("user_id,item_id", *rows), negatives=3, **IDS).frame
        first = frame.group_by("request", maintain_order=True).first()["label"].mean()
        assert first == pytest.approx(0.25, abs=0.1)


class TestMapping:
    def test_extra_columns_are_context_unless_said_otherwise(self, read: Any) -> None:
        content = lines("user_id,item_id,label,a,b,c", "u,i,1,x,y,2", "u,i,0,x,y,3", "u,i,0,x,y,3")
        parameters = {"categorical": ("a", "b"), "numeric": ("c",), "roles": {"a": "user"}}
        tables = read(content, **parameters, **CLICKS)
        roles = {column.name: column.role for column in tables.columns}
        assert roles == {
            **{"user_id": "user", "item_id": "item"},
            **{"a": "user", "b": "context", "c": "context"},
        }

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"label": None}, "without 'label' every row is a positive"),
            ({"negatives": 2}, "'negatives' is for data without a 'label'"),
            ({"roles": {"x": "item"}}, "roles: 'x': 'item': expected a column of"),
            ({"categorical": ("x",), "roles": {"x": "things"}}, "'things': expected"),
            ({"numeric": ("label",)}, "column 'label' has two jobs"),
            ({"categorical": ("split",)}, "the column name 'split' is taken"),
        ],
    )
    def test_contradictions_are_refused(
        self, read: Any, parameters: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(DataError, match=message):
            read(WORDS, **{**CLICKS, **parameters})

    def test_recipes_can_name_all_of_it(self, read: Any) -> None:
        given = {"path": "data.csv", **CLICKS, "categorical": ["c"], "roles": {"c": "item"}}
        bound = bind("datasets", "table", given)
        (content,) = (lines("user_id,item_id,label,c", "u,i,1,x"),)
        bound.pop("path")
        assert read(content, **bound).frame.height == 1


CELL = st.text(st.sampled_from('ab,;"\n \\é'), max_size=4)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(CELL, CELL, st.sampled_from(["0", "1", "", "x"])), min_size=1))
def test_every_row_of_a_csv_is_kept_as_it_is_or_counted(
    tmp_path: Path, rows: list[tuple[str, str, str]]
) -> None:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "label"], orient="row")
    frame.write_csv(tmp_path / "data.csv", quote_style="always")
    good = [row for row in rows if row[0].strip() and row[1].strip() and row[2] in "01" and row[2]]
    if not good:
        with pytest.raises(DataError, match=f"none of {len(rows)} rows"):
            load(tmp_path, path="data.csv", **CLICKS)
        return
    tables = load(tmp_path, path="data.csv", **CLICKS)
    assert tables.read == len(rows) == len(good) + sum(tables.dropped.values())
    assert [
        (u, i, str(x)) for u, i, x in tables.frame["user_id", "item_id", "label"].rows()
    ] == good
