"""The command line in a process of its own, for the tests that run all of it."""

import os
import subprocess
import sys
from pathlib import Path


def harness(*arguments: object, cache: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        env={**os.environ, "HARNESS_CACHE": str(cache)},
        capture_output=True,
        text=True,
        **options,
    )


def one_core() -> None:
    """One thread count to time at, not two, for runs about something else: half of the timed
    processes. Tests that go on side by side take cores of their own.
    """
    cores = sorted(os.sched_getaffinity(0))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    os.sched_setaffinity(0, [cores[int(worker) % len(cores)]])
