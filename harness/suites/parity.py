"""Parity: the same rows give the same logits in every batch, and in the engine as in torch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness import tables
from harness.engines.base import Engine, scores_of
from harness.results import Row
from harness.suites.accuracy import metric_row
from harness.suites.statistics import Interval
from harness.tasks import TASKS, Task

LARGE = 1024
"""Most rows of the large batch."""
LISTS = 256
"""Most requests of the large batch where each is answered from the whole catalogue."""
ODD = 7
ALONE = 64
"""Most rows that are scored one by one."""


def invariance_rows(
    common: Mapping[str, Any],
    engine: Engine,
    data: tables.Prepared,
    split: tables.Split,
    *,
    seed: int = 0,
) -> list[Row]:
    """The largest difference in logits of the same rows scored alone (1 x 1), in their request,
    and in a large batch of requests; ``n`` rows are compared. Of lists: in scores, place by place,
    of the same requests answered alone and in a large batch.
    """
    block = _block(data, split, seed)  # (requests, candidates)
    few = block[: max(1, ALONE // block.shape[1])]
    alone = few.ravel()[:ALONE]
    score = _scorer(engine, data, split)
    large = score(block)[: few.size]
    singles = np.concatenate([score(row[None, None]) for row in alone])
    requests = np.concatenate([score(line[None]) for line in few])
    gaps = [_gap(singles, large[: len(alone)]), _gap(requests, large)]
    value = None if None in gaps else max(gap for gap in gaps if gap is not None)
    found = {"batch_invariance": (value, few.size, block.size)}
    return _gap_rows(common, found, TASKS[data.schema.task])


def parity_rows(
    common: Mapping[str, Any],
    engines: tuple[Engine, Engine],
    data: tables.Prepared,
    split: tables.Split,
    *,
    seed: int = 0,
) -> list[Row]:
    """The largest difference in logits between an engine and the torch module on the same rows; of
    lists, in scores place by place on the same requests.

    ``engines`` are the two, each with its artifact. One row a batch size: ``parity_one`` for a
    single row, ``parity_odd`` for 7 requests of one candidate (fewer in a smaller split),
    ``parity_large`` for at most 1024 rows of whole requests, or 256 lists.
    """
    block = _block(data, split, seed)  # (requests, candidates)
    ones = np.unique(np.random.default_rng(seed).choice(split.rows, min(ODD, split.rows), False))
    score, reference = (_scorer(engine, data, split) for engine in engines)
    batches = {"one": ones[:1, None], "odd": ones[:, None], "large": block}
    found = {
        f"parity_{name}": (_gap(score(batch), reference(batch)), batch.size, batch.size)
        for name, batch in batches.items()
    }
    return _gap_rows(common, found, TASKS[data.schema.task])


def _scorer(
    engine: Engine, data: tables.Prepared, split: tables.Split
) -> Callable[[np.ndarray], np.ndarray]:
    inputs = engine.artifact.inputs
    return lambda batch: scores_of(engine.score(tables.feeds(data.schema, split, batch, inputs)))


def _block(data: tables.Prepared, split: tables.Split, seed: int) -> np.ndarray:
    """Rows of seeded requests of one length, the length that most rows have among those of two or
    more, (requests, candidates); of requests for lists the first row, (requests, 1).
    """
    if TASKS[data.schema.task].lists:
        count = min(split.requests, LISTS)
        chosen = np.random.default_rng(seed).choice(split.requests, count, replace=False)
        first: np.ndarray = np.asarray(split.offsets)[np.sort(chosen), None]
        return first
    lengths = np.diff(split.offsets)
    mass = np.bincount(lengths, lengths)
    if len(mass) > 2 and mass[2:].any():
        mass[:2] = 0
    length = int(mass.argmax())
    starts = np.asarray(split.offsets[:-1])[lengths == length]
    count = min(len(starts), max(1, LARGE // length))
    chosen = np.random.default_rng(seed).choice(starts, count, replace=False)
    block: np.ndarray = np.sort(chosen)[:, None] + np.arange(length)
    return block


def _gap(one: np.ndarray, other: np.ndarray) -> float | None:
    """Largest absolute difference; None when a logit isn't finite."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    return float(np.abs(one.astype(np.float64) - other).max())


def _gap_rows(
    common: Mapping[str, Any], found: Mapping[str, tuple[float | None, int, int]], task: Task
) -> list[Row]:
    """A row for each metric's gap, what was compared and the largest batch."""
    unit = "score" if task.lists else "logit"
    columns = {"unit": unit, "direction": "lower"}
    return [
        metric_row(
            common,
            "parity",
            metric,
            Interval(gap, None, None, n),
            batch=batch,
            reason=None if gap is not None else f"a {unit} isn't finite",
            **columns,
        )
        for metric, (gap, n, batch) in found.items()
    ]
