"""Matrix factorisation with biases (Koren, Bell and Volinsky 2009, doi:10.1109/MC.2009.263)."""

import torch
from torch import nn

from harness.models.pair import Pair, table
from harness.params import Count, Positive
from harness.schema import FeatureSchema


class MatrixFactorisation(nn.Module):
    """A constant, a bias for each user and item, and the dot product of their factors."""

    def __init__(self, schema: FeatureSchema, *, dim: int, spread: float) -> None:
        super().__init__()
        self.pair = Pair(schema)
        self.users, self.items = table(self.pair.user, dim), table(self.pair.item, dim)
        self.user_bias, self.item_bias = table(self.pair.user, 1), table(self.pair.item, 1)
        self.constant = nn.Parameter(torch.zeros(1))
        for factors in (self.users, self.items):
            nn.init.normal_(factors.weight, std=spread)
        for bias in (self.user_bias, self.item_bias):
            nn.init.zeros_(bias.weight)

    def forward(self, user: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Scores (requests, candidates)."""
        one, many = self.pair(user, candidates)
        dots = (self.items(many) @ self.users(one).unsqueeze(2)).squeeze(2)
        biases = self.user_bias(one) + self.item_bias(many).squeeze(2)  # (requests, candidates)
        scores: torch.Tensor = self.constant + biases + dots
        return scores

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        return self.constant


def build(schema: FeatureSchema, *, dim: Count = 32, spread: Positive = 0.1) -> nn.Module:
    """Matrix factorisation with factors of size ``dim``, drawn from N(0, spread^2)."""
    return MatrixFactorisation(schema, dim=dim, spread=spread)
