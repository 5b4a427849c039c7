"""BARS csv sets: layouts, md5, rare ids, derived columns; tiny files in the sets' own columns."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest

from harness import registry
from harness.datasets import bars
from harness.datasets.bars import FILES, NO_USER, SETS, buckets, fingerprint, load
from harness.datasets.base import Tables
from harness.datasets.prepare import prepare
from harness.errors import DataError

MOVIES = {
    "train": "label,user_id,item_id,tag_id\n1,7,3,1\n0,7,4,1\n1,8,3,2\n0,8,3,9\n",
    "validation": "label,user_id,item_id,tag_id\n0,7,5,1\n1,8,4,2\n",
    "test": "label,user_id,item_id,tag_id\n1,9,3,1\n0,8,6,2\n1,7,3,3\n",
}


def write(folder: Path, texts: dict[str, str]) -> tuple[str, str, str]:
    """Write the three files; their md5."""
    for split, text in texts.items():
        (folder / FILES[split]).write_text(text)
    sums = [hashlib.md5(texts[split].encode()).hexdigest() for split in FILES]
    return sums[0], sums[1], sums[2]


@pytest.fixture
def movies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    layout = replace(SETS["MovielensLatest_x1"], md5=write(tmp_path, MOVIES))
    monkeypatch.setitem(SETS, "MovielensLatest_x1", layout)
    return tmp_path


def read(folder: Path, **parameters: Any) -> Tables:
    return load(folder, name="MovielensLatest_x1", path=".", **parameters)


def one_row(name: str, **values: str) -> dict[str, str]:
    """Three files of two rows (labels 1 and 0) in the columns of a set; blank but for values."""
    names = [column for column in SETS[name].read() if column != SETS[name].label]
    header = ",".join([SETS[name].label, *names])
    cells = ",".join(values.get(column, "") for column in names)
    return dict.fromkeys(FILES, f"{header}\n1,{cells}\n0,{cells}\n")


def test_rows_labels_and_splits_by_hand(movies: Path) -> None:
    tables = read(movies)
    frame = tables.frame
    assert (tables.read, dict(tables.dropped), frame.height) == (9, {}, 9)
    assert frame["label"].to_list() == [1, 0, 1, 0, 0, 1, 1, 0, 1]
    assert frame["user_id"].cast(pl.String).to_list() == list("778878987")
    assert frame["split"].to_list() == ["train"] * 4 + ["validation"] * 2 + ["test"] * 3
    assert frame["request"].to_list() == list(range(9))
    assert tables.split_rule.startswith("MovielensLatest_x1 as given by BARS (random 7:2:1")
    assert tables.facts["positives"] == "5 of 9 rows (55.56%)"
    assert [column.role for column in tables.columns] == ["user", "item", "item"]


def test_users_and_items_of_later_files_are_counted_as_cold(movies: Path) -> None:
    prepared = prepare(read(movies))
    assert prepared.facts["cold users in test"].startswith("1 of 3 users")
    assert prepared.facts["cold items in test"].startswith("1 of 2 items")
    assert prepared.vocabularies["user_id"].values == ("7", "8")
    assert prepared.splits["test"].arrays["user"][:, 0].tolist() == [0, 2, 1]


def test_rare_values_are_the_unknown_id(movies: Path) -> None:
    tables = read(movies, min_count=2)
    # Seen once in training: item 4, tags 2 and 9. Tag 3 isn't in training, item 5 and 6 neither.
    assert tables.frame["item_id"].cast(pl.String).to_list() == [
        *("3", None, "3", "3", "5", None, "3", "6", "3"),
    ]
    assert tables.frame["tag_id"].cast(pl.String).to_list() == [
        *("1", "1", None, None, "1", None, "1", None, None),
    ]
    assert tables.facts["rare ids"].startswith("3 values that training has less than 2 times")
    prepared = prepare(tables)
    assert prepared.vocabularies["tag_id"].values == ("1",)
    assert prepared.splits["train"].arrays["candidates"][:, 1].tolist() == [1, 1, 0, 0]


def test_the_benchmarks_own_thresholds() -> None:
    thresholds = {name: layout.min_count for name, layout in SETS.items()}
    assert thresholds.pop("Criteo_x4") == 10
    assert thresholds.pop("Avazu_x4") == 2
    assert set(thresholds.values()) == {1}


def test_layouts_are_the_benchmarks() -> None:
    fields = {name: len(layout.columns()) for name, layout in SETS.items()}
    # 13 counts and 26 hashes, 22 fields (and the hour's two more); one more where no user is.
    assert fields == {
        "Criteo_x1": 40,
        "Criteo_x4": 40,
        "Avazu_x1": 23,
        "Avazu_x4": 25,
        "Frappe_x1": 10,
        "MovielensLatest_x1": 3,
    }
    labels = [layout.label for layout in SETS.values()]
    assert labels == ["label", "Label", "label", "click", "label", "label"]
    sums = [md5 for layout in SETS.values() for md5 in layout.md5]
    assert len(set(sums)) == 18
    assert {len(md5) for md5 in sums} == {32}


def test_the_recipe_knows_every_set() -> None:
    for name in SETS:
        bound = registry.bind("datasets", "bars", {"name": name, "path": "."})
        assert bound == {"name": name, "path": ".", "min_count": None, "verify": True}


@pytest.mark.parametrize("split", FILES)
def test_a_changed_file_is_refused_by_name(movies: Path, split: str) -> None:
    file = movies / FILES[split]
    file.write_text(file.read_text() + "1,7,3,1\n")
    with pytest.raises(DataError, match=rf"{FILES[split]}: md5 is .*, expected .*verify: false"):
        read(movies)
    assert read(movies, verify=False).read == 10


def test_a_missing_file_is_named(movies: Path) -> None:
    (movies / "valid.csv").unlink()
    with pytest.raises(DataError, match=r"valid\.csv: no such file; download MovielensLatest_x1"):
        read(movies)


def test_a_missing_column_is_named(movies: Path) -> None:
    (movies / "test.csv").write_text("label,user_id,item_id\n1,7,3\n")
    with pytest.raises(DataError, match=r"test\.csv: no column 'tag_id'; found 3 columns"):
        read(movies, verify=False)


TEST = MOVIES["test"].encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (TEST + b"1,7\n", "test.csv:5: 2 cells, expected 4; mend the line"),
        (TEST + b"1,7,3,3,9\n", "test.csv:5: 5 cells, expected 4; mend the line"),
        (TEST + b"1,7,3,caf\xe9\n", "test.csv:5: byte 0xe9 at position 62 isn't utf-8"),
        (TEST + b"1,7,3,a\0b\n", "NUL characters"),
        (TEST.decode().encode("utf-16"), "isn't utf-8"),
        (TEST + b"1,7,3," + b"x" * 70_000 + b"\n", "column 'tag_id': a cell has 70,000 bytes"),
        (TEST + b"1,7,3," + b"x" * 30_000_000 + b"\n", "test.csv:5: 1,048,576 characters or more"),
        (TEST + b'1,7,"3,x\n' + b"1,7,3,3\n" * 9, "cells, expected 4"),
        (b"x" * 3_000_000, "test.csv:1: 1,048,576 characters or more"),
        (b"label" + b",c" * 30_000 + b"\n", "over 20,000 columns"),
        (b"tag_id," + TEST, "column 'tag_id' is there 2 times"),
        (TEST.replace(b",", b";"), "found 1 column: ['label;user_id;item_id;tag_id']"),
        (b"\x1f\x8b\x08\0" + b"\xff" * 99, "isn't utf-8"),
    ],
    ids=[
        *("empty", "short", "ragged", "latin-1", "NUL", "utf-16", "cell", "line"),
        *("quote", "one line", "columns", "twice", "semicolons", "packed"),
    ],
)
def test_what_cant_be_read_is_one_sentence(movies: Path, content: bytes, told: str) -> None:
    (movies / "test.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(movies, verify=False)
    text = str(caught.value)
    assert told in text
    assert str(movies / "test.csv") in text
    assert "\n" not in text


def test_words_that_others_take_for_missing_or_obey_are_words(movies: Path) -> None:
    words = ["NA", "null", "None", "nan", "N/A", "#N/A", "=1+1", "@SUM(1)", "-", "\x1b[2J", "TRUE"]
    lines = "".join(f"1,7,3,{word}\n" for word in words)
    blank = '0,7,3,\n0,7,3,""\n0,7,3,  \n'
    text = "\ufeff" + MOVIES["train"] + lines + blank + '0,7,3,"two\nlines"\n'
    (movies / "train.csv").write_bytes(text.encode().replace(b"\n", b"\r\n"))
    frame = read(movies, verify=False).frame
    tags = frame["tag_id"].cast(pl.String).to_list()[4 : 4 + len(words) + 4]
    assert tags == [*words, None, None, None, "two\r\nlines"]


def test_all_cells_together_are_bounded(movies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that are all different, on a machine of 1,000 bytes."""
    rows = "".join(f"1,user-{at:06},3,1\n" for at in range(200))
    (movies / "train.csv").write_text(MOVIES["train"] + rows)
    there = psutil.virtual_memory()._replace(total=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
    monkeypatch.setattr(bars, "BLOCK", 256)
    monkeypatch.setattr(bars, "PENDING", 2)
    with pytest.raises(DataError, match=r"train\.csv: the text of column .* take at least"):
        read(movies, verify=False)


def test_a_bad_file_ends_its_process_orderly(movies: Path) -> None:
    """A reader of blocks that is left in the middle of a file may still be at work."""
    rows = "1,7,3,1\n" * 200_000
    (movies / "train.csv").write_text(MOVIES["train"] + rows + "1,7\n" + rows)
    code = (
        "import sys; from pathlib import Path; from harness.datasets import bars\n"
        "bars.BLOCK = 65536\n"
        "try: bars.load(Path(sys.argv[1]), name='MovielensLatest_x1', path='.', verify=False)\n"
        "except Exception as error: sys.exit(f'{type(error).__name__} {error}'[-99:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(movies)], capture_output=True, timeout=60, text=True
    )
    assert done.returncode == 1
    assert "n.csv:200006: 2 cells, expected 4" in done.stderr


def test_unusable_rows_are_counted(tmp_path: Path) -> None:
    texts = one_row("Criteo_x1", I1="3", C1="a")
    texts["train"] += texts["train"].splitlines()[1].replace("1,3,", "2,word,") + "\n"
    texts["train"] += texts["train"].splitlines()[1].replace("1,3,", "0,word,") + "\n"
    texts["train"] += texts["train"].splitlines()[1].replace("1,3,", "0,inf,") + "\n"
    write(tmp_path, texts)
    tables = load(tmp_path, name="Criteo_x1", path=".", verify=False)
    assert tables.read == 9
    assert tables.dropped == {"unusable label in label": 1, "not a number in I1": 2}
    assert tables.frame.height == 6


def test_buckets_by_hand() -> None:
    # ln(3)^2 = 1.2, ln(10)^2 = 5.3, ln(1000)^2 = 47.7
    counts = pl.Series([None, -2.0, 0.0, 1.0, 2.0, 3.0, 10.0, 1000.0])
    assert buckets(counts).to_list() == ["0", "-2", "0", "1", "2", "1", "5", "47"]


def test_criteo_x4_counts_are_categories_and_there_is_no_user(tmp_path: Path) -> None:
    write(tmp_path, one_row("Criteo_x4", I1="1000", C1="68fd1e64"))
    tables = load(tmp_path, name="Criteo_x4", path=".", verify=False, min_count=1)
    assert {column.kind for column in tables.columns} == {"categorical"}
    assert tables.user == NO_USER == tables.columns[0].name
    assert tables.frame[NO_USER].null_count() == 6
    assert tables.facts["users"].startswith("none in this set")
    prepared = prepare(tables)
    assert prepared.vocabularies["I1"].values == ("47",)
    assert prepared.vocabularies["I2"].values == ("0",)  # a missing count is none, as in BARS
    assert prepared.vocabularies["C2"].values == ()
    assert prepared.splits["train"].requests == 2
    assert not prepared.splits["train"].arrays["user"].any()
    rare = load(tmp_path, name="Criteo_x4", path=".", verify=False)
    assert rare.frame["C1"].null_count() == 6
    assert "less than 10 times" in rare.facts["rare ids"]


def test_criteo_x1_counts_are_numbers(tmp_path: Path) -> None:
    texts = one_row("Criteo_x1", **{f"I{i}": "0.5" for i in range(1, 14)})
    write(tmp_path, texts)
    frame = load(tmp_path, name="Criteo_x1", path=".", verify=False).frame
    assert frame["I13"].to_list() == [0.5] * 6
    assert frame["I13"].dtype == pl.Float32


def test_avazu_x4_hours(tmp_path: Path) -> None:
    # 21 October 2014 was a Tuesday, the 25th a Saturday, the 26th a Sunday.
    texts = {
        split: one_row("Avazu_x4", hour=stamp)["train"]
        for split, stamp in zip(FILES, ("14102100", "14102513", "14102623"), strict=True)
    }
    write(tmp_path, texts)
    frame = load(tmp_path, name="Avazu_x4", path=".", verify=False, min_count=1).frame
    assert bars._calendar(pl.Series(["14102513"]))[1].to_list() == ["6"]
    assert frame["hour"].cast(pl.String).to_list() == ["00", "00", None, None, None, None]
    stamps = pl.Series(["14102100", "14102513", "14102623", "soon"])
    hour, weekday, weekend = bars._calendar(stamps)
    assert hour.to_list()[:3] == ["00", "13", "23"]
    assert weekday.to_list() == ["2", "6", "0", None]
    assert weekend.to_list() == ["0", "1", "1", None]


def test_blocks_do_not_change_what_is_read(movies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header, *rows = MOVIES["train"].splitlines()
    (movies / "train.csv").write_text("\n".join([header, *(rows * 40)]) + "\n")
    whole = read(movies, verify=False, min_count=40)
    monkeypatch.setattr(bars, "BLOCK", 64)
    monkeypatch.setattr(bars, "PENDING", 2)
    pieces = read(movies, verify=False, min_count=40)
    assert pieces.frame.equals(whole.frame)
    assert pieces.read == whole.read == 165
    assert prepare(pieces).hash == prepare(whole).hash


def test_fingerprint_follows_content_and_parameters(movies: Path) -> None:
    def key(**parameters: Any) -> str:
        return fingerprint(movies, name="MovielensLatest_x1", path=".", **parameters)

    first = key(min_count=None)
    assert key(min_count=None) == first
    assert key(min_count=2) != first
    (movies / "test.csv").write_text(MOVIES["test"] + "1,7,3,3\n")
    assert key(min_count=None) != first


def test_every_id_is_of_its_own_type(movies: Path) -> None:
    prepared = prepare(read(movies))
    ids = prepared.splits["train"].arrays["candidates"]
    assert ids.dtype == np.int32
