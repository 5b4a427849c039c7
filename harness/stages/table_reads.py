"""The embedding tables of a torch module: which may change, and how often training reads a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from harness.artifact import Artifact
from harness.errors import EffectError
from harness.stages.base import Context
from harness.stages.graphs import Feeds
from harness.stages.layer_forms import replaceable
from harness.stages.lookups import (
    Reader,
    chosen_by,
    count_ids,
    fields_moving,
    id_batches,
    left_notes,
    unknown_feeds,
)

FLOAT = 4
"""Bytes of a number."""
CHUNK = 65_536
"""Rows of a table worked on at a time."""


class _AllRead(Exception):
    """Every table was looked up; what the model does with the vectors isn't needed."""


@dataclass(frozen=True, eq=False)
class TableReads:
    """A table and its traffic: ``reads`` (rows,) by training rows, int64, and the rows that unknown
    ids read, ``unknown``, sorted.
    """

    table: str
    rows: int
    dim: int
    reads: np.ndarray
    unknown: np.ndarray

    @property
    def bytes(self) -> int:
        """Bytes of the table in fp32."""
        return self.rows * self.dim * FLOAT


@dataclass(frozen=True, slots=True)
class _Named:
    table: str


def find_tables(
    module: nn.Module,
    artifact: Artifact,
    context: Context,
    *,
    min_rows: int,
    patterns: Sequence[str],
) -> tuple[list[TableReads], dict[str, str]]:
    """The tables to change, of those whose name or field ``patterns`` match (all without any), and
    why the others stay, by name. Raises ``EffectError`` when none is left and for a pattern that
    matches none of those that may change.
    """
    names, left = replaceable(module, (nn.Embedding, nn.EmbeddingBag), artifact, context)
    size = {name: _size(module, name) for name in names}
    left |= {name: f"{size[name][0]} rows" for name in names if size[name][0] < min_rows}
    names = [name for name in names if name not in left]
    owners, read = _reader(module, names, artifact, context) if names else ([], _nothing)
    if names and patterns:
        fields = fields_moving(read, owners, artifact, context.data)
        chosen = {each.table for each in chosen_by([_Named(n) for n in names], fields, patterns)}
        left |= {name: "not asked for" for name in names if name not in chosen}
        names = [name for name in names if name in chosen]
        owners, read = _reader(module, names, artifact, context)
    if not names:
        told = "; ".join(left_notes(left)) or "the model has no embedding table"
        raise EffectError(f"no embedding table to change; {told}")
    rows = {name: size[name][0] for name in names}
    counts = _count(read, owners, rows, artifact, context)
    unknown = _unknown(read, owners, artifact, context)
    return [TableReads(n, *size[n], counts[n], unknown[n]) for n in names], left


def _size(module: nn.Module, name: str) -> tuple[int, int]:
    rows, dim = module.get_parameter(f"{name}.weight").shape
    return rows, dim


def _nothing(batch: Feeds) -> list[np.ndarray]:
    del batch
    return []


def _reader(
    module: nn.Module, names: Sequence[str], artifact: Artifact, context: Context
) -> tuple[list[str], Reader]:
    """The tables in the order in which a forward looks them up, and a function from feeds to the
    ids of each look-up; it runs the model no further than that.
    """
    owners = list[str]()
    found = list[np.ndarray]()
    calls = 0

    def see(name: str) -> object:
        def hook(
            part: nn.Module, given: tuple[torch.Tensor, ...], named: Mapping[str, torch.Tensor]
        ) -> None:
            del part
            owners.append(name)
            found.append((given[0] if given else named["input"]).numpy())
            if len(owners) == calls:
                raise _AllRead

        return hook

    def run(batch: Feeds) -> list[np.ndarray]:
        owners.clear()
        found.clear()
        hooks = [
            module.get_submodule(name).register_forward_pre_hook(see(name), with_kwargs=True)  # type: ignore[arg-type]
            for name in names
        ]
        try:
            with torch.inference_mode():
                module(**{name: torch.from_numpy(array.copy()) for name, array in batch.items()})
        except _AllRead:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return list(found)

    run(unknown_feeds(artifact, context.data, sizes=(2, 3)))
    order, calls = list(owners), len(owners)
    return order, run


def _count(
    read: Reader,
    owners: Sequence[str],
    rows: Mapping[str, int],
    artifact: Artifact,
    context: Context,
) -> dict[str, np.ndarray]:
    context.progress(f"counting the reads of {len(rows)} tables", 0.1)
    needed = {spec.name for spec in artifact.inputs}
    batches = id_batches(artifact, context.data, context.data.splits["train"], needed)
    return count_ids(read, owners, rows, batches)


def _unknown(
    read: Reader, owners: Sequence[str], artifact: Artifact, context: Context
) -> dict[str, np.ndarray]:
    told = read(unknown_feeds(artifact, context.data, sizes=(1, 1)))
    return {
        name: np.unique(
            np.concatenate([i.ravel() for o, i in zip(owners, told, strict=True) if o == name])
        )
        for name in dict.fromkeys(owners)
    }


def read_error(layer: nn.Module, table: torch.Tensor, weights: np.ndarray) -> tuple[float, float]:
    """The squared error of the vectors that ``layer`` gives for the ids of a ``table`` (rows, dim),
    and their squared length, both summed with ``weights`` (rows,).
    """
    error = length = 0.0
    with torch.inference_mode():
        for first in range(0, len(table), CHUNK):
            right = table[first : first + CHUNK].double()
            found = layer(torch.arange(first, first + len(right)))
            weight = torch.from_numpy(weights[first : first + CHUNK]).double()
            error += float(weight @ (found - right).square().sum(dim=1))
            length += float(weight @ right.square().sum(dim=1))
    return error, length
