"""Matrix factorisation for next items: a user's vector against all items', as BPR trains it
(Rendle et al. 2009, arXiv:1205.2618).
"""

import torch
from torch import nn

from harness.models.catalogue import Catalogue, FromCatalogue
from harness.models.pair import table
from harness.params import Count
from harness.schema import FeatureSchema


class RankingFactors(FromCatalogue):
    """One vector a user, one an item; who isn't known is the unknown row."""

    def __init__(self, schema: FeatureSchema, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        names = [field.name for field in schema.group("user")]
        self.place = names.index(schema.user)
        self.users = table(schema.field(schema.user), catalogue.vectors.embedding_dim)

    def states(self, user: torch.Tensor) -> torch.Tensor:
        """What each user looks for, (requests, dim)."""
        found: torch.Tensor = self.users(user[:, self.place])
        return found

    def forward(
        self, user: torch.Tensor, seen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids of the best items, (requests, top) each."""
        scores, items = self.catalogue(self.states(user), seen)
        return scores, items


def build(
    schema: FeatureSchema, *, dim: Count = 64, top: Count = 50, chunk: Count = 65_536
) -> nn.Module:
    """Matrix factorisation with vectors of size ``dim``; a request gets ``top`` items.

    Raises ``UnsupportedError`` for a ``top`` smaller than 11 or larger than the catalogue.
    """
    return RankingFactors(schema, Catalogue(schema, dim=dim, top=top, chunk=chunk))
