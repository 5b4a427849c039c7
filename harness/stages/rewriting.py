"""Exact rewrites of models: the same weights in another form, whose scores are the same.

A form is set by parameters of the model. What a stage asks for is put into the model's spec, the
module of the new form takes its weights from the old one, and both have to give the same scores.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.modules import build_module, example_feeds, load_module, load_weights, save_module
from harness.stages.base import Context, Outcome
from harness.stages.export_onnx import module_outputs, output_gap
from harness.stages.graphs import Feeds, draw_rows, random_feeds, row_batches

if TYPE_CHECKING:
    import torch
    from torch import nn

ROWS = 256
SHAPES = ((1, 1), (3, 7), (64, 1))
"""(requests, candidates) at which both forms are compared on random ids."""

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Calls:
    """What one forward of three requests of seven candidates is made of: the ``operators`` of
    torch that work something out (views don't), and those among them that look ids up.
    """

    operators: int
    lookups: int


def require_parameter(artifact: Artifact, parameter: str, *, stage: str, why: str) -> Any:
    """The value of a parameter of the artifact's model, default filled in; raises
    ``UnsupportedError`` where the model has none, and says ``why`` that is so.
    """
    spec = artifact.model
    if parameter not in registry.entry("models", spec.name).parameters:
        raise UnsupportedError(
            f"{stage}: model {spec.name!r} has no parameter {parameter!r}: {why}; leave the stage "
            "out"
        )
    return registry.bind("models", spec.name, spec.parameters)[parameter]


def require_unset(artifact: Artifact, parameter: str, *, stage: str, why: str) -> None:
    """Raise ``EffectError`` when a flag of the model is set already, and ``UnsupportedError``
    where it has none.
    """
    if require_parameter(artifact, parameter, stage=stage, why=why):
        raise EffectError(
            f"{stage}: {parameter} is set already in model {artifact.model.name!r}; leave the "
            "stage out"
        )


def require_own_layers(artifact: Artifact, *, stage: str) -> None:
    """Raise ``UnsupportedError`` where layers of the model have another form than its class gives
    them: a rewrite takes weights from layers that it knows.
    """
    if artifact.model.layers:
        told = ", ".join(f"{name} ({how['form']})" for name, how in artifact.model.layers.items())
        raise UnsupportedError(
            f"{stage}: layers of model {artifact.model.name!r} have another form: {told}; put "
            f"{stage} before the stages that gave it to them"
        )


def rewrite(
    artifact: Artifact, context: Context, *, stage: str, changes: Mapping[str, Any]
) -> Outcome:
    """The artifact with ``changes`` of its model's parameters and the same scores.

    Scores of validation rows, of unknown ids and of random ids at ``SHAPES`` that differ by more
    than 1e-5 (relative above 1) raise ``EffectError``.
    """
    require_own_layers(artifact, stage=stage)
    spec = replace(artifact.model, parameters={**artifact.model.parameters, **changes})
    before = load_module(artifact)
    after = build_module(spec, context.data.schema, folder=artifact.folder, seed=0)
    state: dict[str, torch.Tensor] = after.state_from(before)  # type: ignore[operator]
    load_weights(after, state, where=str(artifact.file), fit=True)
    context.progress("comparing scores", 0.3)
    gaps = [
        exact_gap(before, after.eval(), batch, stage=stage, tolerance=TOLERANCE)
        for batch in compared_batches(artifact, context)
    ]
    written = save_module(after, replace(artifact, model=spec), context.folder)
    old, new = (calls(module, artifact) for module in (before, after))
    effects = (
        Effect("macs", artifact.macs, written.macs),
        Effect("parameters", artifact.parameters, written.parameters),
        Effect("operators", old.operators, new.operators),
        Effect("lookups", old.lookups, new.lookups),
    )
    return Outcome(written, effects, (f"largest difference of scores: {max(gaps):.1e}",))


def require_less(outcome: Outcome, name: str, *, stage: str, why: str) -> None:
    """Raise ``EffectError`` when the effect called ``name`` isn't less than before."""
    effect = next(effect for effect in outcome.effects if effect.name == name)
    if effect.after >= effect.before:
        raise EffectError(
            f"{stage} had no effect: {name} {effect.before:g} before, {effect.after:g} after; {why}"
        )


def calls(module: "nn.Module", artifact: Artifact) -> Calls:
    """What one forward of a module is made of."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    names: list[str] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if all(result.alias_info is None for result in func._schema.returns):
                names.append(func.name())
            return func(*args, **(kwargs or {}))

    feeds = example_feeds(artifact.inputs, requests=3, candidates=7)
    with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
        module(**feeds)
    return Calls(len(names), sum("embedding" in name for name in names))


def validation_batches(artifact: Artifact, context: Context) -> Iterator[Feeds]:
    """Inputs of at most ``ROWS`` seeded validation rows."""
    split = context.data.splits["validation"]
    rows = draw_rows(split, count=ROWS, seed=context.seed)
    yield from row_batches(context.data, split, rows, artifact.inputs)


def compared_batches(artifact: Artifact, context: Context) -> Iterator[Feeds]:
    """What two forms of a model are compared on: validation rows, random and unknown ids."""
    yield from validation_batches(artifact, context)
    for at, sizes in enumerate(SHAPES):
        yield random_feeds(artifact, context.data, sizes=sizes, seed=context.seed + at)
    unknown = example_feeds(artifact.inputs, requests=2, candidates=3)
    yield {name: tensor.numpy() for name, tensor in unknown.items()}


def exact_gap(
    before: "nn.Module", after: "nn.Module", batch: Feeds, *, stage: str, tolerance: float
) -> float:
    """Largest difference of two modules' scores; raises ``EffectError`` above ``tolerance``
    (relative above 1), and for lists of other items.
    """
    found, expected = (module_outputs(module, batch) for module in (after, before))
    gap, allowed, fault = output_gap(found, expected, tolerance=tolerance)
    if fault or not gap <= allowed:
        raise EffectError(f"{stage} isn't exact here: {fault or f'scores differ by {gap:.1e}'}")
    return gap
