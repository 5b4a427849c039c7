"""What request-shaped models that look at all fields share: the signature, and the features."""

from abc import abstractmethod

import torch
from torch import nn

from harness.models.layers import Inputs
from harness.schema import FeatureSchema


class Pointwise(nn.Module):
    """Embeds every field once and leaves the scoring of a candidate's features to ``score``."""

    def __init__(self, schema: FeatureSchema, dim: int) -> None:
        super().__init__()
        self.inputs = Inputs(schema, dim)

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
        vectors = self.inputs.vectors(user, candidates, context)
        numbers = {
            "user_values": user_values,
            "context_values": context_values,
            "candidate_values": candidate_values,
        }
        return self.score(vectors, self.inputs.values(candidates, numbers))

    @abstractmethod
    def score(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates) from embeddings (requests, candidates, fields, dim) and
        numbers (requests, candidates, numbers), None where the data has none.
        """


def joined(vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
    """All features end to end, (requests, candidates, fields * dim + numbers)."""
    flat = vectors.flatten(2)
    return flat if values is None else torch.cat([flat, values], dim=2)
