"""Which layers of a module may take another form, and putting the forms in their places."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from harness.artifact import Artifact, Effect
from harness.compressed import place_layers
from harness.errors import EffectError
from harness.modules import save_module
from harness.registry import suggest
from harness.stages.base import Context
from harness.stages.export_onnx import module_outputs
from harness.stages.graphs import Feeds, random_feeds

SIZES = ((2, 3), (5, 4))
"""(requests, candidates) of the inputs that layers are tried on."""
_SHOWN = (
    *("num_embeddings", "embedding_dim", "padding_idx"),
    *("in_features", "out_features", "bias"),
)
"""What a layer of another form may be asked for beside its results."""


class _CalledOnly(nn.Module):
    """A layer without its weights, to find out whether anything else reads them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name in _SHOWN:
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))
        self.call = layer.forward

    def forward(self, *given: Any, **named: Any) -> Any:
        return self.call(*given, **named)


def replaceable(
    module: nn.Module, kinds: tuple[type[nn.Module], ...], artifact: Artifact, context: Context
) -> tuple[list[str], dict[str, str]]:
    """Names of the layers of the first of ``kinds`` that nothing is tied to and whose weights
    nothing reads but the layer itself; and why others of ``kinds`` have to stay as they are.
    """
    batches = [random_feeds(artifact, context.data, sizes=s, seed=context.seed) for s in SIZES]
    owners = dict[int, list[str]]()
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    names, left = list[str](), dict[str, str]()
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, kinds):
            continue
        reason = _own_kind(layer, kinds[0]) or _tied(name, layer, owners)
        reason = reason or _read_elsewhere(module, name, batches)
        if reason:
            left[name] = reason
        else:
            names.append(name)
    return names, left


def _own_kind(layer: nn.Module, kind: type[nn.Module]) -> str:
    """Why a layer isn't one of a kind; "" where it is."""
    if type(layer) is not kind:
        return f"it is a {type(layer).__name__}"
    return "max_norm changes its rows as they are read" if getattr(layer, "max_norm", None) else ""


def _tied(name: str, layer: nn.Module, owners: Mapping[int, Sequence[str]]) -> str:
    same = [one for part in layer.parameters() for one in owners[id(part)]]
    others = [one for one in same if one.rpartition(".")[0] != name]
    return f"tied to {others[0]}" if others else ""


def _read_elsewhere(module: nn.Module, name: str, batches: Sequence[Feeds]) -> str:
    """Why the layer can't be replaced, by a trial without its weights; "" where it can."""
    layer, calls = module.get_submodule(name), list[int]()
    closed = _CalledOnly(layer)
    closed.register_forward_hook(lambda *_: calls.append(1))
    module.set_submodule(name, closed)
    done = False
    try:
        with suppress(AttributeError):  # its weights aren't there
            for batch in batches:
                module_outputs(module, batch)
            done = True
    finally:
        module.set_submodule(name, layer)
    if not done:
        return "its weights are read by more than the layer itself"
    return "" if calls else "nothing calls it"


def matching(names: Sequence[str], patterns: Sequence[str], *, parameter: str) -> set[str]:
    """The names that a shell pattern matches; raises ``EffectError`` for one that matches none."""
    found = set[str]()
    for pattern in patterns:
        own = {name for name in names if fnmatchcase(name, pattern)}
        if not own:
            raise EffectError(
                f"{parameter}: pattern {pattern!r} matches no layer{suggest(pattern, names)}; "
                f"the layers are {', '.join(names) or 'none'}"
            )
        found |= own
    return found


def put_layers(module: nn.Module, layers: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
    """Put layers of other forms in their places: the form's name and its parameters, by layer."""
    with torch.random.fork_rng(devices=[]):
        place_layers(module, {name: {"form": form, **how} for name, (form, how) in layers.items()})


def save_layers(
    module: nn.Module,
    layers: Mapping[str, tuple[str, Mapping[str, Any]]],
    artifact: Artifact,
    context: Context,
) -> Artifact:
    """Write a module with those ``layers`` in other forms as the artifact of ``context.folder``."""
    told = {name: {"form": form, **how} for name, (form, how) in layers.items()}
    model = replace(artifact.model, layers={**artifact.model.layers, **told})
    return save_module(module.eval(), replace(artifact, model=model), context.folder)


def sizes(before: Artifact, after: Artifact) -> tuple[Effect, ...]:
    """What the whole model became by it: numbers stored, and multiplications, which grow where
    tables are multiplied out.
    """
    return (
        Effect("parameters", before.parameters, after.parameters),
        Effect("macs", before.macs, after.macs),
    )
