"""DLRM: embeddings, bottom MLP, dot interaction, top MLP (Naumov et al. 2019, arXiv:1906.00091)."""

from collections.abc import Sequence

import torch
from torch import nn

from harness.errors import UnsupportedError
from harness.models.in_parts import InParts, Part, split_state, whole_of
from harness.models.layers import Request, perceptron
from harness.models.pointwise import Pointwise
from harness.params import Count, Flag, Widths
from harness.schema import FeatureSchema


class DLRM(Pointwise):
    """Request-shaped DLRM; every field and the bottom MLP's output meet in pairwise dots.

    In parts, ``first`` stands for the first layer of ``top``, and the dots among vectors that all
    candidates share are worked out once a request. The bottom MLP's output is one of them where
    only the user and the context have numbers.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        dim: int,
        bottom: Widths,
        top: Widths,
        shared: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__(schema, dim, fused=fused)
        numbers = self.inputs.numbers
        self.bottom = perceptron((numbers, *bottom, dim), end=False) if numbers else nn.Identity()
        fields = len(self.inputs.fields) + bool(numbers)
        pairs = torch.tril_indices(fields, fields, offset=-1)
        self.pairs: torch.Tensor
        self.register_buffer("pairs", pairs[0] * fields + pairs[1], persistent=False)
        self.columns = len(pairs[0]) + (dim if numbers else 0)
        self.top = perceptron((self.columns, *top, 1), end=True)
        self.first: InParts | None = None
        if shared:
            self.first = self._split(dim, hidden=(*top, 1)[0])
            self.top[0] = nn.Identity()

    def _split(self, dim: int, *, hidden: int) -> InParts:
        """The first layer in parts; vectors are numbered as in ``score``."""
        inputs, bottom = self.inputs, range(bool(self.inputs.numbers))
        once = bool(inputs.shared_numbers) and inputs.shared_numbers == inputs.numbers
        fields = range(len(bottom), len(bottom) + len(inputs.fields))
        shared = [*(bottom if once else ()), *fields[: inputs.shared]]
        own = [*(() if once else bottom), *fields[inputs.shared :]]
        for name, places in (("shared_pairs", shared), ("own_pairs", own)):
            rows, columns = torch.tril_indices(len(places), len(places), offset=-1)
            self.register_buffer(name, rows * len(places) + columns, persistent=False)
        width = dim * len(bottom)
        values = list(range(width))
        across = [width + _pair(one, other) for one in own for other in shared]
        request = [*(values if once else ()), *_pairs(shared, width)]
        candidates = [*(() if once else values), *across, *_pairs(own, width)]
        part = Part(request, hidden, bias=True) if request else None
        return InParts(part, Part(candidates, hidden, bias=part is None))

    def logits(self, request: Request) -> torch.Tensor:
        """Logits (requests, candidates)."""
        if self.first is None:
            return super().logits(request)
        logits: torch.Tensor = self.top(self._in_parts(self.first, request))
        return logits.squeeze(2)

    def _in_parts(self, first: InParts, request: Request) -> torch.Tensor:
        shared, own = self.inputs.shared_vectors(request), self.inputs.own_vectors(request)
        once, each = list[torch.Tensor](), list[torch.Tensor]()
        if request.candidate_values is not None:
            each.append(self.bottom(self.inputs.values(request)))  # (requests, candidates, dim)
            own = torch.cat([each[0].unsqueeze(2), own], dim=2)
        elif request.shared_values:
            once.append(self.bottom(torch.cat(request.shared_values, dim=1)))  # (requests, dim)
            shared = torch.cat([once[0].unsqueeze(1), shared], dim=1)
        across = own.flatten(1, 2) @ shared.transpose(1, 2)  # (requests, candidates * own, shared)
        each.append(across.reshape(*own.shape[:2], -1))
        if own.shape[2] > 1:
            dots = (own @ own.transpose(2, 3)).flatten(2)
            each.append(dots.index_select(2, self.get_buffer("own_pairs")))
        if shared.shape[1] > 1:
            dots = (shared @ shared.transpose(1, 2)).flatten(1)
            once.append(dots.index_select(1, self.get_buffer("shared_pairs")))
        parts = first.request(once, ()) if first.request else None, first.own(each, ())
        summed: torch.Tensor = first(*parts)
        return summed  # (requests, candidates, hidden)

    def score(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates)."""
        bottom = None
        if values is not None:
            bottom = self.bottom(values)  # (requests, candidates, dim)
            vectors = torch.cat([bottom.unsqueeze(2), vectors], dim=2)
        dots = vectors @ vectors.transpose(2, 3)  # (requests, candidates, fields, fields)
        pairs = dots.flatten(2)[:, :, self.pairs]  # (requests, candidates, pairs)
        features = pairs if bottom is None else torch.cat([bottom, pairs], dim=2)
        logits: torch.Tensor = self.top(features)
        return logits.squeeze(2)  # (requests, candidates)

    def state_from(self, other: Pointwise) -> dict[str, torch.Tensor]:
        """As of ``Pointwise``; the first layer is split as this form asks."""
        state = super().state_from(other)
        if self.first is None:
            return state
        whole = whole_of(other, columns=self.columns)
        return split_state(self.first, whole, state, tables={}, starts={})

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        if self.first is not None and len(self.top) == 1:
            return self.first.bias
        return self.top[-1].get_parameter("bias")


def _pair(one: int, other: int) -> int:
    """The place of a pair of vectors among the dots below the diagonal, row by row."""
    high, low = max(one, other), min(one, other)
    return high * (high - 1) // 2 + low


def _pairs(places: Sequence[int], start: int) -> list[int]:
    return [start + _pair(one, other) for at, one in enumerate(places) for other in places[:at]]


def build(
    schema: FeatureSchema,
    *,
    dim: Count = 32,
    bottom: Widths = (256,),
    top: Widths = (1024, 640, 256),
    shared: Flag = False,
    fused: Flag = False,
) -> nn.Module:
    """DLRM with embeddings of size ``dim``; ``bottom`` and ``top`` are hidden widths.

    How it is worked out: with ``shared`` what candidates share goes through the interaction and the
    first layer of the top once a request; with ``fused`` all tables are one. Raises
    ``UnsupportedError`` when the data has no categorical item field.
    """
    if not schema.group("candidates") or not schema.group("user"):
        raise UnsupportedError("dlrm needs at least one categorical user and one item field")
    return DLRM(schema, dim=dim, bottom=bottom, top=top, shared=shared, fused=fused)
