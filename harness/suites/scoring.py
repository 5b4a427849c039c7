"""The parent's side of scoring: a process that scores one variant after the other."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from harness.profile import Scoring
from harness.suites.apart import Apart, Limit
from harness.suites.arms import Arm

COMMAND = (sys.executable, "-m", "harness.suites.scoring_worker")


@dataclass
class Scorer:
    """Scores in a process of its own; a context manager that ends it."""

    threads: int
    limits: Scoring = field(default_factory=Scoring)
    command: Sequence[str] = COMMAND

    @cached_property
    def apart(self) -> Apart:
        """The process, which may do other work too where the command knows it."""
        return Apart(self.threads, self.command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.apart.end()

    def score(
        self,
        arm: Arm,
        request: Mapping[str, Any],
        folder: Path,
        progress: Callable[[str, float], None],
    ) -> None:
        """Have an arm scored (``request``: what ``score_variant`` takes beside the arm's own), its
        files put into ``folder``. Raises what ``Apart.do`` raises.
        """
        own = {"name": arm.name, "engine": arm.engine, "artifact": str(arm.folder)}
        self.apart.do(
            ("scoring", arm),
            {**own, **request},
            folder,
            Limit(self.limits.call_seconds, self.limits.variant_seconds),
            lambda at, share: progress(at.split(",")[0], min(max(share, 0.01), 0.99)),
        )
