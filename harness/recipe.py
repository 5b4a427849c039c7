"""What a recipe and a baseline are: inert specifications, and the chain of stages to a target."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    model_validator,
)

from harness import registry
from harness.params import Count, Flag, NonNegative, Positive, Real, Share, Text
from harness.profile import Bench

MEASURES = {
    "latency_p50": "sweep",
    "latency_p90": "sweep",
    "latency_p99": "sweep",
    "rows_per_second": "sweep",
    "qps_at_sla": "qps_at_sla",
    "cold_start": "cold",
    "peak_memory": "memory",
    "peak_memory_steady": "memory",
    "cpu_seconds_per_1000_requests": "resources",
    "cost_per_million_requests": "resources",
    "bytes": "size",
    "parameters": "size",
    "macs": "size",
}
"""What a gate can name besides accuracy metrics, and the scenario it is measured in."""

EXPECTED = ("parameters", "embedding_parameters", "macs", "bytes")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_DEVICE_NAMES = {"con", "prn", "aux", "nul"} | {
    f"{p}{n}" for p in ("com", "lpt") for n in range(10)
}


def check_name(name: str) -> str:
    """``name`` when it is safe as a file name on every system; raises ``ValueError``."""
    if not _NAME.fullmatch(name) or name.lower() in _DEVICE_NAMES:
        raise ValueError(
            f"{name[:90]!r} can't be a name; use 1 to 80 letters, digits, '-' and '_', "
            "starting with a letter or digit"
        )
    return name


Name = Annotated[Text, AfterValidator(check_name)]


class Strict(BaseModel):
    """A part of a file: frozen, and no key that isn't known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingSpec(Strict):
    """How the baseline is trained; see ``harness.training.Training`` for the meaning."""

    epochs: NonNegative = 1.0
    batch_size: Count = 4096
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.0
    warmup: Share = 0.05
    evaluations: Count = 4
    patience: Count = 3
    validation_rows: Count = 50_000
    loss: Literal["own", "full_softmax", "sampled_softmax", "gbce", "bpr"] = "own"
    negatives: Count = 128


class GateSpec(Strict):
    """One gate: a metric, where it is measured, and exactly one bound. One in ``shadow`` is judged
    and told, but never fails a run.
    """

    metric: Text
    target: Text | None = None
    batch: Count | None = None
    candidates: Count | None = None
    threads: Count = 1
    shadow: Flag = False
    max_drop: NonNegative | None = None
    max_rise: NonNegative | None = None
    min_speedup: Positive | None = None
    max_ratio: Positive | None = None
    minimum: Real | None = None
    maximum: Real | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> "GateSpec":
        given = [name for name in BOUNDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a gate has exactly one of {', '.join(BOUNDS)}; got {given or 'none'}"
            )
        return self

    @property
    def bound(self) -> tuple[str, float]:
        """The bound's name and value."""
        return next((n, float(v)) for n in BOUNDS if (v := getattr(self, n)) is not None)


BOUNDS = ("max_drop", "max_rise", "min_speedup", "max_ratio", "minimum", "maximum")


class Expectation(Strict):
    """How a size may compare with the baseline's, as a ratio variant / baseline."""

    min_ratio: NonNegative | None = None
    max_ratio: NonNegative | None = None


@dataclass(frozen=True)
class StageSpec:
    """One stage of a recipe with all of its parameters."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class TargetSpec:
    """An engine to run on; a ``require``d one that can't run here fails the run."""

    engine: str
    require: bool = False


@dataclass(frozen=True)
class Baseline:
    """A baseline's specification; relative paths in it start at ``folder``."""

    name: str
    file: Path
    description: str
    dataset: StageSpec
    model: StageSpec
    training: TrainingSpec
    weights: str | None
    seed: int

    @property
    def folder(self) -> Path:
        """Where the file stands."""
        return self.file.parent


@dataclass(frozen=True)
class Recipe:
    """A checked recipe with all defaults filled in."""

    name: str
    file: Path
    description: str
    baseline: Baseline
    stages: tuple[StageSpec, ...]
    targets: tuple[TargetSpec, ...]
    expect: Mapping[str, Expectation]
    gates: tuple[GateSpec, ...]
    seed: int
    bench: Bench = field(default_factory=Bench)

    def chain(self, engine: str) -> tuple[StageSpec, ...]:
        """The stages up to a format that ``engine`` takes: the recipe's own, and the export or
        build that the target needs.
        """
        return chain(self.stages, engine)


class ChainError(ValueError):
    """Stages, or a target, in an order that can't work; ``at`` is the stage's index."""

    def __init__(self, message: str, at: int | None) -> None:
        self.at = at
        super().__init__(message)


_BRIDGES = {
    ("torch", "onnx"): ("export_onnx",),
    ("onnx", "tensorrt"): ("build_tensorrt",),
    ("torch", "tensorrt"): ("export_onnx", "build_tensorrt"),
}


LAST = {
    "cast_weights": "cast_weights: half weights aren't trained, cut or exported; put it last, for "
    "engines of torch, and use convert_fp16 for the others",
}
"""Stages after which no other comes, and why."""


def chain(stages: Sequence[StageSpec], engine: str | None) -> tuple[StageSpec, ...]:
    """Stages with the missing exports and builds put in; ends in the format that ``engine`` takes
    (None: as the stages end). Raises ``ChainError``.
    """
    full: list[StageSpec] = []
    current = "torch"
    for at, stage in enumerate(stages):
        marks = registry.entry("stages", stage.name).marks
        if full and full[-1].name in LAST:
            raise ChainError(f"stage {stage.name} can't come after {LAST[full[-1].name]}", at)
        full += _bridge(current, marks["accepts"], f"stage {stage.name}", at)
        full.append(stage)
        current = marks["produces"]
    if engine is not None:
        accepts = registry.entry("engines", engine).marks["accepts"]
        if full and full[-1].name in LAST and accepts != current:
            raise ChainError(f"target {engine} can't come after {LAST[full[-1].name]}", None)
        full += _bridge(current, accepts, f"target {engine}", None)
    return tuple(full)


def _bridge(current: str, wanted: str, who: str, at: int | None) -> list[StageSpec]:
    if current == wanted:
        return []
    if (current, wanted) not in _BRIDGES:
        raise ChainError(f"{who} takes a {wanted} model, but gets a {current} one", at)
    return [
        StageSpec(name, registry.bind("stages", name, {})) for name in _BRIDGES[current, wanted]
    ]


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in, as plain values in the recipe's own layout."""
    return {
        "schema_version": 1,
        "name": recipe.name,
        "description": recipe.description,
        "baseline": recipe.baseline.name,
        "stages": [{stage.name: plain(stage.parameters)} for stage in recipe.stages],
        "targets": [{t.engine: {"require": t.require}} for t in recipe.targets],
        "expect": {name: e.model_dump(exclude_none=True) for name, e in recipe.expect.items()},
        "gates": [gate.model_dump(exclude_none=True) for gate in recipe.gates],
        "bench": plain(recipe.bench.model_dump(exclude_none=True)),
        "seed": recipe.seed,
    }


def resolved_baseline(baseline: Baseline) -> dict[str, Any]:
    """The baseline with every default filled in, as plain values."""
    return {
        "schema_version": 1,
        "name": baseline.name,
        "description": baseline.description,
        "dataset": {baseline.dataset.name: plain(baseline.dataset.parameters)},
        "model": {baseline.model.name: plain(baseline.model.parameters)},
        "training": baseline.training.model_dump(),
        "weights": baseline.weights,
        "seed": baseline.seed,
    }


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what YAML and JSON write."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
