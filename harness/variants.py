"""Variants: a recipe's stages run one after the other, each result kept in the store.

Two recipes that share their first stages share the artifacts; a stage is never run twice on the
same input with the same parameters and code.
"""

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness import registry
from harness.artifact import Artifact, Step, Technique, read_artifact, with_step
from harness.baseline import Trained
from harness.cuda import plan_machine
from harness.dependencies import depends_on
from harness.errors import EffectError, HarnessError, UnsupportedError, WriteError
from harness.plans import plan_sizes
from harness.profile import Load
from harness.recipe import EXPECTED, Recipe, StageSpec, TargetSpec, plain
from harness.results import Status
from harness.stages.base import Context, Progress, cpu_seconds
from harness.store import Store, key_of, package_versions, source_hash

log = logging.getLogger(__name__)

Build = Callable[[Artifact, StageSpec, Context], None]
"""Runs a stage, here or elsewhere: the new artifact is then in the context's folder."""

MISSING = {
    "no_package",
    "no_driver",
    "no_device",
    "driver_too_old",
    "capability_too_low",
    "abi_mismatch",
}
"""What a machine lacks: such a variant is skipped; one that can't work anywhere has failed."""


@dataclass(frozen=True)
class Variant:
    """One recipe on one target: made, or skipped or failed for a reason."""

    recipe: Recipe
    target: TargetSpec
    artifact: Artifact | None = None
    source: Artifact | None = None
    """The torch artifact that ``artifact`` was exported from."""
    status: Status = "ok"
    reason: str | None = None

    @property
    def name(self) -> str:
        """The name that no other variant of the run has."""
        return f"{self.recipe.name}@{self.target.engine}"


def attempt(variant: Variant, step: Callable[[Variant], Variant]) -> Variant:
    """``step(variant)``, or the variant as failed or skipped with one sentence.

    This is the border that keeps one bad variant from taking the run down, so everything but an
    interrupt and a full disk ends here; the traceback of what isn't a user's mistake goes to the
    log.
    """
    try:
        return step(variant)
    except WriteError:
        raise
    except UnsupportedError as error:
        status: Status = "skipped" if error.code in MISSING else "failed"
        return replace(variant, artifact=None, status=status, reason=f"{error.code}: {error}")
    except HarnessError as error:
        return replace(variant, artifact=None, status="failed", reason=str(error))
    except Exception as error:
        log.error("%s failed:\n%s", variant.name, traceback.format_exc())
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return replace(variant, artifact=None, status="failed", reason=text)


def make_variant(
    variant: Variant,
    trained: Trained,
    store: Store,
    *,
    threads: int,
    progress: Progress,
    build: Build | None = None,
    load: Load | None = None,
) -> Variant:
    """The variant with its artifact in the format that its target takes, made or found; stages are
    run by ``build``, in this process unless it is given. What is built for some sizes is built for
    those of ``load`` as the recipe changes it.

    Raises what a stage raises, and ``EffectError`` when a size isn't as the recipe expects.
    """
    recipe, artifact, source = variant.recipe, trained.artifact, trained.artifact
    how = (threads, progress, build or build_stage)
    sizes = plan_sizes(recipe.bench.applied(load or Load()))
    for asked in recipe.chain(variant.target.engine):
        stage = sized(asked, sizes)
        progress(stage.name, 0.0)
        artifact = run_stage(artifact, stage, recipe.seed, trained, store, how)
        source = artifact if artifact.format == "torch" else source
    _check_expectations(recipe, artifact, trained.artifact)
    progress("made", 1.0)
    return replace(variant, artifact=artifact, source=source)


def sized(stage: StageSpec, sizes: Mapping[str, tuple[int, ...]]) -> StageSpec:
    """A stage that builds a plan with ``sizes`` for those of its parameters that aren't given; any
    other as it is.
    """
    if registry.entry("stages", stage.name).marks["produces"] != "tensorrt":
        return stage
    unset = {
        name: size
        for name, size in sizes.items()
        if name in stage.parameters and stage.parameters[name] is None
    }
    return replace(stage, parameters={**stage.parameters, **unset}) if unset else stage


def stage_key(artifact: Artifact, stage: StageSpec, seed: int, trained: Trained) -> str:
    """Key of a stage's result: input, stage, parameters, code, data, teacher, seed, versions, and
    what ``depends_on`` says; of a TensorRT plan also the card and the TensorRT that it fits.
    """
    entry = registry.entry("stages", stage.name)
    fits = {"machine": plan_machine()} if entry.marks["produces"] == "tensorrt" else {}
    return key_of(
        **fits,
        **depends_on(entry.source),
        parent=artifact.key,
        stage=stage.name,
        parameters=plain(stage.parameters),
        source=source_hash(entry.source),
        data=trained.data.hash,
        baseline=trained.artifact.key,
        seed=seed,
        versions=package_versions(),
    )


def run_stage(
    artifact: Artifact,
    stage: StageSpec,
    seed: int,
    trained: Trained,
    store: Store,
    how: tuple[int, Progress, Build],
) -> Artifact:
    """The artifact that one stage makes of another, made or found."""
    threads, progress, build = how

    def fill(folder: Path) -> None:
        context = Context(
            folder, trained.data, trained.artifact, trained.training, store, seed, threads, progress
        )
        build(artifact, stage, context)

    return read_artifact(store.make("artifacts", stage_key(artifact, stage, seed, trained), fill))


def build_stage(artifact: Artifact, stage: StageSpec, context: Context) -> None:
    """Run a stage in this process; the new artifact is in the context's folder, with the step in
    its lineage.
    """
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


def _technique(artifact: Artifact, own: Technique) -> Technique:
    """The further of two techniques: retraining is never undone by a later calibration."""
    order: tuple[Technique, ...] = ("reference", "closed_like", "open_like")
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
