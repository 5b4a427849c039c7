"""DeepFM: a factorisation machine and an MLP on the same embeddings (Guo et al. 2017,
arXiv:1703.04247).
"""

import torch
from torch import nn

from harness.models.fm import FM
from harness.models.layers import perceptron
from harness.models.pointwise import Pointwise, joined
from harness.params import Count, Flag, Widths
from harness.schema import FeatureSchema


class DeepFM(Pointwise):
    """The sum of both parts' logits."""

    def __init__(
        self, schema: FeatureSchema, *, dim: int, widths: Widths, fused: bool = False
    ) -> None:
        super().__init__(schema, dim, fused=fused)
        self.fm = FM(self.inputs, dim)
        features = len(self.inputs.fields) * dim + self.inputs.numbers
        self.deep = perceptron((features, *widths, 1), end=True)

    def score(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates)."""
        deep: torch.Tensor = self.deep(joined(vectors, values))
        both: torch.Tensor = self.fm(vectors, values) + deep.squeeze(2)
        return both  # (requests, candidates)

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        return self.fm.output_bias


def build(
    schema: FeatureSchema, *, dim: Count = 16, widths: Widths = (400, 400), fused: Flag = False
) -> nn.Module:
    """DeepFM with factors of size ``dim`` and hidden layers of ``widths``; with ``fused`` all
    tables are one.
    """
    return DeepFM(schema, dim=dim, widths=widths, fused=fused)
