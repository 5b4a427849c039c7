"""A TensorRT plan is found again for its own card, version, sizes and weights alone; and it is
built for the sizes that the run times."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import variants
from harness.artifact import Artifact
from harness.cuda import plan_machine
from harness.profile import Bench, Load
from harness.recipe import StageSpec
from harness.registry import bind
from harness.variants import sized, stage_key

MACHINE = {"tensorrt": "11.0.0", "card": "Card A", "capability": "9.0", "driver": "13000"}


@pytest.fixture
def key(
    tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, trained: Any
) -> Callable[..., str]:
    def make(stage: str = "build_tensorrt", parent: str = "one", **changes: Any) -> str:
        machine = {**MACHINE, **{k: v for k, v in changes.items() if k in MACHINE}}
        monkeypatch.setattr(variants, "plan_machine", lambda: machine)
        parameters = bind("stages", stage, {k: changes[k] for k in changes if k not in MACHINE})
        artifact = replace(tiny_artifact, folder=Path(parent))
        return stage_key(artifact, StageSpec(stage, parameters), 1, trained)

    return make


@pytest.fixture
def trained(tiny_artifact: Artifact, tiny: Any) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(data=tiny, artifact=tiny_artifact)


@pytest.mark.parametrize(
    "changes",
    [
        {"card": "Card B"},
        {"capability": "8.9"},
        {"tensorrt": "10.9.0"},
        {"driver": "12080"},
        {"batches": [1, 64]},
        {"candidates": [1, 2, 3]},
        {"parent": "other weights"},
    ],
)
def test_a_plan_for_something_else_is_built_anew(
    key: Callable[..., str], changes: dict[str, Any]
) -> None:
    assert key() == key()
    assert key(**changes) != key()


def test_what_any_machine_can_use_is_not_tied_to_one(key: Callable[..., str]) -> None:
    assert key("export_onnx", card="Card B") == key("export_onnx")


def test_a_plan_is_built_for_the_runs_sizes_unless_they_are_given() -> None:
    from harness.plans import plan_sizes

    load = Bench(batches=(1, 32)).applied(Load(offline_batch=2048, candidates=300))
    sizes = plan_sizes(load)
    built = sized(StageSpec("build_tensorrt", bind("stages", "build_tensorrt", {})), sizes)
    assert built.parameters["batches"] == (1, 32, 2048)
    assert built.parameters["candidates"] == (300, 300, 300)
    own = StageSpec("build_tensorrt", bind("stages", "build_tensorrt", {"batches": [7]}))
    assert sized(own, sizes).parameters["batches"] == (7,)
    other = StageSpec("export_onnx", {"batches": None})
    assert sized(other, sizes) is other


def test_without_a_device_the_key_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr("harness.cuda.ctypes.CDLL", missing)
    found = plan_machine()
    assert (found["card"], found["capability"], found["driver"]) == (None, None, None)
