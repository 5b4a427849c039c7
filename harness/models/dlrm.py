"""DLRM: embeddings, bottom MLP, dot interaction, top MLP (Naumov et al. 2019, arXiv:1906.00091)."""

import torch
from torch import nn

from harness.errors import UnsupportedError
from harness.models.layers import perceptron
from harness.models.pointwise import Pointwise
from harness.params import Count, Widths
from harness.schema import FeatureSchema


class DLRM(Pointwise):
    """Request-shaped DLRM; every field and the bottom MLP's output meet in pairwise dots."""

    def __init__(self, schema: FeatureSchema, *, dim: int, bottom: Widths, top: Widths) -> None:
        super().__init__(schema, dim)
        numbers = self.inputs.numbers
        self.bottom = perceptron((numbers, *bottom, dim), end=False) if numbers else nn.Identity()
        fields = len(self.inputs.fields) + bool(numbers)
        pairs = torch.tril_indices(fields, fields, offset=-1)
        self.pairs: torch.Tensor
        self.register_buffer("pairs", pairs[0] * fields + pairs[1], persistent=False)
        width = len(pairs[0]) + (dim if numbers else 0)
        self.top = perceptron((width, *top, 1), end=True)

    def score(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates)."""
        bottom = None
        if values is not None:
            bottom = self.bottom(values)  # (requests, candidates, dim)
            vectors = torch.cat([bottom.unsqueeze(2), vectors], dim=2)
        dots = vectors @ vectors.transpose(2, 3)  # (requests, candidates, fields, fields)
        pairs = dots.flatten(2)[:, :, self.pairs]  # (requests, candidates, pairs)
        features = pairs if bottom is None else torch.cat([bottom, pairs], dim=2)
        logits: torch.Tensor = self.top(features)
        return logits.squeeze(2)  # (requests, candidates)

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        return self.top[-1].get_parameter("bias")


def build(
    schema: FeatureSchema,
    *,
    dim: Count = 32,
    bottom: Widths = (256,),
    top: Widths = (1024, 640, 256),
) -> nn.Module:
    """DLRM with embeddings of size ``dim``; ``bottom`` and ``top`` are hidden widths.

    Raises ``UnsupportedError`` when the data has no categorical item field.
    """
    if not schema.group("candidates") or not schema.group("user"):
        raise UnsupportedError("dlrm needs at least one categorical user and one item field")
    return DLRM(schema, dim=dim, bottom=bottom, top=top)
