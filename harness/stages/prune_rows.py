"""ONNX -> ONNX without the table rows that training traffic rarely reads: one row for all of them.

Vocabularies and inputs stay as they are: a constant look-up in the graph gives each id its new row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.params import Count, Names, Share
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import load_graph, write_graph
from harness.stages.lookup_forms import Written
from harness.stages.lookup_graphs import replace_tables, table_arrays
from harness.stages.lookups import (
    Lookup,
    check_lookups,
    count_reads,
    find_tables,
    left_notes,
    unknown_rows,
)

if TYPE_CHECKING:
    import onnx

SHARE = 0.99
"""Of the traffic that still reads a row of its own, where nothing is asked for."""


@dataclass(frozen=True)
class Pruned:
    """A table's kept rows and, last, the one that all others became."""

    rows: np.ndarray  # (kept + 1, dim) float32
    remap: np.ndarray  # (rows before,) int32: an id's row among them
    reads: int  # of training rows
    fallen: int  # of these, those that read the last row

    @property
    def bytes(self) -> int:
        """Bytes of rows and remap."""
        return self.rows.nbytes + self.remap.nbytes

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """The rows that the old ids read now, (..., dim)."""
        return np.asarray(self.rows[self.remap[ids]])


@stage(accepts="onnx", produces="onnx", technique="open_like")
def prune_rows(
    artifact: Artifact,
    context: Context,
    *,
    share: Share | None = None,
    max_rows: Count | None = None,
    min_rows: Count = 256,
    fields: Names = (),
) -> Outcome:
    """Keep the rows of each table that training rows read most, until they have ``share`` of its
    traffic (0.99 if neither is given) or ``max_rows`` rows are left; all others become one row,
    their mean weighted by traffic. The row of unknown ids is always kept.

    ``fields`` are patterns of fields or table names (none: all). Tables below ``min_rows``, those
    that something else reads too, and those that wouldn't shrink (4 bytes a row are spent on the
    new ids) stay as they are. Raises ``EffectError`` when no table is left and when onnxruntime
    looks up other rows than these, ``UnsupportedError`` when both limits are given.
    """
    if share is not None and max_rows is not None:
        raise UnsupportedError("prune_rows: give share or max_rows, not both")
    model = load_graph(artifact, weights=False)
    lookups, left = find_tables(model, artifact, context.data, min_rows=min_rows, patterns=fields)
    context.progress(f"counting the reads of {len(lookups)} tables", 0.1)
    pruned = _pruned(model, artifact, context, lookups, share=share, max_rows=max_rows)
    left |= {t.table: "it wouldn't shrink" for t in lookups if t not in pruned}
    if not pruned:
        raise EffectError(f"prune_rows had no effect; {left_notes(left)[0]}")
    replace_tables(model, {lookup: _written(lookup.table, each) for lookup, each in pruned.items()})
    made = write_graph(model, artifact, context)
    context.progress("comparing look-ups with numpy", 0.8)
    decoders = {lookup: each.decode for lookup, each in pruned.items()}
    check_lookups(load_graph(made, weights=False), decoders, made, context)
    effects = _effects(pruned, share=share, max_rows=max_rows)
    sizes = Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes")
    return Outcome(made, (*effects, sizes), (*_notes(pruned), *left_notes(left)))


def _pruned(
    model: "onnx.ModelProto",
    artifact: Artifact,
    context: Context,
    lookups: Sequence[Lookup],
    *,
    share: float | None,
    max_rows: int | None,
) -> dict[Lookup, Pruned]:
    """The tables that shrink."""
    counts = count_reads(model, lookups, artifact, context.data)
    unknown = unknown_rows(model, lookups, artifact, context.data)
    arrays, found = table_arrays(model, lookups, artifact.folder), dict[Lookup, Pruned]()
    for lookup in lookups:
        name = lookup.table
        asked = SHARE if share is None and max_rows is None else share
        keep = kept_rows(counts[name], unknown[name], share=asked, max_rows=max_rows)
        made = prune(arrays[name], counts[name], keep)
        if made.bytes < lookup.bytes:
            found[lookup] = made
    return found


def kept_rows(
    counts: np.ndarray, always: np.ndarray, *, share: float | None, max_rows: int | None
) -> np.ndarray:
    """The rows to keep, sorted: those read most (ties by id) until they have ``share`` of all reads
    or, with the row that the others become, are ``max_rows``; ``always`` is among them.
    """
    order = np.argsort(-counts, kind="stable")
    order = np.concatenate([always, order[~np.isin(order, always)]])
    if max_rows is not None:
        whole = len(counts) <= max_rows
        count = len(counts) if whole else max(len(always), max_rows - 1)
    else:
        assert share is not None, "one of the two limits"
        reads = np.cumsum(counts[order])
        count = max(len(always), int(np.searchsorted(reads, share * reads[-1])) + 1)
    return np.sort(order[:count])


def prune(table: np.ndarray, counts: np.ndarray, keep: np.ndarray) -> Pruned:
    """A table (rows, dim) cut to the rows ``keep``; the others become their mean weighted by
    ``counts`` (rows,), or their plain mean where none was ever read.
    """
    gone = np.ones(len(table), bool)
    gone[keep] = False
    remap = np.full(len(table), len(keep), np.int32)
    remap[keep] = np.arange(len(keep), dtype=np.int32)
    weights = counts * gone
    fallen = int(weights.sum())
    weights = (weights if fallen else gone).astype(np.float64)
    total = weights.sum() or 1.0
    mean = np.einsum("r,rd->d", weights, table) / total  # (dim,)
    rows = np.concatenate([table[keep], mean[None].astype(np.float32)])
    return Pruned(rows, remap, int(counts.sum()), fallen)


def _written(name: str, pruned: Pruned) -> Written:
    from onnx import helper

    remap = f"{name}.remap"

    def nodes(ids: str, result: str) -> list["onnx.NodeProto"]:
        new = f"{result}.ids"
        return [
            helper.make_node("Gather", [remap, ids], [new], name=new),
            helper.make_node("Gather", [name, new], [result], name=result),
        ]

    return Written({name: pruned.rows, remap: pruned.remap}, nodes)


def _effects(
    pruned: dict[Lookup, Pruned], *, share: float | None, max_rows: int | None
) -> tuple[Effect, ...]:
    reads, fallen = (sum(getattr(p, name) for p in pruned.values()) for name in ("reads", "fallen"))
    asked = None if max_rows is None else sum(min(max_rows, t.rows) for t in pruned)
    traffic = 1.0 - (SHARE if share is None else share) if max_rows is None else None
    return (
        Effect(
            "table_rows",
            sum(t.rows for t in pruned),
            sum(len(p.rows) for p in pruned.values()),
            asked=asked,
        ),
        Effect(
            "table_bytes",
            sum(t.bytes for t in pruned),
            sum(p.bytes for p in pruned.values()),
            unit="bytes",
        ),
        Effect(
            "fallback_traffic",
            0.0,
            100.0 * fallen / max(reads, 1),
            asked=None if traffic is None else 100.0 * traffic,
            unit="% of training reads",
        ),
    )


def _notes(pruned: dict[Lookup, Pruned]) -> tuple[str, ...]:
    worst, most = max(pruned.items(), key=lambda pair: pair[1].fallen / max(pair[1].reads, 1))
    told = 100.0 * most.fallen / max(most.reads, 1)
    new = sum(p.remap.nbytes for p in pruned.values())
    return (
        f"most reads of a fallback row: {told:.2f} % of {worst.table}'s",
        f"{new:,} of the bytes are new ids, 4 for each row that there was",
    )
