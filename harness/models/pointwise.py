"""What request-shaped models that look at all fields share: the signature, and the features."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from harness.models.layers import Inputs, Request
from harness.schema import FeatureSchema


class Pointwise(nn.Module):
    """Embeds every field once and leaves the scoring of a candidate's features to ``score``."""

    def __init__(
        self, schema: FeatureSchema, dim: int, *, folded: Sequence[str] = (), fused: bool = False
    ) -> None:
        super().__init__()
        self.inputs = Inputs(schema, dim, folded=folded, fused=fused)

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
        return self.logits(
            Request(user, candidates, context, user_values, candidate_values, context_values)
        )

    def logits(self, request: Request) -> torch.Tensor:
        """Logits (requests, candidates); all features are brought to the candidates first."""
        return self.score(self.inputs.vectors(request), self.inputs.values(request))

    @abstractmethod
    def score(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates) from embeddings (requests, candidates, fields, dim) and
        numbers (requests, candidates, numbers), None where the data has none.
        """

    def tables(self) -> Mapping[str, torch.Tensor]:
        """The rows (rows, dim) of each field that isn't folded, by its name."""
        return self.inputs.weights()

    def state_from(self, other: "Pointwise") -> dict[str, torch.Tensor]:
        """The state with which this form of the model scores as another form of it does."""
        kept = {n: t for n, t in other.state_dict().items() if not n.startswith("inputs.tables.")}
        tables = self.inputs.state(other.tables())
        return {**kept, **{f"inputs.{name}": rows for name, rows in tables.items()}}


def joined(vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
    """All features end to end, (requests, candidates, fields * dim + numbers)."""
    flat = vectors.flatten(2)
    return flat if values is None else torch.cat([flat, values], dim=2)
