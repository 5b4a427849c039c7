"""A user's own events: who came next, what was had before, short histories, odd ids and times."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.datasets.base import Tables
from harness.datasets.events import as_events
from harness.datasets.prepare import prepare
from harness.datasets.table import load
from harness.errors import DataError
from harness.registry import bind
from harness.tables import SPLITS, Prepared

NEXT = {"user": "user_id", "item": "item_id", "time": "ts", "task": "next_item"}
SHORT = """user_id,item_id,ts
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
AGAIN = """user_id,item_id,ts
u,x,1
v,y,2
u,x,3
v,x,4
u,y,5
v,y,6
u,x,7
v,z,8
u,z,9
u,w,10
v,w,10
u,w,11
"""

Read = Callable[..., Tables]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """``read(content, **parameters)``: write a csv and load it as events."""

    def load_text(content: str, **parameters: Any) -> Tables:
        (tmp_path / "data.csv").write_text(content)
        return load(tmp_path, path="data.csv", **{**NEXT, **parameters})

    return load_text


def told(prepared: Prepared) -> dict[str, list[tuple[str, list[str], str]]]:
    """User, past and item of every row of each split, in words."""
    items = ("?", *prepared.vocabularies[prepared.schema.item].values)
    users = ("?", *prepared.vocabularies[prepared.schema.user].values)
    found: dict[str, list[tuple[str, list[str], str]]] = {}
    for name, split in prepared.splits.items():
        assert split.histories is not None
        rows = np.arange(split.rows)
        past = split.histories.seen(split.request_of_row, rows)
        found[name] = [
            (
                users[split.user_of_row[row]],
                [items[i] for i in past[row] if i],
                items[split.arrays["candidates"][row, 0]],
            )
            for row in rows
        ]
    return found


class TestShortHistories:
    def test_leave_last_by_hand(self, read: Read) -> None:
        prepared = prepare(read(SHORT, split="leave_last"))
        assert prepared.counts == {"read": 11, "kept": 11}
        assert told(prepared) == {
            "train": [
                ("a", [], "i1"),
                ("b", [], "i1"),
                ("c", [], "i1"),
                ("d", [], "i1"),
                ("d", ["i1"], "i2"),
                ("d", ["i1", "i2"], "i3"),
            ],
            "validation": [("c", ["i1"], "i2"), ("d", ["i1", "i2", "i3"], "?")],
            "test": [
                ("b", ["i1"], "i2"),
                ("c", ["i1", "i2"], "i3"),
                ("d", ["i1", "i2", "i3"], "?"),  # i4 and i5 are cold
            ],
        }

    def test_who_is_tested_is_said(self, read: Read) -> None:
        facts = prepare(read(SHORT, split="leave_last")).facts
        assert facts["test"] == "3 rows in 3 requests"
        assert facts["parts of users"] == (
            "3 of 4 users have test rows, 2 validation rows, 1 training rows only"
        )
        assert facts["cold users in test"] == "0 of 3 users (0.0%), 0 of 3 rows (0.0%)"
        assert facts["cold items in test"] == "1 of 3 items (33.3%), 1 of 3 rows (33.3%)"
        assert facts["test without a past"] == "0 of 3 (0.0%) users, 0 of 3 (0.0%) rows"
        assert facts["leakage check"].startswith("passed: every past ends before its row")

    @pytest.mark.parametrize("task", ["rating", "click"])
    def test_the_other_tasks_say_it_too(self, tmp_path: Path, task: str) -> None:
        rows = SHORT.splitlines()
        content = "\n".join(
            [rows[0] + ",label", *(f"{row},{i % 2}" for i, row in enumerate(rows[1:]))]
        )
        (tmp_path / "data.csv").write_text(content)
        given_ = {**NEXT, "task": task, "label": "label", "split": "leave_last"}
        facts = prepare(load(tmp_path, path="data.csv", **given_)).facts
        assert facts["test"] == "3 rows in 3 requests"
        assert facts["parts of users"].startswith("3 of 4 users have test rows, 2 validation")
        assert facts["cold items in test"] == "1 of 3 items (33.3%), 1 of 3 rows (33.3%)"
        assert facts["leakage check"].startswith("passed: no row of a user is later")

    def test_one_event_leaves_nothing_to_test(self, read: Read) -> None:
        message = "validation and test split empty: 'leave last out per user"
        with pytest.raises(DataError, match=message):
            prepare(read("user_id,item_id,ts\na,i1,10\n", split="leave_last"))

    def test_two_events_leave_no_validation(self, read: Read) -> None:
        content = "user_id,item_id,ts\na,i1,10\na,i2,20\n"
        with pytest.raises(
            DataError, match=r"validation split empty: .* train 1, validation 0, te"
        ):
            prepare(read(content, split="leave_last"))

    def test_users_without_a_past_in_a_split_by_time(self, read: Read) -> None:
        rows = [f"u{i},i{i % 3},{i}" for i in range(8)] + ["u0,i1,8", "new,i0,9"]
        content = "\n".join(["user_id,item_id,ts", *rows])
        facts = prepare(read(content, test_share=0.2)).facts
        assert facts["cold users in test"] == "1 of 2 users (50.0%), 1 of 2 rows (50.0%)"
        assert facts["test without a past"] == "1 of 2 (50.0%) users, 1 of 2 (50.0%) rows"
        assert facts["leakage check"].endswith("no row is later than one of a later part")


# Of AGAIN, times 7 and 8 are validation, 9 to 11 test.
SHARES = {"validation_share": 1 / 6, "test_share": 1 / 3}


class TestRepeats:
    def test_what_was_had_before_is_dropped_and_counted(self, read: Read) -> None:
        prepared = prepare(read(AGAIN, **SHARES))
        assert prepared.counts == {
            "read": 12,
            "kept": 10,
            "dropped: item that the user had before, in validation or test": 2,
        }
        found = told(prepared)
        assert found["train"][:4] == [
            ("u", [], "x"),
            ("u", ["x"], "x"),  # a training row is what the user did
            ("u", ["x", "x"], "y"),
            ("v", [], "y"),
        ]
        assert [row[:2] for row in found["validation"]] == [("v", ["y", "x", "y"])]
        assert [user for user, _, _ in found["test"]] == ["u", "u", "v"]  # one w of u, not two
        assert prepared.schema.repeats is False
        assert prepared.facts["repeats"] == (
            "an item that the user had before is never recommended; 0 of 3 (0.0%) test rows are "
            "such items"
        )

    def test_with_repeats_every_row_stays(self, read: Read) -> None:
        prepared = prepare(read(AGAIN, repeats=True, split="leave_last"))
        assert prepared.counts == {"read": 12, "kept": 12}
        assert prepared.schema.repeats is True
        assert prepared.facts["repeats"] == (
            "an item that the user had before may be recommended again; 1 of 2 (50.0%) test rows "
            "are such items"
        )

    @given(
        st.lists(st.tuples(st.sampled_from("uv"), st.sampled_from("xyz"), st.sampled_from(SPLITS)))
    )
    def test_of_later_parts_the_first_of_user_and_item_stays(
        self, rows: list[tuple[str, str, str]]
    ) -> None:
        frame = pl.DataFrame(
            rows, {"u": pl.String, "i": pl.String, "split": pl.String}, orient="row"
        )
        frame = frame.with_columns(t=pl.int_range(pl.len()))
        left, dropped = as_events(frame, "u", "i", time="t", repeats=False)
        had: set[tuple[str, str]] = set()
        kept = []
        for name in SPLITS:
            for at, (user, item, part) in enumerate(rows):
                if part == name:
                    kept += [at] if part == "train" or (user, item) not in had else []
                    had.add((user, item))
        assert left["t"].to_list() == sorted(kept)
        assert sum(dropped.values()) == len(rows) - len(kept)


class TestMapping:
    def test_three_lines_are_enough(self, tmp_path: Path) -> None:
        rows = "".join(f"u{i % 5},i{i % 7},{i}\n" for i in range(60))
        (tmp_path / "clicks.csv").write_text("who,what,when\n" + rows)
        given_ = {"path": "clicks.csv", "user": "who", "item": "what", "time": "when"}
        bound = bind("datasets", "table", {**given_, "task": "next_item", "repeats": True})
        prepared = prepare(load(tmp_path, **bound))
        assert (prepared.schema.task, prepared.schema.length) == ("next_item", 50)
        assert prepared.split_rule.startswith("global time split: 10.0% test, 10.0% validation; ")
        assert {name: s.rows for name, s in prepared.splits.items()} == {
            "train": 48,
            "validation": 6,
            "test": 6,
        }

    def test_rows_are_put_in_the_order_of_time(self, read: Read) -> None:
        lines = SHORT.splitlines()
        turned = "\n".join([lines[0], *reversed(lines[1:])])
        same = prepare(read(SHORT, split="leave_last"))
        assert told(prepare(read(turned, split="leave_last"))) == told(same)

    def test_ties_keep_the_order_of_the_file(self, read: Read) -> None:
        content = "user_id,item_id,ts\na,x,5\na,y,5\na,z,5\nb,z,5\nb,y,5\nb,x,5\n"
        prepared = prepare(read(content, split="leave_last"))
        assert [row[1] for row in told(prepared)["test"]] == [["x"], ["z"]]
        assert prepared.splits["test"].row_id.tolist() == [2, 5]
        assert prepared.facts["ties"].startswith("6 of 6 rows (100.0%) share their time")
        assert "2 test rows share their time" in prepared.facts["leakage check"]

    def test_an_event_on_the_boundary_is_in_the_later_part(self, read: Read) -> None:
        times = [1, 2, 3, 4, 5, 6, 7, 9, 9, 9]  # one test row asked for, three of its time
        content = "user_id,item_id,ts\n" + "".join(f"u,i{i},{t}\n" for i, t in enumerate(times))
        tables = read(content)
        parts = tables.frame["split"].to_list()
        assert parts == ["train"] * 7 + ["test"] * 3
        with pytest.raises(DataError, match="validation split empty"):
            prepare(tables)

    def test_extra_columns_of_users_and_items(self, read: Read) -> None:
        lines = SHORT.splitlines()
        content = "\n".join([lines[0] + ",age,kind", *(f"{r},{r[0]}0,k{r[3]}" for r in lines[1:])])
        roles = {"age": "user", "kind": "item"}
        tables = read(content, split="leave_last", categorical=("age", "kind"), roles=roles)
        fields = {field.name: field.role for field in prepare(tables).schema.fields}
        assert fields == {"user_id": "user", "item_id": "item", "age": "user", "kind": "item"}
        message = r"column 'age': the task next_item knows .* give roles: \{age: user\}"
        with pytest.raises(DataError, match=message):
            read(content, categorical=("age",))

    def test_files_for_each_part(self, tmp_path: Path) -> None:
        for name, rows in {
            "train": "a,x,1\na,y,2\nb,x,1\n",
            "validation": "a,z,3\nb,y,3\n",
            "test": "a,x,4\nb,x,5\nb,z,6\n",
        }.items():
            (tmp_path / f"{name}.csv").write_text("user_id,item_id,ts\n" + rows)
        files = {f"{name}": f"{name}.csv" for name in ("validation", "test")}
        prepared = prepare(load(tmp_path, path="train.csv", **files, **NEXT))
        assert prepared.counts["kept"] == 6  # a had x, b had x
        assert told(prepared)["test"] == [("b", ["x", "y"], "?")]
        assert "no row of a user is later" in prepared.facts["leakage check"]
        (tmp_path / "train.csv").write_text("user_id,item_id,ts\na,x,1\na,y,99\nb,x,1\n")
        with pytest.raises(DataError, match="leak: 1 train rows are later than a validation row"):
            prepare(load(tmp_path, path="train.csv", **files, **NEXT))

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"time": None}, "task next_item needs 'time'"),
            ({"split": "random"}, "task next_item needs 'time', .* 'leave_last'"),
            ({"label": "ts"}, "label: 'ts' has no effect with the task next_item, where every row"),
            ({"threshold": 3.0}, "threshold: 3.0 has no effect with the task next_item"),
            ({"request": "ts"}, "request: 'ts' has no effect with the task next_item"),
            ({"negatives": 2}, "negatives: 2 has no effect with the task next_item"),
            ({"seed": 3}, "seed: 3 has no effect with split 'time' and no 'negatives'"),
            (
                {"split": "leave_last", "test_share": 0.2},
                "test_share: 0.2 has no effect with split",
            ),
            ({"test_last": 2}, "test_last: 2 has no effect with split 'time'"),
            ({"task": "click", "negatives": 1, "length": 9}, "length: 9 has no effect with the ta"),
            (
                {"task": "click", "negatives": 1, "repeats": False},
                "repeats: False has no effect with the task click",
            ),
            ({"test": "t.csv", "test_share": 0.1}, "test_share: 0.1 has no effect with a 'test' f"),
            (
                {"test": "t.csv", "validation": "v.csv", "split": "time"},
                "split: 'time' has no effect with files for 'validation' and 'test'",
            ),
        ],
    )
    def test_options_without_an_effect_are_refused(
        self, read: Read, parameters: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(DataError, match=message):
            read(SHORT, **parameters)


class TestOddIdsAndTimes:
    IDS = (2**62, -(2**62), -1, 0, 7)

    @pytest.mark.parametrize("form", ["text", "numbers"])
    def test_ids_as_text_and_as_numbers_are_the_same(self, tmp_path: Path, form: str) -> None:
        """Huge, negative and sparse ids."""
        rows = [(self.IDS[i % 5], self.IDS[(i * 2) % 5], i) for i in range(30)]
        frame = pl.DataFrame(rows, ["user_id", "item_id", "ts"], orient="row")
        if form == "text":
            frame.write_csv(tmp_path / "data.csv")
        else:
            frame.write_parquet(tmp_path / "data.parquet")
        path = "data.csv" if form == "text" else "data.parquet"
        tables = load(tmp_path, path=path, **NEXT, repeats=True, split="leave_last")
        prepared = prepare(tables)
        assert sorted(prepared.vocabularies["item_id"].values) == sorted(map(str, self.IDS))
        assert prepared.schema.field("item_id").cardinality == 6
        last = {str(self.IDS[i % 5]): str(self.IDS[(i * 2) % 5]) for i in range(25, 30)}
        assert {user: item for user, _, item in told(prepared)["test"]} == last

    def test_number_like_words_stay_apart(self, read: Read) -> None:
        items = ["1", "01", "1.0", " 1", "+1", "NA", "nan"]
        rows = [f"u{i % 2},{items[i % 7]},{i}" for i in range(28)]
        tables = read("\n".join(["user_id,item_id,ts", *rows]), repeats=True)
        assert set(tables.frame["item_id"]) == set(items)

    @pytest.mark.parametrize(
        "unit", [1, 1_000, 1_000_000], ids=["seconds", "milliseconds", "microseconds"]
    )
    def test_neighbouring_times_keep_their_order(self, read: Read, unit: int) -> None:
        """As float32 these times would be the same."""
        begin = 1_700_000_000 * unit
        rows = [f"u,i{i},{begin + 9 - i}" for i in range(10)]
        tables = read("\n".join(["user_id,item_id,ts", *rows]))
        assert tables.frame["item_id"].to_list() == [f"i{i}" for i in range(9, -1, -1)]
        assert tables.frame["split"].to_list() == ["train"] * 8 + ["validation", "test"]
        assert tables.frame["__time__"].to_list() == [begin + i for i in range(10)]

    def test_times_before_1970_and_dates(self, read: Read) -> None:
        rows = ["u,a,1969-12-31", "u,b,1950-01-01", "u,c,1970-01-02T00:00:00Z"]
        tables = read("\n".join(["user_id,item_id,ts", *rows]), split="leave_last")
        assert tables.frame["item_id"].to_list() == ["b", "a", "c"]

    def test_blank_and_unusable_cells_are_counted(self, read: Read) -> None:
        content = SHORT + "e,,60\n,i1,60\nf,i1,soon\n"
        assert prepare(read(content, split="leave_last")).counts == {
            "read": 14,
            "kept": 11,
            "dropped: blank user_id": 1,
            "dropped: blank item_id": 1,
            "dropped: unusable time in ts": 1,
        }
