"""Layers that more than one model is made of."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

from harness.schema import FeatureSchema, Field


def perceptron(widths: Sequence[int], *, end: bool) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them; with ``end`` the last one has no
    ReLU (it gives logits).
    """
    layers: list[nn.Module] = []
    for at, (before, after) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(before, after))
        if not (end and at == len(widths) - 2):
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Tables(nn.ModuleList):
    """One embedding table a categorical field, all of one dimension, drawn from N(0, 1/dim).

    A list, not a dict: a user's column may have any name, also that of a module's attribute.
    """

    def __init__(self, fields: Sequence[Field], dim: int) -> None:
        super().__init__(nn.Embedding(field.cardinality, dim) for field in fields)
        for table in self:
            nn.init.normal_(table.get_parameter("weight"), std=dim**-0.5)

    def look_up(self, ids: torch.Tensor, *, first: int) -> list[torch.Tensor]:
        """One vector a field, (..., dim) each, from ``ids`` (..., fields) of the tables that start
        at ``first``.
        """
        return [self[first + at](ids[..., at]) for at in range(ids.shape[-1])]


class Inputs(nn.Module):
    """Turns a request's groups into vectors per candidate; what request-shaped models share."""

    def __init__(self, schema: FeatureSchema, dim: int) -> None:
        super().__init__()
        self.groups = schema.groups()
        ids = ("user", "context", "candidates")
        self.fields = [field for name in ids for field in self.groups.get(name, ())]
        self.tables = Tables(self.fields, dim)
        self.context = len(self.groups.get("user", ()))
        self.candidates = self.context + len(self.groups.get("context", ()))
        numbers = ("user_values", "context_values", "candidate_values")
        self.numbers = sum(len(self.groups.get(name, ())) for name in numbers)

    def vectors(
        self, user: torch.Tensor, candidates: torch.Tensor, context: torch.Tensor | None
    ) -> torch.Tensor:
        """Embeddings of all fields, (requests, candidates, fields, dim); user and context rows are
        looked up once per request and broadcast.
        """
        count = candidates.shape[1]
        once = self.tables.look_up(user, first=0)
        if context is not None:
            once += self.tables.look_up(context, first=self.context)
        shared = torch.stack(once, dim=1)  # (requests, shared fields, dim)
        shared = shared.unsqueeze(1).expand(-1, count, -1, -1)
        own = torch.stack(self.tables.look_up(candidates, first=self.candidates), dim=2)
        return torch.cat([shared, own], dim=2)  # (requests, candidates, fields, dim)

    def values(
        self, candidates: torch.Tensor, groups: Mapping[str, torch.Tensor | None]
    ) -> torch.Tensor | None:
        """All numbers, (requests, candidates, numbers); None when the data has none."""
        count = candidates.shape[1]
        parts = [
            values if name == "candidate_values" else values.unsqueeze(1).expand(-1, count, -1)
            for name, values in groups.items()
            if values is not None
        ]
        return torch.cat(parts, dim=2) if parts else None
