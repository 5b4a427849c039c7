"""Embeddings of all fields beside the numbers, through one MLP (the DNN of CTR tables)."""

import torch
from torch import nn

from harness.models.layers import perceptron
from harness.models.pointwise import Pointwise, joined
from harness.params import Count, Widths
from harness.schema import FeatureSchema


class EmbeddingMLP(Pointwise):
    """Request-shaped embedding MLP."""

    def __init__(self, schema: FeatureSchema, *, dim: int, widths: Widths) -> None:
        super().__init__(schema, dim)
        fields = len(self.inputs.fields)
        self.top = perceptron((fields * dim + self.inputs.numbers, *widths, 1), end=True)

    def score(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates)."""
        logits: torch.Tensor = self.top(joined(vectors, values))
        return logits.squeeze(2)  # (requests, candidates)

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        return self.top[-1].get_parameter("bias")


def build(schema: FeatureSchema, *, dim: Count = 16, widths: Widths = (512, 256)) -> nn.Module:
    """Embedding MLP with embeddings of size ``dim`` and hidden layers of ``widths``."""
    return EmbeddingMLP(schema, dim=dim, widths=widths)
