"""MovieLens in all its forms, from a folder, a zip, a wheel or the web; no row gets lost."""

import hashlib
import io
import subprocess
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import registry
from harness.datasets.base import Tables
from harness.datasets.fetch import Address, Wheel
from harness.datasets.movielens import SETS, Published, fingerprint, load
from harness.datasets.movielens_files import forms
from harness.datasets.movielens_split import Rule, split_rows
from harness.datasets.prepare import prepare
from harness.errors import DataError

# User, item, rating, time: users 1 and 2 rate twice in one second; item 30 is rated by nobody.
RATINGS = (
    (1, 10, 5, 300),
    (2, 20, 3, 100),
    (1, 20, 4, 300),
    (3, 10, 1, 200),
    (2, 10, 4, 100),
    (3, 20, 2, 4_000_000_000),
)
FLAGS = 19


def lines(*rows: str, end: str = "\n") -> str:
    return "".join(row + end for row in rows)


def joined(separator: str) -> str:
    return lines(*(separator.join(map(str, row)) for row in RATINGS))


def flags(*places: int) -> str:
    return "|".join(str(int(i in places)) for i in range(FLAGS))


ATOMIC: dict[str, bytes] = {
    "ml-100k.inter": lines(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        *("\t".join(map(str, row)) for row in RATINGS),
    ).encode(),
    "ml-100k.user": lines(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
        "1\t24\tM\ttechnician\t85711",
        "2\t53\tF\tother\t94043",
        "3\t23\tM\twriter\t32067",
    ).encode(),
    "ml-100k.item": lines(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        "10\tMisérables, Les\t1995\tDrama Musical",
        '20\tThe "Quoted, One\tunkonwn\tSci-Fi Drama',
        "30\tNobody's\t1990\t",
    ).encode(),
}
ORIGINAL: dict[str, bytes] = {
    "u.data": joined("\t").encode(),
    "u.user": lines(
        "1|24|M|technician|85711", "2|53|F|other|94043", "3|23|M|writer|32067"
    ).encode(),
    "u.item": lines(
        f"10|Misérables, Les (1995)|01-Jan-1996||http://x|{flags(8, 12)}",
        f'20|The "Quoted, One|||http://x|{flags(8, 15)}',
        f"30|Nobody's (1990)|01-Jan-1990||http://x|{flags()}",
    ).encode("latin-1"),
}
DAT: dict[str, bytes] = {
    "ratings.dat": joined("::").encode(),
    "users.dat": lines("1::F::1::10::48067", "2::M::56::16::70072", "3::M::25::15::55117").encode(),
    "movies.dat": lines(
        "10::Misérables, Les (1995)::Drama|Musical",
        "20::Face::Off: Two::Three (Deux) (1997)::Action|Sci-Fi",
        "30::Kino (2000)::(no genres listed)",
    ).encode("latin-1"),
}
CSV: dict[str, bytes] = {
    "ratings.csv": ("userId,movieId,rating,timestamp\n" + joined(",")).encode(),
    "movies.csv": lines(
        "movieId,title,genres",
        '10,"Misérables, Les (1995)",Drama|Musical',
        '20,"""Great"" Show, The (2007-2012) ",(no genres listed)',
        "30,Plain,Comedy",
    ).encode(),
}


def put(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def zipped(files: dict[str, bytes], inside: str) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{inside}/{name}", content)
        archive.writestr(f"__MACOSX/{inside}/._{next(iter(files))}", b"junk")
    return whole.getvalue()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """``read(files, size, **parameters)``: write a folder and load it."""

    def load_files(files: dict[str, bytes], size: Any = "100k", **parameters: Any) -> Tables:
        put(tmp_path / "set", files)
        return load(tmp_path, size=size, path="set", **parameters)

    return load_files


WHEEL = zipped(ATOMIC, "recbole/dataset_example/ml-100k")
ZIP = zipped(ORIGINAL, "ml-100k")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A package index and a web server; what each gives (None: can't be reached), what was asked.

    The published set is the tiny one, and the cache is empty.
    """
    state: dict[str, Any] = {"wheel": WHEEL, "zip": ZIP, "asked": []}
    sources = (
        Wheel("recbole", "1.2.1", sha(WHEEL)),
        Address("https://files.grouplens.org/datasets/movielens/ml-100k.zip", sha(ZIP)),
    )
    monkeypatch.setitem(SETS, "100k", Published(sources, 6, 3, 2))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        state["asked"].append("pip")
        assert command[2:5] == ["pip", "download", "recbole==1.2.1"]
        assert "--no-deps" in command
        if state["wheel"] is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution\n")
        target = Path(command[command.index("--dest") + 1])
        (target / "recbole-1.2.1-py3-none-any.whl").write_bytes(state["wheel"])
        return subprocess.CompletedProcess(command, 0, "", "")

    def urlopen(url: str, **_: Any) -> io.BytesIO:
        state["asked"].append(url)
        if state["zip"] is None:
            raise urllib.error.URLError("Name or service not known")
        return io.BytesIO(state["zip"])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return state


class TestForms:
    def check_ratings(self, tables: Tables) -> None:
        rows = tables.frame.select(
            pl.col("user").cast(pl.Int64), pl.col("item").cast(pl.Int64), "rating", "time"
        )
        in_time = sorted(RATINGS, key=lambda row: row[3])
        assert rows.rows() == [tuple(row) for row in in_time]
        assert rows["time"].dtype == pl.Int64
        assert tables.read == 6
        assert tables.dropped == {}

    @pytest.mark.parametrize("files", [ATOMIC, ORIGINAL], ids=["atomic", "original"])
    def test_100k(self, read: Any, files: dict[str, bytes]) -> None:
        tables = read(files)
        self.check_ratings(tables)
        first = {key: values[0] for key, values in tables.frame.to_dict(as_series=False).items()}
        assert (first["gender"], first["age"], first["occupation"]) == ("F", "53", "other")
        by_item = dict(tables.frame.select("item", "genre").unique().iter_rows())
        assert {str(k): v for k, v in by_item.items()} == {
            "10": "Drama",
            "20": "Drama" if files is ORIGINAL else "Sci-Fi",  # flags stand in alphabetical order
        }
        years = dict(tables.frame.select("item", "year").unique().iter_rows())
        assert {str(k): v for k, v in years.items()} == {"10": 1995, "20": None}

    def test_both_forms_of_100k_prepare_alike(self, read: Any, tmp_path: Path) -> None:
        shares = {"validation_share": 0.2, "test_share": 0.2}
        item = ATOMIC["ml-100k.item"].replace(b"Sci-Fi Drama", b"Drama Sci-Fi")
        put(tmp_path / "other", ORIGINAL)
        atomic = prepare(read({**ATOMIC, "ml-100k.item": item}, **shares))
        other = prepare(load(tmp_path, size="100k", path="other", **shares))
        assert atomic.hash == other.hash

    def test_1m_with_separators_in_titles(self, read: Any) -> None:
        tables = read(DAT, "1m")
        self.check_ratings(tables)
        items = tables.frame.select("item", "genre", "year").unique().sort("item").rows()
        assert items == [(10, "Drama", 1995), (20, "Action", 1997)]
        people = tables.frame.select("user", "gender", "age", "occupation").unique().sort("user")
        assert people.rows()[0] == (1, "F", "1", "10")

    def test_10m_tells_nothing_of_users(self, read: Any) -> None:
        movies = {"movies.dat": DAT["movies.dat"].decode("latin-1").encode()}
        tables = read({"ratings.dat": DAT["ratings.dat"], **movies}, "10m")
        self.check_ratings(tables)
        assert [column.name for column in tables.columns] == ["user", "item", "genre", "year"]

    @pytest.mark.parametrize("size", ["20m", "25m"])
    def test_csv_with_quoted_titles(self, read: Any, size: str) -> None:
        tables = read(CSV, size)
        self.check_ratings(tables)
        items = tables.frame.select("item", "genre", "year").unique().sort("item").rows()
        assert items == [(10, "Drama", 1995), (20, "(no genres listed)", 2007)]

    def test_atomic_1m_of_another_hand(self, read: Any) -> None:
        """Windows line ends, a tab at the end, users with a prefix, items named by title."""
        inter = lines(
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\t",
            "1m_1\tMétis (Café; au::Lait) (1993)\t5\t978300760\t",
            "1m_2\tMétis (Café; au::Lait) (1993)\t3\t978300761\t",
            end="\r\n",
        )
        users = lines(
            "user_id:token\tage:float\tgender:token\toccupation:float\tzip_code:token\t",
            "1m_1\t1\tF\t10\t48067\t",
            end="\r\n",
        )
        items = lines(
            "item_id:token\tmovie_title:token\trelease_year:float\tgenre:token\t",
            "Métis (Café; au::Lait) (1993)\tMétis\t1993\tComedy Drama\t",
            end="\r\n",
        )
        texts = {"ml-1m.inter": inter, "ml-1m.user": users, "ml-1m.item": items}
        tables = read({name: text.encode() for name, text in texts.items()}, "1m")
        assert tables.frame["user"].to_list() == ["1m_1", "1m_2"]
        assert tables.frame["item"].unique().to_list() == ["Métis (Café; au::Lait) (1993)"]
        assert tables.frame["occupation"].to_list() == ["10", None]
        assert tables.frame.select("genre", "year").row(0) == ("Comedy", 1993)
        assert tables.facts["users without features"] == "1 of 2"
        assert "items without features" not in tables.facts

    def test_a_folder_one_below(self, tmp_path: Path) -> None:
        put(tmp_path / "data" / "ml-1m", DAT)
        assert load(tmp_path, size="1m", path="data").read == 6


class TestTasks:
    def test_rating(self, read: Any) -> None:
        tables = read(ATOMIC)
        assert (tables.task, tables.label) == ("rating", "rating")
        assert tables.frame["rating"].dtype == pl.Float32
        assert "positives" not in tables.facts

    def test_click_is_at_least_the_threshold(self, read: Any) -> None:
        tables = read(ATOMIC, task="click")
        assert (tables.task, tables.label) == ("click", "click")
        assert tables.frame["click"].to_list() == [0, 1, 0, 1, 1, 0]  # 3 4 1 5 4 2 in time
        assert "rating" not in tables.frame.columns
        assert tables.facts["positives"] == "3 ratings of at least 4"

    def test_another_threshold(self, read: Any) -> None:
        assert read(ATOMIC, task="click", positive=3).frame["click"].sum() == 4

    @pytest.mark.parametrize("positive", [0.5, 5.5])
    def test_a_threshold_that_tells_nothing_apart(self, read: Any, positive: float) -> None:
        with pytest.raises(DataError, match=f"positive {positive:g}: expected a rating above 0.5"):
            read(ATOMIC, task="click", positive=positive)

    @pytest.mark.parametrize("task", ["rating", "click"])
    def test_prepared(self, read: Any, task: str) -> None:
        prepared = prepare(read(ATOMIC, task=task, validation_share=0.34, test_share=0.34))
        assert prepared.counts == {"read": 6, "kept": 6}
        assert {name: part.rows for name, part in prepared.splits.items()} == {
            "train": 2,
            "validation": 1,
            "test": 3,
        }
        assert prepared.facts["cold users in test"].startswith("2 of 2 users")


class TestDrops:
    def test_unusable_rows_are_counted_by_reason(self, read: Any) -> None:
        broken = lines(
            "1\t10\t5\t100",
            "x\t10\t5\t100",
            "1\t\t5\t100",
            "1\t10\t6\t100",
            "1\t10\tnan\t100",
            "1\t10\t\t100",
            "1\t10\t0.5\tsoon",
            "1\t10\t0.5\t-7",
            "1\t10",
        )
        tables = read({**ORIGINAL, "u.data": broken.encode()})
        assert tables.read == 9
        assert tables.frame["time"].to_list() == [-7, 100]
        assert tables.dropped == {
            "no usable user": 1,
            "no usable item": 1,
            "rating not in 0.5 to 5": 4,
            "no usable time": 1,
        }

    def test_nothing_usable(self, read: Any) -> None:
        with pytest.raises(DataError, match=r"none of 1 ratings can be used .*no usable user"):
            read({**ORIGINAL, "u.data": b"a\t1\t5\t1\n"})

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("u.data", b"", r"u.data is empty \(0 bytes\)"),
            ("u.data", b"1\t2\t3\n", r"u.data: 3 columns, expected 4; is it the right set\?"),
            ("u.data", b"1\t2\t3\t4\n1\t2\t3\t4\t5\n", "u.data: can't be read as the file of"),
            ("u.user", b"1|2|M|x|1\n1|2|M|x|1\n", r"u.user: id 1 is there more than once"),
            ("u.user", b"1|2|M|x|1\n|2|M|x|1\n", r"u.user: row 2 has no usable id"),
        ],
    )
    def test_files_that_are_wrong(self, read: Any, name: str, content: bytes, message: str) -> None:
        with pytest.raises(DataError, match=message):
            read({**ORIGINAL, name: content})

    def test_lines_and_headers_that_are_wrong(self, read: Any) -> None:
        with pytest.raises(DataError, match=r"movies.dat:2: expected 'id::title::genres', got 'x'"):
            read({**DAT, "movies.dat": b"1::A (1990)::Drama\nx\n"}, "1m")
        with pytest.raises(DataError, match=r"ratings.csv: expected one column 'movieId'; found"):
            read({**CSV, "ratings.csv": b"userId,film,rating,timestamp\n1,2,3,4\n"}, "20m")
        with pytest.raises(DataError, match=r"ml-100k.inter: expected one column 'rating'"):
            read({**ATOMIC, "ml-100k.inter": b"user_id:token\titem_id:token\n1\t2\n"})

    def test_a_set_that_is_not_whole(self, read: Any, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no u.user beside the ratings; give the whole set"):
            read({"u.data": ORIGINAL["u.data"]})
        with pytest.raises(DataError, match=r"no ratings of ml-1m; expected ml-1m.inter or rat"):
            load(tmp_path, size="1m", path="set")
        with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
            load(tmp_path, size="1m", path="nowhere")

    def test_two_sets_in_one_folder(self, tmp_path: Path) -> None:
        put(tmp_path / "a", DAT)
        put(tmp_path / "b", DAT)
        with pytest.raises(DataError, match=r"several files are called ratings.dat: a/ratings.dat"):
            load(tmp_path, size="1m", path=".")


class TestSplits:
    def test_by_time_ties_stay_together_in_file_order(self, read: Any) -> None:
        tables = read(ATOMIC, validation_share=0.3, test_share=0.17)
        assert tables.frame["split"].to_list() == [
            "train",
            "train",
            "train",
            "validation",
            "validation",
            "test",
        ]
        assert tables.frame["item"].to_list() == ["20", "10", "10", "10", "20", "20"]
        assert tables.frame["request"].to_list() == list(range(6))
        assert tables.facts["ties"].startswith("4 of 6 rows (66.7%) share their time; file order")
        assert tables.split_rule.startswith("global time split: 17.0% test, 30.0% validation; ")

    @given(
        rows=st.integers(5, 60),
        folds=st.integers(2, 5),
        seed=st.integers(0, 9),
        share=st.floats(0, 0.9),
    )
    @settings(max_examples=40)
    def test_folds_partition_the_rows(self, rows: int, folds: int, seed: int, share: float) -> None:
        ratings = pl.DataFrame({"user": ["u"] * rows, "time": [0] * rows})
        tested: Counter[int] = Counter()
        for fold in range(folds):
            rule = Rule(share, 0.1, fold, folds, seed)
            split = split_rows(ratings, rule)
            assert len(split) == rows
            assert split.null_count() == 0
            where = [i for i, part in enumerate(split) if part == "test"]
            assert rows // folds <= len(where) <= rows // folds + 1
            tested.update(where)
        assert tested == dict.fromkeys(range(rows), 1)

    def test_a_fold_by_parameters(self, read: Any) -> None:
        tables = read(ATOMIC, fold=1, folds=3, validation_share=0.25)
        assert Counter(tables.frame["split"]) == {"train": 3, "validation": 1, "test": 2}
        assert tables.split_rule == (
            "random 3-fold split of the ratings, seed 7: fold 1 (of 0 to 2) is the test, "
            "25.0% of the other folds, at random, the validation"
        )

    def test_folds_follow_the_rows_not_their_form(self, read: Any, tmp_path: Path) -> None:
        first = read(ATOMIC, fold=0, folds=2).frame["split"].to_list()
        put(tmp_path / "other", ORIGINAL)
        other = load(tmp_path, size="100k", path="other", fold=0, folds=2)
        assert other.frame["split"].to_list() == first

    @pytest.mark.parametrize(("fold", "folds"), [(5, 5), (0, 1)])
    def test_a_fold_that_is_not_there(self, read: Any, fold: int, folds: int) -> None:
        with pytest.raises(DataError, match=f"fold {fold} of {folds}: expected at least 2 folds"):
            read(ATOMIC, fold=fold, folds=folds)


class TestNextItem:
    def test_leave_last_by_hand(self, read: Any) -> None:
        """User 1 rates films 10 and 20 in one second, user 2 films 20 and 10: the order of the
        file decides; with two events each there is no validation row."""
        tables = read(ATOMIC, task="next_item", split="leave_last", length=3)
        rows = tables.frame.select("user", "item", "split", "next_item").rows()
        assert rows == [
            ("2", "20", "train", 1),
            ("2", "10", "test", 1),
            ("3", "10", "train", 1),
            ("1", "10", "train", 1),
            ("1", "20", "test", 1),
            ("3", "20", "test", 1),
        ]
        assert tables.frame["request"].to_list() == [2, 2, 3, 1, 1, 3]
        assert (tables.task, tables.length, tables.repeats) == ("next_item", 3, False)
        assert tables.split_rule.startswith("leave last out per user: the last event is the test")
        with pytest.raises(DataError, match="validation split empty"):
            prepare(tables)

    def test_a_third_event_is_the_validation(self, read: Any) -> None:
        more = b"1\t30\t5\t50\n2\t30\t1\t500\n"
        inter = ATOMIC["ml-100k.inter"] + more
        tables = read({**ATOMIC, "ml-100k.inter": inter}, task="next_item", split="leave_last")
        prepared = prepare(tables)
        assert prepared.schema.length == 200
        assert {name: split.rows for name, split in prepared.splits.items()} == {
            "train": 3,
            "validation": 2,
            "test": 3,
        }
        assert prepared.facts["parts of users"] == (
            "3 of 3 users have test rows, 2 validation rows, 0 training rows only"
        )
        assert prepared.facts["test without a past"] == "0 of 3 (0.0%) users, 0 of 3 (0.0%) rows"
        assert "1 test rows share their time" in prepared.facts["leakage check"]  # user 1's
        assert "an item that the user had before is never" in prepared.facts["repeats"]

    def test_by_time_users_may_have_no_past(self, read: Any) -> None:
        shares = {"validation_share": 0.3, "test_share": 0.17}
        facts = prepare(read(ATOMIC, task="next_item", **shares)).facts
        assert facts["cold users in test"] == "0 of 1 users (0.0%), 0 of 1 rows (0.0%)"
        shares = {"validation_share": 0.17, "test_share": 0.5}
        facts = prepare(read(ATOMIC, task="next_item", **shares)).facts
        assert facts["cold users in test"] == "2 of 2 users (100.0%), 3 of 3 rows (100.0%)"
        assert facts["test without a past"] == "1 of 2 (50.0%) users, 2 of 3 (66.7%) rows"
        assert facts["leakage check"].startswith("passed: every past ends before its row")

    @pytest.mark.parametrize("task", ["rating", "click"])
    def test_leave_last_serves_the_other_tasks(self, read: Any, task: str) -> None:
        tables = read(ATOMIC, task=task, split="leave_last")
        assert Counter(tables.frame["split"]) == {"train": 3, "test": 3}
        assert tables.frame["request"].n_unique() == 6
        assert tables.length == 0

    def test_a_fold_promises_nothing_about_time(self, read: Any) -> None:
        facts = prepare(read(ATOMIC, fold=0, folds=3, validation_share=0.25)).facts
        assert facts["leakage check"].startswith("not applicable: the split promises nothing")

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"length": 5}, "length: 5 has no effect with the task rating"),
            ({"task": "click", "length": 5}, "length: 5 has no effect with the task click"),
            ({"positive": 4.0}, "positive: 4.0 has no effect with the task rating"),
            ({"task": "next_item", "positive": 3.0}, "positive: 3.0 has no effect with the task n"),
            ({"task": "next_item", "fold": 0}, "fold: 0 has no effect with the task next_item, wh"),
            ({"fold": 0, "split": "leave_last"}, "split: 'leave_last' has no effect with a 'fold'"),
            ({"fold": 0, "test_share": 0.2}, "test_share: 0.2 has no effect with a 'fold'"),
            ({"folds": 3}, "folds: 3 has no effect with no 'fold'"),
            ({"seed": 3}, "seed: 3 has no effect with no 'fold'"),
            (
                {"split": "leave_last", "validation_share": 0.2},
                "validation_share: 0.2 has no effect with split 'leave_last'",
            ),
            (
                {"split": "leave_last", "test_share": 0.2},
                "test_share: 0.2 has no effect with split 'leave_last'",
            ),
        ],
    )
    def test_options_without_an_effect_are_refused(
        self, read: Any, parameters: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(DataError, match=f"movielens: {message}"):
            read(ATOMIC, **parameters)


class TestSources:
    def test_the_wheel_first_and_only_once(self, world: dict[str, Any], tmp_path: Path) -> None:
        tables = load(tmp_path, size="100k")
        assert tables.facts["read from"] == "wheel recbole 1.2.1, sha256 as published"
        assert tables.facts["ratings"] == "6 ratings of 2 items by 3 users, as published"
        load(tmp_path, size="100k")
        assert world["asked"] == ["pip"]

    def test_then_the_address(self, world: dict[str, Any], tmp_path: Path) -> None:
        world["wheel"] = None
        tables = load(tmp_path, size="100k")
        url = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
        assert tables.facts["read from"] == f"{url}, sha256 as published"
        load(tmp_path, size="100k")  # what is there is taken before another source is asked
        assert world["asked"] == ["pip", url]

    def test_offline_says_what_was_tried_and_what_to_do(
        self, world: dict[str, Any], tmp_path: Path
    ) -> None:
        world.update(wheel=None, zip=None)
        with pytest.raises(DataError) as caught:
            load(tmp_path, size="100k")
        message = str(caught.value)
        assert message.startswith("movielens 100k: none of its sources could be had (wheel recbole")
        assert "1.2.1: pip download failed: ERROR: No matching distribution; https://" in message
        assert "Name or service not known" in message
        assert message.endswith("ml-100k.zip elsewhere and give its place as 'path'")
        world["zip"] = ZIP
        assert load(tmp_path, size="100k").read == 6  # a failure isn't kept

    def test_what_came_with_another_checksum_is_refused(
        self, world: dict[str, Any], tmp_path: Path
    ) -> None:
        world.update(wheel=WHEEL + b"x", zip=b"<html>Please log in</html>")
        with pytest.raises(DataError, match=f"refused, its sha256 is .*, expected {sha(WHEEL)}"):
            load(tmp_path, size="100k")
        assert not list((tmp_path / "cache").rglob("*.whl"))

    @pytest.mark.parametrize(("content", "name"), [(WHEEL, "a.whl"), (ZIP, "b.zip")])
    def test_a_local_copy(
        self, world: dict[str, Any], tmp_path: Path, content: bytes, name: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        tables = load(tmp_path, size="100k", path=name)
        assert tables.facts["read from"].startswith("a local copy of ")
        assert world["asked"] == []

    def test_a_local_zip_of_another_checksum(self, world: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "a.zip").write_bytes(zipped(ATOMIC, "ml-100k"))
        with pytest.raises(DataError, match=r"a.zip: refused, its sha256 is .* unpack it and give"):
            load(tmp_path, size="100k", path="a.zip")

    def test_no_zip_at_all(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        junk = b"not a zip"
        monkeypatch.setitem(SETS, "100k", Published((Wheel("a", "1", sha(junk)),), 6, 3, 2))
        (tmp_path / "a.zip").write_bytes(junk)
        with pytest.raises(DataError, match=r"a.zip: can't be read as a zip"):
            load(tmp_path, size="100k", path="a.zip")

    def test_every_set_has_an_address_and_full_checksums(self) -> None:
        for size, published in SETS.items():
            assert str(published.sources[-1]).endswith(f"/ml-{size}.zip")
            assert all(len(bytes.fromhex(s.sha256)) == 32 for s in published.sources)
            assert forms(size)

    def test_a_local_folder_unlike_the_published(self, read: Any) -> None:
        facts = read(ATOMIC).facts
        assert facts["ratings"] == (
            "6 ratings of 2 items by 3 users, unlike the 100,000 ratings of 1,682 items by "
            "943 users that were published"
        )
        assert facts["read from"] == "a local folder, whose content has no published sha256"


class TestFingerprint:
    def test_nothing_is_fetched(self, world: dict[str, Any], tmp_path: Path) -> None:
        one = fingerprint(tmp_path, size="100k", seed=1)
        assert one == fingerprint(tmp_path, size="100k", seed=1)
        assert one != fingerprint(tmp_path, size="100k", seed=2)
        assert one != fingerprint(tmp_path, size="1m", seed=1)
        assert world["asked"] == []

    @pytest.mark.parametrize("name", list(ATOMIC))
    def test_the_content_of_a_folder_counts(self, tmp_path: Path, name: str) -> None:
        put(tmp_path / "a", ATOMIC)
        put(tmp_path / "b", {**ATOMIC, "README": b"not read"})
        first = fingerprint(tmp_path, size="100k", path="a")
        assert first == fingerprint(tmp_path, size="100k", path="b")
        (tmp_path / "b" / name).write_bytes(ATOMIC[name] + b" ")
        assert first != fingerprint(tmp_path, size="100k", path="b")

    def test_the_content_of_a_zip_counts(self, tmp_path: Path) -> None:
        (tmp_path / "a.zip").write_bytes(ZIP)
        (tmp_path / "b.zip").write_bytes(WHEEL)
        hashes = [fingerprint(tmp_path, size="100k", path=name) for name in ("a.zip", "b.zip")]
        assert hashes[0] != hashes[1]

    def test_takes_all_parameters_of_load(self, tmp_path: Path) -> None:
        given = registry.bind("datasets", "movielens", {"size": "1m"})
        assert len(fingerprint(tmp_path, **given)) == 64


def test_parameters_are_checked() -> None:
    with pytest.raises(registry.ValidationError, match="'100k', '1m'"):
        registry.bind("datasets", "movielens", {"size": "2m"})
