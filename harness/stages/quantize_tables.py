"""ONNX -> ONNX with embedding tables in 8, 4 or 16 bits, each row with a scale of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import DataError, EffectError, UnsupportedError
from harness.params import Count, Flag, Names
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import load_graph, write_graph
from harness.stages.lookup_forms import GRIDS, Coded, Form, encode, written
from harness.stages.lookup_graphs import replace_tables, table_arrays
from harness.stages.lookup_timing import FP32, Call, Table, compare, lookup_call
from harness.stages.lookups import (
    Lookup,
    check_lookups,
    find_tables,
    id_batches,
    left_notes,
    tensor_reader,
)
from harness.stages.row_codes import stored_bytes

if TYPE_CHECKING:
    import onnx

TIMED_ROWS = 256
"""Rows of a timed batch."""
TIMED_BATCHES = 8


@dataclass(frozen=True)
class _Asked:
    bits: Literal[4, 8, 16]
    scales: Literal["fp16", "fp32"]
    search: bool

    def bytes(self, lookups: Sequence[Lookup], form: Form) -> int:
        """What the tables should take; by their sizes alone."""
        grid, size = GRIDS[form], 2 if self.scales == "fp16" else 4
        return sum(
            stored_bytes(t.rows, t.dim, bits=self.bits, scale_bytes=size, grid=grid)
            for t in lookups
        )

    def encode(
        self, arrays: Mapping[str, np.ndarray], lookups: Sequence[Lookup], form: Form
    ) -> dict[Lookup, Coded]:
        return {
            t: encode(
                arrays[t.table],
                form,
                bits=self.bits,
                scales=self.scales,
                search=self.search,
                where=t.table,
            )
            for t in lookups
        }


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def quantize_tables(
    artifact: Artifact,
    context: Context,
    *,
    bits: Literal[4, 8, 16] = 8,
    form: Literal["auto", "plain", "block"] = "auto",
    scales: Literal["auto", "fp16", "fp32"] = "auto",
    search: Flag = True,
    min_rows: Count = 256,
    fields: Names = (),
) -> Outcome:
    """Store the tables that Gathers look rows up in as codes of ``bits`` with a scale and an offset
    a row (16: half precision, without them); products stay as they are.

    ``form`` is how they are looked up: ``plain`` standard operators, ``block`` onnxruntime's
    GatherBlockQuantized (its zero is a code, so that a row's range holds 0), ``auto`` whichever is
    quicker here on ids of training rows. ``scales`` are fp16 at 4 bits, else fp32, if ``auto``.
    ``search`` cuts a row's range where that lowers its squared error. ``fields`` are patterns of
    fields or table names (none: all); tables below ``min_rows`` and those that something else
    reads too stay as they are.

    Raises ``EffectError`` when no table is left or onnxruntime's rows aren't those of the codes,
    ``DataError`` for a row that can't be coded, ``UnsupportedError`` for a form that isn't there.
    """
    if bits == 16 and form == "block":
        raise UnsupportedError("form: block has 4 or 8 bits; with bits: 16 leave form out")
    asked = _Asked(bits, scales if scales != "auto" else ("fp16" if bits == 4 else "fp32"), search)
    forms = _forms(bits, form)
    model = load_graph(artifact)
    lookups, left = find_tables(model, artifact, context.data, min_rows=min_rows, patterns=fields)
    chosen = [t for t in lookups if asked.bytes([t], forms[0]) < t.bytes]
    left |= {t.table: f"{t.dim} columns; it wouldn't shrink" for t in lookups if t not in chosen}
    if not chosen:
        raise EffectError(f"quantize_tables had no effect; {left_notes(left)[0]}")
    context.progress(f"coding {len(chosen)} tables", 0.1)
    arrays = table_arrays(model, chosen)
    tables = {each: asked.encode(arrays, chosen, each) for each in forms}
    context.progress("looking rows up", 0.5)
    kept, notes = _quickest(tables, arrays, _timed_ids(model, artifact, context, chosen))
    coded = tables[kept]
    replace_tables(model, {t: written(t.table, each) for t, each in coded.items()})
    made = write_graph(model, artifact, context, precision=_label(artifact.precision, bits))
    context.progress("comparing look-ups with numpy", 0.8)
    decoders = {t: each.decode for t, each in coded.items()}
    gap = check_lookups(load_graph(made), decoders, artifact, context)
    effects = (
        *_effects(coded, asked=asked.bytes(chosen, kept)),
        Effect("tables_left_alone", len(chosen) + len(left), len(left)),
        Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes"),
    )
    told = f"look-ups are those of numpy to {gap:.0e} of the largest value"
    return Outcome(made, effects, (*notes, told, *left_notes(left)))


def _forms(bits: int, form: Literal["auto", "plain", "block"]) -> tuple[Form, ...]:
    """The forms to choose among."""
    if bits == 16:
        return ("half",)
    return ("plain", "block") if form == "auto" else (form,)


def _label(precision: str, bits: int) -> str:
    """What the file is called: products are untouched, so only an fp32 one gets another name."""
    name = "fp16" if bits == 16 else f"int{bits}"
    return f"fp32 compute, {name} weights" if precision.startswith("fp32") else precision


def _quickest(
    tables: Mapping[Form, Mapping[Lookup, Coded]],
    arrays: Mapping[str, np.ndarray],
    batches: Sequence[Sequence[np.ndarray]],
) -> tuple[Form, tuple[str, ...]]:
    """The form that takes least time of those that run here, with notes on what was measured; a
    single one is timed too, for what it costs. Raises ``UnsupportedError`` when none runs.
    """
    calls: dict[str, Call] = {}
    refused = []
    for form, coded in tables.items():
        try:
            call = lookup_call(_read(coded), batches)
            call(0)
            calls[form] = call
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            refused.append(f"{form}: onnxruntime refuses it ({str(error).splitlines()[0][:200]})")
    if not calls:
        raise UnsupportedError(f"no form of look-up runs here; {'; '.join(refused)}")
    first = next(iter(tables.values()))
    fp32 = lookup_call(_read({t: arrays[t.table] for t in first}), batches)
    found = compare({FP32: fp32, **calls}, batches=len(batches))
    ids = sum(len(part) for part in batches[0])
    kept = next(form for form in tables if form == found.quickest)
    alone = ("GatherBlockQuantized runs in onnxruntime alone",) if kept == "block" else ()
    return kept, (*refused, *found.notes(ids=ids, tables=len(first)), *alone)


def _read(tables: Mapping[Lookup, Table]) -> list[tuple[str, Table]]:
    """A table's name and the table, once for each Gather that reads it."""
    return [(lookup.table, table) for lookup, table in tables.items() for _ in lookup.ids]


def _timed_ids(
    model: "onnx.ModelProto", artifact: Artifact, context: Context, lookups: Sequence[Lookup]
) -> list[list[np.ndarray]]:
    """Ids (n,) of the first training rows, a batch of 256 rows at a time, for each Gather."""
    read, needed = tensor_reader(model, [name for lookup in lookups for name in lookup.ids])
    split = context.data.splits["train"]
    batches = id_batches(artifact, context.data, split, needed, step=TIMED_ROWS)
    found = [[ids.ravel() for ids in read(batch)] for batch in islice(batches, TIMED_BATCHES)]
    if not found:
        raise DataError("quantize_tables: the train split is empty; there are no ids to look up")
    return found


def _effects(coded: Mapping[Lookup, Coded], *, asked: int) -> tuple[Effect, ...]:
    rows = sum(t.rows for t in coded)
    before, after = sum(t.bytes for t in coded), sum(each.bytes for each in coded.values())
    errors = [each.error for each in coded.values()]
    mean = float(sum(part.sum(dtype=np.float64) for part in errors)) / rows
    worst = float(max(part.max() for part in errors))
    share = "share of the row's length"
    return (
        Effect("table_bytes", before, after, asked=asked, unit="bytes"),
        Effect("quantised_rows", 0, rows, asked=rows),
        Effect("row_error_mean", 0.0, mean, unit=share),
        Effect("row_error_worst", 0.0, worst, unit=share),
    )
