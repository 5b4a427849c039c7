"""torch -> torch: ids of an embedding table share rows, by hashing or by quotient and remainder.

The ids that training reads most keep rows of their own; so does the unknown one, always.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.modules import load_module
from harness.params import Count, Names, Positive, Share
from harness.stages.base import Context, Outcome, stage
from harness.stages.layer_forms import put_layers, save_layers, sizes
from harness.stages.lookups import left_notes
from harness.stages.row_sharing import Method, Sharing, collisions, fill, place_ids, with_buckets
from harness.stages.table_reads import TableReads, find_tables, read_error

if TYPE_CHECKING:
    from torch import nn

COMPRESSION = 4.0
"""How many times fewer bytes, where nothing is asked for."""
FORMS: Mapping[Method, str] = {"hash": "hashed_rows", "quotient_remainder": "quotient_remainder"}


@stage(accepts="torch", produces="torch", technique="open_like")
def share_rows(
    artifact: Artifact,
    context: Context,
    *,
    method: Literal["hash", "quotient_remainder"] = "quotient_remainder",
    compression: Positive | None = None,
    buckets: Count | None = None,
    hot_share: Share | None = None,
    hot_rows: Count = 1,
    min_rows: Count = 256,
    fields: Names = (),
) -> Outcome:
    """Let the rows of each table share so many ``buckets``, or as many as make it ``compression``
    times smaller (4 if neither is given). Ids that training reads most keep a row of their own:
    ``hot_rows`` of them, or as many as have ``hot_share`` of the reads.

    ``hash``: the ids of a bucket have one vector, their mean weighted by reads. The reads that no
    longer tell two ids apart are counted. ``quotient_remainder``: an id's vector is the sum of two
    rows whose pair no other id has; the sums are fitted to the table by reads. ``fields`` are
    patterns of fields or of names of layers (none: all). Tables below ``min_rows``, those that are
    read otherwise too (tied to a layer that scores, for example) and those that wouldn't shrink
    stay as they are. Raises ``EffectError`` when none is left, ``UnsupportedError`` when two limits
    are given for one thing or ``compression`` is 1 or less.
    """
    _check(compression, buckets, hot_share, hot_rows)
    module = load_module(artifact)
    tables, left = find_tables(module, artifact, context, min_rows=min_rows, patterns=fields)
    context.progress(f"sharing the rows of {len(tables)} tables", 0.5)
    chosen = dict[TableReads, Sharing]()
    times = None if buckets else compression or COMPRESSION
    for table in tables:
        padding = getattr(module.get_submodule(table.table), "padding_idx", None)
        placed = place_ids(table, padding=padding, share=hot_share, rows=hot_rows)
        limit = int(table.bytes / times) if times else 0
        found = with_buckets(placed, method, dim=table.dim, buckets=buckets, limit=limit)
        if isinstance(found, str):
            left[table.table] = found
        else:
            chosen[table] = found
    if not chosen:
        raise EffectError(f"share_rows had no effect; {left_notes(left)[0]}")
    errors = [_replace(module, table, sharing) for table, sharing in chosen.items()]
    made = save_layers(
        module, {t.table: _form(sharing) for t, sharing in chosen.items()}, artifact, context
    )
    error, length = (sum(side) for side in zip(*errors, strict=True))
    effects = (
        *sizes(artifact, made),
        *_effects(chosen, times=times, hot_share=hot_share),
        Effect(
            "read_error",
            0.0,
            float(np.sqrt(error / length)) if length else 0.0,
            unit="share of the rows' length, by training reads",
        ),
        Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes"),
    )
    return Outcome(made, effects, (*_notes(chosen), *left_notes(left)))


def _check(
    compression: float | None, buckets: int | None, hot_share: float | None, hot_rows: int
) -> None:
    if compression is not None and buckets is not None:
        raise UnsupportedError("share_rows: give compression or buckets, not both")
    if hot_share is not None and hot_rows != 1:
        raise UnsupportedError("share_rows: give hot_share or hot_rows, not both")
    if compression is not None and compression <= 1:
        raise UnsupportedError(
            f"share_rows: compression {compression:g} makes no table smaller; expected above 1"
        )


def _form(sharing: Sharing) -> tuple[str, dict[str, int | bool]]:
    how = {"hot": sharing.hot, "buckets": sharing.buckets, "ordered": sharing.ordered}
    return FORMS[sharing.method], how


def _replace(module: "nn.Module", table: TableReads, sharing: Sharing) -> tuple[float, float]:
    """Put the shared rows in the table's place; gives ``read_error``. Raises ``EffectError`` when
    the rows of unknown ids aren't what they were.
    """
    import torch

    before = module.get_parameter(f"{table.table}.weight").detach()
    put_layers(module, {table.table: _form(sharing)})
    layer = module.get_submodule(table.table)
    fill(layer, before, sharing, table.reads)  # type: ignore[arg-type]
    with torch.inference_mode():
        unknown = torch.from_numpy(table.unknown)
        if not torch.equal(layer(unknown), before[unknown]):
            raise EffectError(f"share_rows: {table.table}: the unknown row is no longer exact")
    weights = table.reads if table.reads.any() else np.ones(table.rows)
    return read_error(layer, before, weights)


def _effects(
    chosen: Mapping[TableReads, Sharing], *, times: float | None, hot_share: float | None
) -> tuple[Effect, ...]:
    before = sum(t.bytes for t in chosen)
    reads = max(sum(int(t.reads.sum()) for t in chosen), 1)
    own = sum(int(t.reads[s.bucket < 0].sum()) for t, s in chosen.items())
    lost = sum(collisions(s, t.reads) for t, s in chosen.items())
    unit = "% of training reads"
    return (
        Effect(
            "table_bytes",
            before,
            sum(s.bytes(t.dim) for t, s in chosen.items()),
            asked=None if times is None else before / times,
            unit="bytes",
        ),
        Effect("table_rows", sum(t.rows for t in chosen), sum(s.rows for s in chosen.values())),
        Effect(
            "reads_of_own_rows",
            100.0,
            100.0 * own / reads,
            asked=None if hot_share is None else 100.0 * hot_share,
            unit=unit,
        ),
        Effect("collisions", 0.0, 100.0 * lost / reads, unit=unit),
    )


def _notes(chosen: Mapping[TableReads, Sharing]) -> tuple[str, ...]:
    lost = {t: collisions(s, t.reads) / max(int(t.reads.sum()), 1) for t, s in chosen.items()}
    worst = max(lost, key=lambda table: lost[table])
    notes = [
        "no two ids have the same pair of quotient and remainder"
        if all(s.method == "quotient_remainder" for s in chosen.values())
        else f"most collisions: {100 * lost[worst]:.2f} % of {worst.table}'s training reads are of "
        "ids that share their vector with another one that is read",
        "an id beyond a table's rows finds a shared row and is no longer refused",
    ]
    stored = sum(len(s.places) for s in chosen.values() if s.ordered)
    if stored:
        notes.append(f"{stored:,} places are stored, 4 bytes each: traffic isn't in order of ids")
    return tuple(notes)
