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
