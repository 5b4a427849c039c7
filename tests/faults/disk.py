"""Disk: cache or output folder fill up or can only be read; one line, exit code 2, nothing is lost.

Where a small file system can't be mounted, files of limited size stand for it.
"""

import hashlib
import random
import resource
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from driven import Run, accuracy, expect, finish, scratch, start

PAGE = 4096
CAUSES = ("No space left on device", "File too large", "Read-only file system")


def main(seconds: float, seed: int) -> dict[str, int]:
    """Fill disks until the time is up, each kind at least once; how many runs ended so."""
    chance, end = random.Random(seed), time.monotonic() + seconds
    counts = Counter[str]()
    with scratch() as folder:
        finish(folder / "out", folder / "cache")
        expected = accuracy(folder / "out")
        kinds = [_cache, _out, _read_only] if mounts(folder) else [_limited]
        took = 0.0
        while not counts or time.monotonic() + took < end:
            begun = time.monotonic()
            for kind in kinds:
                counts += kind(folder, expected, chance)
            took = time.monotonic() - begun
    return dict(counts)


def mounts(folder: Path) -> bool:
    """Whether this process may mount a file system."""
    with suppress(OSError, subprocess.CalledProcessError), small(folder / "try", PAGE * 8):
        return True
    return False


@contextmanager
def small(folder: Path, size: int) -> Iterator[Path]:
    """A folder on a file system of its own, of so many bytes."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def _cache(folder: Path, expected: object, chance: random.Random) -> Counter[str]:
    """A cache that fills up in the middle, then has room again."""
    most = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
    size = max(16 * PAGE, int(most * chance.uniform(0.05, 0.9)))
    out = folder / "out-cache"
    shutil.rmtree(out, ignore_errors=True)
    with small(folder / "small", size) as cache:
        run = start(out, cache, debug=False)
        code = run.wait()
        if code == 0:  # what is kept may be less than what is written
            return Counter({"cache had room": 1})
        _one_line(run, code, cache)
        before = contents(cache)
        expect(not list(cache.rglob("*.partial")), "an unfinished entry takes up the full disk")
        more = ["mount", "-o", "remount,size=1g", str(cache)]
        subprocess.run(more, check=True)
        finish(out, cache)
        expect(accuracy(out) == expected, "the figures differ after a full disk")
        after = contents(cache)
        expect(before.items() <= after.items(), "what was in the cache did not stay")
    return Counter({"cache full": 1})


def _out(folder: Path, _expected: object, chance: random.Random) -> Counter[str]:
    """An output folder without room for a second run beside the first, which stays."""
    most = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    with small(folder / "small", most + PAGE * chance.randint(60, 90)) as disk:
        shutil.copytree(folder / "out", disk / "out")
        before = contents(disk / "out")
        run = start(disk / "out", folder / "cache", debug=False)
        _one_line(run, run.wait(), disk)
        expect(contents(disk / "out") == before, "an earlier run's files did not stay")
    return Counter({"output full": 1})


def _read_only(folder: Path, _expected: object, chance: random.Random) -> Counter[str]:
    """A cache, then an output folder, on a file system that can only be read."""
    with small(folder / "small", PAGE * 8) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for out, cache in ((folder / "out-read", disk / "cache"), (disk / "out", folder / "cache")):
            run = start(out, cache, debug=False)
            _one_line(run, run.wait(), disk)
    return Counter({"read-only": 2})


def _limited(folder: Path, expected: object, chance: random.Random) -> Counter[str]:
    """Files that may not grow beyond a size."""
    cache, out = folder / "cache-limited", folder / "out-limited"
    for path in (cache, out):
        shutil.rmtree(path, ignore_errors=True)
    run = start(out, cache, debug=False)
    limit = chance.randint(2, 64) * 1024
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    _one_line(run, run.wait(), folder)
    finish(out, cache)
    expect(accuracy(out) == expected, "the figures differ after a full disk")
    return Counter({"files limited": 1})


def _one_line(run: Run, code: int, where: Path) -> None:
    expect(code == 2, f"a full disk ended with {code}:\n{run.story()}")
    lines = run.errors
    expect(len(lines) == 1, f"not one line:\n{run.story()}")
    expect(str(where) in lines[0], f"doesn't name a file of {where}: {lines[0]}")
    expect(any(cause in lines[0] for cause in CAUSES), f"doesn't name the cause: {lines[0]}")


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder, by path; locks left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock" and not path.name.startswith(".")
    }
