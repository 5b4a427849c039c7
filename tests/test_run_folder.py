"""The run's own folder: claimed when it is empty or a run's, left alone otherwise."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import DataError, WriteError
from harness.results import Row, write_rows
from harness.run_folder import INTERRUPTED, claimed, holds_whole_run, own_folder, renewed


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    with claimed(tmp_path / "a" / "b"):
        pass
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_what_a_kill_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    for name in (".writable", ".environment.json.partial"):
        (tmp_path / name).write_text("")
    with claimed(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".environment.json.partial"]


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    with claimed(tmp_path):
        code = (
            "import sys; from pathlib import Path; from harness.run_folder import claimed\n"
            "with claimed(Path(sys.argv[1])): print('mine')"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout == ""
        assert f"DataError: --out {tmp_path}: another run is writing there" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "mine\n"
    assert list(tmp_path.iterdir()) == []


def test_a_runs_own_folder_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "rows.jsonl").write_text("")
    with claimed(tmp_path):
        pass
    assert (tmp_path / "rows.jsonl").is_file()


@pytest.mark.parametrize("name", ["recipes", "thesis.tex", "rows.jsonl"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(DataError, match=f"holds other files \\({name}\\)"), claimed(tmp_path):
        pass
    assert (tmp_path / name).read_text() == "precious"


def test_a_file_in_its_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="can't be written"), claimed(tmp_path / "out"):
        pass


def test_a_link_to_a_folder_elsewhere_is_unlinked_not_emptied(tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (elsewhere / "mine.yaml").write_text("precious")
    (out / "recipes").symlink_to(elsewhere)
    own_folder(out / "recipes")
    assert (elsewhere / "mine.yaml").read_text() == "precious"
    assert list((out / "recipes").iterdir()) == []
    (out / "recipes" / "old.yaml").write_text("")
    own_folder(out / "recipes")
    assert list((out / "recipes").iterdir()) == []


def an_earlier_run(folder: Path) -> dict[str, str]:
    texts = {"environment.json": "{}", "report.md": "old", "recipes/a.yaml": "old"}
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return texts


def texts_of(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_a_new_run_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    an_earlier_run(tmp_path)
    (tmp_path / ".new.partial").mkdir()
    (tmp_path / ".new.partial" / "killed.txt").write_text("half")
    with renewed(tmp_path) as folder:
        (folder / "environment.json").write_text("{ }")
        (folder / "report.md").write_text("new")
        (folder / "recipes").mkdir()
        (folder / "recipes" / "b.yaml").write_text("new")
    new = {"environment.json": "{ }", "report.md": "new", "recipes/b.yaml": "new"}
    assert texts_of(tmp_path) == new


def test_the_mark_is_put_first_and_the_rows_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in between leaves a run's own folder, and no rows whose report is missing."""
    put: list[str] = []
    monkeypatch.setattr("harness.run_folder._put", lambda new, old: put.append(old.name))
    with renewed(tmp_path) as folder:
        for name in ("rows.jsonl", "report.md", "rows.parquet", "a.parquet", "environment.json"):
            (folder / name).write_text("")
    assert (put[0], put[-1]) == ("environment.json", "rows.jsonl")
    assert sorted(put[1:-1]) == ["a.parquet", "report.md", "rows.parquet"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_an_earlier_run_stays_when_the_new_one_has_no_room(tmp_path: Path, number: int) -> None:
    texts = an_earlier_run(tmp_path)

    def write() -> None:
        with renewed(tmp_path) as folder:
            (folder / "report.md").write_text("new")
            raise OSError(number, os.strerror(number), str(folder / "rows.jsonl"))

    with pytest.raises(WriteError, match=os.strerror(number)):
        write()
    assert texts_of(tmp_path) == texts


def test_an_interrupted_run_is_told_from_a_whole_one(tmp_path: Path) -> None:
    columns = {"recipe": "r", "baseline": "b", "scenario": "run", "metric": "status"}
    assert not holds_whole_run(tmp_path)
    write_rows(tmp_path, [Row(**columns, reason="no_device: no GPU")])
    assert holds_whole_run(tmp_path)
    write_rows(tmp_path, [Row(**columns, reason=f"{INTERRUPTED}stopped")])
    assert not holds_whole_run(tmp_path)
    (tmp_path / "rows.jsonl").write_text("of another version")
    assert holds_whole_run(tmp_path)
