"""Made-up input for every reader: a ``HarnessError`` or a right answer comes out, and no more.

``PYTHONPATH=tests python tests/faults/fuzz_inputs.py SECONDS [SEED]`` prints how many inputs each
reader was given and what was found; an input that breaks something is printed as it can stand in a
test. Each reader has a process of its own, so that a crash of a library is a finding too.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from mutating import mutated
from readers import READERS, Reader

from harness.environment import usable_threads
from harness.errors import HarnessError

MOST = 5
"""Findings of one reader after which it is given nothing more."""
SLACK = 120.0
"""Seconds that a reader may take to load and end; more is a hang."""

Found = dict[str, int]


def main(seconds: float, seed: int) -> Found:
    """Fuzz all readers for ``seconds`` together, as many at a time as there are cores; inputs by
    reader. Raises ``AssertionError`` with every finding.
    """
    cores = usable_threads()
    each = seconds * cores / sum(reader.share for reader in READERS.values())
    counts, findings, accepted = Found(), list[str](), 0
    names = sorted(READERS, key=lambda name: -READERS[name].share)  # the longest end together
    with ThreadPoolExecutor(cores) as pool:
        jobs = [pool.submit(_apart, name, each * READERS[name].share, seed) for name in names]
        for name, job in zip(names, jobs, strict=True):
            counts[name], taken, found = job.result()
            findings += found
            accepted += taken
    counts["inputs"] = sum(counts.values())
    counts["of which taken as right"] = accepted
    assert not findings, "\n".join([f"{len(findings)} findings (seed {seed})", *findings])
    return counts


def _apart(name: str, seconds: float, seed: int) -> tuple[int, int, list[str]]:
    """Inputs given, inputs taken and findings of one reader in a process of its own."""
    with TemporaryDirectory(dir=_memory()) as folder:
        last = Path(folder) / "last"
        command = [sys.executable, __file__, "--reader", name, str(seconds), str(seed), str(last)]
        places = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds + SLACK, env=places)
        except subprocess.TimeoutExpired:
            return 0, 0, [f"{name}: hangs on {_input(name, seed, last)!r}"]
        if done.returncode:
            text = done.stderr.decode(errors="replace")[-300:]
            return (
                0,
                0,
                [f"{name}: ended with {done.returncode} on {_input(name, seed, last)!r}: {text}"],
            )
        count, taken, findings = json.loads(done.stdout.splitlines()[-1])
        return count, taken, [f"{name}: {text}" for text in findings]


def _input(name: str, seed: int, last: Path) -> bytes:
    return made(READERS[name], seed, int(last.read_text() or 0)) if last.is_file() else b""


def made(reader: Reader, seed: int, number: int) -> bytes:
    """The input of that number: the same whenever it is asked for."""
    random = Random(f"{seed}-{number}")
    if reader.make is not None and number % 2:
        return reader.make(random)
    return mutated(random, reader.right, reader.words)


def fuzz(
    reader: Reader, seed: int, going: Callable[[int], bool], last: Path | None = None
) -> tuple[int, int, list[str]]:
    """Give a reader inputs as long as ``going(number)``; how many, how many of them it took as
    right, and what was found.
    """
    findings: list[str] = []
    number = taken = 0
    with TemporaryDirectory(dir=_memory()) as place, _quiet():
        check = reader.start(Path(place))
        while going(number) and len(findings) < MOST:
            if last is not None:
                last.write_text(str(number))
            content = made(reader, seed, number)
            number += 1
            try:
                check(content)
                taken += 1
            except HarnessError as error:
                if not str(error).strip():
                    findings.append(f"an error without a word on {content!r}")
            except Exception as error:  # which is what is looked for
                findings.append(f"{type(error).__name__}: {str(error)[:300]} on {content!r}")
    return number, taken, findings


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of files that are damaged are no news here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _memory() -> str | None:
    """A folder that is no disk, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _child(name: str, seconds: float, seed: int, last: Path) -> None:
    end = time.monotonic() + seconds
    print(json.dumps(fuzz(READERS[name], seed, lambda _: time.monotonic() < end, last)))


if __name__ == "__main__":
    if sys.argv[1] == "--reader":
        _child(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        told = main(float(sys.argv[1]), int((*sys.argv, "1")[2]))
        print(", ".join(f"{name}: {count:,}" for name, count in told.items()), "- nothing found")
