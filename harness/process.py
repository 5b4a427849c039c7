"""Child processes of the harness: their environment, and a stdout that only carries answers.

Thread counts are fixed in the environment before a child imports anything, because OpenMP and MKL
read them once; waiting threads sleep, so that idle children don't disturb the one being timed.
"""

import os
import sys
from pathlib import Path
from typing import TextIO

_COUNTS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_QUIET = {
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
    "PYTHONUNBUFFERED": "1",
}


def child_environment(*, threads: int) -> dict[str, str]:
    """Environment of a child: this one, with thread counts fixed and this package importable."""
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    counts = dict.fromkeys(_COUNTS, str(threads))
    return {**os.environ, **counts, **_QUIET, "PYTHONPATH": path}


def claim_stdout() -> TextIO:
    """The real stdout as a private stream; whatever else writes to stdout now goes to stderr.

    Libraries print from C and Python alike, so the file descriptor itself is moved.
    """
    sys.stdout.flush()
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


def ended_how(code: int) -> str:
    """What a child's exit status means: ``ended with status 3`` or ``was killed by SIGSEGV``."""
    import signal

    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
