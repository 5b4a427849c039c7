"""Zeros among a module's weights: which matrices can have them, and keeping them in training."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def matrices(module: "nn.Module") -> dict[str, "nn.Parameter"]:
    """Parameters of two or more axes by their first name; tied ones once, biases and norms not."""
    return {name: weight for name, weight in module.named_parameters() if weight.dim() > 1}


def hold_zeros(module: "nn.Module") -> None:
    """Let no gradient reach the matrices' zeros, so that training leaves them zero: an optimiser
    that starts afterwards has nothing to move them by (momentum is 0, decay multiplies).
    """
    for weight in matrices(module).values():
        weight.register_hook(_masked(weight.detach() != 0))  # type: ignore[no-untyped-call]


def _masked(mask: "torch.Tensor") -> Callable[["torch.Tensor"], "torch.Tensor"]:
    return lambda gradient: gradient * mask
