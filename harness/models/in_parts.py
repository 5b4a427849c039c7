"""A tower's first Linear as a sum: what a request's candidates share, and what each one adds.

The shared part is worked out once per request. A field that nothing but this layer reads can have
its table multiplied through, once for all: then it has rows of the hidden width, which are added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from harness.errors import UnsupportedError
from harness.models.layers import FusedTables, Groups, Inputs, Request, tables_of
from harness.schema import Field


@dataclass(frozen=True, slots=True)
class Whole:
    """The Linear of which a layer in parts is a split: ``weight`` (hidden, columns), 0 where fields
    were folded; ``bias`` (hidden,), 0 where it went into a folded table; and those tables' rows,
    (rows, hidden), by field.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    folded: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def fold(self, rows: torch.Tensor, start: int) -> torch.Tensor:
        """A field's vectors (rows, dim) times its columns, which begin at ``start``; (rows, hidden)
        float32, summed in double precision.
        """
        columns = self.weight[:, start : start + rows.shape[1]]
        return (rows.double() @ columns.double().T).float()


class Part(nn.Module):
    """One side's share of the sum: a Linear over some ``columns`` of the whole, None where there
    are none, and the rows of ``folded`` fields, given with their places in the side's ids.
    """

    def __init__(
        self,
        columns: Sequence[int],
        hidden: int,
        *,
        bias: bool,
        folded: Mapping[int, Field] | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        fields = folded or {}
        self.columns, self.places = list(columns), list(fields)
        self.names = [one.name for one in fields.values()]
        self.linear = nn.Linear(len(columns), hidden, bias=bias) if columns else None
        self.tables = tables_of(list(fields.values()), hidden, fused=fused)
        if isinstance(self.tables, FusedTables):
            self.tables.keep_places(self.places)

    def forward(self, features: Sequence[torch.Tensor], groups: Groups) -> torch.Tensor:
        """The share (..., hidden) of features that end to end have the part's columns."""
        if self.linear is None:
            return self.tables.total(groups, self.places)
        whole = features[0] if len(features) == 1 else torch.cat(list(features), dim=-1)
        share: torch.Tensor = self.linear(whole)
        return share + self.tables.total(groups, self.places) if self.places else share


class InParts(nn.Module):
    """The sum of a request's part, None where candidates share nothing, and of the candidates'."""

    def __init__(self, request: Part | None, own: Part) -> None:
        super().__init__()
        self.request, self.own = request, own

    def forward(self, shared: torch.Tensor | None, own: torch.Tensor) -> torch.Tensor:
        """Hidden features (requests, candidates, hidden) from the parts' shares."""
        return own if shared is None else shared.unsqueeze(1) + own

    def of_inputs(self, inputs: Inputs, request: Request) -> torch.Tensor:
        """Hidden features (requests, candidates, hidden) of the requests' embeddings and numbers;
        of a layer that ``split_inputs`` made.
        """
        assert self.request is not None
        shared, own = list(request.shared_values), list[torch.Tensor]()
        if any(at < inputs.shared for at in inputs.kept):
            shared.insert(0, inputs.shared_vectors(request).flatten(1))
        if any(at >= inputs.shared for at in inputs.kept):
            own.append(inputs.own_vectors(request).flatten(2))
        if request.candidate_values is not None:
            own.append(request.candidate_values)
        once = self.request(shared, request.shared)
        hidden: torch.Tensor = self(once, self.own(own, [request.candidates]))
        return hidden

    @property
    def bias(self) -> torch.Tensor:
        """The bias of the sum, (hidden,), which one Linear of it has."""
        return next(p.linear.bias for p in self._parts() if p.linear is not None)

    def _parts(self) -> list[Part]:
        return [part for part in (self.request, self.own) if part is not None]

    def whole(self, columns: int) -> Whole:
        """The Linear over all ``columns`` of which this is a split."""
        linears = [(part, part.linear) for part in self._parts() if part.linear is not None]
        folded = {
            name: rows.detach()
            for part in self._parts()
            for name, rows in zip(part.names, part.tables.weights(), strict=True)
        }
        hidden = len(linears[0][1].weight) if linears else next(iter(folded.values())).shape[1]
        weight, bias = torch.zeros(hidden, columns), torch.zeros(hidden)
        for part, linear in linears:
            weight[:, part.columns] = linear.weight.detach()
            bias = bias if linear.bias is None else linear.bias.detach()
        return Whole(weight, bias, folded)

    def state(self, whole: Whole) -> dict[str, torch.Tensor]:
        """The state that makes this a split of ``whole``, whose folded fields are those of here."""
        bias, state = whole.bias, dict[str, torch.Tensor]()
        for name, part in (("request", self.request), ("own", self.own)):
            if part is None:
                continue
            if part.linear is not None:
                state[f"{name}.linear.weight"] = whole.weight[:, part.columns]
                if part.linear.bias is not None:
                    state[f"{name}.linear.bias"] = bias
            rows = [whole.folded[one] for one in part.names]
            if rows and all(other.linear is None for other in self._parts()):
                rows[0] = rows[0] + bias  # no Linear is left that could add it
                bias = torch.zeros_like(bias)
            tables = part.tables.state(rows) if rows else {}
            state |= {f"{name}.tables.{key}": tensor for key, tensor in tables.items()}
        return state


def hidden_width(widths: Sequence[int], *, folded: Sequence[str], model: str) -> int:
    """The width of a tower's first layer; raises ``UnsupportedError`` when tables are folded into
    one that gives the score: nothing would be left that has a bias.
    """
    if folded and not widths:
        raise UnsupportedError(
            f"{model}: folded needs a hidden layer, and widths is empty; leave folded out"
        )
    return widths[0] if widths else 1


def split_inputs(inputs: Inputs, dim: int, hidden: int, *, fused: bool) -> InParts:
    """The first layer over all embeddings and then all numbers, in parts; the fields that
    ``inputs`` has no table of are folded.
    """
    fields, shared = inputs.fields, inputs.shared
    numbers = [len(fields) * dim, len(fields) * dim + inputs.shared_numbers]
    spans = (
        (range(shared), range(*numbers)),
        (range(shared, len(fields)), range(numbers[1], len(fields) * dim + inputs.numbers)),
    )
    parts, bias = list[Part](), True
    for places, values in spans:
        vectors = [at * dim + one for at in places if at in inputs.kept for one in range(dim)]
        folded = {at - places[0]: fields[at] for at in places if at not in inputs.kept}
        columns = [*vectors, *values]
        parts.append(Part(columns, hidden, bias=bias, folded=folded, fused=fused))
        bias = bias and not columns
    return InParts(*parts)


def whole_of(model: nn.Module, *, columns: int) -> Whole:
    """The whole first layer of a model's ``top``, whichever form it is in."""
    if isinstance(model.first, InParts):
        return model.first.whole(columns)
    layer = model.get_submodule("top.0")
    weight, bias = (layer.get_parameter(name).detach() for name in ("weight", "bias"))
    return Whole(weight, bias)


def split_state(
    layer: InParts,
    before: Whole,
    state: Mapping[str, torch.Tensor],
    *,
    tables: Mapping[str, torch.Tensor],
    starts: Mapping[str, int],
) -> dict[str, torch.Tensor]:
    """A model's ``state`` with its ``first`` layer in parts: it does what ``before`` does with the
    fields' ``tables`` (rows, dim), whose columns begin at ``starts``.
    """
    names = [name for part in (layer.request, layer.own) if part for name in part.names]
    folded = dict(before.folded)
    for name in names:
        if name not in folded:
            folded[name] = before.fold(tables[name], starts[name])
    rest = {n: t for n, t in state.items() if not n.startswith(("first.", "top.0."))}
    parts = layer.state(Whole(before.weight, before.bias, folded))
    return {**rest, **{f"first.{name}": tensor for name, tensor in parts.items()}}
