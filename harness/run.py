"""Recipes to rows: the one file that joins data, baseline, stages, suites, gates and report."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import registry
from harness.accounts import data_rows, gate_row, stage_rows, status_row, training_rows
from harness.baseline import Trained, train_baseline
from harness.document import yaml_text
from harness.engines.base import Probe
from harness.engines.probing import probe_engine
from harness.environment import environment, usable_threads
from harness.errors import DataError
from harness.gates.rules import GateResult, check_gates
from harness.lock import noise_of, read_lock
from harness.measuring import (
    Judge,
    Scored,
    Session,
    Task,
    reference_rows,
    score,
    size_rows,
)
from harness.profile import PROFILES, Profile
from harness.recipe import Baseline, Recipe, TargetSpec, resolved, resolved_baseline
from harness.report.page import write_report
from harness.results import Row, write_rows
from harness.store import Store, write_bytes, write_text
from harness.suites.multiplicity import non_inferiority_rows
from harness.timing import time_variants
from harness.variants import Variant, attempt, make_variant


@dataclass(frozen=True)
class Options:
    """What the command line adds to the recipes."""

    out: Path
    profile: Profile = PROFILES["default"]
    targets: tuple[str, ...] = ()
    fresh: bool = False


@dataclass(frozen=True)
class Group:
    """The variants of one baseline, their rows, and the raw figures behind the times: parquet
    files by what they hold.
    """

    baseline: str
    variants: list[Variant]
    rows: list[Row]
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Finished:
    """What a run gives back; ``missing`` are required targets that did not run, with why."""

    rows: tuple[Row, ...]
    gates: tuple[GateResult, ...]
    report: Path
    missing: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 when a gate failed, nothing ran, or a required target did not run."""
        bad = any(result.decides == "failed" for result in self.gates)
        return 1 if bad or self.missing else 0


def run(recipes: Sequence[Recipe], options: Options, store: Store, task: Task) -> Finished:
    """Make and measure every variant of every recipe; write rows, report and plots to ``out``.

    A variant that fails is a row. Raises ``HarnessError`` when a baseline can't be trained.
    """
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%S}-{os.getpid()}"
    nonce = run_id if options.fresh else None
    session = Session(store, task, usable_threads(), options.profile, nonce)
    _claim_folder(options.out)
    groups = [_run_group(b, group, options, session) for b, group in _by_baseline(recipes)]
    rows = [_stamp(row, run_id, now) for group in groups for row in group.rows]
    gates = check_gates({recipe.name: recipe.gates for recipe in recipes}, rows)
    baselines = {recipe.name: recipe.baseline.name for recipe in recipes}
    rows += [_stamp(gate_row(g, baselines[g.recipe]), run_id, now) for g in gates]
    _write_folder(options.out, recipes, groups, rows)
    report = write_report(options.out)
    variants = [variant for group in groups for variant in group.variants]
    missing = [f"{v.name}: {v.reason}" for v in variants if v.target.require and v.status != "ok"]
    states = {variant.status for variant in variants}
    if "failed" in states and "ok" not in states:
        missing.append("no variant at all could be made and scored")
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


def _claim_folder(out: Path) -> None:
    """Make the output folder; refuse one with other files: a run replaces what a run wrote, never
    a user's own ``recipes``.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in out.iterdir())
        others = [name for name in names if not name.startswith(".")]  # those a kill left behind
        if others and not (out / "environment.json").is_file():
            raise DataError(
                f"--out {out}: holds other files ({', '.join(others[:3])}); "
                "give a new or empty folder, or that of an earlier run"
            )
        write_text(out / ".writable", "")
        (out / ".writable").unlink()
    except OSError as error:
        raise DataError(f"{error.filename or out}: can't be written: {error.strerror}") from error


def _write_folder(
    out: Path, recipes: Sequence[Recipe], groups: Sequence[Group], rows: Sequence[Row]
) -> None:
    """Everything of a finished run but its report; specifications of an earlier run are removed."""
    specs = {f"recipes/{recipe.name}.yaml": resolved(recipe) for recipe in recipes}
    specs |= {f"baselines/{r.baseline.name}.yaml": resolved_baseline(r.baseline) for r in recipes}
    try:
        # first, since it is what marks the folder as a run's own
        write_text(out / "environment.json", json.dumps(environment(), indent=1, allow_nan=False))
        for folder in ("recipes", "baselines", "plots"):
            _own_folder(out / folder)
        for name, values in specs.items():
            write_text(out / name, yaml_text(values))
        for group in groups:
            for name, path in group.files.items():
                write_bytes(out / f"{group.baseline}-{name}.parquet", path.read_bytes())
        write_rows(out, rows)
    except OSError as error:
        raise DataError(f"{error.filename or out}: can't be written: {error.strerror}") from error


def _own_folder(folder: Path) -> None:
    """An empty folder of that name; a link to a folder elsewhere is unlinked, never emptied."""
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()


def _by_baseline(recipes: Sequence[Recipe]) -> Iterator[tuple[Baseline, list[Recipe]]]:
    for file in dict.fromkeys(recipe.baseline.file.resolve() for recipe in recipes):
        group = [recipe for recipe in recipes if recipe.baseline.file.resolve() == file]
        yield group[0].baseline, group


def _run_group(spec: Baseline, recipes: list[Recipe], options: Options, session: Session) -> Group:
    """All variants of one baseline: made, scored, timed. Nothing is trained when no engine that
    they are for can run here.
    """
    recipes = _with_reference(recipes, spec, options)
    probes = _probes(recipes, options, session.task("probing engines"))
    variants = [
        _probed(Variant(recipe, target), probes[target.engine])
        for recipe in recipes
        for target in _targets(recipe, options)
    ]
    if all(variant.status == "skipped" for variant in variants):
        return Group(spec.name, variants, [status_row(variant) for variant in variants], {})
    progress = session.task(f"baseline {spec.name}")
    trained = train_baseline(spec, session.store, threads=session.threads, progress=progress)
    noise = noise_of(read_lock(spec))
    variants = [_made(variant, trained, session) for variant in variants]
    variants, scored, judged = _judge(variants, trained, session, noise)
    timed = time_variants(scored, trained, session)
    rows = [*data_rows(trained), *training_rows(trained, noise), *reference_rows(trained, session)]
    rows += [*judged, *timed.rows]
    rows += [row for item in scored for row in size_rows(item, trained)]
    rows += [row for variant in variants for row in stage_rows(variant, trained)]
    rows += [status_row(variant) for variant in variants if variant.status != "ok"]
    return Group(spec.name, variants, rows, timed.files)


def _targets(recipe: Recipe, options: Options) -> list[TargetSpec]:
    wanted = options.targets
    return [target for target in recipe.targets if not wanted or target.engine in wanted]


def _with_reference(recipes: list[Recipe], spec: Baseline, options: Options) -> list[Recipe]:
    """The recipes with a plain one in front, on every engine that any of them runs on: what all
    else is compared with is always measured. A runtime that takes only built engines is compared
    with the other references.
    """
    takes = {t.engine for recipe in recipes for t in _targets(recipe, options)}
    takes -= {e for e in takes if registry.entry("engines", e).marks["accepts"] == "tensorrt"}
    plain = next((recipe for recipe in recipes if not recipe.stages), None)
    if plain is None:
        name = f"{spec.name}-reference"
        plain = replace(recipes[0], name=name, stages=(), targets=(), expect={}, gates=())
    own = {target.engine for target in plain.targets}
    extra = tuple(TargetSpec(engine) for engine in sorted(takes - own))
    rest = [recipe for recipe in recipes if recipe.name != plain.name]
    return [replace(plain, targets=(*plain.targets, *extra)), *rest]


def _probes(recipes: list[Recipe], options: Options, progress: Any) -> Mapping[str, Probe]:
    engines = list(dict.fromkeys(t.engine for r in recipes for t in _targets(r, options)))
    probes = {}
    for at, engine in enumerate(engines, start=1):
        probes[engine] = probe_engine(engine)
        progress(engine, at / len(engines))
    return probes


def _probed(variant: Variant, probe: Probe) -> Variant:
    if probe.ok:
        return variant
    return replace(variant, status="skipped", reason=f"{probe.code}: {probe.sentence}")


def _made(variant: Variant, trained: Trained, session: Session) -> Variant:
    if variant.status != "ok":
        return variant
    progress = session.task(variant.name)

    def step(variant: Variant) -> Variant:
        return make_variant(
            variant, trained, session.store, threads=session.threads, progress=progress
        )

    return attempt(variant, step)


def _judge(
    variants: list[Variant], trained: Trained, session: Session, noise: Mapping[str, Any] | None
) -> tuple[list[Variant], list[Scored], list[Row]]:
    """Score every variant that was made and compare it with its engine's reference."""
    scored: list[Scored] = []
    rows: list[Row] = []
    judges: dict[str, Judge] = {}

    def step(variant: Variant) -> Variant:
        item = score(variant, trained, session)
        engine = variant.target.engine
        if engine not in judges and variant.recipe.stages == ():
            judges[engine] = Judge(trained, item, session, noise["std"] if noise else None)
        judge = judges.get(engine) or next(iter(judges.values()), None)
        if judge is None:
            raise DataError(f"{variant.name}: no reference could be scored to compare it with")
        rows.extend(judge.rows(item))
        scored.append(item)
        return variant

    done = [attempt(v, step) if v.status == "ok" else v for v in variants]
    plain = {variant.recipe.name for variant in variants if not variant.recipe.stages}
    rows += non_inferiority_rows(rows, references=plain)
    return done, scored, rows
