"""The parent's side of scoring: a process that scores one variant after the other.

It stays, so that what it imports is imported once; when a variant ended it, the next one gets a new
one.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, Self

from harness import errors
from harness.errors import HarnessError, RecipeError, UnsupportedError
from harness.profile import Scoring
from harness.suites.arms import Arm, ArmError, Process

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "harness.suites.scoring_worker")
KILLED = "was killed by SIGKILL"
FILES = ("answer.npy", "facts.json", "rows.parquet", "rows.jsonl")


@dataclass
class Scorer:
    """The process that scores, begun when it is first needed; a context manager that ends it."""

    threads: int
    limits: Scoring = field(default_factory=Scoring)
    command: Sequence[str] = COMMAND
    _process: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def score(
        self,
        arm: Arm,
        request: Mapping[str, Any],
        folder: Path,
        progress: Callable[[str, float], None],
    ) -> None:
        """Have an arm scored (``request``: what ``score_variant`` takes beside the arm's own), its
        files put into ``folder``.

        Raises what the engine raised: a ``HarnessError`` as it was, of all else an ``ArmError``;
        and ``ArmError`` when the process crashed, was killed, or gave no sign of life in time.
        """
        # A folder of its own: a process that outlives its parent finds it gone, and spoils nothing.
        aside = Path(mkdtemp(prefix="scoring-", dir=folder))
        try:
            self._ask(arm, {**request, "out": str(aside)}, progress)
        except ArmError as error:
            self._end()
            if KILLED in str(error):
                raise ArmError(f"{error}; a system out of memory does that") from error
            raise
        for name in FILES:
            (aside / name).replace(folder / name)
        aside.rmdir()

    def _ask(
        self, arm: Arm, request: Mapping[str, Any], progress: Callable[[str, float], None]
    ) -> None:
        if self._process is None:
            self._process = Process(arm, threads=self.threads, command=self.command)
        self._process.arm = arm  # whom its errors are about
        told = self._process.follow(
            "scoring",
            pause=self.limits.call_seconds,
            timeout=self.limits.variant_seconds,
            heard=lambda at, share: progress(at.split(",")[0], min(max(share, 0.01), 0.99)),
            name=arm.name,
            engine=arm.engine,
            artifact=str(arm.folder),
            threads=self.threads,
            **request,
        )
        if not told["ok"]:
            raise _raised(arm, told)


def _raised(arm: Arm, told: Mapping[str, Any]) -> Exception:
    """The exception that a child told of."""
    if told["no_room"]:
        return OSError(told["no_room"], os.strerror(told["no_room"]))
    kind = getattr(errors, told["kind"], None)
    if kind is UnsupportedError:
        return UnsupportedError(told["error"], code=told["code"])
    if isinstance(kind, type) and issubclass(kind, HarnessError) and kind is not RecipeError:
        return kind(told["error"])
    log.error("%s failed:\n%s", arm.name, told["trace"])
    text = " ".join(told["error"].split())[:300]
    return ArmError(f"{arm.name}: scoring failed: {told['kind']}: {text} (after {told['last']})")
