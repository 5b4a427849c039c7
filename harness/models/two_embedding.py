"""The two-embedding network: a user's and an item's vector side by side through an MLP.

A request of k candidates gives k scores at once, so the form with one output a pair and the one
with many are the same network.
"""

import torch
from torch import nn

from harness.models.layers import perceptron
from harness.models.pair import Pair, table
from harness.params import Count, Positive, Widths
from harness.schema import FeatureSchema


class TwoEmbedding(nn.Module):
    """Request-shaped: the user's vector is looked up once and meets each candidate's."""

    def __init__(self, schema: FeatureSchema, *, dim: int, widths: Widths, spread: float) -> None:
        super().__init__()
        self.pair = Pair(schema)
        self.users, self.items = table(self.pair.user, dim), table(self.pair.item, dim)
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=spread)
        self.top = perceptron((2 * dim, *widths, 1), end=True)

    def forward(self, user: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Scores (requests, candidates)."""
        one, many = self.pair(user, candidates)
        items = self.items(many)  # (requests, candidates, dim)
        users = self.users(one).unsqueeze(1).expand(-1, items.shape[1], -1)
        scores: torch.Tensor = self.top(torch.cat([users, items], dim=2))
        return scores.squeeze(2)  # (requests, candidates)

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        return self.top[-1].get_parameter("bias")


def build(
    schema: FeatureSchema, *, dim: Count = 64, widths: Widths = (256, 128), spread: Positive = 0.03
) -> nn.Module:
    """Two embeddings of size ``dim``, drawn from N(0, spread^2), and an MLP with hidden layers of
    ``widths``. A small spread leaves little to unlearn for what is seldom seen in training.
    """
    return TwoEmbedding(schema, dim=dim, widths=widths, spread=spread)
