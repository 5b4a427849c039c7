"""Embeddings of all fields beside the numbers, through one MLP (the DNN of CTR tables)."""

import torch
from torch import nn

from harness.models.layers import Inputs, perceptron
from harness.params import Count, Widths
from harness.schema import FeatureSchema


class EmbeddingMLP(nn.Module):
    """Request-shaped embedding MLP."""

    def __init__(self, schema: FeatureSchema, *, dim: int, widths: Widths) -> None:
        super().__init__()
        self.inputs = Inputs(schema, dim)
        fields = len(self.inputs.fields)
        self.top = perceptron((fields * dim + self.inputs.numbers, *widths, 1), end=True)

    def forward(
        self,
        user: torch.Tensor,
        candidates: torch.Tensor,
        context: torch.Tensor | None = None,
        user_values: torch.Tensor | None = None,
        candidate_values: torch.Tensor | None = None,
        context_values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (requests, candidates) of each candidate of each request."""
        numbers = {
            "user_values": user_values,
            "context_values": context_values,
            "candidate_values": candidate_values,
        }
        vectors = self.inputs.vectors(user, candidates, context).flatten(2)
        values = self.inputs.values(candidates, numbers)
        features = vectors if values is None else torch.cat([vectors, values], dim=2)
        logits: torch.Tensor = self.top(features)
        return logits.squeeze(2)  # (requests, candidates)


def build(schema: FeatureSchema, *, dim: Count = 16, widths: Widths = (512, 256)) -> nn.Module:
    """Embedding MLP with embeddings of size ``dim`` and hidden layers of ``widths``."""
    return EmbeddingMLP(schema, dim=dim, widths=widths)
