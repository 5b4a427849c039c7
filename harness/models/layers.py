"""Layers that more than one model is made of."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from harness.errors import UnsupportedError
from harness.registry import suggest
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


Groups = Sequence[torch.Tensor]
"""Packed ids, (..., fields) each; a place counts their fields one group after the other."""


class Tables(nn.ModuleList):
    """One embedding table a categorical field, all of one dimension, drawn from N(0, 1/dim).

    A list, not a dict: a user's column may have any name, also that of a module's attribute.
    """

    def __init__(self, fields: Sequence[Field], dim: int) -> None:
        super().__init__(nn.Embedding(field.cardinality, dim) for field in fields)
        for table in self:
            nn.init.normal_(table.get_parameter("weight"), std=dim**-0.5)

    def look_up(self, groups: Groups, places: Sequence[int], *, first: int) -> torch.Tensor:
        """Vectors (..., places, dim) of the ids at some places, from the tables that start at
        ``first``.
        """
        return torch.stack(self._each(groups, places, first), dim=-2)

    def total(self, groups: Groups, places: Sequence[int]) -> torch.Tensor:
        """The sum of the vectors of the ids at some places, (..., dim), from the first tables."""
        one, *others = self._each(groups, places, 0)
        for other in others:
            one = one + other
        return one

    def _each(self, groups: Groups, places: Sequence[int], first: int) -> list[torch.Tensor]:
        columns = [(group, at) for group in groups for at in range(group.shape[-1])]
        ids = [columns[place][0][..., columns[place][1]] for place in places]
        return [self[first + at](column) for at, column in enumerate(ids)]

    def weights(self) -> list[torch.Tensor]:
        """Each field's rows, (rows, dim)."""
        return [table.get_parameter("weight") for table in self]

    def state(self, weights: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state of such tables that hold these rows."""
        return {f"{at}.weight": rows for at, rows in enumerate(weights)}


class FusedTables(nn.Module):
    """The same tables one below the other in one; a field's ids start at its offset. So one
    look-up finds the vectors of many fields.
    """

    def __init__(self, fields: Sequence[Field], dim: int) -> None:
        super().__init__()
        self.sizes = [field.cardinality for field in fields]
        self.rows = nn.Embedding(sum(self.sizes), dim)
        nn.init.normal_(self.rows.weight, std=dim**-0.5)
        self.offsets: torch.Tensor
        starts = torch.tensor([0, *self.sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", starts, persistent=False)

    def keep_places(self, *places: Sequence[int]) -> None:
        """Keep index tensors of places that ids will be taken from, on the module's device: one
        that is made of a list at each call is a copy from the host, which no CUDA graph may have.
        """
        for some in places:
            self.register_buffer(_places(some), torch.tensor(list(some)).long(), persistent=False)

    def look_up(self, groups: Groups, places: Sequence[int], *, first: int) -> torch.Tensor:
        """As of ``Tables``."""
        ids = groups[0] if len(groups) == 1 else torch.cat(list(groups), dim=-1)
        if len(places) < ids.shape[-1]:
            ids = ids.index_select(-1, self.get_buffer(_places(places)))
        vectors: torch.Tensor = self.rows(ids + self.offsets[first : first + len(places)])
        return vectors

    def total(self, groups: Groups, places: Sequence[int]) -> torch.Tensor:
        """As of ``Tables``."""
        return self.look_up(groups, places, first=0).sum(dim=-2)

    def weights(self) -> list[torch.Tensor]:
        """As of ``Tables``."""
        return list(torch.split(self.rows.weight, self.sizes))

    def state(self, weights: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """As of ``Tables``."""
        return {"rows.weight": torch.cat(list(weights))}


def _places(places: Sequence[int]) -> str:
    return "_".join(["places", *map(str, places)])


def tables_of(fields: Sequence[Field], dim: int, *, fused: bool) -> Tables | FusedTables:
    """The tables of some fields, in one where there are any to fuse."""
    return FusedTables(fields, dim) if fused and fields else Tables(fields, dim)


class Request(NamedTuple):
    """Requests as a model takes them; None where the data has no such field."""

    user: torch.Tensor
    candidates: torch.Tensor
    context: torch.Tensor | None = None
    user_values: torch.Tensor | None = None
    candidate_values: torch.Tensor | None = None
    context_values: torch.Tensor | None = None

    @property
    def shared(self) -> list[torch.Tensor]:
        """The ids that all candidates of a request share, (requests, fields) each."""
        return [self.user] if self.context is None else [self.user, self.context]

    @property
    def shared_values(self) -> list[torch.Tensor]:
        """The numbers that they share, (requests, numbers) each."""
        return [v for v in (self.user_values, self.context_values) if v is not None]


def _check_folded(folded: Sequence[str], names: Sequence[str]) -> None:
    unknown = sorted(set(folded) - set(names))
    if unknown:
        raise UnsupportedError(
            f"folded: the data has no categorical field {unknown[0]!r}{suggest(unknown[0], names)}"
        )


class Inputs(nn.Module):
    """Turns a request's groups into vectors per candidate; what request-shaped models share.

    ``fields`` are all categorical fields, the ``shared`` first ones of the user and the context;
    those in ``folded`` have no table here.
    """

    def __init__(
        self, schema: FeatureSchema, dim: int, *, folded: Sequence[str] = (), fused: bool = False
    ) -> None:
        super().__init__()
        self.groups = schema.groups()
        ids = ("user", "context", "candidates")
        self.fields = [field for name in ids for field in self.groups.get(name, ())]
        _check_folded(folded, [field.name for field in self.fields])
        self.kept = [at for at, field in enumerate(self.fields) if field.name not in folded]
        self.tables = tables_of([self.fields[at] for at in self.kept], dim, fused=fused)
        self.shared = sum(len(self.groups.get(name, ())) for name in ("user", "context"))
        if isinstance(self.tables, FusedTables):
            self.tables.keep_places(self._shared_places, self._own_places)
        numbers = ("user_values", "context_values", "candidate_values")
        self.numbers = sum(len(self.groups.get(name, ())) for name in numbers)
        self.shared_numbers = self.numbers - len(self.groups.get("candidate_values", ()))

    def shared_vectors(self, request: Request) -> torch.Tensor:
        """Embeddings of the user's and the context's fields, (requests, fields, dim)."""
        return self.tables.look_up(request.shared, self._shared_places, first=0)

    def own_vectors(self, request: Request) -> torch.Tensor:
        """Embeddings of the candidates' fields, (requests, candidates, fields, dim)."""
        first = len(self._shared_places)
        return self.tables.look_up([request.candidates], self._own_places, first=first)

    @property
    def _shared_places(self) -> list[int]:
        """Places of the fields that have a table, in the ids that candidates share."""
        return [at for at in self.kept if at < self.shared]

    @property
    def _own_places(self) -> list[int]:
        """The same in the candidates' ids."""
        return [at - self.shared for at in self.kept if at >= self.shared]

    def vectors(self, request: Request) -> torch.Tensor:
        """Embeddings of all fields, (requests, candidates, fields, dim); user and context rows are
        looked up once per request and broadcast.
        """
        count = request.candidates.shape[1]
        shared = self.shared_vectors(request).unsqueeze(1).expand(-1, count, -1, -1)
        return torch.cat([shared, self.own_vectors(request)], dim=2)

    def values(self, request: Request) -> torch.Tensor | None:
        """All numbers, (requests, candidates, numbers); None when the data has none."""
        count = request.candidates.shape[1]
        parts = [values.unsqueeze(1).expand(-1, count, -1) for values in request.shared_values]
        if request.candidate_values is not None:
            parts.append(request.candidate_values)
        return torch.cat(parts, dim=2) if parts else None

    def weights(self) -> Mapping[str, torch.Tensor]:
        """The rows of each field that has a table here, by its name."""
        names = [self.fields[at].name for at in self.kept]
        return dict(zip(names, self.tables.weights(), strict=True))

    def state(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state of inputs in this form that hold the rows of ``weights``, by field."""
        rows = [weights[self.fields[at].name] for at in self.kept]
        return {f"tables.{name}": tensor for name, tensor in self.tables.state(rows).items()}
