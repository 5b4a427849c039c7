"""A run's own folder: held by one run at a time, changed when all that is new is written."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import DataError, HarnessError
from harness.results import read_rows
from harness.store import unwritten, write_text

MARK = "environment.json"
"""What marks a folder as a run's own."""
END = "rows.jsonl"
"""What is put there last: with it all is there, the report too."""
LOCK, ASIDE = ".lock", ".new.partial"
INTERRUPTED = "interrupted: "
"""Begins the reason of a variant that a stopped run didn't come to."""


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make the output folder and hold it; refuse one with other files: a run replaces what a run
    wrote, never a user's own ``recipes``. Raises ``DataError`` too when another run holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        _refuse_others(out)
        lock = FileLock(out / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(
            f"--out {out}: another run is writing there; wait until it has ended, or give another "
            "folder"
        ) from error
    except OSError as error:
        raise unwritten(error, out) from error
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)  # still held: whoever waits notices, and makes it anew
        lock.release()


def _refuse_others(out: Path) -> None:
    names = sorted(path.name for path in out.iterdir())
    others = [name for name in names if not name.startswith(".")]  # those a kill left behind
    if others and not (out / MARK).is_file():
        raise DataError(
            f"--out {out}: holds other files ({', '.join(others[:3])}); "
            "give a new or empty folder, or that of an earlier run"
        )
    write_text(out / ".writable", "")
    (out / ".writable").unlink()


@contextmanager
def renewed(out: Path) -> Iterator[Path]:
    """A folder to write a run into. When all was written, its files and folders take the place of
    the earlier run's; before, ``out`` stays as it was. Raises ``WriteError`` on a full disk.
    """
    aside = out / ASIDE
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
        aside.mkdir()
        yield aside
        # The mark first: a folder without it is taken for a user's own.
        order = {MARK: 0, END: 2}
        for path in sorted(aside.iterdir(), key=lambda path: order.get(path.name, 1)):
            _put(path, out / path.name)
    except OSError as error:
        raise unwritten(error, out) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(new: Path, old: Path) -> None:
    if not new.is_dir():
        new.replace(old)
        return
    own_folder(old)
    for path in new.iterdir():
        path.replace(old / path.name)


def own_folder(folder: Path) -> None:
    """An empty folder of that name; a link to a folder elsewhere is unlinked, never emptied."""
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()


def holds_whole_run(out: Path) -> bool:
    """Whether a run that wasn't interrupted stands there (or rows that can't be read now): what an
    interrupted one may not replace.
    """
    if not (out / END).exists():
        return False
    try:
        rows = read_rows(out)
    except HarnessError:
        return True
    return not any((row.reason or "").startswith(INTERRUPTED) for row in rows)
