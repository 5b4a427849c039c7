"""Builds: every variant copied out as it would ship, others told, a user's folder left alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.artifact import read_artifact
from harness.baseline import Trained
from harness.engines.base import Probe
from harness.errors import DataError, EffectError
from harness.gates import shipping
from harness.gates.builds import FILE, read_build
from harness.recipe import Baseline, Recipe, StageSpec, TargetSpec, TrainingSpec
from harness.store import Store, file_hash
from harness.suites.points import read_feeds

BASELINE = Baseline(
    *("base", Path("base.yaml"), ""),
    *(StageSpec("generated", {}), StageSpec("mlp", {})),
    *(TrainingSpec(), None, 7),
)


def recipe(name: str, *targets: str, require: bool = False) -> Recipe:
    specs = tuple(TargetSpec(engine, require) for engine in targets)
    return Recipe(name, Path(f"{name}.yaml"), "", BASELINE, (), specs, {}, (), 7)


@pytest.fixture
def make(tiny, tiny_training, save_artifact, monkeypatch, tmp_path):
    """``make(*recipes, out=...)``: a build whose variants are all one small model; recipes called
    ``broken`` fail, and ``torch-cuda`` can't run here.
    """
    from harness.artifact import ModelSpec

    artifact = save_artifact(ModelSpec("mlp", {"dim": 8, "widths": [32, 16]}))
    trained = Trained(BASELINE, tiny, artifact, tiny_training, {}, Path())
    runs = []

    def make_variant(variant, trained, store, *, threads, progress, build):
        if variant.recipe.name == "broken":
            raise EffectError("nothing was pruned")
        return replace(variant, artifact=artifact)

    def train(spec, store, *, threads, progress):
        runs.append(spec.name)
        return trained

    def probe(engine):
        return Probe("no_device", "no GPU") if engine == "torch-cuda" else Probe("ok", "fine")

    monkeypatch.setattr(shipping, "make_variant", make_variant)
    monkeypatch.setattr(shipping, "train_baseline", train)
    monkeypatch.setattr(shipping, "probe_engine", probe)

    def task(name):
        return lambda label, share: None

    def build(*recipes, out=None, targets=()):
        folder = out or tmp_path / "out"
        return shipping.build(recipes, folder, Store(tmp_path / "s"), task, targets=targets)

    build.trainings = runs
    return build


def test_each_variant_is_a_whole_artifact_of_its_own(make, tmp_path) -> None:
    made = make(recipe("fp32", "torch-cpu", "ort-cpu"))
    assert made == read_build(tmp_path / "out")
    assert list(made.artifacts) == ["fp32@torch-cpu", "fp32@ort-cpu"]
    for name, built in made.artifacts.items():
        copied = read_artifact(made.path(name))
        assert copied.bytes == built.bytes > 0
        assert built.data_hash == "tiny-1"
        assert set(built.inputs) == {"64x1", "1x256"}
        for file, hashed in built.inputs.values():
            assert file_hash(tmp_path / "out" / file) == hashed
    assert made.environment["key"]


def test_inputs_are_the_same_in_every_build_of_the_same_data(make, tmp_path) -> None:
    first, second = (
        make(recipe("fp32", "ort-cpu"), out=tmp_path / name).artifacts["fp32@ort-cpu"]
        for name in ("one", "two")
    )
    assert first == second
    batches = read_feeds(tmp_path / "one" / first.inputs["1x256"][0])
    assert len(batches) >= 64
    assert any(256 in array.shape for array in batches[0].values())


def test_what_fails_or_is_skipped_is_told_and_stops_nothing(make) -> None:
    made = make(recipe("fp32", "ort-cpu", "torch-cuda"), recipe("broken", "ort-cpu"))
    assert list(made.artifacts) == ["fp32@ort-cpu"]
    assert made.skipped == {"fp32@torch-cuda": "no_device: no GPU"}
    assert made.failed == {"broken@ort-cpu": "nothing was pruned"}
    assert make.trainings == ["base"]


def test_a_required_target_that_cant_run_has_failed(make) -> None:
    made = make(recipe("fp32", "torch-cuda", require=True))
    assert made.failed == {"fp32@torch-cuda": "required, but can't run here: no_device: no GPU"}
    assert make.trainings == []


def test_only_the_targets_asked_for(make) -> None:
    made = make(recipe("fp32", "ort-cpu", "torch-cpu"), targets=("torch-cpu",))
    assert list(made.artifacts) == ["fp32@torch-cpu"]


def test_a_folder_with_other_things_is_left_alone(make, tmp_path) -> None:
    out = tmp_path / "mine"
    (out / "inputs").mkdir(parents=True)
    (out / "inputs" / "precious").write_text("x")
    with pytest.raises(DataError, match="holds other files"):
        make(recipe("fp32", "ort-cpu"), out=out)
    assert (out / "inputs" / "precious").read_text() == "x"


def test_a_second_build_replaces_only_its_own(make, tmp_path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    make(recipe("old", "ort-cpu"), out=out)
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (out / "notes").mkdir()
    (out / "new@ort-cpu").symlink_to(elsewhere)
    content = json.loads((out / FILE).read_text())
    content["failed"] = {"../elsewhere": "planted", "new@ort-cpu": "planted"}
    (out / FILE).write_text(json.dumps(content))
    make(recipe("new", "ort-cpu"), out=out)
    assert sorted(path.name for path in out.iterdir()) == [
        *(FILE, "inputs", "new@ort-cpu", "notes"),
    ]
    assert (elsewhere / "precious").read_text() == "x"


def test_a_build_that_was_cut_off_is_made_again(make, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as cut:
        cut.setattr(shipping, "gate_feeds", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            make(recipe("fp32", "ort-cpu"))
    half = read_build(tmp_path / "out")
    assert (half.artifacts, list(half.failed)) == ({}, ["fp32@ort-cpu"])
    assert (tmp_path / "out" / "fp32@ort-cpu").is_dir()
    assert list(make(recipe("fp32", "ort-cpu")).artifacts) == ["fp32@ort-cpu"]


def test_a_folder_that_cant_be_written_is_one_sentence(make, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be written"):
        make(recipe("fp32", "ort-cpu"), out=tmp_path / "file" / "out")
