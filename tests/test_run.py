"""The run's own folder: claimed when it is empty or a run's, left alone otherwise."""

from pathlib import Path

import pytest

from harness.errors import DataError
from harness.run import _claim_folder, _own_folder


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    _claim_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_what_a_kill_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    for name in (".writable", ".environment.json.partial"):
        (tmp_path / name).write_text("")
    _claim_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".environment.json.partial"]


def test_a_runs_own_folder_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "rows.jsonl").write_text("")
    _claim_folder(tmp_path)
    assert (tmp_path / "rows.jsonl").is_file()


@pytest.mark.parametrize("name", ["recipes", "thesis.tex", "rows.jsonl"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(DataError, match=f"holds other files \\({name}\\)"):
        _claim_folder(tmp_path)
    assert (tmp_path / name).read_text() == "precious"


def test_a_file_in_its_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="can't be written"):
        _claim_folder(tmp_path / "out")


def test_a_link_to_a_folder_elsewhere_is_unlinked_not_emptied(tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (elsewhere / "mine.yaml").write_text("precious")
    (out / "recipes").symlink_to(elsewhere)
    _own_folder(out / "recipes")
    assert (elsewhere / "mine.yaml").read_text() == "precious"
    assert list((out / "recipes").iterdir()) == []
    (out / "recipes" / "old.yaml").write_text("")
    _own_folder(out / "recipes")
    assert list((out / "recipes").iterdir()) == []
