"""The baseline: its data prepared once, its model trained once, both found again by key."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness import registry
from harness.artifact import Artifact, Effect, ModelSpec, Step, read_artifact, with_step
from harness.checkpoints import read_tensors
from harness.datasets.prepare import prepare
from harness.errors import DataError
from harness.modules import (
    SCHEMA_FILES,
    build_module,
    load_weights,
    model_inputs,
    model_outputs,
    save_module,
)
from harness.objectives import Training
from harness.recipe import Baseline, plain
from harness.store import Store, file_hash, key_of, package_versions, source_hash, write_text
from harness.tables import Prepared, read_prepared, write_prepared
from harness.training import Progress, fit, start_at_mean
from harness.user_code import check_forward, other_packages, user_source_hash


@dataclass(frozen=True)
class Trained:
    """A trained baseline: its specification, its data and its torch artifact."""

    spec: Baseline
    data: Prepared
    artifact: Artifact
    training: Training
    history: Mapping[str, Any]
    data_folder: Path
    """Where the data are, for other processes."""


def prepared_data(spec: Baseline, store: Store, progress: Progress) -> tuple[Prepared, Path]:
    """The baseline's data, prepared now or found by the content it is made from, and its folder."""
    key = data_key(spec)

    def build(folder: Path) -> None:
        progress("reading and encoding", 0.0)
        load = registry.resolve("datasets", spec.dataset.name)
        prepared = prepare(load(spec.folder, **spec.dataset.parameters))
        marks = registry.entry("datasets", spec.dataset.name).marks
        facts = {**prepared.facts, "source": marks["source"], "licence": marks["licence"]}
        write_prepared(folder, replace(prepared, facts=facts))
        progress("reading and encoding", 1.0)

    folder = store.make("data", key, build)
    return read_prepared(folder), folder


def data_key(spec: Baseline) -> str:
    """Key of the prepared data: content read, parameters, and the code that reads and encodes."""
    entry = registry.entry("datasets", spec.dataset.name)
    load = registry.resolve("datasets", spec.dataset.name)
    fingerprint = sys.modules[load.__module__].fingerprint
    return key_of(
        dataset=spec.dataset.name,
        parameters=plain(spec.dataset.parameters),
        content=fingerprint(spec.folder, **spec.dataset.parameters),
        source=[
            source_hash(entry.source),
            source_hash(Path(__file__).parent / "datasets/prepare.py"),
        ],
        polars=package_versions()["polars"],
    )


def train_baseline(
    spec: Baseline, store: Store, *, threads: int, progress: Progress, seed: int | None = None
) -> Trained:
    """The trained baseline; found by key when it was trained before. ``seed`` overrides the
    specification's (for the noise floor).
    """
    data, data_folder = prepared_data(spec, store, progress)
    seed = spec.seed if seed is None else seed
    training = Training(**spec.training.model_dump())
    key = baseline_key(spec, data.hash, seed)

    def build(folder: Path) -> None:
        _train(spec, data, data_folder, folder, (training, seed, threads, progress))

    folder = store.make("baselines", key, build)
    history = json.loads((folder / "history.json").read_text())
    return Trained(spec, data, read_artifact(folder), training, history, data_folder)


def baseline_key(spec: Baseline, data_hash: str, seed: int) -> str:
    """Key of the trained weights: data content, model and its source, training, seed, versions."""
    root = Path(__file__).parent
    user_file = _user_source(spec)
    user_source = user_source_hash(user_file) if user_file else None
    start = file_hash(_start_weights(spec)) if spec.weights else None
    others = other_packages(user_file) if user_file else {}
    return key_of(
        **({"packages": others} if others else {}),
        data=data_hash,
        model=[spec.model.name, portable_model(spec)],
        source=[
            source_hash(registry.entry("models", spec.model.name).source),
            source_hash(root / "training.py"),
            source_hash(root / "modules.py"),
            user_source,
        ],
        training=spec.training.model_dump(),
        weights=start,
        seed=seed,
        versions=package_versions(),
    )


def portable_model(spec: Baseline) -> dict[str, Any]:
    """Model parameters without the path of a user's file, whose content counts instead."""
    return {k: plain(v) for k, v in spec.model.parameters.items() if k != "path"}


def _user_source(spec: Baseline) -> Path | None:
    if "path" not in spec.model.parameters:
        return None
    path: Path = spec.folder / spec.model.parameters["path"]
    if not os.path.isfile(path):
        raise DataError(f"{spec.file}: model.file.path: no such file {str(path)!r}")
    return path


def _start_weights(spec: Baseline) -> Path:
    path = spec.folder / (spec.weights or "")
    if not os.path.isfile(path):
        raise DataError(f"{spec.file}: weights: no such file {str(path)!r}")
    return path


def _train(
    spec: Baseline,
    data: Prepared,
    data_folder: Path,
    folder: Path,
    how: tuple[Training, int, int, Progress],
) -> None:
    training, seed, threads, progress = how
    for name in SCHEMA_FILES:
        (folder / name).write_bytes((data_folder / name).read_bytes())
    model = _model_spec(spec, folder)
    module = build_module(model, data.schema, folder=folder, seed=seed)
    start_at_mean(module, data)
    if spec.weights:
        path = _start_weights(spec)
        load_weights(module, read_tensors(path), where=str(path))
    inputs = model_inputs(module, data.schema)
    if model.source:
        check_forward(module, inputs, where=str(_user_source(spec)))
    cpu, wall = time.process_time(), time.monotonic()
    history = fit(module, data, inputs, training, seed=seed, threads=threads, progress=progress)
    artifact = Artifact(folder, "torch", model, inputs, model_outputs(module, inputs))
    artifact = save_module(module, artifact, folder)
    step = Step(
        "train",
        spec.training.model_dump(),
        time.monotonic() - wall,
        time.process_time() - cpu,
        (Effect("steps", 0, history.steps),),
        (history.stopped,),
    )
    with_step(artifact, step)
    write_text(folder / "history.json", json.dumps(asdict(history), indent=1, allow_nan=False))


def _model_spec(spec: Baseline, folder: Path) -> ModelSpec:
    source = _user_source(spec)
    if source is None:
        return ModelSpec(spec.model.name, plain(spec.model.parameters))
    (folder / "model.py").write_bytes(source.read_bytes())
    return ModelSpec(spec.model.name, {**portable_model(spec), "path": "model.py"}, "model.py")
