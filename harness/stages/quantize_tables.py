"""ONNX -> ONNX with embedding tables in 4, 8 or 16 bits, each row with a scale of its own.

With ``bits: mixed`` each table has the width that its damage to the scores is worth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import DataError, EffectError, UnsupportedError
from harness.params import Count, Flag, Names, Positive, Share
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import load_graph, write_graph
from harness.stages.lookup_forms import GRIDS, Coded, Form, in_form, written
from harness.stages.lookup_graphs import replace_tables, table_arrays
from harness.stages.lookup_timing import FP32, Table, compare, lookup_call
from harness.stages.lookups import (
    Lookup,
    check_lookups,
    find_tables,
    id_batches,
    left_notes,
    tensor_reader,
)
from harness.stages.pairing import Call
from harness.stages.row_codes import Grid, spans
from harness.stages.side_files import Empty, release, scratch
from harness.stages.table_coding import Bits, Coding
from harness.stages.table_damage import sample
from harness.stages.table_mixing import Mixed, limits_of, mix, mixed_effects, mixed_notes, within

if TYPE_CHECKING:
    import onnx

TIMED_ROWS = 256
"""Rows of a timed batch."""
TIMED_BATCHES = 8

Tables = Mapping[Lookup, Coded]


@dataclass(frozen=True)
class _Plan:
    """The bits of the tables that change, why others stay, and what mixed widths were judged by."""

    bits: Mapping[Lookup, Bits]
    left: Mapping[str, str]
    mixed: Mixed | None = None


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def quantize_tables(
    artifact: Artifact,
    context: Context,
    *,
    bits: Literal[4, 8, 16, "mixed"] = 8,
    budget: Share | None = None,
    max_drift: Positive | None = None,
    sample_rows: Count | None = None,
    form: Literal["auto", "plain", "native", "block"] = "auto",
    scales: Literal["auto", "fp16", "fp32"] = "auto",
    search: Flag = True,
    min_rows: Count = 256,
    fields: Names = (),
) -> Outcome:
    """Store the tables that Gathers look rows up in as codes of ``bits`` with a scale and an offset
    a row (16: half precision, without them); products stay as they are.

    ``mixed`` measures what each table does to the scores of ``sample_rows`` training rows (2048)
    at 4, 8 and 16 bits, and gives each the width, or fp32, that is worth its bytes: the least
    damage within ``budget`` (a share of the tables' bytes), or the fewest bytes within
    ``max_drift`` (the mean squared difference of scores as a share of their variance; of lists
    the share of their items that give way to others), or both.

    ``form`` is how they are looked up: ``plain`` standard operators, ``native`` our own operator
    (built here, for onnxruntime alone), ``block`` onnxruntime's GatherBlockQuantized (its zero is a
    code, so that a row's range holds 0), ``auto`` whichever is quickest here on ids of training
    rows. ``scales`` are fp16 at 4 bits, else fp32, if ``auto``.
    ``search`` cuts a row's range where that lowers its squared error. ``fields`` are patterns of
    fields or table names (none: all); tables below ``min_rows`` and those that something else
    reads too stay as they are. Tables in a side file are read and written by parts.

    Raises ``EffectError`` when no table is left, a limit can't be kept or onnxruntime's rows aren't
    those of the codes, ``DataError`` for a row that can't be coded, ``UnsupportedError`` for a form
    that isn't there and for limits without ``mixed``.
    """
    if bits == 16 and form in ("native", "block"):
        raise UnsupportedError(f"form: {form} has 4 or 8 bits; with bits: 16 leave form out")
    limits = limits_of(bits, budget=budget, max_drift=max_drift, sample_rows=sample_rows)
    coding, forms = Coding(scales, search), _forms(bits, form)
    model = load_graph(artifact, weights=False)
    lookups, left = find_tables(model, artifact, context.data, min_rows=min_rows, patterns=fields)
    arrays = table_arrays(model, lookups, artifact.folder)
    if bits == "mixed":
        assert limits is not None, "mixed has limits"
        context.progress("measuring what tables do to the scores", 0.1)
        sampled = sample(model, artifact, context, lookups, arrays, rows=limits.rows)
        mixed = mix(sampled, coding, limits, form=forms[0])
        plan = _Plan(mixed.bits, left | mixed.left, mixed)
    else:
        plan = _same(lookups, left, bits, coding, forms[0])
    if not plan.bits:
        raise EffectError(f"quantize_tables had no effect; {left_notes(plan.left)[0]}")
    context.progress(f"coding {len(plan.bits)} tables", 0.2)
    with scratch(context.folder) as empty:
        tables = _encoded(arrays, plan.bits, coding, forms, empty=empty)
        context.progress("looking rows up", 0.5)
        near, far = within(plan.mixed, tables) if plan.mixed else (dict.fromkeys(tables, 0.0), ())
        batches = _timed_ids(model, artifact, context, list(plan.bits))
        kept, notes = _quickest({each: tables[each] for each in near}, arrays, batches)
        coded = tables[kept]
        replace_tables(model, {t: written(t.table, each) for t, each in coded.items()})
        label = _label(artifact.precision, min(plan.bits.values()))
        made = write_graph(model, artifact, context, precision=label)
        context.progress("comparing look-ups with numpy", 0.8)
        decoders = {t: each.decode for t, each in coded.items()}
        gap = check_lookups(load_graph(made, weights=False), decoders, made, context)
        asked = sum(coding.bytes(t, own, kept) for t, own in plan.bits.items())
        effects = _effects(plan, coded, asked=asked, drift=near[kept], lists=len(made.outputs) > 1)
    sizes = Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes")
    told = f"look-ups are those of numpy to {gap:.0e} of the largest value"
    why = mixed_notes(plan.mixed) if plan.mixed else ()
    return Outcome(made, (*effects, sizes), (*far, *notes, *why, told, *left_notes(plan.left)))


def _forms(
    bits: Literal[4, 8, 16, "mixed"], form: Literal["auto", "plain", "native", "block"]
) -> tuple[Form, ...]:
    """The forms to choose among."""
    if bits == 16:
        return ("half",)
    return ("plain", "native", "block") if form == "auto" else (form,)


def _label(precision: str, bits: int) -> str:
    """What the file is called: products are untouched, so only an fp32 one gets another name."""
    name = "fp16" if bits == 16 else f"int{bits}"
    return f"fp32 compute, {name} weights" if precision.startswith("fp32") else precision


def _same(
    lookups: Sequence[Lookup], left: Mapping[str, str], bits: Bits, coding: Coding, form: Form
) -> _Plan:
    """The same bits for every table that gets smaller by them."""
    chosen = {t: bits for t in lookups if coding.bytes(t, bits, form) < t.bytes}
    wide = {t.table: f"{t.dim} columns; it wouldn't shrink" for t in lookups if t not in chosen}
    return _Plan(chosen, {**left, **wide})


def _encoded(
    arrays: Mapping[str, np.ndarray],
    bits: Mapping[Lookup, Bits],
    coding: Coding,
    forms: Sequence[Form],
    *,
    empty: Empty,
) -> dict[Form, Tables]:
    """The tables as each form stores them; those that count from the same are coded once."""
    found, grids = dict[Form, Tables](), dict[Grid, Tables]()
    for form in forms:
        known = grids.get(GRIDS[form])
        found[form] = {
            t: in_form(known[t], form, empty=empty)
            if known
            else coding.encode(arrays[t.table], own, form, where=t.table, empty=empty)
            for t, own in bits.items()
        }
        grids.setdefault(GRIDS[form], found[form])
    return found


def _quickest(
    tables: Mapping[Form, Tables],
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
            refused.append(f"{form}: not to be had here ({str(error).splitlines()[0][:200]})")
    if not calls:
        raise UnsupportedError(f"no form of look-up runs here; {'; '.join(refused)}")
    first = next(iter(tables.values()))
    fp32 = lookup_call(_read({t: arrays[t.table] for t in first}), batches)
    found = compare({FP32: fp32, **calls}, batches=len(batches))
    ids = sum(len(part) for part in batches[0])
    kept = next(form for form in tables if form == found.quickest)
    alone = (f"form {kept} runs in onnxruntime alone",) if kept in ("native", "block") else ()
    return kept, (*refused, *found.notes(ids=ids, tables=len(first)), *alone)


def _read(tables: Mapping[Lookup, Table]) -> list[tuple[str, Table]]:
    """A table's name and the table, once for each Gather that reads it."""
    return [(lookup.table, table) for lookup, table in tables.items() for _ in lookup.ids]


def _timed_ids(
    model: "onnx.ModelProto", artifact: Artifact, context: Context, lookups: Sequence[Lookup]
) -> list[list[np.ndarray]]:
    """Ids (n,) of the first training rows, a batch of 256 rows at a time, for each Gather."""
    names = [name for lookup in lookups for name in lookup.ids]
    read, needed = tensor_reader(model, names, artifact.folder)
    split = context.data.splits["train"]
    batches = id_batches(artifact, context.data, split, needed, step=TIMED_ROWS)
    found = [[ids.ravel() for ids in read(batch)] for batch in islice(batches, TIMED_BATCHES)]
    if not found:
        raise DataError("quantize_tables: the train split is empty; there are no ids to look up")
    return found


def _effects(
    plan: _Plan, coded: Tables, *, asked: int, drift: float, lists: bool
) -> tuple[Effect, ...]:
    rows, stay, more = sum(t.rows for t in coded), 0, tuple[Effect, ...]()
    before, after = sum(t.bytes for t in coded), sum(each.bytes for each in coded.values())
    if plan.mixed:
        stay = plan.mixed.table_bytes - before
        most = plan.mixed.most_bytes
        asked = asked + stay if most is None else most
        more = mixed_effects(plan.mixed, drift=drift, lists=lists)
    errors = [_total_and_worst(each.error) for each in coded.values()]
    share = "share of the row's length"
    return (
        Effect("table_bytes", before + stay, after + stay, asked=asked, unit="bytes"),
        Effect("quantised_rows", 0, rows, asked=rows),
        Effect("row_error_mean", 0.0, sum(total for total, _ in errors) / rows, unit=share),
        Effect("row_error_worst", 0.0, max(worst for _, worst in errors), unit=share),
        Effect("tables_left_alone", len(coded) + len(plan.left), len(plan.left)),
        *more,
    )


def _total_and_worst(error: np.ndarray) -> tuple[float, float]:
    """Sum and maximum of the errors of a table's rows, by parts."""
    total = worst = 0.0
    for first, end in spans(len(error), 1):
        total += float(error[first:end].sum(dtype=np.float64))
        worst = max(worst, float(error[first:end].max()))
        release(error)
    return total, worst
