"""A user's id and an item's id, and nothing else: what collaborative models look at."""

import torch
from torch import nn

from harness.errors import UnsupportedError
from harness.schema import FeatureSchema, Field


class Pair(nn.Module):
    """Picks the two ids out of a request's packed fields."""

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        self.user, self.user_at = _place(schema, "user", schema.user)
        self.item, self.item_at = _place(schema, "candidates", schema.item)

    def forward(
        self, user: torch.Tensor, candidates: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of the users (requests,) and of the items (requests, candidates)."""
        return user[:, self.user_at], candidates[:, :, self.item_at]


def _place(schema: FeatureSchema, group: str, name: str) -> tuple[Field, int]:
    names = [field.name for field in schema.group(group)]
    if name not in names:
        raise UnsupportedError(f"the data has no categorical {name!r}, which this model needs")
    return schema.field(name), names.index(name)


def table(field: Field, dim: int) -> nn.Embedding:
    """An embedding table of a field, drawn from N(0, 1/dim)."""
    embedding = nn.Embedding(field.cardinality, dim)
    nn.init.normal_(embedding.weight, std=dim**-0.5)
    return embedding
