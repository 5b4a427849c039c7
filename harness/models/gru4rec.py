"""GRU4Rec: a recurrent network over a user's latest items (Hidasi et al. 2016, arXiv:1511.06939).

The loss is the training's; the paper's own ranking losses are near ``bpr``.
"""

import torch
from torch import nn

from harness.models.catalogue import Catalogue, FromCatalogue
from harness.params import Count, Ratio
from harness.schema import FeatureSchema


class GRU4Rec(FromCatalogue):
    """Request-shaped: a history in, the best items of the whole catalogue out."""

    causal = True
    """Every position is told from those before it: one pass trains all of them."""

    def __init__(self, catalogue: Catalogue, *, hidden: int, layers: int, dropout: float) -> None:
        super().__init__(catalogue)
        dim = catalogue.vectors.embedding_dim
        self.recurrent = nn.GRU(dim, hidden, num_layers=layers, batch_first=True)
        self.out = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def states(self, history: torch.Tensor) -> torch.Tensor:
        """What each position looks for, (requests, positions, dim).

        Padding is a vector of zeros that is stepped over like an item: histories are padded to the
        same length in training and in use, so the state before the first item is learned.
        """
        vectors = self.catalogue.vectors(history) * self.catalogue.vectors.embedding_dim**0.5
        states, _ = self.recurrent(self.dropout(vectors))  # (requests, positions, hidden)
        found: torch.Tensor = self.out(self.dropout(states))
        return found

    def forward(
        self, history: torch.Tensor, seen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids of the best items, (requests, top) each."""
        scores, items = self.catalogue(self.states(history)[:, -1], seen)
        return scores, items


def build(
    schema: FeatureSchema,
    *,
    dim: Count = 64,
    hidden: Count | None = None,
    layers: Count = 1,
    dropout: Ratio = 0.2,
    top: Count = 50,
    chunk: Count = 65_536,
) -> nn.Module:
    """GRU4Rec with vectors of size ``dim`` and ``layers`` of ``hidden`` units (as many as ``dim``,
    unless given). A request gets ``top`` items.

    Raises ``UnsupportedError`` for a ``top`` smaller than 11 or larger than the catalogue.
    """
    catalogue = Catalogue(schema, dim=dim, top=top, chunk=chunk)
    return GRU4Rec(catalogue, hidden=hidden or dim, layers=layers, dropout=dropout)
