"""Which Linear layers can lose channels, and which other layers must shrink with each of them.

Torch-Pruning's dependency graph (Fang et al. 2023, arXiv:2301.12900) says what depends on what.
It can be wrong where an output is joined along another axis, so each group is tried on a copy: a
model without some channels has to give what the model gives when those channels are 0 and nothing
reads them. Where channels are arranged in heads, as in attention, only as many of every head can
go; the number of heads is found by trial too.
"""

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import nn

from harness.errors import UnsupportedError
from harness.schema import FeatureSchema
from harness.stages.graphs import random_inputs
from harness.tables import TensorSpec

Feeds = Mapping[str, torch.Tensor]

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_WIDTHS = torch_pruning.ops.OPTYPE
_OUT = torch_pruning.prune_linear_out_channels
_IN = torch_pruning.prune_linear_in_channels
_TRIAL_FAULTS = (RuntimeError, ValueError, IndexError, AssertionError)


@dataclass(frozen=True, slots=True)
class Layout:
    """``groups`` maps a layer to all layers whose outputs shrink with it (itself first); ``heads``
    gives for each of them the number of equal parts that its channels are arranged in, mostly 1;
    ``kept`` says of every other layer why it keeps its width.
    """

    groups: Mapping[str, tuple[str, ...]]
    kept: Mapping[str, str]
    heads: Mapping[str, int]


def random_feeds(
    inputs: Sequence[TensorSpec], schema: FeatureSchema, *, requests: int, candidates: int
) -> dict[str, torch.Tensor]:
    """Legal random model inputs of a size, the same at every call, by name."""
    sizes, seed = (requests, candidates), requests * 1000 + candidates
    feeds = random_inputs(inputs, schema, sizes=sizes, seed=seed)
    return {name: torch.from_numpy(array) for name, array in feeds.items()}


def find_groups(module: nn.Module, feeds: Sequence[Feeds], *, frozen: Collection[str]) -> Layout:
    """The groups of ``module`` that may be pruned; layers in ``frozen`` keep their width.

    ``feeds`` are example inputs of different sizes. Raises ``UnsupportedError`` when the model
    can't be traced.
    """
    graph = trace(module, feeds[0])
    groups: dict[str, tuple[str, ...]] = {}
    kept, heads = _other_layers(module), dict[str, int]()
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear) or any(name in group for group in groups.values()):
            continue
        if name in frozen:
            kept[name] = "left out by the recipe"
            continue
        if layer not in graph.module2node:
            kept[name] = "no score depends on it"
            continue
        group = group_of(graph, module, name, range(layer.out_features))
        outputs = _outputs(module, group)
        reason = _joined(module, group, set(outputs) & set(frozen)) or _uneven(module, outputs)
        found = reason or _heads(module, name, feeds)
        if isinstance(found, str):
            kept[name] = found
        else:
            groups[name], heads[name] = outputs, found
    return Layout(groups, kept, heads)


def _other_layers(module: nn.Module) -> dict[str, str]:
    """Layers with weight matrices of their own that aren't Linear, such as a GRU: Torch-Pruning
    passes over them in silence.
    """
    return {
        name or type(layer).__name__: f"it is a {type(layer).__name__}, only Linear is pruned"
        for name, layer in module.named_modules()
        if not isinstance(layer, (nn.Linear, nn.Embedding, nn.EmbeddingBag))
        and any(weight.dim() > 1 for weight in layer.parameters(recurse=False))
    }


def trace(module: nn.Module, feeds: Feeds) -> Any:
    """Torch-Pruning's dependency graph of a module; raises ``UnsupportedError``.

    Of a model with item vectors only what it looks for is followed: finding the best of all items
    has no channels, and Torch-Pruning can't follow it where the catalogue comes in parts.
    """
    lists = hasattr(module, "catalogue")
    try:
        with _quiet():
            return torch_pruning.DependencyGraph().build_dependency(
                module,
                example_inputs=dict(feeds),
                forward_fn=_states if lists else None,
                verbose=False,
            )
    except _TRIAL_FAULTS as error:
        raise UnsupportedError(
            f"the model can't be traced for pruning ({error}); its forward may only use torch "
            "operations that autograd follows"
        ) from error


def _states(module: nn.Module, feeds: Feeds) -> torch.Tensor:
    past = {name: value for name, value in feeds.items() if name != "seen"}
    states: torch.Tensor = module.states(**past)  # type: ignore[operator]
    return states


def linear(module: nn.Module, name: str) -> nn.Linear:
    """The Linear layer called ``name``."""
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear), f"{name} is {type(layer).__name__}"
    return layer


def group_of(graph: Any, module: nn.Module, name: str, channels: Sequence[int]) -> Any:
    """Torch-Pruning's group for some output channels of the Linear layer ``name``."""
    return graph.get_pruning_group(linear(module, name), _OUT, idxs=list(channels))


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch-Pruning warns of every operation that it takes for elementwise; the trial decides."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch_pruning\b")
        yield


def _outputs(module: nn.Module, group: Any) -> tuple[str, ...]:
    names = {layer: name for name, layer in module.named_modules()}
    found = [names[item.dep.target.module] for item in group.items if item.dep.handler == _OUT]
    return tuple(dict.fromkeys(found))


def _joined(module: nn.Module, group: Any, frozen: Collection[str]) -> str | None:
    """Why the group may not be pruned, from what it reaches; None when nothing speaks against."""
    names = {layer: name for name, layer in module.named_modules()}
    reached = [item.dep.target for item in group.items]
    if frozen:
        return f"its width is tied to {', '.join(sorted(frozen))}, which the recipe leaves out"
    tables = [names[t.module] for t in reached if isinstance(t.module, nn.Embedding)]
    if tables:
        return f"its width is tied to the embedding table {tables[0]}"
    if any(target.type == _WIDTHS.OUTPUT for target in reached):
        return "it gives the model's output"
    if any(target.type == _WIDTHS.PARAMETER for target in reached):
        return "its width is tied to a parameter that belongs to no known layer"
    if not any(item.dep.handler == _IN for item in group.items):
        return "no Linear layer reads it"
    return None


def _uneven(module: nn.Module, outputs: Sequence[str]) -> str | None:
    """Broadcasting hides a gate cut to one output over several experts, so it is told by width."""
    width = linear(module, outputs[0]).out_features
    other = [name for name in outputs if linear(module, name).out_features != width]
    return f"it meets {other[0]}, which has another width (a gate?)" if other else None


def _heads(module: nn.Module, name: str, feeds: Sequence[Feeds]) -> int | str:
    """In how many heads the channels of a layer are arranged, or why it can't be pruned.

    One channel alone can go where there is one head. The smallest number of heads is taken that a
    channel each can be cut from, at another place in every head.
    """
    width = linear(module, name).out_features
    if width == 1:
        return "it has one channel"
    reason = _trial(module, name, feeds, channels=[0])
    if reason is None:
        return 1
    for heads in (number for number in range(2, width // 2 + 1) if width % number == 0):
        size = width // heads
        channels = [head * size + head % size for head in range(heads)]
        if _trial(module, name, feeds, channels=channels) is None:
            return heads
    return reason


def _trial(
    module: nn.Module, name: str, feeds: Sequence[Feeds], *, channels: list[int]
) -> str | None:
    """Prune some channels on a copy; None when the copy gives what it has to."""
    pruned, masked = copy.deepcopy(module), copy.deepcopy(module)
    try:
        group = group_of(trace(pruned, feeds[0]), pruned, name, channels)
        exact = not any(isinstance(item.dep.target.module, _NORMS) for item in group.items)
        _mask(pruned, masked, group)
        with _quiet():
            group.prune()
        same = all(_agree(pruned, masked, feed, exact=exact) for feed in feeds)
    except _TRIAL_FAULTS as error:
        return f"the model no longer runs without some of its channels ({_first_line(error)})"
    return None if same else "its channels mean more than what the next layers read"


def _mask(pruned: nn.Module, masked: nn.Module, group: Any) -> None:
    """Let ``masked`` work out 0 for the group's channels, and nothing read them."""
    names = {layer: name for name, layer in pruned.named_modules()}
    with torch.no_grad():
        for dep, channels in group.items:
            if dep.handler not in (_IN, _OUT):
                continue
            layer = linear(masked, names[dep.target.module])
            places = [int(getattr(channel, "idx", channel)) for channel in channels]
            if dep.handler == _IN:
                layer.weight[:, places] = 0.0
                continue
            layer.weight[places] = 0.0
            if layer.bias is not None:
                layer.bias[places] = 0.0


def _agree(pruned: nn.Module, masked: nn.Module, feeds: Feeds, *, exact: bool) -> bool:
    with torch.no_grad():
        got, expected = scores_of(pruned(**feeds)), scores_of(masked(**feeds))
    if got.shape != expected.shape or not torch.isfinite(got).all():
        return False
    # A norm over fewer channels has other statistics, so only the shape can be compared there.
    return not exact or torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


def scores_of(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The scores that a module gave: its logits, or those of its lists."""
    return output if isinstance(output, torch.Tensor) else output[0]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
