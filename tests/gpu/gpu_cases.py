"""What ``make gpu`` runs: variants of a baseline and the engines of each, by catalog name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import registry
from harness.loading import load_baseline
from harness.profile import Load, Profile, Protocol
from harness.recipe import Recipe, StageSpec, TargetSpec

HERE = Path(__file__).parent
TORCH = ("torch-cuda", "torch-cuda-compiled", "torch-cuda-graph")
ORT = ("ort-cuda", "ort-cuda-graph")
TENSORRT = ("tensorrt", "tensorrt-graph")


@dataclass(frozen=True)
class Case:
    """One variant: its stages with what they are given, and its engines on a GPU and on a CPU."""

    name: str
    stages: Mapping[str, Mapping[str, Any]]
    cuda: tuple[str, ...]
    cpu: tuple[str, ...]


CASES = (
    Case("fp32", {}, (*TORCH, *ORT), ("torch-cpu", "ort-cpu")),
    Case("fp16", {"cast_weights": {"to": "fp16"}}, TORCH, ()),
    Case("bf16", {"cast_weights": {"to": "bf16"}}, TORCH, ("torch-cpu",)),
    Case("fp16-graph", {"convert_fp16": {}}, (*ORT, *TENSORRT), ("ort-cpu",)),
)

PROTOCOL = Protocol(
    min_pairs=8,
    max_pairs=24,
    min_seconds=1.0,
    max_seconds=2.0,
    warm_seconds=0.05,
    warm_window_seconds=0.02,
    warm_cap=0.4,
)
SMALL_PROTOCOL = Protocol(
    min_pairs=2,
    max_pairs=2,
    min_seconds=0.01,
    max_seconds=0.1,
    block_seconds=0.002,
    warm_seconds=0.002,
    warm_window_seconds=0.002,
    warm_cap=0.02,
)
SCENARIOS = ("sweep", "single", "memory", "roofline")
PROFILES = {
    "serving-dlrm": Profile(
        name="gpu",
        # What the targets are about first: what there is no time for is left from the end.
        load=Load(scenarios=SCENARIOS, batches=(1, 1024, 64, 4096, 8192, 65_536)),
        protocol=PROTOCOL,
        peak_seconds=0.1,
    ),
    "serving-sasrec": Profile(
        name="gpu",
        load=Load(scenarios=SCENARIOS, batches=(1, 16, 256)),
        protocol=PROTOCOL,
        peak_seconds=0.1,
    ),
}
SMALL_LOAD = Load(scenarios=("sweep", "single", "memory"), batches=(1, 8), candidates=16)
SMALL = Profile(name="gpu-small", load=SMALL_LOAD, protocol=SMALL_PROTOCOL)


def engines(device: str) -> tuple[str, ...]:
    """Every engine that a case names for a device, in order."""
    return tuple(dict.fromkeys(name for case in CASES for name in getattr(case, device)))


def lacking() -> dict[str, str]:
    """Stages and engines that a case names and the catalog hasn't, with a sentence each."""
    known = {kind: registry.names(kind) for kind in ("engines", "stages")}
    named = {name: "engines" for device in ("cuda", "cpu") for name in engines(device)}
    named |= {stage: "stages" for case in CASES for stage in case.stages}
    return {
        name: f"{kind[:-1]} {name} isn't in the catalog"
        for name, kind in named.items()
        if name not in known[kind]
    }


def recipes(name: str, device: str) -> list[Recipe]:
    """A baseline's cases on a kind of device, without what the catalog hasn't."""
    baseline, absent = load_baseline(HERE / f"{name}.yaml"), lacking()
    found = []
    for case in CASES:
        if any(stage in absent for stage in case.stages):
            continue
        targets = tuple(TargetSpec(e) for e in getattr(case, device) if e not in absent)
        stages = tuple(
            StageSpec(stage, registry.bind("stages", stage, dict(given)))
            for stage, given in case.stages.items()
        )
        found.append(
            Recipe(
                name=f"{name}-{case.name}",
                file=HERE / f"{name}.yaml",
                description=f"{case.name} of {baseline.description}",
                baseline=baseline,
                stages=stages,
                targets=targets,
                expect={},
                gates=(),
                seed=baseline.seed,
            )
        )
    return [recipe for recipe in found if recipe.targets]


def profile_of(name: str, *, seconds: float) -> Profile:
    """How a baseline is measured, its closed loops within so many seconds."""
    profile = PROFILES.get(name, SMALL)
    return profile.model_copy(update={"most_seconds": max(1.0, seconds)})
