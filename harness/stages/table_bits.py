"""Which width each table gets: bytes go where they save most damage, until a limit is reached.

The choice of one width of each table at a limit of bytes is a multiple-choice knapsack; the greedy
way along each table's convex hull of bytes and damage is the exact answer at every step of it
(Sinha and Zoltners 1979, doi:10.1287/opre.27.3.503).
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from harness.errors import EffectError

AS_IT_IS = 32
"""Bits of a table that stays in single precision."""


@dataclass(frozen=True, slots=True)
class Width:
    """One way to store a table: what it takes, and what it does to the scores, alone."""

    bits: int
    bytes: int
    damage: float


Key = TypeVar("Key", bound=Hashable)
Choice = dict[Key, Width]


def choices(options: Mapping[Key, Sequence[Width]]) -> Iterator[Choice[Key]]:
    """Choices of a width for every table, from the fewest bytes up: each differs from the one
    before in the table where a further byte saves most damage. None of as few bytes has less.
    """
    hulls = {key: _hull(widths) for key, widths in options.items()}
    chosen = {key: hull[0] for key, hull in hulls.items()}
    yield dict(chosen)
    steps = [
        ((one.damage - two.damage) / (two.bytes - one.bytes), at, key, two)
        for at, (key, hull) in enumerate(hulls.items())
        for one, two in pairwise(hull)
    ]
    for _, _, key, width in sorted(steps, key=lambda step: (-step[0], step[1], step[3].bytes)):
        chosen[key] = width
        yield dict(chosen)


def _hull(widths: Sequence[Width]) -> list[Width]:
    """The widths that are worth their bytes: each further one saves damage, and less a byte than
    the one before it.
    """
    hull: list[Width] = []
    for width in sorted(widths, key=lambda each: (each.bytes, each.damage)):
        if hull and width.damage >= hull[-1].damage:
            continue
        while len(hull) > 1 and _saved(hull[-1], width) >= _saved(hull[-2], hull[-1]):
            hull.pop()
        hull.append(width)
    return hull


def _saved(one: Width, two: Width) -> float:
    return (one.damage - two.damage) / (two.bytes - one.bytes)


def choose(
    options: Mapping[Key, Sequence[Width]],
    drift: Callable[[Choice[Key]], float],
    *,
    most_bytes: int | None,
    max_drift: float | None,
) -> tuple[Choice[Key], float]:
    """A width for every table and how far the scores drift with all of them, as ``drift`` measures
    it: of ``choices``, the first whose drift is at most ``max_drift``, or without it the last of at
    most ``most_bytes``, with what still fits.

    Raises ``EffectError`` naming what can be had when the limits can't be kept.
    """
    steps = list(choices(options))
    least = _bytes(steps[0])
    if most_bytes is not None and least > most_bytes:
        raise EffectError(
            f"budget: {most_bytes:,} bytes for {len(options)} tables, but they take {least:,} at "
            "the least; raise the budget"
        )
    if max_drift is None:
        assert most_bytes is not None, "one of the two limits"
        chosen = _filled(steps, most_bytes)
        return chosen, drift(chosen)
    smallest = float("inf")
    for chosen in steps:
        if most_bytes is not None and _bytes(chosen) > most_bytes:
            break
        if sum(width.damage for width in chosen.values()) > max_drift:
            continue  # measuring a choice takes long, and what each does alone adds up
        found = drift(chosen)
        if found <= max_drift:
            return chosen, found
        smallest = min(smallest, found)
    told = "none was near" if smallest == float("inf") else f"{smallest:.2g} was reached"
    raise EffectError(
        f"max_drift: {max_drift:g} can't be kept within {most_bytes or 0:,} bytes ({told}); raise "
        "either"
    )


def _bytes(chosen: Mapping[Key, Width]) -> int:
    return sum(width.bytes for width in chosen.values())


def _filled(steps: Sequence[Choice[Key]], most_bytes: int) -> Choice[Key]:
    """All steps in turn that fit; a table whose step didn't fit has no later one."""
    chosen, full = steps[0], set[Key]()
    for one, two in pairwise(steps):
        key = next(key for key in two if one[key] != two[key])
        tried = {**chosen, key: two[key]}
        if key in full or _bytes(tried) > most_bytes:
            full.add(key)
        else:
            chosen = tried
    return chosen
