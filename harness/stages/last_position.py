"""torch -> torch, exact: a sequence model's last block is worked out where the list comes from."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from harness import registry
from harness.artifact import Artifact, Effect, ModelSpec
from harness.errors import EffectError, UnsupportedError
from harness.modules import build_module, load_module, load_weights, save_module
from harness.stages.base import Context, Outcome, require_effect, stage
from harness.stages.export_onnx import module_outputs, output_gap
from harness.stages.graphs import Feeds, draw_rows, random_feeds, row_batches

if TYPE_CHECKING:
    from torch import nn

PARAMETER = "positions"
ROWS = 256
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
    gap = max(_gap(before, after.eval(), batch) for batch in _batches(artifact, context))
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
    known = registry.entry("models", spec.name).parameters
    if PARAMETER not in known:
        raise UnsupportedError(
            f"last_position: model {spec.name!r} has no parameter {PARAMETER!r}; it works out "
            "nothing but what its scores are made of, leave the stage out"
        )
    if registry.bind("models", spec.name, spec.parameters)[PARAMETER] == "last":
        raise EffectError(
            f"last_position: {PARAMETER} is 'last' already in model {spec.name!r}; leave the stage "
            "out"
        )
    return replace(spec, parameters={**spec.parameters, PARAMETER: "last"})


def _batches(artifact: Artifact, context: Context) -> Iterator[Feeds]:
    split = context.data.splits["validation"]
    rows = draw_rows(split, count=ROWS, seed=context.seed)
    yield from row_batches(context.data, split, rows, artifact.inputs)
    yield random_feeds(artifact, context.data, sizes=(9, 5), seed=context.seed)


def _gap(before: "nn.Module", after: "nn.Module", batch: Feeds) -> float:
    found, expected = (module_outputs(module, batch) for module in (after, before))
    gap, allowed, fault = output_gap(found, expected, tolerance=TOLERANCE)
    if fault or not gap <= allowed:
        raise EffectError(
            f"last_position isn't exact here: {fault or f'scores differ by {gap:.1e}'}"
        )
    return gap
