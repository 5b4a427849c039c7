"""torch -> torch: embedding tables of fewer columns, each multiplied back to its dimension.

A table (rows, dim) becomes (rows, rank) by (rank, dim), the product that is nearest to it: its rows
projected on the directions that hold most of their squared length (a truncated SVD), every row
counted once or as often as training reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.modules import load_module
from harness.params import Count, Names, Share
from harness.stages.base import Context, Outcome, stage
from harness.stages.layer_forms import put_layers, save_layers, sizes
from harness.stages.lookups import left_notes
from harness.stages.low_rank import rank_of
from harness.stages.table_reads import CHUNK, FLOAT, TableReads, find_tables, read_error

if TYPE_CHECKING:
    import torch
    from torch import nn

ENERGY = 0.95
"""Of the squared length that stays, where nothing is asked for."""


@dataclass(frozen=True)
class Reduced:
    """The directions that a table keeps, (dim, rank) float64 with columns of length 1, and their
    share of its (weighted) squared length.
    """

    directions: "torch.Tensor"
    energy: float

    @property
    def rank(self) -> int:
        """Columns that stay."""
        return int(self.directions.shape[1])


@stage(accepts="torch", produces="torch", technique="open_like")
def reduce_tables(
    artifact: Artifact,
    context: Context,
    *,
    energy: Share | None = None,
    rank: Count | None = None,
    weighting: Literal["reads", "rows"] = "reads",
    min_rows: Count = 256,
    fields: Names = (),
) -> Outcome:
    """Keep the columns of each table's SVD that hold the share ``energy`` of its squared length
    (0.95 if neither is given), or ``rank`` of them; ``weighting`` counts a row as often as training
    rows read it, or once.

    A look-up costs a small product more, and the table takes rank / dim of its bytes. ``fields``
    are patterns of fields or of names of layers (none: all). Tables below ``min_rows``, those that
    are read otherwise too (tied to a layer that scores, for example) and those that wouldn't shrink
    stay as they are. Raises ``EffectError`` when none is left, ``UnsupportedError`` when both
    limits are given.
    """
    if energy is not None and rank is not None:
        raise UnsupportedError("reduce_tables: give energy or rank, not both")
    module = load_module(artifact)
    tables, left = find_tables(module, artifact, context, min_rows=min_rows, patterns=fields)
    share = ENERGY if energy is None and rank is None else energy
    context.progress(f"reducing {len(tables)} tables", 0.5)
    chosen = dict[TableReads, Reduced]()
    for table in tables:
        weights = _weights(table, weighting)
        found = reduce_table(_rows(module, table), weights, energy=share, rank=rank)
        if _bytes(table, found.rank) < table.bytes:
            chosen[table] = found
        else:
            left[table.table] = f"rank {found.rank} of {table.dim} wouldn't shrink it"
    if not chosen:
        raise EffectError(f"reduce_tables had no effect; {left_notes(left)[0]}")
    errors = [_replace(module, table, found) for table, found in chosen.items()]
    layers = {t.table: ("low_rank_table", {"rank": each.rank}) for t, each in chosen.items()}
    made = save_layers(module, layers, artifact, context)
    effects = (
        *sizes(artifact, made),
        *_effects(chosen, energy=share, rank=rank, error=_share_of(errors)),
        Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes"),
    )
    return Outcome(made, effects, left_notes(left))


def _weights(table: TableReads, weighting: Literal["reads", "rows"]) -> np.ndarray:
    """What each row counts, (rows,); each once where training reads none."""
    return table.reads if weighting == "reads" and table.reads.any() else np.ones(table.rows)


def _rows(module: "nn.Module", table: TableReads) -> "torch.Tensor":
    return module.get_parameter(f"{table.table}.weight").detach()


def _bytes(table: TableReads, rank: int) -> int:
    return rank * (table.rows + table.dim) * FLOAT


def reduce_table(
    rows: "torch.Tensor", weights: np.ndarray, *, energy: float | None, rank: int | None
) -> Reduced:
    """The directions to keep of ``rows`` (rows, dim), each counted ``weights`` (rows,) times: the
    fewest that have the share ``energy``, or ``rank`` of them (all where there are fewer).
    """
    import torch

    moments = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for first in range(0, len(rows), CHUNK):
        part = rows[first : first + CHUNK].double()
        weight = torch.from_numpy(weights[first : first + CHUNK]).double()
        moments += (part * weight.unsqueeze(1)).T @ part
    squares, directions = torch.linalg.eigh(moments)  # ascending
    squares, directions = squares.flip(0).clamp(min=0), directions.flip(1)
    kept = rank_of(squares.numpy(), energy=energy, rank=rank)
    total = float(squares.sum())
    return Reduced(directions[:, :kept], float(squares[:kept].sum()) / total if total else 1.0)


def _replace(module: "nn.Module", table: TableReads, reduced: Reduced) -> tuple[float, float]:
    """Put the reduced table in its place; gives ``read_error`` by traffic."""
    import torch

    before = _rows(module, table)
    put_layers(module, {table.table: ("low_rank_table", {"rank": reduced.rank})})
    layer = module.get_submodule(table.table)
    with torch.no_grad():
        rows = layer.get_parameter("rows.weight")
        for first in range(0, len(before), CHUNK):
            part = before[first : first + CHUNK].double()
            rows[first : first + CHUNK] = part @ reduced.directions
        layer.get_parameter("up.weight").copy_(reduced.directions)
    return read_error(layer, before, _weights(table, "reads"))


def _share_of(errors: list[tuple[float, float]]) -> float:
    """The root of all squared errors over all squared lengths."""
    error, length = (sum(side) for side in zip(*errors, strict=True))
    return float(np.sqrt(error / length)) if length else 0.0


def _effects(
    chosen: Mapping[TableReads, Reduced], *, energy: float | None, rank: int | None, error: float
) -> tuple[Effect, ...]:
    asked = None if rank is None else sum(_bytes(t, min(rank, t.dim)) for t in chosen)
    return (
        Effect(
            "table_bytes",
            sum(t.bytes for t in chosen),
            sum(_bytes(t, each.rank) for t, each in chosen.items()),
            asked=asked,
            unit="bytes",
        ),
        Effect(
            "energy",
            1.0,
            min(each.energy for each in chosen.values()),
            asked=energy,
            unit="share of the squared length, the least of any table",
        ),
        *(
            Effect(f"rank:{t.table}", t.dim, each.rank, asked=rank, unit="columns")
            for t, each in chosen.items()
        ),
        Effect("read_error", 0.0, error, unit="share of the rows' length, by training reads"),
    )
