"""How a comparison can end, and the exit code that follows: the one place that says so."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

Outcome = Literal["passed", "warning", "failed", "inconclusive", "not measured", "new"]

OUTCOMES: tuple[Outcome, ...] = (
    *("passed", "warning", "failed", "inconclusive"),
    *("not measured", "new"),
)
MADE = OUTCOMES[:4]
"""Those of comparisons that were really made."""

EXIT_CODES: Mapping[Outcome, int] = {"failed": 1, "not measured": 4, "inconclusive": 3}
"""The first that occurs decides; otherwise 0."""

NOTHING = 4
"""The exit code when nothing was compared at all."""

AA_BOUNDS = (0.95, 1.05)
"""Where the ratio of a reference to its own second copy must lie for a comparison to count."""

MIN_PAIRS = 5
"""Fewer rounds say nothing about spread: one round's spread of 0 isn't stability."""


def code_of(outcomes: Collection[Outcome]) -> int:
    """0 passed, 1 failed, 3 inconclusive, 4 not measured, or nothing compared at all.

    What is new was compared with nothing, so it decides nothing.
    """
    if not set(outcomes) - {"new"}:
        return NOTHING
    return next((code for outcome, code in EXIT_CODES.items() if outcome in outcomes), 0)


def told_code(code: int) -> str:
    """An exit code and why, for a last line: ``exit code 3: inconclusive``."""
    words = {0: "passed", 2: "bad input", **{code: word for word, code in EXIT_CODES.items()}}
    return f"exit code {code}: {words[code]}"


def count_line(outcomes: Sequence[Outcome], shadow: Sequence[Outcome] = ()) -> str:
    """How many comparisons were made and how they ended, in one line; ``shadow`` outcomes are
    those that decide nothing.
    """
    counts = {word: sum(outcome == word for outcome in outcomes) for word in OUTCOMES}
    counts_shadow = {word: sum(outcome == word for outcome in shadow) for word in OUTCOMES}
    made = sum(counts[word] + counts_shadow[word] for word in MADE)
    told = [f"{number} {word}" for word, number in counts.items() if number]
    told += [f"{number} {word} in shadow" for word, number in counts_shadow.items() if number]
    return f"{made} comparisons made{': ' if told else ''}{', '.join(told)}"


def aa_trouble(ratio: float | None, pairs: int | None) -> str | None:
    """Why a paired ratio can't be used: its A/A control, or too few rounds; None when it can."""
    if ratio is None:
        return "no A/A ratio was measured"
    if not AA_BOUNDS[0] <= ratio <= AA_BOUNDS[1]:
        return f"the A/A ratio is {ratio:.3f}, outside {AA_BOUNDS[0]}-{AA_BOUNDS[1]}"
    if pairs is None or pairs < MIN_PAIRS:
        return f"{pairs or 'an unknown number of'} pairs, at least {MIN_PAIRS} are needed"
    return None
