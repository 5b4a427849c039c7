"""What the stages that train share: their settings, the validation loss, and the check that
weights moved.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from harness.errors import EffectError
from harness.objectives import Training
from harness.stages.base import Context
from harness.tables import TensorSpec
from harness.training import objective_of


def settings(
    context: Context, *, epochs: float, learning_rate: float | None, batch_size: int | None
) -> Training:
    """The baseline's training settings with a stage's own in their place (None: kept)."""
    start = context.training
    return replace(
        start,
        epochs=epochs,
        learning_rate=start.learning_rate if learning_rate is None else learning_rate,
        batch_size=start.batch_size if batch_size is None else batch_size,
    )


def validation_loss(
    module: nn.Module, context: Context, inputs: tuple[TensorSpec, ...], training: Training
) -> float:
    """The task's validation (see ``Objective``) over a seeded sample of at most
    ``training.validation_rows`` validation rows: the same rows for every model of a stage.
    """
    torch.set_num_threads(context.threads)
    objective = objective_of(module, context.data, inputs, training, seed=context.seed)
    return objective.validation(module)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all weights, by name."""
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


def require_moved(
    before: Mapping[str, torch.Tensor], module: nn.Module, *, stage: str, learning_rate: float
) -> None:
    """Raise ``EffectError`` when training left every weight as it was."""
    if all(torch.equal(before[name], tensor) for name, tensor in module.named_parameters()):
        raise EffectError(
            f"{stage} had no effect: every weight is as before; raise epochs or the learning rate "
            f"({learning_rate:g})"
        )
