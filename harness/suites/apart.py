"""The parent's side of work in a process of its own: one piece after the other, each into a folder.

The process stays, so that what it imports is imported once; when a piece of work ended it, the next
one gets a new one.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from harness import errors
from harness.errors import HarnessError, RecipeError, UnsupportedError
from harness.suites.arms import Arm, ArmError, Process

log = logging.getLogger(__name__)

KILLED = "was killed by SIGKILL"


@dataclass(frozen=True, slots=True)
class Limit:
    """Most seconds between two signs of life, and in all."""

    pause: float
    whole: float


@dataclass
class Apart:
    """The process, begun when it is first needed; ``command`` is a ``harness.suites.apart_worker``
    that knows the work it is asked for. Whoever holds it ends it.
    """

    threads: int
    command: Sequence[str]
    _process: Process | None = None

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def do(
        self,
        work: tuple[str, Arm],
        request: Mapping[str, Any],
        folder: Path,
        limit: Limit,
        progress: Callable[[str, float], None],
    ) -> None:
        """Have some kind of work done for an arm, its files put into ``folder`` when it is done.

        Raises what the work raised: a ``HarnessError`` as it was, a disk's errors as ``OSError``,
        of all else an ``ArmError``; and ``ArmError`` when the process crashed, was killed, or gave
        no sign of life in time.
        """
        # A folder of its own: a process that outlives its parent finds it gone, and spoils nothing.
        # It has the same name, which is the key that some files carry.
        aside = Path(mkdtemp(prefix="apart-", dir=folder)) / folder.name
        aside.mkdir()
        try:
            told = self._ask(work, {**request, "out": str(aside)}, limit, progress)
        except ArmError as error:
            self.end()
            if KILLED in str(error):
                raise ArmError(f"{error}; a system out of memory does that") from error
            raise
        except BaseException:  # an interrupt: nobody waits for the answer, or may write there
            self.end()
            raise
        if not told["ok"]:
            raise _raised(*work, told)
        for path in aside.iterdir():
            path.replace(folder / path.name)
        aside.rmdir()
        aside.parent.rmdir()

    def _ask(
        self,
        work: tuple[str, Arm],
        request: Mapping[str, Any],
        limit: Limit,
        progress: Callable[[str, float], None],
    ) -> dict[str, Any]:
        kind, arm = work
        if self._process is None:
            self._process = Process(arm, threads=self.threads, command=self.command)
        self._process.arm = arm  # whom its errors are about
        return self._process.follow(
            kind,
            pause=limit.pause,
            timeout=limit.whole,
            heard=progress,
            threads=self.threads,
            log_level=logging.getLogger().getEffectiveLevel(),
            **request,
        )


def _raised(kind: str, arm: Arm, told: Mapping[str, Any]) -> Exception:
    """The exception that a child told of."""
    if told["no_room"]:
        return OSError(told["no_room"], os.strerror(told["no_room"]))
    known = getattr(errors, told["kind"], None)
    if known is UnsupportedError:
        return UnsupportedError(told["error"], code=told["code"])
    if isinstance(known, type) and issubclass(known, HarnessError) and known is not RecipeError:
        return known(told["error"])
    log.error("%s failed:\n%s", arm.name, told["trace"])
    text = " ".join(told["error"].split())[:300]
    return ArmError(f"{arm.name}: {kind} failed: {told['kind']}: {text} (after {told['last']})")
