"""Widths of tables by quality per byte: each one's damage measured, then the best use of bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.artifact import Effect
from harness.errors import UnsupportedError
from harness.stages.lookup_forms import Coded, Form
from harness.stages.lookups import Lookup
from harness.stages.row_codes import largest
from harness.stages.table_bits import AS_IT_IS, Choice, Width, choose
from harness.stages.table_coding import WIDTHS, Bits, Coding
from harness.stages.table_damage import Decode, Sampled

SAMPLE_ROWS = 2048
HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Limits:
    """``budget``: share of the tables' bytes; ``max_drift``: of the scores, see
    ``Sampled.drifts``; ``rows``: how many training rows it is measured on.
    """

    budget: float | None
    max_drift: float | None
    rows: int


@dataclass(frozen=True)
class Mixed:
    """A width for every table, the ones there were to choose among, and what it was judged by."""

    chosen: Mapping[Lookup, Width]
    options: Mapping[Lookup, Sequence[Width]]
    sampled: Sampled
    limits: Limits
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> dict[Lookup, Bits]:
        """The bits of the tables that change."""
        return _bits(self.chosen)

    @property
    def left(self) -> dict[str, str]:
        """The tables that stay as they are, and why, by name."""
        return {t.table: "worth its bytes" for t in self.chosen if t not in self.bits}

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables before."""
        return sum(table.bytes for table in self.chosen)

    @property
    def most_bytes(self) -> int | None:
        """Bytes that the budget allows."""
        budget = self.limits.budget
        return None if budget is None else int(budget * self.table_bytes)


def _bits(chosen: Mapping[Lookup, Width]) -> dict[Lookup, Bits]:
    narrow = {table: [b for b in WIDTHS if b == width.bits] for table, width in chosen.items()}
    return {table: bits[0] for table, bits in narrow.items() if bits}


def limits_of(
    bits: Literal[4, 8, 16, "mixed"],
    *,
    budget: float | None,
    max_drift: float | None,
    sample_rows: int | None,
) -> Limits | None:
    """The limits of mixed widths, None where all tables get the same; raises ``UnsupportedError``
    for limits that have no effect and where there is none.
    """
    given = {"budget": budget, "max_drift": max_drift, "sample_rows": sample_rows}
    if bits != "mixed":
        useless = [name for name, value in given.items() if value is not None]
        if useless:
            raise UnsupportedError(
                f"{', '.join(useless)}: for bits: mixed alone; with bits: {bits} every table gets "
                "the same, leave it out"
            )
        return None
    if budget is None and max_drift is None:
        raise UnsupportedError(
            "bits: mixed takes a budget (share of the tables' bytes), a max_drift of the scores, "
            "or both"
        )
    return Limits(budget, max_drift, sample_rows or SAMPLE_ROWS)


def mix(sampled: Sampled, coding: Coding, limits: Limits, *, form: Form) -> Mixed:
    """A width for each of the sample's tables within the limits, coded as ``form``.

    Raises ``EffectError`` when the limits can't be kept and ``DataError`` for a value that isn't
    finite.
    """
    allowed, notes = dict[Lookup, list[Bits]](), list[str]()
    for table in sampled.lookups:
        small = [b for b in WIDTHS if coding.bytes(table, b, form) < table.bytes]
        wide = largest(sampled.arrays[table.table], where=table.table) > HALF
        allowed[table] = [b for b in small if not (wide and coding.half_range(b))]
        if out := [str(b) for b in small if b not in allowed[table]]:
            notes.append(f"{table.table}: {' and '.join(out)} bits can't hold its largest value")
    pairs = [(table, bits) for table, several in allowed.items() for bits in several]
    tried = [{t: _decoder(sampled, coding, t, bits=b, form=form)} for t, b in pairs]
    damage = dict(zip(pairs, sampled.drifts(tried), strict=True))
    options = {
        t: [
            *(Width(b, coding.bytes(t, b, form), damage[t, b]) for b in several),
            Width(AS_IT_IS, t.bytes, 0.0),
        ]
        for t, several in allowed.items()
    }

    def drift(chosen: Choice[Lookup]) -> float:
        decoders = {
            t: _decoder(sampled, coding, t, bits=b, form=form) for t, b in _bits(chosen).items()
        }
        return sampled.drifts([decoders])[0]

    before = sum(table.bytes for table in options)
    most = None if limits.budget is None else int(limits.budget * before)
    chosen, _ = choose(options, drift, most_bytes=most, max_drift=limits.max_drift)
    return Mixed(chosen, options, sampled, limits, tuple(notes))


def _decoder(sampled: Sampled, coding: Coding, table: Lookup, *, bits: Bits, form: Form) -> Decode:
    """What codes of the rows that are read give back; a row's codes depend on that row alone."""
    numbers = sampled.arrays[table.table]

    def decode(ids: np.ndarray) -> np.ndarray:
        known, at = np.unique(ids, return_inverse=True)
        coded = coding.encode(numbers[known], bits, form, where=table.table)
        return coded.decode(at.reshape(ids.shape))

    return decode


def within(
    mixed: Mixed, tables: Mapping[Form, Mapping[Lookup, Coded]]
) -> tuple[dict[Form, float], tuple[str, ...]]:
    """How far the scores drift with each form's codes, of the forms within ``max_drift``, and
    notes on the others. The form that the widths were chosen by is always among them.
    """
    every = list(tables)
    told = mixed.sampled.drifts(
        [{t: each.decode for t, each in tables[form].items()} for form in every]
    )
    drifts, most = dict(zip(every, told, strict=True)), mixed.limits.max_drift
    kept = {form: drift for form, drift in drifts.items() if most is None or drift <= most}
    notes = [
        f"{form}: its codes drift by {drift:.2g}"
        for form, drift in drifts.items()
        if form not in kept
    ]
    return kept, tuple(notes)


def mixed_effects(mixed: Mixed, *, drift: float, lists: bool) -> tuple[Effect, ...]:
    """What the scores drift, and every table's width."""
    unit = "share of the lists' items" if lists else "share of the scores' variance"
    return (
        Effect("score_drift", 0.0, drift, asked=mixed.limits.max_drift, unit=unit),
        *(
            Effect(f"bits:{table.table}", AS_IT_IS, width.bits, unit="bits")
            for table, width in mixed.chosen.items()
        ),
    )


def mixed_notes(mixed: Mixed) -> tuple[str, ...]:
    """Every table's width, and what each width does to the scores by itself."""
    told = [
        f"{table.table}: {mixed.chosen[table].bits} bits; alone the scores drift by "
        + ", ".join(f"{w.damage:.1e} at {w.bits}" for w in widths if w.bits != AS_IT_IS)
        for table, widths in mixed.options.items()
        if len(widths) > 1
    ]
    return (f"drift is measured on {mixed.limits.rows} training rows at most", *told, *mixed.notes)
