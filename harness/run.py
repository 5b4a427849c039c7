"""Recipes to rows: the one file that joins data, baseline, stages, engines, suites and report."""

import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from harness import registry
from harness.artifact import Artifact, read_artifact
from harness.baseline import Trained, read_lock, train_baseline
from harness.engines.base import Engine, EngineFacts, Probe
from harness.engines.probing import probe_engine
from harness.environment import environment, usable_threads
from harness.errors import DataError, HarnessError, UnsupportedError
from harness.gates import GateResult, check_gates
from harness.recipe import Baseline, Recipe, TargetSpec, resolved, resolved_baseline
from harness.report.page import write_report
from harness.results import Row, read_rows, write_rows
from harness.store import Store, key_of, source_hash, write_text
from harness.suites import accuracy, memory, references, throughput
from harness.variants import make_variant

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
Task = Callable[[str], Progress]
"""Starts a task of the given name and gives its progress function."""


@dataclass(frozen=True)
class Options:
    """What the command line adds to the recipes."""

    out: Path
    profile: str = "default"
    targets: tuple[str, ...] = ()
    fresh: bool = False


@dataclass(frozen=True)
class Variant:
    """One recipe on one target: made, or skipped or failed for a reason."""

    recipe: Recipe
    target: TargetSpec
    artifact: Artifact | None = None
    status: str = "ok"
    reason: str | None = None

    @property
    def name(self) -> str:
        """The name that no other variant of the run has."""
        return f"{self.recipe.name}@{self.target.engine}"


@dataclass(frozen=True)
class Finished:
    """What a run gives back."""

    rows: tuple[Row, ...]
    gates: tuple[GateResult, ...]
    report: Path
    missing: tuple[str, ...]
    """Required targets that could not run, with the reason."""


@dataclass(frozen=True)
class Session:
    """What all steps of one run share."""

    options: Options
    store: Store
    task: Task
    run_id: str
    threads: int

    @property
    def nonce(self) -> str | None:
        """Part of the key of everything measured: with ``--fresh`` nothing is found."""
        return self.run_id if self.options.fresh else None


def run(recipes: Sequence[Recipe], options: Options, store: Store, task: Task) -> Finished:
    """Make and measure every variant of every recipe; write rows, report and plots to ``out``.

    A variant that fails is a row. Raises ``HarnessError`` when a baseline can't be trained.
    """
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%S}-{os.getpid()}"
    session = Session(options, store, task, run_id, usable_threads())
    _start_folder(options.out, recipes)
    rows: list[Row] = []
    variants: list[Variant] = []
    for baseline, group in _by_baseline(recipes):
        made, measured = _run_group(baseline, group, session)
        variants += made
        rows += measured
    rows = [_stamp(row, run_id, now) for row in rows]
    write_rows(options.out, rows)
    report = write_report(options.out)
    gates = check_gates({r.name: r.gates for r in recipes}, rows)
    missing = [
        f"{v.name}: {v.reason}" for v in variants if v.target.require and v.status != "ok"
    ]
    return Finished(tuple(rows), tuple(gates), report, tuple(missing))


def _stamp(row: Row, run_id: str, now: datetime) -> Row:
    facts = environment()
    return replace(
        row,
        run_id=run_id,
        environment=row.environment or facts["key"],
        commit=row.commit or facts["commit"],
        time=row.time or now.isoformat(timespec="seconds"),
    )


def _start_folder(out: Path, recipes: Sequence[Recipe]) -> None:
    try:
        (out / "recipes").mkdir(parents=True, exist_ok=True)
        for recipe in recipes:
            write_text(out / "recipes" / f"{recipe.name}.yaml", yaml_text(resolved(recipe)))
            baseline = out / "recipes" / f"{recipe.baseline.name}.baseline.yaml"
            write_text(baseline, yaml_text(resolved_baseline(recipe.baseline)))
        write_text(out / "environment.json", json.dumps(environment(), indent=1, allow_nan=False))
    except OSError as error:
        raise DataError(f"{error.filename or out}: can't be written: {error.strerror}") from error


def yaml_text(values: Mapping[str, Any]) -> str:
    """Plain values as YAML text."""
    import io

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    buffer = io.StringIO()
    yaml.dump(dict(values), buffer)
    return buffer.getvalue()


def _by_baseline(recipes: Sequence[Recipe]) -> Iterator[tuple[Baseline, list[Recipe]]]:
    files = dict.fromkeys(recipe.baseline.file.resolve() for recipe in recipes)
    for file in files:
        group = [recipe for recipe in recipes if recipe.baseline.file.resolve() == file]
        yield group[0].baseline, group


def _run_group(
    spec: Baseline, recipes: list[Recipe], session: Session
) -> tuple[list[Variant], list[Row]]:
    """All variants of one baseline: made, scored, timed."""
    trained = train_baseline(
        spec, session.store, threads=session.threads, progress=session.task(f"baseline {spec.name}")
    )
    recipes = _with_reference(recipes, spec)
    probes = _probe(recipes, session)
    variants = [
        _make(recipe, target, probes[target.engine], trained, session)
        for recipe in recipes
        for target in _targets(recipe, session)
    ]
    rows = references.reference_rows(_common(trained), trained.data)
    rows += _training_rows(trained)
    scored, accuracy_rows = _accuracy(variants, trained, session)
    rows += accuracy_rows
    rows += _size_and_memory(scored, trained, session)
    rows += _throughput(scored, trained, session)
    rows += [_status_row(variant, trained) for variant in scored if variant.status != "ok"]
    rows += [row for variant in scored for row in _effect_rows(variant, trained)]
    return scored, rows


def _targets(recipe: Recipe, session: Session) -> list[TargetSpec]:
    wanted = session.options.targets
    return [target for target in recipe.targets if not wanted or target.engine in wanted]


def _with_reference(recipes: list[Recipe], spec: Baseline) -> list[Recipe]:
    """The recipes, with a plain one in front that covers every engine they run on: what all else
    is compared with is always measured."""
    takes = {t.engine for r in recipes for t in r.targets}
    takes -= {e for e in takes if registry.entry("engines", e).marks["accepts"] == "tensorrt"}
    plain = next((recipe for recipe in recipes if not recipe.stages), None)
    if plain is None:
        plain = replace(
            recipes[0], name=f"{spec.name}-reference", stages=(), targets=(), expect={}, gates=()
        )
    own = {target.engine for target in plain.targets}
    extra = tuple(TargetSpec(engine) for engine in sorted(takes - own))
    rest = [recipe for recipe in recipes if recipe.name != plain.name]
    return [replace(plain, targets=(*plain.targets, *extra)), *rest]


def _probe(recipes: list[Recipe], session: Session) -> dict[str, Probe]:
    engines = dict.fromkeys(t.engine for r in recipes for t in _targets(r, session))
    progress = session.task("probing engines")
    probes = {}
    for at, engine in enumerate(engines, start=1):
        probes[engine] = probe_engine(engine)
        progress(engine, at / len(engines))
    return probes


def _make(
    recipe: Recipe, target: TargetSpec, probe: Probe, trained: Trained, session: Session
) -> Variant:
    variant = Variant(recipe, target)
    if not probe.ok:
        return replace(variant, status="skipped", reason=f"{probe.code}: {probe.sentence}")
    with _caught(variant) as outcome:
        progress = session.task(variant.name)
        artifact = make_variant(
            recipe, target.engine, trained, session.store, session.threads, progress
        )
        progress("made", 1.0)
        return replace(variant, artifact=artifact)
    return outcome[0]


@contextmanager
def _caught(variant: Variant) -> Iterator[list[Variant]]:
    """Turn whatever goes wrong with one variant into its failed (or skipped) state.

    This is the border that keeps one bad variant from taking the run down, so it catches
    everything but an interrupt; the traceback goes to the log.
    """
    outcome = [variant]
    try:
        yield outcome
    except UnsupportedError as error:
        outcome[0] = replace(
            variant, artifact=None, status="skipped", reason=f"{error.code}: {error}"
        )
    except HarnessError as error:
        outcome[0] = replace(variant, artifact=None, status="failed", reason=str(error))
    except Exception as error:
        log.error("%s failed:\n%s", variant.name, traceback.format_exc())
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        outcome[0] = replace(variant, artifact=None, status="failed", reason=text)


def _common(trained: Trained, variant: Variant | None = None) -> dict[str, Any]:
    common: dict[str, Any] = {
        "recipe": trained.spec.name,
        "baseline": trained.spec.name,
        "data_hash": trained.data.hash,
        "split": trained.data.split_rule,
        "seed": trained.spec.seed,
    }
    if variant is None:
        return common
    common |= {"recipe": variant.recipe.name, "target": variant.target.engine}
    common |= {"seed": variant.recipe.seed}
    if variant.artifact:
        common["technique"] = variant.artifact.technique
        common["precision"] = variant.artifact.precision
    return common


def _with_facts(common: Mapping[str, Any], facts: EngineFacts) -> dict[str, Any]:
    return {
        **common,
        "engine": facts.engine,
        "engine_version": facts.version,
        "device": facts.device,
        "precision": facts.precision,
    }


def _status_row(variant: Variant, trained: Trained) -> Row:
    return Row(
        **_common(trained, variant),
        scenario="run",
        metric="status",
        status=variant.status,
        reason=variant.reason,
    )
