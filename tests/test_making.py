"""Stages in a process of their own: the same artifact as in this one, and whatever an engine does
while a stage times or scores ends that stage with a sentence that says where.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.artifact import read_artifact
from harness.baseline import Trained
from harness.errors import DataError, EffectError, TrainingError, UnsupportedError, WriteError
from harness.loading import load_recipes
from harness.making import COMMAND, Maker
from harness.profile import Making
from harness.recipe import Baseline, Recipe, StageSpec, TargetSpec, TrainingSpec, plain
from harness.store import Store, file_hash
from harness.suites.apart import Apart
from harness.suites.arms import ArmError
from harness.tables import write_prepared
from harness.variants import Variant, attempt, make_variant

ROOT = Path(__file__).parents[1]
CHILD = """
import logging, os, signal, sys, time
from harness import errors, registry
from harness.making_worker import make_stage
from harness.suites.apart_worker import serve

def spoil(fault):
    if fault == "logs":
        logging.getLogger("harness.planted").warning("seen \x1b[2J")
        logging.getLogger("harness.planted").debug("not asked for")
    if fault == "hangs":
        time.sleep(600)
    if fault in ("SIGKILL", "SIGSEGV", "SIGABRT"):
        os.kill(os.getpid(), getattr(signal, fault))
    if fault == "raises":
        raise IndexError("planted")
    if fault == "full":
        raise OSError(28, "No space left on device")
    if fault == "unsupported":
        raise errors.UnsupportedError("planted", code="no_device")
    if fault.endswith("Error"):
        raise getattr(errors, fault)("planted")

def work(tell, **request):
    tell(request["stage"] + ": here", 0.5)
    if request["store"].endswith("-at-once"):
        return spoil(sys.argv[1])
    registry.resolve("stages", request["stage"])  # imported, so that it has the other session
    for name, module in list(sys.modules.items()):
        if name.startswith("harness.stages") and hasattr(module, "ort_session"):
            module.ort_session = lambda *arguments, **options: spoil(sys.argv[1])
    make_stage(tell=tell, **request)

serve({"making": work})
"""
"""A worker that goes wrong at once, or the real one when a stage opens a session of onnxruntime."""

TIMED: dict[str, dict[str, Any]] = {
    "quantize_measured": {"minutes": 0.01, "calibration_rows": 64, "trials": 2, "rows": 8},
    "quantize_tables": {"bits": 8},
    "prune_to_latency": {"speedup": 1.1, "rounds": 1, "seconds": 0.05, "taylor_rows": 64},
}
"""Stages that time or score in an engine, so that they take little."""


@pytest.fixture
def trained(tiny, tiny_artifact, tiny_training, tmp_path: Path) -> Trained:
    none = StageSpec("generated", {})
    spec = Baseline("tiny", Path("t.yaml"), "", none, none, TrainingSpec(), None, 7)
    folder = tmp_path / "data"
    folder.mkdir()
    write_prepared(folder, tiny)
    return Trained(spec, tiny, tiny_artifact, tiny_training, {}, folder)


@pytest.fixture
def make(trained: Trained, tmp_path: Path) -> Iterator[Callable[..., Variant]]:
    """``make(stage, fault, at, limits)``: a variant made by a child that goes wrong; no fault: by
    the child that runs use; None: in this process.
    """
    processes: list[Apart] = []

    def go(stage: str, fault: str | None = "", at: str = "at-once", **limits: float) -> Variant:
        given = TIMED.get(stage, {})
        stages = (StageSpec(stage, registry.bind("stages", stage, given)),)
        target = TargetSpec("ort-cpu")
        recipe = Recipe("r", Path("r.yaml"), "", trained.spec, stages, (target,), {}, (), 7)
        variant = Variant(recipe, target)
        build = None
        if fault is not None:
            words = (sys.executable, "-c", CHILD, fault) if fault else COMMAND
            processes.append(Apart(1, words))
            build = Maker(processes[-1], Making(**limits)).of(variant.name, trained.data_folder)
        store = Store(tmp_path / f"cache-{fault}-{at}")
        how: Any = {"threads": 1, "progress": heard.append2, "build": build}
        return make_variant(variant, trained, store, **how)

    class Heard(list[tuple[str, float]]):
        def append2(self, label: str, share: float) -> None:
            self.append((label, share))

    heard = Heard()
    go.heard = heard  # type: ignore[attr-defined]
    yield go
    for process in processes:
        process.end()


def test_a_stage_makes_there_what_it_makes_here(make: Callable[..., Any]) -> None:
    here, there = (make("quantize_dynamic", how).artifact for how in (None, ""))
    assert here.key == there.key  # the key knows nothing of where it was made
    assert file_hash(here.file) == file_hash(there.file)
    assert sorted(p.name for p in here.folder.iterdir()) == sorted(
        p.name for p in there.folder.iterdir()
    )
    steps = [
        [(step.stage, step.parameters, step.effects, step.notes) for step in one.lineage]
        for one in (here, there)
    ]
    assert steps[0] == steps[1]
    assert read_artifact(there.folder).technique == "closed_like"
    labels = {label for label, _ in make.heard}
    assert "export_onnx: comparing with torch" in labels


@pytest.mark.parametrize("stage", TIMED)
def test_an_engine_that_ends_its_process_ends_the_stage_alone(
    make: Callable[..., Any], trained: Trained, stage: str
) -> None:
    with pytest.raises(ArmError) as caught:
        make(stage, "SIGKILL", "session")
    text = str(caught.value)
    assert text.startswith("r@ort-cpu: the worker was killed by SIGKILL during making (")
    assert text.endswith("; a system out of memory does that")


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ("SIGSEGV", ArmError, "was killed by SIGSEGV during making (export_onnx: here)"),
        ("raises", ArmError, "making failed: IndexError: planted (after export_onnx: here)"),
        ("EffectError", EffectError, "planted"),
        ("TrainingError", TrainingError, "planted"),
        ("unsupported", UnsupportedError, "planted"),
        ("full", WriteError, "No space left on device"),
    ],
)
def test_whatever_goes_wrong_there_is_told_here(
    make: Callable[..., Any], tmp_path: Path, fault: str, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind) as caught:
        make("export_onnx", fault)
    assert told in str(caught.value)
    if isinstance(caught.value, UnsupportedError):
        assert caught.value.code == "no_device"
    assert not list((tmp_path / f"cache-{fault}-at-once" / "artifacts").iterdir())


def test_a_hang_is_found_by_its_silence(make: Callable[..., Any]) -> None:
    with pytest.raises(ArmError, match=r"making \(export_onnx: here\) gave no answer within 9 s"):
        make("export_onnx", "hangs", silent_seconds=9.0)


def test_such_a_variant_has_failed(make: Callable[..., Any], trained: Trained) -> None:
    recipe = Recipe("r", Path("r.yaml"), "", trained.spec, (), (), {}, (), 7)
    bad = attempt(Variant(recipe, TargetSpec("ort-cpu")), lambda _: make("export_onnx", "SIGABRT"))
    assert (bad.status, bad.artifact) == ("failed", None)
    assert "SIGABRT" in str(bad.reason)


def test_what_is_logged_there_is_logged_here(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(DataError):  # it made nothing
        make("export_onnx", "logs")
    found = {(r.name, r.levelname, r.getMessage()) for r in caplog.records}
    assert found == {("harness.planted", "WARNING", "seen \x1b[2J")}


def test_an_interrupt_ends_the_child_before_its_folder_goes(
    trained: Trained, tmp_path: Path
) -> None:
    apart = Apart(1, (sys.executable, "-c", CHILD, "hangs"))
    store = Store(tmp_path / "cache-at-once")
    recipe = Recipe("r", Path("r.yaml"), "", trained.spec, (), (), {}, (), 7)
    variant = Variant(recipe, TargetSpec("ort-cpu"))

    def stop(label: str, share: float) -> None:
        if label == "export_onnx: here":
            assert apart._process is not None
            children.append(apart._process.pid)
            raise KeyboardInterrupt

    children: list[int] = []
    build = Maker(apart).of(variant.name, trained.data_folder)
    with pytest.raises(KeyboardInterrupt):
        make_variant(variant, trained, store, threads=1, progress=stop, build=build)
    assert apart._process is None
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], signal.SIGTERM)
    assert not list(store.root.rglob("*.partial"))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_parameters_of_every_recipe_come_through_json(path: Path) -> None:
    (recipe,) = load_recipes([path])
    for stage in recipe.stages:
        again = registry.bind("stages", stage.name, plain(stage.parameters))
        assert again == stage.parameters
