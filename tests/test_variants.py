"""Stages run through the store: made once, shared, marked by what they did, failures contained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.baseline import Trained
from harness.errors import EffectError, HarnessError, TrainingError, UnsupportedError, WriteError
from harness.recipe import Expectation, Recipe, StageSpec, TargetSpec
from harness.store import Store
from harness.variants import Variant, attempt, make_variant


def variant(trained: Trained, *stages: tuple[str, dict[str, Any]], **changes: Any) -> Variant:
    specs = tuple(StageSpec(name, registry.bind("stages", name, given)) for name, given in stages)
    target = changes.pop("target", "ort-cpu")
    recipe = Recipe("r", Path("r.yaml"), "", trained.spec, specs, (TargetSpec(target),), {}, (), 7)
    return Variant(replace(recipe, **changes), TargetSpec(target))


def make(item: Variant, trained: Trained, store: Store) -> Variant:
    return make_variant(item, trained, store, threads=1, progress=lambda label, share: None)


HALF = ("prune_channels", {"ratio": 0.5})
INT8 = ("quantize_dynamic", {})


def test_a_chain_leaves_its_lineage_and_its_torch_source(trained: Trained, tmp_path: Path) -> None:
    made = make(variant(trained, HALF, INT8), trained, Store(tmp_path))
    assert made.artifact is not None
    steps = [step.stage for step in made.artifact.lineage]
    assert steps == ["train", "prune_channels", "export_onnx", "quantize_dynamic"]
    assert made.source is not None
    assert made.source.format == "torch"
    assert made.source.widths["top.0"][0] == 16
    assert all(step.effects for step in made.artifact.lineage)


def test_shared_stages_are_made_once(trained: Trained, tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(variant(trained, HALF, INT8), trained, store)
    made = len(store.made)
    make(variant(trained, HALF), trained, store)
    assert len(store.made) == made
    make(variant(trained, ("prune_channels", {"ratio": 0.25})), trained, store)
    assert len(store.made) == made + 2
    make(variant(trained, HALF, seed=8), trained, store)
    assert len(store.made) == made + 4


@pytest.mark.parametrize(
    ("stages", "technique"),
    [
        ((), "reference"),
        ((INT8,), "closed_like"),
        ((HALF,), "open_like"),
        ((HALF, INT8), "open_like"),
    ],
)
def test_technique_is_that_of_the_furthest_stage(
    trained: Trained, tmp_path: Path, stages: tuple, technique: str
) -> None:
    made = make(variant(trained, *stages), trained, Store(tmp_path))
    assert made.artifact is not None
    assert made.artifact.technique == technique


def test_an_expectation_that_isnt_met_names_the_figures(trained: Trained, tmp_path: Path) -> None:
    expect = {"macs": Expectation(max_ratio=0.1)}
    with pytest.raises(EffectError, match=r"r\.yaml: expect\.macs: .* of the baseline's"):
        make(variant(trained, HALF, expect=expect), trained, Store(tmp_path))


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (UnsupportedError("no TensorRT", code="no_package"), "skipped", "no_package: no TensorRT"),
        (UnsupportedError("no such op", code="unsupported_model"), "failed", "no such op"),
        (EffectError("nothing changed"), "failed", "nothing changed"),
        (TrainingError("loss is nan at step 3"), "failed", "step 3"),
        (HarnessError("bad"), "failed", "bad"),
        (RuntimeError("a\nlibrary   broke"), "failed", "RuntimeError: a library broke"),
    ],
)
def test_one_variants_trouble_is_its_own(
    trained: Trained, error: Exception, status: str, reason: str
) -> None:
    def step(item: Variant) -> Variant:
        raise error

    found = attempt(variant(trained), step)
    assert found.status == status
    assert reason in str(found.reason)
    assert found.artifact is None


def test_an_interrupt_is_not_swallowed(trained: Trained) -> None:
    def step(item: Variant) -> Variant:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(variant(trained), step)


def test_a_full_disk_ends_the_run(trained: Trained) -> None:
    def step(item: Variant) -> Variant:
        raise WriteError("full")

    with pytest.raises(WriteError, match="full"):
        attempt(variant(trained), step)
