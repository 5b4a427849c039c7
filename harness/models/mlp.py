"""Embeddings of all fields beside the numbers, through one MLP (the DNN of CTR tables)."""

import torch
from torch import nn

from harness.models.in_parts import InParts, hidden_width, split_inputs, split_state, whole_of
from harness.models.layers import Request, perceptron
from harness.models.pointwise import Pointwise, joined
from harness.params import Count, Flag, Names, Widths
from harness.schema import FeatureSchema


class EmbeddingMLP(Pointwise):
    """Request-shaped embedding MLP. In parts, ``first`` stands for the first layer of ``top``."""

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        dim: int,
        widths: Widths,
        shared: bool = False,
        folded: Names = (),
        fused: bool = False,
    ) -> None:
        super().__init__(schema, dim, folded=folded, fused=fused)
        self.columns = len(self.inputs.fields) * dim + self.inputs.numbers
        self.top = perceptron((self.columns, *widths, 1), end=True)
        self.starts = {field.name: at * dim for at, field in enumerate(self.inputs.fields)}
        self.first: InParts | None = None
        if shared or folded:
            hidden = hidden_width(widths, folded=folded, model="mlp")
            self.first = split_inputs(self.inputs, dim, hidden, fused=fused)
            self.top[0] = nn.Identity()

    def logits(self, request: Request) -> torch.Tensor:
        """Logits (requests, candidates)."""
        if self.first is None:
            return super().logits(request)
        logits: torch.Tensor = self.top(self.first.of_inputs(self.inputs, request))
        return logits.squeeze(2)  # (requests, candidates)

    def score(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates)."""
        logits: torch.Tensor = self.top(joined(vectors, values))
        return logits.squeeze(2)  # (requests, candidates)

    def state_from(self, other: Pointwise) -> dict[str, torch.Tensor]:
        """As of ``Pointwise``; the first layer is split as this form asks."""
        state = super().state_from(other)
        if self.first is None:
            return state
        whole = whole_of(other, columns=self.columns)
        return split_state(self.first, whole, state, tables=other.tables(), starts=self.starts)

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        if self.first is not None and len(self.top) == 1:
            return self.first.bias
        return self.top[-1].get_parameter("bias")


def build(
    schema: FeatureSchema,
    *,
    dim: Count = 16,
    widths: Widths = (512, 256),
    shared: Flag = False,
    folded: Names = (),
    fused: Flag = False,
) -> nn.Module:
    """Embedding MLP with embeddings of size ``dim`` and hidden layers of ``widths``.

    How it is worked out: with ``shared`` what candidates share goes through the first layer once a
    request; fields in ``folded`` (which implies it) have tables of the first layer's width, added
    to it; with ``fused`` all other tables are one. Raises ``UnsupportedError`` for an unknown field
    or ``folded`` without a hidden layer.
    """
    return EmbeddingMLP(schema, dim=dim, widths=widths, shared=shared, folded=folded, fused=fused)
