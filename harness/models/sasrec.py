"""SASRec: self-attention over a user's latest items (Kang and McAuley 2018, arXiv:1808.09781).

The loss is the training's: sampled or full softmax, or gSASRec's (Petrov and Macdonald 2023).
"""

from typing import Literal

import torch
from torch import nn

from harness.errors import UnsupportedError
from harness.models.catalogue import MASKED, Catalogue, FromCatalogue
from harness.params import Count, Ratio
from harness.schema import UNKNOWN, FeatureSchema


class Block(nn.Module):
    """Attention to what came before, then a small MLP, each added to what went in."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5  # of the heads as trained: pruned ones are smaller
        self.before_attention, self.before_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor, blocked: torch.Tensor, *, last: bool) -> torch.Tensor:
        """States (requests, positions, dim), of the last position alone where ``last``.

        ``blocked`` (requests, 1, positions, positions) is far below 0 where a position may not
        look.
        """
        normal = self.before_attention(states)
        asking, asked_of = (normal[:, -1:], states[:, -1:]) if last else (normal, states)
        query, key, value = (
            _heads(layer(side), self.heads)
            for layer, side in ((self.query, asking), (self.key, normal), (self.value, normal))
        )
        weights = query @ key.transpose(2, 3) * self.scale
        weights = (weights + (blocked[:, :, -1:] if last else blocked)).softmax(dim=-1)
        read = (weights @ value).transpose(1, 2).flatten(2)
        states = asked_of + self.dropout(self.out(read))
        inner = self.widen(self.before_mlp(states)).relu()
        found: torch.Tensor = states + self.dropout(self.narrow(self.dropout(inner)))
        return found  # (requests, positions, dim)


def _heads(values: torch.Tensor, heads: int) -> torch.Tensor:
    """(requests, positions, width) as (requests, heads, positions, width / heads)."""
    apart: torch.Tensor = values.unflatten(2, (heads, -1))  # type: ignore[no-untyped-call]
    return apart.transpose(1, 2)


class SASRec(FromCatalogue):
    """Request-shaped: a history in, the best items of the whole catalogue out."""

    causal = True
    """Every position is told from those before it: one pass trains all of them."""

    def __init__(
        self,
        schema: FeatureSchema,
        catalogue: Catalogue,
        *,
        blocks: int,
        heads: int,
        hidden: int,
        dropout: float,
        last: bool,
    ) -> None:
        super().__init__(catalogue)
        dim, self.last = catalogue.vectors.embedding_dim, last
        self.positions = nn.Embedding(schema.length, dim)
        nn.init.normal_(self.positions.weight, std=dim**-0.5)
        self.blocks = nn.ModuleList(Block(dim, heads, hidden, dropout) for _ in range(blocks))
        self.normal = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def states(self, history: torch.Tensor, *, last: bool = False) -> torch.Tensor:
        """What each position looks for, (requests, positions, dim); ``last``: the last one."""
        item = history != UNKNOWN  # (requests, positions)
        size = history.shape[1]
        earlier = torch.ones(size, size, dtype=torch.bool, device=history.device).tril()
        # Padding looks at itself: with nothing to look at it would look at all, at what comes too.
        own = torch.eye(size, dtype=torch.bool, device=history.device)
        allowed = (earlier & item.unsqueeze(1)) | own  # (requests, positions, positions)
        vectors = self.catalogue.vectors(history) * self.catalogue.vectors.embedding_dim**0.5
        blocked = torch.where(allowed, 0.0, MASKED).to(vectors.dtype).unsqueeze(1)
        states = self.dropout(vectors + self.positions.weight) * item.unsqueeze(2)
        for at, block in enumerate(self.blocks):
            states = block(states, blocked, last=last and at == len(self.blocks) - 1)
        found: torch.Tensor = self.normal(states)
        return found

    def forward(
        self, history: torch.Tensor, seen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids of the best items, (requests, top) each."""
        states = self.states(history, last=self.last)[:, -1]
        scores, items = self.catalogue(states, seen)
        return scores, items


def build(
    schema: FeatureSchema,
    *,
    dim: Count = 64,
    blocks: Count = 2,
    heads: Count = 1,
    hidden: Count | None = None,
    dropout: Ratio = 0.2,
    top: Count = 50,
    positions: Literal["all", "last"] = "all",
    chunk: Count = 65_536,
) -> nn.Module:
    """SASRec with vectors of size ``dim`` and MLPs ``hidden`` wide (as wide as ``dim``, unless
    given). A request gets ``top`` items; ``positions: last`` works out the last block only where
    it is needed, and gives the same scores.

    Raises ``UnsupportedError`` for heads that don't divide ``dim``, and for a ``top`` that is
    smaller than 11 or larger than the catalogue.
    """
    if dim % heads:
        raise UnsupportedError(f"sasrec: {heads} heads don't divide dim {dim}")
    catalogue = Catalogue(schema, dim=dim, top=top, chunk=chunk)
    return SASRec(
        schema,
        catalogue,
        blocks=blocks,
        heads=heads,
        hidden=hidden or dim,
        dropout=dropout,
        last=positions == "last",
    )
