"""Points of a throughput table and their inputs: real rows in a seeded order, no batch twice."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Literal
from zipfile import BadZipFile, ZipFile

import numpy as np

from harness.errors import DataError
from harness.profile import Load, Region, Spread
from harness.schema import FeatureSchema
from harness.tables import Split, TensorSpec, feeds

MIN_BATCHES = 64
MAX_BATCHES = 1024
WORKING_ROWS = 65_536
"""Rows of all batches of a point together: about 10 MB of ids, and the table rows they touch."""
MOST_WORKING_ROWS = 1 << 22
"""The same of large batches, of which ``LEAST_BATCHES`` will do: no cache holds one of them."""
LEAST_BATCHES = 4
SHAPE = "/shape"
"""Ends the name of the array that holds an input's shape in each batch."""

_UNZIPPED = (OSError, BadZipFile, zlib.error, EOFError, RuntimeError, MemoryError)
_PARSED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    SyntaxError,
    TokenError,
)
"""What numpy raises for files that are damaged or none of arrays, by trial."""


@dataclass(frozen=True, slots=True)
class Point:
    """One closed-loop load: ``requests`` of ``candidates`` each in one call, on ``threads``.

    ``sweep`` scores rows of different households (one candidate each); ``single`` has one
    household's request in flight, of ``spread`` candidates where that is given (``candidates`` is
    then its mean); ``offline`` has all rows there at the start.

    ``model_only`` times the engine's call on prepared inputs by the wall clock, until the device
    has finished: on a GPU without the copies to it and back. ``end_to_end`` goes from feature
    arrays to scores in host memory, both copies included. ``device_only`` is what the device's own
    events tell, of engines that have any (see ``Worker.block``). Inputs take turns call by call
    (in ``device_only`` group by group), see ``batches``.
    """

    scenario: Literal["sweep", "single", "offline"]
    requests: int
    candidates: int
    threads: int
    region: Region = "model_only"
    spread: Spread | None = None

    @property
    def rows(self) -> int:
        """Scored rows of one call (of the mean one, when candidates are drawn)."""
        return self.requests * self.candidates

    @property
    def batches(self) -> int:
        """Distinct batches that are taken in turns."""
        least = max(LEAST_BATCHES, min(MIN_BATCHES, MOST_WORKING_ROWS // self.rows))
        return max(least, min(MAX_BATCHES, WORKING_ROWS // self.rows))

    @property
    def label(self) -> str:
        """What progress and errors call it."""
        at = f"{self.scenario} {self.requests}x{self.candidates}"
        return f"{at}, {self.threads} threads, {self.region.replace('_', ' ')}"


def request_point(load: Load, *, threads: int, region: Region = "model_only") -> Point:
    """One household's request as a load describes it."""
    drawn = load.candidates
    spread = drawn if isinstance(drawn, Spread) else None
    candidates = round(drawn.mean) if isinstance(drawn, Spread) else drawn
    return Point("single", 1, candidates, threads, region, spread)


def closed_points(load: Load, *, threads: int) -> tuple[Point, ...]:
    """The closed-loop points of a load at one thread count: sweep, request, all at once."""
    points: list[Point] = []
    if "sweep" in load.scenarios:
        pairs = [(batch, region) for batch in load.batches for region in load.regions]
        points += [Point("sweep", batch, 1, threads, region) for batch, region in pairs]
    if "single" in load.scenarios:
        regions: dict[Region, None] = dict.fromkeys(("model_only", "end_to_end", *load.regions))
        points += [request_point(load, threads=threads, region=region) for region in regions]
    if "offline" in load.scenarios:
        points.append(Point("offline", load.offline_batch, 1, threads, "end_to_end"))
    return tuple(points)


def draw_rows(split: Split, point: Point, *, seed: int) -> tuple[np.ndarray, ...]:
    """Row indices of every batch, (requests, candidates) each, in a seeded order.

    Single rows come without repeats until all were used. A request takes its own rows first;
    a household that saw fewer products than a request needs is filled up with other rows, whose
    products it then ranks too. Where lists are asked for, a request is its first row, without
    repeats until all requests were used. Raises ``DataError`` for a split without rows, and for
    candidates of a list.
    """
    if split.rows == 0 or split.requests == 0:
        raise DataError(f"split {split.name!r} has no rows to time a model on")
    rng = np.random.default_rng([seed, point.requests, point.candidates])
    if split.histories is not None:
        if point.candidates != 1:
            raise DataError(
                f"a request for a list has no candidates, {point.candidates} were asked for: time "
                "it with candidates: 1"
            )
        drawn = _endless(rng, split.requests, point.batches * point.rows)
        return tuple(np.asarray(split.offsets)[drawn].reshape(point.batches, point.requests, 1))
    if point.candidates == 1 and point.spread is None:
        shape = (point.batches, point.requests, 1)
        return tuple(_endless(rng, split.rows, point.batches * point.rows).reshape(shape))
    lengths = np.diff(split.offsets)
    filled = np.flatnonzero(lengths)
    chosen = filled[_endless(rng, len(filled), point.batches * point.requests)]
    counts = _candidates(rng, point)
    batches = tuple(rng.integers(0, split.rows, (point.requests, count)) for count in counts)
    for batch, requests in zip(batches, chosen.reshape(point.batches, -1), strict=True):
        for line, request in zip(batch, requests, strict=True):
            own = min(len(line), int(lengths[request]))
            line[:own] = split.offsets[request] + np.arange(own)
    return batches


def _candidates(rng: np.random.Generator, point: Point) -> np.ndarray:
    """Candidates of each batch's requests, (batches,): a beta distribution over the spread."""
    if point.spread is None:
        return np.full(point.batches, point.candidates)
    low, high, mean = point.spread.low, point.spread.high, point.spread.mean
    middle = (mean - low) / (high - low)
    drawn = rng.beta(4 * middle, 4 * (1 - middle), point.batches)  # (batches,)
    return np.rint(low + (high - low) * drawn).astype(np.int64)


def _endless(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """``count`` of 0..n-1 in random order, each used equally often give or take one."""
    rounds = [rng.permutation(n) for _ in range(-(-count // n))]
    return np.concatenate(rounds)[:count]


def write_feeds(
    path: Path,
    schema: FeatureSchema,
    split: Split,
    rows: Sequence[np.ndarray],
    inputs: tuple[TensorSpec, ...],
) -> Path:
    """Write a model's inputs for batches of rows, (requests, candidates) each, as .npz: of each
    input all batches' values end to end, and the shape in each batch. Gives the path back.
    """
    return write_batches(path, [feeds(schema, split, batch, inputs) for batch in rows])


def write_batches(path: Path, batches: Sequence[Mapping[str, np.ndarray]]) -> Path:
    """Write batches of a model's inputs as ``write_feeds`` does. Gives the path back."""
    arrays: dict[str, np.ndarray] = {}
    for name in batches[0]:
        values = [batch[name] for batch in batches]
        arrays[name] = np.concatenate([value.ravel() for value in values])
        arrays[name + SHAPE] = np.array([value.shape for value in values])
    np.savez(path, allow_pickle=False, **arrays)
    return path


def read_feeds(path: Path) -> list[dict[str, np.ndarray]]:
    """The batches of a file that ``write_feeds`` wrote; raises ``DataError`` for any other."""
    try:
        _check_stored(path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = [name for name in arrays if not name.endswith(SHAPE)]
        inputs = {name: _batches(arrays[name], arrays[name + SHAPE]) for name in names}
    except (*_UNZIPPED, *_PARSED) as error:
        raise DataError(f"{path}: not a file of batches ({error})") from error
    sizes = {len(values) for values in inputs.values()}
    if len(sizes) != 1 or sizes == {0}:
        raise DataError(f"{path}: inputs have {sorted(sizes)} batches, expected one number of them")
    return [{name: values[i] for name, values in inputs.items()} for i in range(sizes.pop())]


def _check_stored(path: Path) -> None:
    """Raise ``BadZipFile`` for a file that unpacks to more than it is; ours are never packed."""
    with ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise BadZipFile("packed")


def _batches(values: np.ndarray, shapes: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum(shapes.prod(axis=1))
    if values.ndim != 1 or not len(ends) or ends[-1] != len(values):
        raise ValueError(f"{values.shape} values don't fill shapes {shapes.tolist()[:3]}")
    parts = np.split(values, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
