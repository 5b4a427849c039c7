"""Recipes to rows: the one file that joins data, baseline, stages, suites, gates and report."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import registry
from harness.accounts import (
    data_rows,
    gate_row,
    stage_rows,
    status_row,
    stopped_row,
    training_rows,
)
from harness.baseline import Trained, train_baseline
from harness.document import yaml_text
from harness.engines.base import Probe
from harness.engines.probing import probe_engine
from harness.environment import environment, usable_threads
from harness.errors import DataError
from harness.gates.rules import GateResult, check_gates
from harness.interrupts import kept_back
from harness.lock import noise_of, read_lock
from harness.making import COMMAND, Maker
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
from harness.results import Row, write_rows
from harness.run_folder import INTERRUPTED, MARK, claimed, holds_whole_run, renewed
from harness.store import Store, write_bytes, write_text
from harness.suites.multiplicity import non_inferiority_rows
from harness.suites.scoring import Scorer
from harness.tensorrt_check import check_variant, checkable, takes_plan, unchecked
from harness.timing import time_variants
from harness.variants import Build, Variant, attempt, make_variant


@dataclass(frozen=True)
class Options:
    """What the command line adds to the recipes."""

    out: Path
    profile: Profile = PROFILES["default"]
    targets: tuple[str, ...] = ()
    fresh: bool = False


@dataclass
class Group:
    """The variants of one baseline and what is known of them so far; ``files`` are the raw figures
    behind the times, parquet files by what they hold.
    """

    spec: Baseline
    recipes: list[Recipe]
    variants: list[Variant] = field(default_factory=list)
    trained: Trained | None = None
    scored: list[Scored] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    whole: list[Row] | None = None
    """All rows, once every one is there; ``rows`` are those until then."""
    files: Mapping[str, Path] = field(default_factory=dict)


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

    A variant that fails is a row. Raises ``HarnessError`` when a baseline can't be trained or the
    disk is full. An interrupt leaves the rows so far and their report in ``out``, unless a whole
    run's stand there, and is raised again with the report's path.
    """
    now = datetime.now(UTC)
    stamp = _Stamp(f"{now:%Y%m%dT%H%M%S}-{os.getpid()}", now)
    threads, profile = usable_threads(), options.profile
    nonce = stamp.run_id if options.fresh else None
    groups = [Group(spec, found) for spec, found in _by_baseline(recipes)]
    with claimed(options.out), Scorer(threads, profile.scoring, COMMAND) as scorer:
        session = Session(store, task, threads, scorer, profile, nonce)
        finished = None
        try:
            for group in groups:
                group.whole = _run_group(group, options, session)
            with kept_back():
                finished = _finish(recipes, groups, stamp, options.out, task)
        except KeyboardInterrupt as stop:
            with kept_back():
                if finished is not None:  # while its report was written
                    kept = [finished[-1]]
                else:
                    kept = _keep_so_far(recipes, groups, stamp, options.out, task)
            raise KeyboardInterrupt(*kept) from stop
    rows, gates, report = finished
    variants = [variant for group in groups for variant in group.variants]
    missing = [f"{v.name}: {v.reason}" for v in variants if v.target.require and v.status != "ok"]
    states = {variant.status for variant in variants}
    if "failed" in states and "ok" not in states:
        missing.append("no variant at all could be made and scored")
    return Finished(tuple(rows), tuple(gates), report, tuple(missing))


@dataclass(frozen=True)
class _Stamp:
    """What every row of a run carries."""

    run_id: str
    now: datetime

    def put_on(self, row: Row) -> Row:
        facts = environment()
        return replace(
            row,
            run_id=self.run_id,
            environment=row.environment or facts["key"],
            commit=row.commit or facts["commit"],
            time=row.time or self.now.isoformat(timespec="seconds"),
        )


def _finish(
    recipes: Sequence[Recipe], groups: Sequence[Group], stamp: _Stamp, out: Path, task: Task
) -> tuple[list[Row], list[GateResult], Path]:
    """All rows, the gates' among them, how those ended, and the report, written."""
    rows = [stamp.put_on(row) for group in groups for row in group.whole or ()]
    gates = check_gates({recipe.name: recipe.gates for recipe in recipes}, rows)
    baselines = {recipe.name: recipe.baseline.name for recipe in recipes}
    rows += [stamp.put_on(gate_row(g, baselines[g.recipe])) for g in gates]
    return rows, gates, _write(out, groups, rows, task)


def _write(out: Path, groups: Sequence[Group], rows: Sequence[Row], task: Task) -> Path:
    """Everything of a run put into its folder, where what an earlier one left goes; the report."""
    progress = task("report")
    progress("writing", 0.0)
    from harness.report.page import write_report  # matplotlib, which a refused run can do without

    recipes = [recipe for group in groups for recipe in group.recipes]
    specs = {f"recipes/{recipe.name}.yaml": resolved(recipe) for recipe in recipes}
    specs |= {f"baselines/{g.spec.name}.yaml": resolved_baseline(g.spec) for g in groups}
    with renewed(out) as folder:
        write_text(folder / MARK, json.dumps(environment(), indent=1, allow_nan=False))
        for name, values in specs.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_text(folder / name, yaml_text(values))
        for group in groups:
            for name, path in group.files.items():
                write_bytes(folder / f"{group.spec.name}-{name}.parquet", path.read_bytes())
        write_rows(folder, rows)
        report = write_report(folder)
    progress("written", 1.0)
    return out / report.name


def _keep_so_far(
    recipes: Sequence[Recipe], groups: Sequence[Group], stamp: _Stamp, out: Path, task: Task
) -> list[Path]:
    """The report of the rows that an interrupted run has (all, where it was about to write them);
    none when there are none, or when that would replace a whole run's.
    """
    if all(group.whole is not None for group in groups):
        return [_finish(recipes, groups, stamp, out, task)[-1]]
    rows = [stamp.put_on(row) for group in groups for row in _rows_so_far(group)]
    return [] if not rows or holds_whole_run(out) else [_write(out, groups, rows, task)]


def _rows_so_far(group: Group) -> list[Row]:
    if group.whole is not None:
        return group.whole
    done = {item.variant.name for item in group.scored}
    rows = list(group.rows)
    if group.trained is not None:
        rows += [row for item in group.scored for row in size_rows(item, group.trained)]
    for variant in group.variants:
        if variant.status == "ok" and variant.name not in done:
            reason = f"{INTERRUPTED}the run was stopped before this was measured"
            variant = replace(variant, status="skipped", reason=reason)
        if variant.status != "ok":
            rows.append(status_row(variant))
    return [*rows, stopped_row(group.spec)] if rows else []


def _by_baseline(recipes: Sequence[Recipe]) -> Iterator[tuple[Baseline, list[Recipe]]]:
    for file in dict.fromkeys(recipe.baseline.file.resolve() for recipe in recipes):
        group = [recipe for recipe in recipes if recipe.baseline.file.resolve() == file]
        yield group[0].baseline, group


def _run_group(group: Group, options: Options, session: Session) -> list[Row]:
    """All variants of one baseline: made, scored, timed; all rows, while the group takes up what is
    found on the way. Nothing is trained when no engine that they are for can run here and no graph
    can be checked.
    """
    spec = group.spec
    recipes = _with_reference(group.recipes, spec, options)
    probes = _probes(recipes, options, session.task("probing engines"))
    group.variants = [
        unchecked(_probed(Variant(recipe, target), probes[target.engine]))
        for recipe in recipes
        for target in _targets(recipe, options)
    ]
    idle = all(variant.status == "skipped" for variant in group.variants)
    if idle and not checkable(group.variants):
        return [status_row(variant) for variant in group.variants]
    progress = session.task(f"baseline {spec.name}")
    trained = train_baseline(spec, session.store, threads=session.threads, progress=progress)
    noise = noise_of(read_lock(spec))
    group.trained = trained
    group.rows += data_rows(trained)
    group.rows += training_rows(trained, noise)
    if checkable(group.variants):
        _check_plans(group, trained, session)
    if idle:
        return [*group.rows, *map(status_row, group.variants)]
    group.rows += reference_rows(trained, session)
    for at, variant in enumerate(group.variants):
        group.variants[at] = _made(variant, trained, session)
    _judge(group, trained, session, noise)
    timed = time_variants(group.scored, trained, session)
    group.files = timed.files
    return [
        *group.rows,
        *timed.rows,
        *(row for item in group.scored for row in size_rows(item, trained)),
        *(row for variant in group.variants for row in stage_rows(variant, trained)),
        *(status_row(variant) for variant in group.variants if variant.status != "ok"),
    ]


def _targets(recipe: Recipe, options: Options) -> list[TargetSpec]:
    wanted = options.targets
    return [target for target in recipe.targets if not wanted or target.engine in wanted]


def _with_reference(recipes: list[Recipe], spec: Baseline, options: Options) -> list[Recipe]:
    """The recipes with a plain one in front, on every engine that any of them runs on: what all
    else is compared with is always measured. A runtime that takes only built engines is compared
    with the other references.
    """
    takes = {t.engine for recipe in recipes for t in _targets(recipe, options)}
    formats = {e: registry.entry("engines", e).marks["accepts"] for e in takes}
    takes -= {e for e in takes if formats[e] in ("tensorrt", "faiss")}
    if "faiss" in formats.values():
        takes.add("ort-cpu")  # it makes the queries: what an index is compared with
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


def _build(variant: Variant, trained: Trained, session: Session) -> Build:
    maker = Maker(session.scorer.apart, session.profile.making)
    return maker.of(variant.name, trained.data_folder)


def _check_plans(group: Group, trained: Trained, session: Session) -> None:
    """The graphs of TensorRT's variants, made and checked though no engine may be there to run."""
    for at, variant in enumerate(group.variants):
        if takes_plan(variant):
            progress = session.task(f"checking {variant.name}")
            how = (session.threads, progress, _build(variant, trained, session))
            found = check_variant(variant, trained, session.store, how)
            group.variants[at] = found.variant
            group.rows += found.rows
            if found.variant.status == "skipped":  # of one that runs, its plan tells the stages
                graph = replace(found.variant, artifact=found.artifact)
                group.rows += stage_rows(graph, trained)


def _made(variant: Variant, trained: Trained, session: Session) -> Variant:
    if variant.status != "ok":
        return variant
    progress = session.task(variant.name)
    build = _build(variant, trained, session)
    how: Any = {"threads": session.threads, "progress": progress, "build": build}
    how["load"] = session.profile.load
    return attempt(variant, lambda each: make_variant(each, trained, session.store, **how))


def _judge(
    group: Group, trained: Trained, session: Session, noise: Mapping[str, Any] | None
) -> None:
    """Score every variant that was made and compare it with its engine's reference."""
    judges: dict[str, Judge] = {}

    def step(variant: Variant) -> Variant:
        item = score(variant, trained, session)
        engine = variant.target.engine
        if engine not in judges and variant.recipe.stages == ():
            judges[engine] = Judge(trained, item, session, noise["std"] if noise else None)
        judge = judges.get(engine) or next(iter(judges.values()), None)
        if judge is None:
            raise DataError(f"{variant.name}: no reference could be scored to compare it with")
        group.rows += judge.rows(item)
        group.scored.append(item)
        return variant

    for at, variant in enumerate(group.variants):
        if variant.status == "ok":
            group.variants[at] = attempt(variant, step)
    plain = {variant.recipe.name for variant in group.variants if not variant.recipe.stages}
    group.rows += non_inferiority_rows(group.rows, references=plain)
