"""Work in a child process: requests from stdin, a JSON line each; on the stdout it was given, how
far it is, what is logged, and how it ended; its files go into a folder that it is told.

Whatever an engine does to its process (a crash, a hang, all memory taken) then ends one variant.
"""

import ctypes
import gc
import json
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UnsupportedError
from harness.logs import quieten
from harness.process import claim_stdout
from harness.store import no_room

PR_SET_PDEATHSIG = 1

Tell = Callable[[str, float], None]
"""Takes where the work is, and the share of it that is done."""


def serve(works: Mapping[str, Callable[..., None]]) -> None:
    """Answer requests until stdin ends. ``works`` maps a command to what does it: a function that
    takes the request's values and ``tell``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process itself
    end_with_parent()
    answers = claim_stdout()
    last, done, turn = "nothing", 0.0, threading.Lock()

    def say(line: Mapping[str, Any]) -> None:
        with turn:  # any thread may log
            answers.write(json.dumps(line) + "\n")
            answers.flush()

    def tell(at: str, share: float) -> None:
        nonlocal last, done
        last, done = at, share
        say({"at": at, "share": share})

    class Forward(logging.Handler):
        """What is logged here is the parent's to log: a line of progress that carries it."""

        def emit(self, record: logging.LogRecord) -> None:
            told = [record.levelno, record.name, self.format(record)]
            say({"at": last, "share": done, "log": told})

    root = logging.getLogger()
    root.handlers[:] = [Forward()]
    quieten()
    for line in sys.stdin:
        request = json.loads(line)
        root.setLevel(request.pop("log_level"))
        last, done = "nothing", 0.0
        try:
            works[request.pop("command")](**request, tell=tell)
        except Exception as error:  # whatever went wrong is the parent's to tell
            say(wrong(error, last))
        else:
            say({"ok": True})
        gc.collect()


def wrong(error: Exception, last: str) -> dict[str, Any]:
    """An exception as a line that the parent makes one of again; ``last`` is what was told last."""
    return {
        "ok": False,
        "kind": type(error).__name__,
        "error": str(error),
        "code": error.code if isinstance(error, UnsupportedError) else None,
        "no_room": no_room(error),
        "trace": traceback.format_exc(),
        "last": last,
    }


def end_with_parent() -> None:
    """Have the system end this process when its parent has ended, however that was, and, where
    memory runs out, before its parent; on Linux alone.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        return  # a container may forbid it; the largest process then goes first
