"""Stages in a process of their own: a crash, a hang or lack of memory ends one variant."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.artifact import Artifact
from harness.profile import Making
from harness.recipe import StageSpec, plain
from harness.stages.base import Context
from harness.suites.apart import Apart, Limit
from harness.suites.arms import Arm

COMMAND = (sys.executable, "-m", "harness.making_worker")
"""Scores too, so that a run needs one process beside it."""


@dataclass(frozen=True)
class Maker:
    """Runs stages in the process ``apart``, whose command is ``COMMAND``."""

    apart: Apart
    limits: Making = field(default_factory=Making)

    def of(self, name: str, data: Path) -> Callable[[Artifact, StageSpec, Context], None]:
        """A ``variants.Build`` for the variant of that name, whose data are in the folder ``data``.
        It raises what the stage raises, and as ``Apart.do``.
        """

        def build(artifact: Artifact, stage: StageSpec, context: Context) -> None:
            request = {
                "stage": stage.name,
                "parameters": plain(stage.parameters),
                "artifact": str(artifact.folder),
                "baseline": str(context.baseline.folder),
                "data": str(data),
                "training": asdict(context.training),
                "store": str(context.store.root),
                "seed": context.seed,
            }
            self.apart.do(
                ("making", Arm(name, stage.name, artifact.folder)),
                request,
                context.folder,
                Limit(self.limits.silent_seconds, self.limits.stage_seconds),
                context.progress,
            )

        return build


@contextmanager
def open_maker(threads: int) -> Iterator[Maker]:
    """A maker with a process of its own, begun when a stage is to be run and ended at the end."""
    apart = Apart(threads, COMMAND)
    try:
        yield Maker(apart)
    finally:
        apart.end()
