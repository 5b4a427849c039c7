"""NeuMF: generalised matrix factorisation beside an MLP, with embeddings of their own (He et al.
2017, arXiv:1708.05031).
"""

import torch
from torch import nn

from harness.models.layers import perceptron
from harness.models.pair import Pair, table
from harness.params import Count, Widths
from harness.schema import FeatureSchema


class NeuMF(nn.Module):
    """The elementwise product of one pair of vectors, and an MLP of another, in one last layer."""

    def __init__(self, schema: FeatureSchema, *, dim: int, mlp_dim: int, widths: Widths) -> None:
        super().__init__()
        self.pair = Pair(schema)
        user, item = self.pair.user, self.pair.item
        self.users, self.items = table(user, dim), table(item, dim)
        self.mlp_users, self.mlp_items = table(user, mlp_dim), table(item, mlp_dim)
        self.mlp = perceptron((2 * mlp_dim, *widths), end=False)
        self.top = nn.Linear(dim + widths[-1], 1)

    def forward(self, user: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Logits (requests, candidates)."""
        one, many = self.pair(user, candidates)
        product = self.users(one).unsqueeze(1) * self.items(many)  # (requests, candidates, dim)
        items = self.mlp_items(many)
        users = self.mlp_users(one).unsqueeze(1).expand(-1, items.shape[1], -1)
        hidden = self.mlp(torch.cat([users, items], dim=2))
        logits: torch.Tensor = self.top(torch.cat([product, hidden], dim=2))
        return logits.squeeze(2)  # (requests, candidates)

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        return self.top.get_parameter("bias")


def build(
    schema: FeatureSchema,
    *,
    dim: Count = 16,
    mlp_dim: Count = 32,
    widths: Widths = (64, 32, 16),
) -> nn.Module:
    """NeuMF with factors of size ``dim``, MLP embeddings of ``mlp_dim`` and hidden ``widths``, at
    least one.
    """
    if not widths:
        raise ValueError("neumf: widths is empty, expected at least one hidden width")
    return NeuMF(schema, dim=dim, mlp_dim=mlp_dim, widths=widths)
