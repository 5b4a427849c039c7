"""Variants: a recipe's stages run one after the other, each result kept in the store.

Two recipes that share their first stages share the artifacts; a stage is never run twice on the
same input with the same parameters and code.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness import registry
from harness.artifact import Artifact, Step, read_artifact, with_step
from harness.errors import EffectError
from harness.recipe import EXPECTED, Recipe, StageSpec, plain
from harness.stages.base import Context, cpu_seconds
from harness.store import Store, key_of, package_versions, source_hash

if TYPE_CHECKING:
    from harness.baseline import Trained

Progress = Callable[[str, float], None]


def make_variant(
    recipe: Recipe, engine: str, trained: "Trained", store: Store, threads: int, progress: Progress
) -> Artifact:
    """The artifact of a recipe in the format that ``engine`` takes, made or found.

    Raises what a stage raises, and ``EffectError`` when a size isn't as the recipe expects.
    """
    artifact = trained.artifact
    for stage in recipe.chain(engine):
        artifact = run_stage(artifact, stage, recipe.seed, trained, store, (threads, progress))
    _check_expectations(recipe, artifact, trained.artifact)
    return artifact


def stage_key(artifact: Artifact, stage: StageSpec, seed: int, trained: "Trained") -> str:
    """Key of a stage's result: input, stage, parameters, code, data, teacher, seed, versions."""
    return key_of(
        parent=artifact.key,
        stage=stage.name,
        parameters=plain(stage.parameters),
        source=source_hash(registry.entry("stages", stage.name).source),
        data=trained.data.hash,
        baseline=trained.artifact.key,
        seed=seed,
        versions=package_versions(),
    )


def run_stage(
    artifact: Artifact,
    stage: StageSpec,
    seed: int,
    trained: "Trained",
    store: Store,
    how: tuple[int, Progress],
) -> Artifact:
    """The artifact that one stage makes of another, made or found."""
    threads, progress = how

    def build(folder: Path) -> None:
        context = Context(
            folder, trained.data, trained.artifact, trained.training, store, seed, threads, progress
        )
        wall, cpu = time.monotonic(), cpu_seconds()
        outcome = registry.resolve("stages", stage.name)(artifact, context, **stage.parameters)
        step = Step(
            stage.name,
            plain(stage.parameters),
            time.monotonic() - wall,
            cpu_seconds() - cpu,
            outcome.effects,
            outcome.notes,
        )
        marks = registry.entry("stages", stage.name).marks
        made = replace(outcome.artifact, technique=_technique(artifact, marks["technique"]))
        with_step(replace(made, lineage=artifact.lineage), step)

    return read_artifact(store.make("artifacts", stage_key(artifact, stage, seed, trained), build))


def _technique(artifact: Artifact, own: str) -> "str":
    order = ("reference", "closed_like", "open_like")
    return order[max(order.index(artifact.technique), order.index(own))]


def _check_expectations(recipe: Recipe, artifact: Artifact, baseline: Artifact) -> None:
    for name, expected in recipe.expect.items():
        assert name in EXPECTED
        before, after = getattr(baseline, name), getattr(artifact, name)
        ratio = after / before if before else 1.0
        low, high = expected.min_ratio, expected.max_ratio
        if (low is not None and ratio < low) or (high is not None and ratio > high):
            raise EffectError(
                f"{recipe.file}: expect.{name}: {after:,} is {ratio:.3f} of the baseline's "
                f"{before:,}; expected {low if low is not None else 0} to "
                f"{high if high is not None else 'any'}"
            )
