"""Bags of embeddings as look-ups and reductions, for exporters that would make a loop over bags.

An ``nn.EmbeddingBag`` in an ONNX file is a Loop, hundreds of times slower than a Gather of all ids
and one reduction, and not every engine takes it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from harness.errors import UnsupportedError

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class PaddedBag(nn.Module):
    """What an ``nn.EmbeddingBag`` gives, its weight shared; a bag without ids, or of padding alone,
    is a vector of zeros.
    """

    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.weight = bag.weight
        self.mode, self.padding = bag.mode, bag.padding_idx
        self.last_offset = bag.include_last_offset

    def forward(
        self,
        input: torch.Tensor,  # noqa: A002 (called by that name, as the bag is)
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(bags, dim) of ids (bags, length), or of ids (ids,) whose bags start at ``offsets``."""
        rows = F.embedding(input, self.weight)  # (bags, length, dim) or (ids, dim)
        if per_sample_weights is not None:
            rows = rows * per_sample_weights.unsqueeze(-1)
        told = torch.ones_like(input) if self.padding is None else input != self.padding
        told = told.to(rows.dtype).unsqueeze(-1)
        if offsets is None:
            return self._reduced(rows, told)
        bags = offsets.shape[0] - int(self.last_offset)
        return self._scattered(rows, told, _bag_of(offsets, input.shape[0]), bags)

    def _reduced(self, rows: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        count = told.sum(1)  # (bags, 1)
        if self.mode == "max":
            best = rows.masked_fill(told == 0, -torch.inf).amax(1)
            return torch.where(count > 0, best, torch.zeros_like(best))
        total = (rows * told).sum(1)
        return total / count.clamp(min=1) if self.mode == "mean" else total

    def _scattered(
        self, rows: torch.Tensor, told: torch.Tensor, at: torch.Tensor, bags: int
    ) -> torch.Tensor:
        places = at.unsqueeze(1)  # (ids, 1)
        zeros = rows.new_zeros(bags, rows.shape[1])
        count = rows.new_zeros(bags, 1).scatter_add(0, places, told)
        places = places.expand_as(rows)
        if self.mode == "max":
            masked = rows.masked_fill(told == 0, -torch.inf)
            best = (zeros - torch.inf).scatter_reduce(0, places, masked, "amax")
            return torch.where(count > 0, best, zeros)
        total = zeros.scatter_add(0, places, rows * told)
        return total / count.clamp(min=1) if self.mode == "mean" else total


def _bag_of(offsets: torch.Tensor, ids: int) -> torch.Tensor:
    """The bag of each id, (ids,): as many bags as start at it or before, less one."""
    starts = torch.zeros(ids + 1, dtype=torch.int64)
    return starts.scatter_add(0, offsets, torch.ones_like(offsets)).cumsum(0)[:ids] - 1


@contextmanager
def padded_bags(module: nn.Module, *, model: str) -> Iterator[None]:
    """The module with a ``PaddedBag`` in the place of each bag, as long as this is open.

    Raises ``UnsupportedError`` for a bag with ``max_norm``, which changes its weight when it looks
    up.
    """
    bags = {name: part for name, part in module.named_modules() if type(part) is nn.EmbeddingBag}
    bounded = [name for name, bag in bags.items() if bag.max_norm is not None]
    if bounded:
        raise UnsupportedError(
            f"model {model!r}: {', '.join(bounded)}: an EmbeddingBag with max_norm can't be "
            "exported; scale the table's rows once and leave max_norm out"
        )
    try:
        for name, bag in bags.items():
            module.set_submodule(name, PaddedBag(bag).train(bag.training))
        yield
    finally:
        for name, bag in bags.items():
            module.set_submodule(name, bag)


def refuse_loops(program: "ExportedProgram | None", *, model: str) -> None:
    """Raise ``UnsupportedError`` when an exported program still has a bag, which gets a loop."""
    nodes = () if program is None else program.graph.nodes
    if any("embedding_bag" in str(node.target) for node in nodes):
        raise UnsupportedError(
            f"model {model!r} calls torch.nn.functional.embedding_bag, or a class of its own after "
            "nn.EmbeddingBag, which would be a loop over bags in the ONNX file; use nn.EmbeddingBag"
        )
