"""An ONNX graph in a module's place, so that a task's own validation judges what is served."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from harness.artifact import Artifact
from harness.stages.base import Context
from harness.stages.graphs import ort_outputs
from harness.stages.retraining import validation_loss

if TYPE_CHECKING:
    import onnx


class Served(nn.Module):
    """Runs a graph in onnxruntime; takes and gives tensors."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        super().__init__()
        self.run = ort_outputs(model)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits (rows,) or (requests, candidates), or scores and items of lists."""
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        found = tuple(torch.from_numpy(array) for array in self.run(arrays))
        return found if len(found) > 1 else found[0]


def served_loss(model: "onnx.ModelProto", artifact: Artifact, context: Context) -> float:
    """The task's validation of a graph over a seeded sample of validation rows, in ``UNITS``: the
    loss of clicks and ratings, 1 - NDCG@10 of next items, however the baseline was trained.
    """
    own = replace(context.training, loss="own")
    return validation_loss(Served(model), context, artifact.inputs, own)
