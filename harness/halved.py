"""Modules whose weights are in half precision, as ``module.half()`` makes them: every layer works
in that type. Ids stay whole numbers, and the module takes and gives float32 as before.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

HALVES: Mapping[str, str] = {"fp16": "float16", "bf16": "bfloat16"}
"""torch's names of the types."""


def halve(module: "nn.Module", to: str) -> "nn.Module":
    """The module with its weights in ``to`` (fp16 or bf16), in place.

    Numbers come in as float32, normalised already, are cut to what the type holds and cast; scores
    go out as float32.
    """
    import torch

    kind: torch.dtype = getattr(torch, HALVES[to])
    most = torch.finfo(kind).max

    def cast(value: Any) -> Any:
        if not torch.is_tensor(value) or not value.is_floating_point():
            return value
        return value.clamp(-most, most).to(kind)

    def before(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return tuple(map(cast, given)), {name: cast(value) for name, value in named.items()}

    def after(_: Any, given: Any, outputs: Any) -> Any:
        if isinstance(outputs, tuple):
            return tuple(_wide(part) for part in outputs)
        return _wide(outputs)

    module.to(kind)
    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after)
    return module


def _wide(value: "torch.Tensor") -> "torch.Tensor":
    return value.float() if value.is_floating_point() else value
