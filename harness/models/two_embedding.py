"""The two-embedding network: a user's and an item's vector side by side through an MLP.

A request of k candidates gives k scores at once, so the form with one output a pair and the one
with many are the same network.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from harness.errors import UnsupportedError
from harness.models.in_parts import InParts, Part, hidden_width, split_state, whole_of
from harness.models.layers import perceptron
from harness.models.pair import Pair, table
from harness.params import Count, Flag, Names, Positive, Widths
from harness.registry import suggest
from harness.schema import FeatureSchema


class TwoEmbedding(nn.Module):
    """Request-shaped: the user's vector is looked up once and meets each candidate's. In parts,
    ``first`` stands for the first layer of ``top``; it has the tables of folded fields.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        dim: int,
        widths: Widths,
        spread: float,
        shared: bool = False,
        folded: Names = (),
    ) -> None:
        super().__init__()
        self.pair = Pair(schema)
        self.names = {"users": self.pair.user.name, "items": self.pair.item.name}
        _check_folded(folded, list(self.names.values()))
        self.users, self.items = table(self.pair.user, dim), table(self.pair.item, dim)
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=spread)
        self.dim = dim
        self.top = perceptron((2 * dim, *widths, 1), end=True)
        self.first: InParts | None = None
        if shared or folded:
            hidden = hidden_width(widths, folded=folded, model="two_embedding")
            self.first = self._split(hidden, folded)
            self.top[0] = nn.Identity()

    def _split(self, hidden: int, folded: Names) -> InParts:
        parts, bias = list[Part](), True
        pair = self.pair
        for at, (field, place) in enumerate(((pair.user, pair.user_at), (pair.item, pair.item_at))):
            gone = field.name in folded
            columns = [] if gone else range(at * self.dim, (at + 1) * self.dim)
            parts.append(Part(columns, hidden, bias=bias, folded={place: field} if gone else {}))
            bias = bias and gone
        for name, field_name in self.names.items():
            if field_name in folded:
                delattr(self, name)
        return InParts(*parts)

    def forward(self, user: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Scores (requests, candidates)."""
        if self.first is not None:
            parts: torch.Tensor = self.top(self._in_parts(self.first, user, candidates))
            return parts.squeeze(2)
        one, many = self.pair(user, candidates)
        items = self.items(many)  # (requests, candidates, dim)
        users = self.users(one).unsqueeze(1).expand(-1, items.shape[1], -1)
        scores: torch.Tensor = self.top(torch.cat([users, items], dim=2))
        return scores.squeeze(2)  # (requests, candidates)

    def _in_parts(
        self, first: InParts, user: torch.Tensor, candidates: torch.Tensor
    ) -> torch.Tensor:
        assert first.request is not None
        one, many = self.pair(user, candidates)
        users = [self.users(one)] if first.request.linear else []
        items = [self.items(many)] if first.own.linear else []
        hidden: torch.Tensor = first(first.request(users, [user]), first.own(items, [candidates]))
        return hidden  # (requests, candidates, hidden)

    def tables(self) -> Mapping[str, torch.Tensor]:
        """The rows (rows, dim) of each field that isn't folded, by its name."""
        held = {name: field for name, field in self.names.items() if hasattr(self, name)}
        return {field: self.get_parameter(f"{name}.weight") for name, field in held.items()}

    def state_from(self, other: "TwoEmbedding") -> dict[str, torch.Tensor]:
        """The state with which this form of the model scores as another form of it does."""
        state = other.state_dict()
        if self.first is None:
            return state
        starts = {field: at * self.dim for at, field in enumerate(self.names.values())}
        whole = whole_of(other, columns=2 * self.dim)
        split = split_state(self.first, whole, state, tables=other.tables(), starts=starts)
        gone = {f"{name}.weight" for name in self.names if not hasattr(self, name)}
        return {name: tensor for name, tensor in split.items() if name not in gone}

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        if self.first is not None and len(self.top) == 1:
            return self.first.bias
        return self.top[-1].get_parameter("bias")


def _check_folded(folded: Names, names: Sequence[str]) -> None:
    for name in folded:
        if name not in names:
            raise UnsupportedError(
                f"two_embedding: folded: it has no table of {name!r}{suggest(name, names)}"
            )


def build(
    schema: FeatureSchema,
    *,
    dim: Count = 64,
    widths: Widths = (256, 128),
    spread: Positive = 0.03,
    shared: Flag = False,
    folded: Names = (),
) -> nn.Module:
    """Two embeddings of size ``dim``, drawn from N(0, spread^2), and an MLP with hidden layers of
    ``widths``. A small spread leaves little to unlearn for what is seldom seen in training.

    How it is worked out: with ``shared`` the user goes through the first layer once a request; a
    field in ``folded`` (which implies it) has a table of the first layer's width, added to it.
    Raises ``UnsupportedError`` for an unknown field or ``folded`` without a hidden layer.
    """
    return TwoEmbedding(schema, dim=dim, widths=widths, spread=spread, shared=shared, folded=folded)
