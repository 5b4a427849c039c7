"""The store: made once, whole or not at all, noticed when cut, shared by two, never a failure."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from harness.errors import DataError, WriteError
from harness.store import (
    MANIFEST,
    Store,
    key_of,
    no_room,
    source_hash,
    unwritten,
    write_text,
)


def writer(text: str = "content"):
    def build(folder: Path) -> None:
        (folder / "a.txt").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "b.txt").write_text("inner")

    return build


def never(folder: Path) -> None:
    raise AssertionError("made a second time")


def test_made_once_then_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.make("x", "k", writer())
    assert (folder / "inner" / "b.txt").read_text() == "inner"
    assert Store(tmp_path).make("x", "k", never) == folder
    assert store.made == ["x/k"]
    assert Store(tmp_path).has("x", "k")


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "a.txt").write_text("con"),
        lambda f: (f / "a.txt").write_text("CONTENT"),
        lambda f: (f / "a.txt").unlink(),
        lambda f: (f / MANIFEST).write_text("{"),
        lambda f: (f / MANIFEST).unlink(),
        lambda f: (f / MANIFEST).write_text(json.dumps({"files": 3})),
    ],
    ids=["cut", "altered", "removed", "cut manifest", "no manifest", "odd manifest"],
)
def test_a_damaged_entry_is_made_again_and_said(tmp_path: Path, damage, caplog) -> None:
    folder = Store(tmp_path).make("x", "k", writer())
    damage(folder)
    again = Store(tmp_path)
    again.make("x", "k", writer())
    assert again.made == ["x/k"]
    assert (folder / "a.txt").read_text() == "content"
    assert str(folder) in caplog.text


def test_a_failure_is_never_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fails(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.make("x", "k", fails)
    assert [p.name for p in (tmp_path / "x").iterdir()] == []
    assert (store.make("x", "k", writer()) / "a.txt").is_file()


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    left = tmp_path / "x" / "k.partial"
    left.mkdir(parents=True)
    (left / "old.txt").write_text("old")
    folder = Store(tmp_path).make("x", "k", writer())
    assert not (folder / "old.txt").exists()
    assert not left.exists()


def test_two_at_once_share_the_work(tmp_path: Path) -> None:
    started, calls = threading.Event(), []

    def slow(folder: Path) -> None:
        calls.append(1)
        started.set()
        threading.Event().wait(0.2)
        writer()(folder)

    first = threading.Thread(target=lambda: Store(tmp_path).make("x", "k", slow))
    first.start()
    started.wait(5)
    second = Store(tmp_path)
    second.make("x", "k", slow)
    first.join()
    assert calls == [1]
    assert second.found == ["x/k"]


def test_a_linked_entry_is_unlinked_not_emptied(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("mine")
    (tmp_path / "cache" / "x").mkdir(parents=True)
    (tmp_path / "cache" / "x" / "k").symlink_to(outside)
    Store(tmp_path / "cache").make("x", "k", writer())
    assert (outside / "precious.txt").read_text() == "mine"


def test_a_cache_that_cant_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file.*: cache can't be written: "):
        Store(tmp_path / "file").make("x", "k", writer())


FULL = {
    "the system": OSError(errno.ENOSPC, "No space left on device"),
    "a quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "read-only": OSError(errno.EROFS, "Read-only file system"),
    "numpy": OSError("4096 requested and 1024 written"),
    "safetensors": RuntimeError("I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_a_full_disk_is_one_sentence_however_it_is_told(tmp_path: Path, error: Exception) -> None:
    store = Store(tmp_path)
    store.make("x", "before", writer())

    def fails(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise error

    with pytest.raises(WriteError) as caught:
        store.make("x", "k", fails)
    cause = os.strerror(no_room(error))
    assert str(caught.value) == f"{tmp_path / 'x' / 'k'}: cache can't be written: {cause}"
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["before"]
    assert Store(tmp_path).has("x", "before")


def test_what_a_stage_cant_read_is_no_full_disk(tmp_path: Path) -> None:
    def reads(folder: Path) -> None:
        (tmp_path / "missing.csv").read_text()

    with pytest.raises(DataError, match=r"missing\.csv: No such file") as caught:
        Store(tmp_path).make("x", "k", reads)
    assert not isinstance(caught.value, WriteError)
    assert no_room(ValueError("os error")) is None
    assert no_room(RuntimeError("(os error 2)")) is None


def test_a_file_is_named_when_its_folder_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "f.txt"
    with pytest.raises(OSError, match="No such file") as caught:
        write_text(path, "one")
    assert "f.txt" in str(unwritten(caught.value, tmp_path))


def test_keys_see_values_not_order() -> None:
    assert key_of(a=1, b=[1, 2]) == key_of(b=[1, 2], a=1)
    assert key_of(a=1) != key_of(a=2)
    assert len(key_of(a=1)) == 32


def test_source_hash_sees_code_not_comments(tmp_path: Path) -> None:
    def hashed(name: str, text: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return source_hash(path)

    plain = hashed("a", "def f():\n    return 1\n")
    assert (
        hashed("b", '"""A docstring."""\n# why\ndef f():\n    """What."""\n    return (1)\n')
        == plain
    )
    assert hashed("c", "def f():\n    return 1  # why\n") == plain
    assert hashed("d", "def f():\n    return 2\n") != plain


def test_write_text_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_prune_removes_what_is_old(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make("x", "k", writer())
    assert store.prune(days=1) == []
    (removed,) = store.prune(days=-1)
    assert removed[0].name == "k"
    assert not store.has("x", "other")
    assert store.entries() == []
