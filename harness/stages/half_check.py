"""Scores of a half precision graph against those of the graph it was made of, on real rows.

Computed with onnx's reference of each operator, in true half precision: the CPU engine computes
such graphs in fp32, which hides overflow.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from harness.artifact import Artifact
from harness.errors import EffectError
from harness.schema import UNKNOWN
from harness.stages.base import Context
from harness.stages.graphs import (
    NOTHING_LEFT,
    Feeds,
    draw_rows,
    load_graph,
    ort_scores,
    row_batches,
)
from harness.stages.reference import reference_scores
from harness.stages.saturation import relative_gap
from harness.tables import TensorSpec

FAR = 10
"""A single score is off when it is that many tolerances away."""


def check_range(
    before: Artifact, after: Artifact, context: Context, *, rows: int, tolerance: float
) -> tuple[float, tuple[str, ...]]:
    """Drift of the scores (root mean square, as a share of their spread) of ``rows`` training rows
    and of the rows of ``edge_rows``; and notes.

    Raises ``EffectError`` with the number of scores that are not finite, or too far away.
    """
    split = context.data.splits["train"]
    drawn = draw_rows(split, count=rows, seed=context.seed)
    batches = list(row_batches(context.data, split, drawn, before.inputs))
    edges = dict(edge_rows(batches, before.inputs))
    quantised = before.precision.startswith("int8")
    half = reference_scores(load_graph(after))
    exact = ort_scores(before.file, optimise=not quantised)  # no kernel that may saturate
    with np.errstate(all="ignore"):  # overflow is what is looked for, in the scores below
        found = _scores(half, [*batches, *edges.values()])
    right = _scores(exact, [*batches, *edges.values()])
    kinds = ["training rows"] * len(batches) + list(edges)
    names = np.repeat(kinds, [len(part) for part in found])
    scores, expected = (np.concatenate(parts).astype(np.float64) for parts in (found, right))
    drift = _judge(scores, expected, names, tolerance=tolerance)
    notes = [f"checked in half precision: {len(drawn)} training rows, {', '.join(edges)}"]
    if lost := int((~np.isfinite(expected)).sum()):
        notes.append(f"{lost} of {len(expected)} scores are not finite before either")
    return drift, tuple(notes)


def _scores(run: Callable[[Feeds], Any], batches: Sequence[Feeds]) -> list[np.ndarray]:
    return [np.ravel(run(batch)) for batch in batches]


def _judge(
    scores: np.ndarray, expected: np.ndarray, names: np.ndarray, *, tolerance: float
) -> float:
    """The drift; ``names`` says of which kind of row each score is."""
    told = np.isfinite(expected)
    if not told.any():
        raise EffectError("no row that was checked has a finite score before FP16")
    bad = told & ~np.isfinite(scores)
    if bad.any():
        raise EffectError(
            f"FP16 overflows: {bad.sum()} of {len(scores)} scores are not finite "
            f"({_kinds(names[bad])}); keep the operators that overflow in fp32 (keep_ops) or "
            "scale the numbers down"
        )
    scores, expected, names = scores[told], expected[told], names[told]
    drift = relative_gap(scores, expected)
    if not drift <= tolerance:
        raise EffectError(
            f"FP16 scores are {drift:.2%} of their spread away from fp32, tolerance {tolerance:.2%}"
        )
    spread = float(np.std(expected[expected != NOTHING_LEFT])) or 1.0
    far = (np.abs(scores - expected) > FAR * tolerance * spread) & (expected != NOTHING_LEFT)
    if far.any():
        raise EffectError(
            f"FP16 scores drift: {far.sum()} of {len(scores)} are more than "
            f"{FAR * tolerance:.1%} of their spread away from fp32 ({_kinds(names[far])})"
        )
    return drift


def _kinds(names: np.ndarray) -> str:
    kinds, counts = np.unique(names, return_counts=True)
    return ", ".join(f"{kind}: {count}" for kind, count in zip(kinds, counts, strict=True))


def edge_rows(
    batches: Sequence[Feeds], inputs: Sequence[TensorSpec]
) -> Iterator[tuple[str, Feeds]]:
    """Rows that a sample may lack, one request each, made of the first: all ids unknown; the same
    with all numbers 0; and where there are histories an empty one, one of one item, a full one.
    """
    first = {name: array[:1] for name, array in batches[0].items()}
    ids = [spec.name for spec in inputs if not spec.dtype.startswith("float")]
    unknown = first | {name: np.full_like(first[name], UNKNOWN) for name in ids}
    yield "unknown ids", unknown
    if len(ids) < len(inputs):
        yield "unknown ids and zeros", {n: np.zeros_like(array) for n, array in first.items()}
    if "history" not in first:
        return
    pasts = np.concatenate([np.ravel(batch["history"]) for batch in batches])
    items = pasts[pasts != UNKNOWN] if (pasts != UNKNOWN).any() else np.ones(1, pasts.dtype)
    empty = np.full_like(first["history"], UNKNOWN)  # (1, length)
    one = empty.copy()
    one[:, -1] = items[0]
    full = np.resize(items, empty.shape).astype(empty.dtype)
    for name, history in {"empty": empty, "one-item": one, "full": full}.items():
        seen = {"seen": history.astype(first["seen"].dtype)} if "seen" in first else {}
        yield f"{name} history", {**first, "history": history, **seen}
