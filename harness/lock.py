"""A baseline's lock file: what its weights reach, on which machine, and their seed noise."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.baseline import Trained, portable_model, train_baseline
from harness.environment import environment, usable_threads
from harness.errors import DataError
from harness.measuring import Session, Task, score
from harness.recipe import Baseline, Recipe, TargetSpec, plain
from harness.store import Store, file_hash, key_of, write_text
from harness.strict_json import load_json
from harness.suites import accuracy, lists
from harness.suites.scoring import Scorer
from harness.tasks import TASKS
from harness.variants import Variant

log = logging.getLogger(__name__)

_FORM = ("shared", "folded", "fused")
"""Model parameters that say how scores are worked out; unset, locks don't depend on them."""


@dataclass(frozen=True)
class Locked:
    """A lock as it was written, and the rows read, kept and dropped behind it."""

    path: Path
    content: Mapping[str, Any]
    rows: Mapping[str, int]


def lock_path(spec: Baseline) -> Path:
    """Where the baseline's lock file stands: beside its YAML."""
    return spec.file.with_name(f"{spec.name}.lock.json")


def spec_key(spec: Baseline) -> str:
    """Key of what the YAML says, independent of the machine: a lock with another key is stale."""
    training = spec.training.model_dump()
    if training["loss"] == "own":  # then neither is used, and locks don't depend on them
        del training["loss"], training["negatives"]
    model = {n: v for n, v in portable_model(spec).items() if v or n not in _FORM}
    return key_of(
        dataset=[spec.dataset.name, plain(spec.dataset.parameters)],
        model=[spec.model.name, model],
        training=training,
        weights=spec.weights,
        seed=spec.seed,
    )


def read_lock(spec: Baseline) -> dict[str, Any] | None:
    """The baseline's lock, or None when there is none or it belongs to another specification."""
    path = lock_path(spec)
    if not path.is_file():
        return None
    try:
        lock = load_json(path)
    except (OSError, ValueError) as error:
        remake = f"remake it with: harness train {spec.file}"
        raise DataError(f"{path}: not JSON ({error}); {remake}") from error
    if not isinstance(lock, dict) or not _is_noise(lock.get("noise", {})):
        raise DataError(f"{path}: not a lock; remake it with: harness train {spec.file}")
    if lock.get("spec_key") != spec_key(spec):
        log.warning("%s: of another specification; remake it: harness train %s", path, spec.file)
        return None
    return lock


def _is_noise(noise: object) -> bool:
    """Whether it is, for each metric, a deviation (or none) over a number of seeds."""
    return isinstance(noise, dict) and all(
        isinstance(one, dict)
        and isinstance(one.get("std"), float | None)
        and isinstance(one.get("unit"), str)
        and type(one.get("seeds")) is int
        and one["seeds"] >= 0
        for one in noise.values()
    )


def noise_of(lock: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Standard deviation of the task's main metric on the test split over training seeds; None
    where it wasn't measured.
    """
    noise = (lock or {}).get("noise", {})
    floor = next((noise[t.main_metric] for t in TASKS.values() if t.main_metric in noise), None)
    return dict(floor) if floor and floor.get("std") is not None else None


def write_lock(spec: Baseline, store: Store, *, seeds: int, task: Task) -> Locked:
    """Train the baseline with ``seeds`` seeds, starting with its own, and write its lock file."""
    threads = usable_threads()
    trained: list[Trained] = []
    metrics: list[dict[str, float | None]] = []
    with Scorer(threads) as scorer:
        session = Session(store, task, threads, scorer)
        for seed in range(spec.seed, spec.seed + seeds):
            progress = task(f"{spec.name}, seed {seed}")
            found = train_baseline(spec, store, threads=threads, progress=progress, seed=seed)
            trained.append(found)
            metrics.append(test_metrics(found, session))
    first = trained[0]
    lock = {
        "spec_key": spec_key(spec),
        "checkpoint_sha256": file_hash(first.artifact.file),
        "data_hash": first.data.hash,
        "split": first.data.split_rule,
        "parameters": first.artifact.parameters,
        "macs": first.artifact.macs,
        "steps": first.history["steps"],
        "train_seconds": first.artifact.lineage[0].seconds,
        "metrics": metrics[0],
        "noise": {name: _noise([m[name] for m in metrics]) for name in metrics[0]},
        "environment": environment(),
    }
    path = lock_path(spec)
    write_text(path, json.dumps(lock, indent=1, allow_nan=False) + "\n")
    return Locked(path, lock, dict(first.data.counts))


def test_metrics(trained: Trained, session: Session) -> dict[str, float | None]:
    """Every metric on the test split, scored by torch."""
    recipe = Recipe(
        trained.spec.name, trained.spec.file, "", trained.spec, (), (), {}, (), trained.spec.seed
    )
    variant = Variant(recipe, TargetSpec("torch-cpu"), trained.artifact, trained.artifact)
    scored = score(variant, trained, session)
    record = lists.record_of(trained.data, trained.data.splits["test"], scored.answer)
    metrics = TASKS[trained.data.schema.task].metrics
    evaluation = accuracy.evaluate(record, metrics=metrics, resamples=2, seed=trained.spec.seed)
    return dict(evaluation.values)


def _noise(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    std = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"values": values, "std": std, "seeds": len(known), "unit": "metric"}
