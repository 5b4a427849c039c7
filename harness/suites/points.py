"""Points of a throughput table and their inputs: real rows in a seeded order, no batch twice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from harness.errors import DataError
from harness.schema import FeatureSchema
from harness.tables import Split, TensorSpec, feeds

MIN_BATCHES = 64
MAX_BATCHES = 1024
WORKING_ROWS = 65_536
"""Rows of all batches of a point together: about 10 MB of ids, and the table rows they touch."""


@dataclass(frozen=True, slots=True)
class Point:
    """One load: ``requests`` of ``candidates`` each in one call, on ``threads`` threads.

    ``sweep`` scores rows of different households (one candidate each); ``single`` has one
    household's request in flight.
    """

    scenario: Literal["sweep", "single"]
    requests: int
    candidates: int
    threads: int

    @property
    def rows(self) -> int:
        """Scored rows of one call."""
        return self.requests * self.candidates

    @property
    def batches(self) -> int:
        """Distinct batches that are taken in turns."""
        return max(MIN_BATCHES, min(MAX_BATCHES, WORKING_ROWS // self.rows))


def sweep_points(batches: tuple[int, ...], candidates: int, *, threads: int) -> tuple[Point, ...]:
    """A sweep over batches of rows, and one household's request, at one thread count."""
    sweep = (Point("sweep", batch, 1, threads) for batch in batches)
    return (*sweep, Point("single", 1, candidates, threads))


def draw_rows(split: Split, point: Point, *, seed: int) -> np.ndarray:
    """Row indices of every batch, (batches, requests, candidates), in a seeded order.

    A sweep takes rows without repeats until all were used. A request takes its own rows first;
    a household that saw fewer products than a request needs is filled up with other rows, whose
    products it then ranks too. Raises ``DataError`` for a split without rows.
    """
    if split.rows == 0 or split.requests == 0:
        raise DataError(f"split {split.name!r} has no rows to time a model on")
    rng = np.random.default_rng([seed, point.requests, point.candidates])
    shape = (point.batches, point.requests, point.candidates)
    if point.scenario == "sweep":
        return _endless(rng, split.rows, point.batches * point.rows).reshape(shape)
    rows = rng.integers(0, split.rows, shape)
    lengths = np.diff(split.offsets)
    filled = np.flatnonzero(lengths)
    chosen = filled[_endless(rng, len(filled), point.batches * point.requests)]
    for line, request in zip(rows.reshape(-1, point.candidates), chosen, strict=True):
        own = min(point.candidates, int(lengths[request]))
        line[:own] = split.offsets[request] + np.arange(own)
    return rows


def _endless(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """``count`` of 0..n-1 in random order, each used equally often give or take one."""
    rounds = [rng.permutation(n) for _ in range(-(-count // n))]
    return np.concatenate(rounds)[:count]


def write_feeds(
    path: Path,
    schema: FeatureSchema,
    split: Split,
    rows: np.ndarray,
    inputs: tuple[TensorSpec, ...],
) -> Path:
    """Write a model's inputs for ``rows`` (batches, requests, candidates) as .npz, batches stacked
    along the first axis; gives the path back.
    """
    batches = len(rows)
    arrays = feeds(schema, split, rows.reshape(-1, rows.shape[2]), inputs)
    stacked = {
        name: array.reshape(batches, len(array) // batches, *array.shape[1:])
        for name, array in arrays.items()
    }
    np.savez(path, allow_pickle=False, **stacked)
    return path
