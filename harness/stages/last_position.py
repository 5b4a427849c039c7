"""torch -> torch, exact: a sequence model's last block is worked out where the list comes from."""

from collections.abc import Iterator
from dataclasses import replace

from harness.artifact import Artifact, Effect, ModelSpec
from harness.errors import EffectError
from harness.modules import build_module, load_module, load_weights, save_module
from harness.stages.base import Context, Outcome, require_effect, stage
from harness.stages.graphs import Feeds, random_feeds
from harness.stages.rewriting import exact_gap, require_parameter, validation_batches

PARAMETER = "positions"
TOLERANCE = 1e-4


@stage(accepts="torch", produces="torch", technique="closed_like")
def last_position(artifact: Artifact, context: Context) -> Outcome:
    """The same weights, with the last block of attention worked out at the last position only.

    Lists of validation rows and of random histories (empty, of one item, full) stay the same: a
    score further away than 1e-4 (relative above 1), or another item where scores aren't tied,
    raises ``EffectError``, and so does a model that is so already. Raises ``UnsupportedError`` for
    a model that has no such parameter.
    """
    spec = _rewritten(artifact)
    before = load_module(artifact)
    after = build_module(spec, context.data.schema, folder=artifact.folder, seed=0)
    load_weights(after, before.state_dict(), where=str(artifact.file), fit=True)
    context.progress("comparing lists", 0.3)
    gap = max(
        exact_gap(before, after.eval(), batch, stage="last_position", tolerance=TOLERANCE)
        for batch in _batches(artifact, context)
    )
    written = save_module(after, replace(artifact, model=spec), context.folder)
    effects = (
        Effect("macs", artifact.macs, written.macs),
        Effect("parameters", artifact.parameters, written.parameters),
    )
    require_effect(effects, stage="last_position")
    return Outcome(written, effects, (f"largest difference of scores: {gap:.1e}",))


def _rewritten(artifact: Artifact) -> ModelSpec:
    """The model's spec with the parameter set; raises where there is none, or it is set already."""
    spec = artifact.model
    why = "it works out nothing but what its scores are made of"
    if require_parameter(artifact, PARAMETER, stage="last_position", why=why) == "last":
        raise EffectError(
            f"last_position: {PARAMETER} is 'last' already in model {spec.name!r}; leave the stage "
            "out"
        )
    return replace(spec, parameters={**spec.parameters, PARAMETER: "last"})


def _batches(artifact: Artifact, context: Context) -> Iterator[Feeds]:
    yield from validation_batches(artifact, context)
    yield random_feeds(artifact, context.data, sizes=(9, 5), seed=context.seed)
