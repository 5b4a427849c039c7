"""Factorisation machine: a weight a feature and a dot product a pair (Rendle 2010, ICDM)."""

import torch
from torch import nn

from harness.models.layers import Inputs
from harness.models.pointwise import Pointwise
from harness.params import Count, Flag
from harness.schema import FeatureSchema


class FM(nn.Module):
    """Both orders of a factorisation machine over embeddings and numbers that others look up."""

    def __init__(self, inputs: Inputs, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(len(inputs.fields) * dim + inputs.numbers, 1)
        numbers = torch.randn(inputs.numbers, dim) * dim**-0.5
        self.factors = nn.Parameter(numbers) if inputs.numbers else None

    def forward(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates). The sum over pairs costs one pass over the fields:
        half of the squared sum less the summed squares.
        """
        features = vectors.flatten(2)
        if values is not None and self.factors is not None:
            features = torch.cat([features, values], dim=2)
            own = values.unsqueeze(3) * self.factors  # (requests, candidates, numbers, dim)
            vectors = torch.cat([vectors, own], dim=2)
        total = vectors.sum(dim=2)  # (requests, candidates, dim)
        pairs = 0.5 * (total * total - (vectors * vectors).sum(dim=2)).sum(dim=2)
        linear: torch.Tensor = self.first(features)
        return linear.squeeze(2) + pairs  # (requests, candidates)

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        return self.first.get_parameter("bias")


class FactorisationMachine(Pointwise):
    """A factorisation machine on its own; the weight of a value is read off its embedding."""

    def __init__(self, schema: FeatureSchema, *, dim: int, fused: bool = False) -> None:
        super().__init__(schema, dim, fused=fused)
        self.fm = FM(self.inputs, dim)

    def score(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates)."""
        logits: torch.Tensor = self.fm(vectors, values)
        return logits

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        return self.fm.output_bias


def build(schema: FeatureSchema, *, dim: Count = 16, fused: Flag = False) -> nn.Module:
    """Factorisation machine with factors of size ``dim``; with ``fused`` all tables are one."""
    return FactorisationMachine(schema, dim=dim, fused=fused)
