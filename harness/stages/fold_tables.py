"""torch -> torch, exact: small tables are multiplied through the first layer once for all."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.modules import load_module
from harness.params import Count
from harness.stages.base import Context, Outcome, stage
from harness.stages.rewriting import (
    require_less,
    require_own_layers,
    require_parameter,
    rewrite,
)

if TYPE_CHECKING:
    import torch

PARAMETER = "folded"
FLOAT = 4
"""Bytes of a number."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table before and after, in bytes."""

    rows: int
    before: int
    after: int


@stage(accepts="torch", produces="torch", technique="closed_like")
def fold_tables(artifact: Artifact, context: Context, *, max_bytes: Count = 8_388_608) -> Outcome:
    """The same scores from tables whose rows have been through the first layer: its columns for
    them go, a look-up and an addition stay.

    A folded table has as many numbers a row as the first layer has channels; those of more than
    ``max_bytes`` then stay as they are, and are named. What the user and the context give is looked
    up and multiplied once per request, as by ``share_user``. Raises ``UnsupportedError`` for a
    model whose tables feed more than one Linear, and ``EffectError`` when no table is small enough
    or when scores change.
    """
    done = require_parameter(
        artifact,
        PARAMETER,
        stage="fold_tables",
        why="its tables feed more than the first layer of its tower",
    )
    require_own_layers(artifact, stage="fold_tables")
    tables = _tables(artifact)
    names = [name for name, table in tables.items() if table.after <= max_bytes]
    if not names:
        raise EffectError(
            f"fold_tables: no table can be folded within max_bytes {max_bytes:,}: "
            f"{_sizes(tables) or 'all are folded already'}"
        )
    changes = {PARAMETER: [*done, *names], "shared": True}
    outcome = rewrite(artifact, context, stage="fold_tables", changes=changes)
    require_less(outcome, "macs", stage="fold_tables", why="leave the stage out")
    stay = _sizes({name: table for name, table in tables.items() if name not in names})
    effects = tuple(
        Effect(f"table:{name}", tables[name].before, tables[name].after, unit="bytes")
        for name in names
    )
    notes = (f"above max_bytes {max_bytes:,}, not folded: {stay}",) if stay else ()
    return replace(outcome, effects=(*outcome.effects, *effects), notes=(*outcome.notes, *notes))


def _tables(artifact: Artifact) -> dict[str, _Table]:
    """The tables that could be folded, by field."""
    widths = artifact.widths or {}
    first = ("top.0", "first.request.linear", "first.own.linear")
    hidden = next((widths[name][0] for name in first if name in widths), 0)
    held: Mapping[str, torch.Tensor] = load_module(artifact).tables()  # type: ignore[operator]
    return {
        name: _Table(len(rows), rows.numel() * FLOAT, len(rows) * hidden * FLOAT)
        for name, rows in held.items()
    }


def _sizes(tables: Mapping[str, _Table]) -> str:
    return ", ".join(
        f"{name} ({table.rows:,} rows, {table.after:,} bytes folded)"
        for name, table in tables.items()
    )
