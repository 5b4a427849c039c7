"""The one interface of all engines: probe, prepare, run, fetch, synchronize, describe.

Only ``run`` (and the ``synchronize`` after it) is timed. What really ran (provider, device,
precision, threads) is read back from the runtime, never assumed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

import numpy as np

from harness.artifact import Artifact, Format
from harness.errors import DataError

ProbeCode = Literal[
    "ok",
    "no_package",
    "no_driver",
    "no_device",
    "driver_too_old",
    "capability_too_low",
    "abi_mismatch",
    "silent_fallback",
    "unsupported_model",
    "build_failed",
    "out_of_memory",
    "timeout",
]


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether an engine can run here; when not, one sentence that says why and what to do."""

    code: ProbeCode
    sentence: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the engine can run here."""
        return self.code == "ok"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What really ran, read back from the runtime."""

    engine: str
    version: str
    device: str
    precision: str
    provider: str
    threads: int
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Engine's own facts, such as nodes per provider or layers per precision."""


Kind = TypeVar("Kind", bound=type)

RANKED = np.dtype([("score", np.float32), ("item", np.int64)])
"""A place of a list of recommendations; item 0 where there was nothing left to recommend."""


def host_form(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """A model's outputs as every engine gives them: logits flat (rows,) float32; scores and items
    as (requests, places) of ``RANKED``, best first, equal scores by item id.
    """
    if len(outputs) == 1:
        return np.asarray(outputs[0], dtype=np.float32).reshape(-1)  # (rows,)
    scores, items = (np.asarray(output) for output in outputs)
    found = np.empty(scores.shape, dtype=RANKED)
    order = np.lexsort((items, -scores), axis=1)
    found["score"] = np.take_along_axis(scores, order, axis=1)
    found["item"] = np.take_along_axis(items, order, axis=1)
    return found


def scores_of(answer: np.ndarray) -> np.ndarray:
    """The scores of an engine's answer, float32: (rows,), or (requests, places) of lists."""
    scores: np.ndarray = answer["score"] if answer.dtype.names else answer
    return scores


def engine(*, accepts: Format, device: str, reference: str = "") -> Callable[[Kind], Kind]:
    """Mark a class as an engine; the arguments are read from the source by ``registry``. One that
    can't run a baseline as it is names the engine whose ``reference`` it is compared with.
    """

    def mark(kind: Kind) -> Kind:
        return kind

    del accepts, device, reference
    return mark


class Engine(ABC):
    """An artifact loaded on a device with a fixed number of threads; a context manager."""

    @classmethod
    @abstractmethod
    def probe(cls) -> Probe:
        """Whether this engine can run on this machine, found out by running a tiny model."""

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        self.artifact = artifact
        self.threads = threads

    @abstractmethod
    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """Inputs as the runtime takes them (checked, copied to the device); not timed."""

    @abstractmethod
    def run(self, prepared: Any) -> Any:
        """One forward pass; what is timed. Gives a handle on the outputs."""

    @abstractmethod
    def fetch(self, outputs: Any) -> np.ndarray:
        """The answer in host memory, as ``host_form`` makes it, in the order of the fed rows."""

    def synchronize(self) -> None:
        """Wait for the device; nothing to do on a CPU."""
        return

    def device_seconds(self, prepared: Any, calls: int) -> float | None:
        """Seconds that the device worked on ``calls`` calls in a row, by its own events around
        them, copies from and to the host outside; None on a CPU, and where the runtime gives no
        events (the reason is then in the notes of ``describe``).
        """
        del prepared, calls
        return None

    @abstractmethod
    def describe(self) -> EngineFacts:
        """What really runs, read back from the runtime."""

    def close(self) -> None:
        """Free what the engine holds."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """The answer to one batch, see ``host_form``: prepare, run, synchronize, fetch."""
        outputs = self.run(self.prepare(feeds))
        self.synchronize()
        return self.fetch(outputs)


def check_feeds(artifact: Artifact, feeds: Mapping[str, np.ndarray]) -> None:
    """Raise ``DataError`` when an input is missing or has another name, type, rank or width than
    the artifact takes; run before a library sees the arrays.
    """
    expected = {spec.name: spec for spec in artifact.inputs}
    if set(feeds) != set(expected):
        raise DataError(f"inputs {sorted(feeds)}, expected {sorted(expected)}")
    for name, spec in expected.items():
        array = feeds[name]
        fixed = [size for size in spec.shape if isinstance(size, int)]
        tail = list(array.shape[len(array.shape) - len(fixed) :]) if fixed else []
        if str(array.dtype) != spec.dtype or array.ndim != len(spec.shape) or tail != fixed:
            raise DataError(
                f"input {name!r}: {array.dtype} {array.shape}, expected {spec.dtype} {spec.shape}"
            )
