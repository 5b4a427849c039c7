"""What a stage is: ``verb(artifact, context, *, ...) -> Artifact``, files written to one folder."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.artifact import Artifact, Effect, Format, Technique
from harness.errors import EffectError
from harness.store import Store
from harness.tables import Prepared

if TYPE_CHECKING:
    from harness.objectives import Training

Progress = Callable[[str, float], None]
"""Called with a label and the share done, 0 to 1."""


@dataclass(frozen=True)
class Context:
    """What a stage may use besides its input.

    ``folder`` is empty and becomes the new artifact; ``baseline`` is the trained baseline's torch
    artifact (a teacher); ``training`` holds the baseline's training settings (batch size, learning
    rate), which training stages start from.
    """

    folder: Path
    data: Prepared
    baseline: Artifact
    training: "Training"
    store: Store
    seed: int
    threads: int
    progress: Progress


@dataclass(frozen=True)
class Outcome:
    """What a stage gives back: the artifact it wrote to ``context.folder``, and what it changed."""

    artifact: Artifact
    effects: tuple[Effect, ...]
    notes: tuple[str, ...] = ()


Function = TypeVar("Function", bound=Callable[..., Outcome])


def stage(
    *, accepts: Format, produces: Format, technique: Technique
) -> Callable[[Function], Function]:
    """Mark ``verb(artifact, context, *, ...) -> Outcome`` as a stage; the arguments are read from
    the source by ``registry``. ``technique`` is MLPerf's distinction: ``closed_like`` needs at
    most calibration, ``open_like`` prunes, distils or retrains; an export is ``reference``, it
    changes nothing. Whoever runs the stages marks the artifacts by it.
    """

    def mark(function: Function) -> Function:
        return function

    del accepts, produces, technique
    return mark


def require_effect(effects: tuple[Effect, ...], *, stage: str) -> None:
    """Raise ``EffectError`` when nothing at all changed."""
    if all(effect.before == effect.after for effect in effects):
        told = ", ".join(f"{e.name} stayed {e.after:g}" for e in effects)
        raise EffectError(f"{stage} had no effect: {told}")


def cpu_seconds() -> float:
    """CPU seconds used so far by this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
