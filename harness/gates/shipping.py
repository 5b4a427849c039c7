"""Recipes to a build folder: every variant made, and copied out of the cache as it would ship."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.baseline import Trained, train_baseline
from harness.engines.probing import probe_engine
from harness.environment import environment, usable_threads
from harness.errors import DataError
from harness.gates.builds import FILE, INPUTS, Build, Built, read_build, write_build
from harness.making import Maker, open_maker
from harness.recipe import Baseline, Recipe
from harness.store import Store, file_hash
from harness.suites.arms import Arm
from harness.suites.regression import gate_feeds, point_name
from harness.variants import Variant, attempt, make_variant

Progress = Callable[[str, float], None]
Task = Callable[[str], Progress]


def build(
    recipes: Sequence[Recipe],
    out: Path,
    store: Store,
    task: Task,
    *,
    targets: Sequence[str] = (),
) -> Build:
    """Make every variant of the recipes (or only on ``targets``) and copy it to ``out``, with the
    gates' inputs.

    A variant that can't be made is told in the build and stops no other. Raises ``DataError`` for
    a folder that holds other things or can't be written, and what training a baseline raises.
    """
    wanted = [
        Variant(r, t) for r in recipes for t in r.targets if not targets or t.engine in targets
    ]
    try:
        _claim(out)
        # the mark that this folder and what a kill would leave in it are ours
        unfinished = {variant.name: "the build did not finish" for variant in wanted}
        write_build(Build(out, environment(), {}, {}, unfinished))
        variants = _made(wanted, store, task)
        artifacts: dict[str, Built] = {}
        for trained, group in variants:
            artifacts |= _copied(group, trained, out)
        done = [variant for _, group in variants for variant in group]
        reasons = {
            how: {v.name: v.reason or how for v in done if v.status == how}
            for how in ("skipped", "failed")
        }
        made = Build(out, environment(), artifacts, **reasons)
        write_build(made)
    except OSError as error:
        raise DataError(f"{error.filename or out}: can't be written: {error.strerror}") from error
    return made


def _made(
    wanted: Sequence[Variant], store: Store, task: Task
) -> list[tuple[Trained | None, list[Variant]]]:
    """The variants of each baseline, made; a baseline whose engines can't run isn't trained."""
    groups: dict[Path, list[Variant]] = {}
    for variant in wanted:
        groups.setdefault(variant.recipe.baseline.file.resolve(), []).append(variant)
    made: list[tuple[Trained | None, list[Variant]]] = []
    for group in groups.values():
        probed = [_probed(variant) for variant in group]
        if all(variant.status != "ok" for variant in probed):
            made.append((None, probed))
            continue
        trained = _trained(group[0].recipe.baseline, store, task)
        with open_maker(usable_threads()) as maker:
            made.append((trained, [make(v, trained, store, task, maker=maker) for v in probed]))
    return made


def _probed(variant: Variant) -> Variant:
    probe = probe_engine(variant.target.engine)
    if probe.ok:
        return variant
    reason = f"{probe.code}: {probe.sentence}"
    if variant.target.require:
        return replace(variant, status="failed", reason=f"required, but can't run here: {reason}")
    return replace(variant, status="skipped", reason=reason)


def _trained(spec: Baseline, store: Store, task: Task) -> Trained:
    progress = task(f"baseline {spec.name}")
    return train_baseline(spec, store, threads=usable_threads(), progress=progress)


def make(
    variant: Variant, trained: Trained, store: Store, task: Task, *, maker: Maker | None = None
) -> Variant:
    """A variant with its artifact, or as failed or skipped for a reason; its stages are run by
    ``maker``, where one is given.
    """
    if variant.status != "ok":
        return variant
    build = maker.of(variant.name, trained.data_folder) if maker else None
    how: Any = {"threads": usable_threads(), "progress": task(variant.name), "build": build}
    return attempt(variant, lambda each: make_variant(each, trained, store, **how))


def _copied(variants: Sequence[Variant], trained: Trained | None, out: Path) -> dict[str, Built]:
    """Artifacts and inputs of one baseline's variants, copied into the folder."""
    made = [variant for variant in variants if variant.artifact is not None]
    if trained is None or not made:
        return {}
    for variant in made:
        assert variant.artifact is not None
        shutil.copytree(variant.artifact.folder, out / variant.name)
    arms = [Arm(v.name, v.target.engine, out / v.name) for v in made]
    folder = out / INPUTS / trained.data.hash[:12]
    folder.mkdir(parents=True, exist_ok=True)
    feeds = gate_feeds(arms, trained.data, folder)
    files = {
        arm.name: {
            point_name(point): (
                feeds[point][arm.name].relative_to(out).as_posix(),
                feeds[point][arm.name],
            )
            for point in feeds
        }
        for arm in arms
    }
    return {v.name: _built(v, trained, files[v.name]) for v in made}


def _built(variant: Variant, trained: Trained, files: Mapping[str, tuple[str, Path]]) -> Built:
    artifact = variant.artifact
    assert artifact is not None
    return Built(
        name=variant.name,
        recipe=variant.recipe.name,
        engine=variant.target.engine,
        baseline=trained.spec.name,
        key=artifact.key,
        format=artifact.format,
        precision=artifact.precision,
        technique=artifact.technique,
        bytes=artifact.bytes,
        data_hash=trained.data.hash,
        inputs={point: (name, file_hash(path)) for point, (name, path) in files.items()},
    )


def _claim(out: Path) -> None:
    """An empty folder: a new one, or that of an earlier build, whose own things are removed."""
    out.mkdir(parents=True, exist_ok=True)
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if others and not (out / FILE).is_file():
        raise DataError(
            f"--out {out}: holds other files ({', '.join(others[:3])}); "
            "give a new or empty folder, or that of an earlier build"
        )
    if not others:
        return
    for path in _own(out, read_build(out)):
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)


def _own(out: Path, earlier: Build) -> Iterator[Path]:
    yield out / INPUTS
    for name in (*earlier.artifacts, *earlier.failed):
        if Path(name).name == name and "@" in name:
            yield out / name
