"""DCN-V2: cross layers with a full or a low-rank matrix beside an MLP (Wang et al. 2021,
arXiv:2008.13535).
"""

import torch
from torch import nn

from harness.models.layers import perceptron
from harness.models.pointwise import Pointwise, joined
from harness.params import Count, Flag, Widths
from harness.schema import FeatureSchema


def cross_layer(width: int, rank: int | None) -> nn.Module:
    """The map of one cross layer, ``width`` to ``width``; through ``rank`` where that is given."""
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))


class DCNv2(Pointwise):
    """Parallel DCN-V2: the cross network's and the MLP's last features meet in one Linear."""

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        dim: int,
        layers: int,
        rank: int | None,
        widths: Widths,
        fused: bool = False,
    ) -> None:
        super().__init__(schema, dim, fused=fused)
        width = len(self.inputs.fields) * dim + self.inputs.numbers
        self.cross = nn.ModuleList(cross_layer(width, rank) for _ in range(layers))
        self.deep = perceptron((width, *widths), end=False)
        self.top = nn.Linear(width + widths[-1], 1)

    def score(self, vectors: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
        """Logits (requests, candidates)."""
        first = joined(vectors, values)  # (requests, candidates, width)
        crossed = first
        for layer in self.cross:
            crossed = first * layer(crossed) + crossed
        logits: torch.Tensor = self.top(torch.cat([crossed, self.deep(first)], dim=2))
        return logits.squeeze(2)  # (requests, candidates)

    @property
    def output_bias(self) -> torch.Tensor:
        """What every score starts from, (1,)."""
        return self.top.get_parameter("bias")


def build(
    schema: FeatureSchema,
    *,
    dim: Count = 16,
    layers: Count = 3,
    rank: Count | None = None,
    widths: Widths = (400, 400),
    fused: Flag = False,
) -> nn.Module:
    """DCN-V2 with embeddings of size ``dim``, ``layers`` cross layers (of ``rank``, or full) and
    an MLP of ``widths``, at least one; with ``fused`` all tables are one.
    """
    if not widths:
        raise ValueError("dcn_v2: widths is empty, expected at least one hidden width")
    return DCNv2(schema, dim=dim, layers=layers, rank=rank, widths=widths, fused=fused)
