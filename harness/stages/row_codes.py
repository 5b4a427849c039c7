"""Rows of a table as small integers, each row with a scale and an offset of its own.

A row is worked out from that row alone, a chunk of rows at a time, so that memory stays bounded and
one row's huge value costs no other row anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from harness.errors import DataError
from harness.stages.side_files import Empty, release

Grid = Literal["offset", "zero_point"]
"""Where codes count from: a number of the row's own, or a code that stands for zero."""

CHUNK = 1 << 17
"""Numbers worked on at a time (1 MB in double precision)."""
RELEASED_EVERY = 64
"""Chunks after which mapped pages are given back (32 MB of a table in single precision)."""
RATIOS = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
"""Shares of the range that the search tries, at both ends and at either one."""


@dataclass(frozen=True)
class RowCodes:
    """A table of ``bits`` a number. Four-bit codes stand two a byte, the low half first: column k
    with column k + half (grid ``offset``), or columns 2k and 2k + 1 (``zero_point``).
    """

    codes: np.ndarray  # (rows, stored columns) uint8
    scale: np.ndarray  # (rows, 1) float32 or float16
    base: np.ndarray  # (rows, 1): the offset in the scale's type, or the zero point in uint8
    error: np.ndarray  # (rows,) float32: length of the error / length of the row
    bits: int
    dim: int
    grid: Grid
    rows: np.ndarray | None = None
    """Codes, scale and offset of a row one after the other, (rows, bytes) uint8, where they stand
    together: the arrays above are views of it.
    """

    @property
    def bytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return self.codes.nbytes + self.scale.nbytes + self.base.nbytes

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """The rows ``ids`` (...), (..., dim) float32, in the arithmetic of the graph."""
        codes = _unpack(self.codes[ids], bits=self.bits, grid=self.grid)[..., : self.dim]
        scale, base = self.scale[ids].astype(np.float32), self.base[ids].astype(np.float32)
        if self.grid == "offset":
            told: np.ndarray = codes.astype(np.float32) * scale + base
            return told
        told = (codes.astype(np.float32) - base) * scale
        return told.astype(self.scale.dtype).astype(np.float32)


def spans(rows: int, dim: int) -> Iterator[tuple[int, int]]:
    """First row of each chunk and the one after its last, in order; Python's integers, so that no
    product of rows and columns overflows.
    """
    step = max(1, CHUNK // max(1, dim))
    for first in range(0, rows, step):
        yield first, min(rows, first + step)


def stored_bytes(rows: int, dim: int, *, bits: int, scale_bytes: int, grid: Grid = "offset") -> int:
    """Bytes of a table in that many bits: codes, a scale and an offset (or zero point) a row."""
    base = scale_bytes if grid == "offset" else 1
    return rows * (-(-dim * bits // 8) + (scale_bytes + base if bits < 16 else 0))


def quantise_rows(
    table: np.ndarray,
    *,
    bits: Literal[4, 8],
    scales: Literal["fp16", "fp32"] = "fp32",
    grid: Grid = "offset",
    search: bool = False,
    where: str = "table",
    empty: Empty = np.empty,
) -> RowCodes:
    """A table (rows, dim) in codes. The range of a row is its smallest to its largest value, or
    with ``search`` the part of it that gives the least squared error; a row of one value is kept
    exactly as far as the type of the scales can tell it. What comes back is in arrays that
    ``empty`` makes; no more than some chunks of mapped ones are in memory.

    Raises ``DataError`` naming ``where`` and the row for a value that isn't finite and for a row
    whose scale or offset is outside the range of ``scales``.
    """
    rows, dim = table.shape
    kind = np.dtype(np.float16 if scales == "fp16" else np.float32)
    codes = empty((rows, dim if bits == 8 else -(-dim // 2)), np.uint8)
    scale = empty((rows, 1), kind)
    base = empty((rows, 1), kind if grid == "offset" else np.uint8)
    error = empty((rows,), np.float32)
    maker = _Maker((1 << bits) - 1, kind, grid)
    for at, (first, end) in enumerate(spans(rows, dim)):
        part = np.asarray(table[first:end], dtype=np.float64)  # (chunk, dim)
        _check(part, first=first, where=where)
        step, start = maker.searched(part) if search else maker.fitted(part, 1.0, 1.0)
        within = np.isfinite(step) & np.isfinite(start)
        if not within.all():
            row = first + int(np.argmin(within))
            raise DataError(
                f"{where}, row {row}: its range is beyond half precision; set scales: fp32"
            )
        found = maker.codes(part, step, start)
        scale[first:end, 0], base[first:end, 0] = step, start
        error[first:end] = _relative(maker.squares(part, step, start), part)
        codes[first:end] = found if bits == 8 else _pack(found.astype(np.uint8), grid)
        if at % RELEASED_EVERY == 0:
            release(table, codes, scale, base, error)
    return RowCodes(codes, scale, base, error, bits, dim, grid)


def joined(apart: RowCodes, *, empty: Empty = np.empty) -> RowCodes:
    """The same codes with all of a row in one place, in an array that ``empty`` makes."""
    parts = (apart.codes, apart.scale, apart.base)
    ends = np.cumsum([part.shape[1] * part.itemsize for part in parts])
    rows = empty((len(apart.codes), int(ends[-1])), np.uint8)
    columns = np.split(rows, ends[:-1], axis=1)
    for at, (first, end) in enumerate(spans(*rows.shape)):
        for part, own in zip(parts, columns, strict=True):
            own.view(part.dtype)[first:end] = part[first:end]
        if at % RELEASED_EVERY == 0:
            release(*parts, rows)
    codes, scale, base = (own.view(part.dtype) for part, own in zip(parts, columns, strict=True))
    return replace(apart, codes=codes, scale=scale, base=base, rows=rows)


@dataclass(frozen=True)
class _Maker:
    """Codes 0..``levels`` of rows (n, dim) in double precision; steps and starts are (n,), of
    values that ``kind`` can hold.
    """

    levels: int
    kind: np.dtype[Any]
    grid: Grid

    def fitted(self, part: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        """Steps and starts for these shares of the range below and above the middle."""
        least, most = part.min(axis=1), part.max(axis=1)
        middle = least / 2 + most / 2
        flat = least == most
        least, most = least + (middle - least) * (1 - low), most + (middle - most) * (1 - high)
        if self.grid == "offset":
            start = _towards(least, self.kind, -np.inf)
            step = _towards((most - start) / self.levels, self.kind, np.inf)
            return np.where(flat, _nearest(most - start, self.kind), step), start
        least, most = np.minimum(least, 0), np.maximum(most, 0)
        step = _towards((most - least) / self.levels, self.kind, np.inf)
        step = np.where(flat, _nearest(most - least, self.kind), step)
        return step, np.clip(np.rint(_over(-least, step)), 0, self.levels)

    def codes(self, part: np.ndarray, step: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Codes (n, dim), still in double precision."""
        if self.grid == "offset":
            found = np.rint(_over(part - start[:, None], step[:, None]))
        else:
            found = np.rint(_over(part, step[:, None])) + start[:, None]
        return np.asarray(np.clip(found, 0, self.levels, out=found))

    def squares(self, part: np.ndarray, step: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Squared error of each row, (n,)."""
        found = self.codes(part, step, start)
        if self.grid == "offset":
            found *= step[:, None]
            found += start[:, None]
        else:
            found -= start[:, None]
            found *= step[:, None]
        found -= part
        return np.asarray(np.einsum("rd,rd->r", found, found))

    def searched(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps and starts of the least squared error among those tried."""
        step, start = self.fitted(part, 1.0, 1.0)
        with np.errstate(invalid="ignore"):  # a range beyond half precision, refused afterwards
            least = self.squares(part, step, start)
        for ratio in RATIOS:
            for low, high in ((ratio, ratio), (ratio, 1.0), (1.0, ratio)):
                tried = self.fitted(part, low, high)
                with np.errstate(invalid="ignore"):
                    squares = self.squares(part, *tried)
                better = squares < least
                step, start = np.where(better, tried[0], step), np.where(better, tried[1], start)
                least = np.where(better, squares, least)
        return step, start


def _over(values: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Values in steps; 0 where the step is 0."""
    return values / np.where(step > 0, step, np.inf)


def _nearest(values: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(kind).astype(np.float64)


def _towards(values: np.ndarray, kind: np.dtype[Any], limit: float) -> np.ndarray:
    """The next value of ``kind`` on that side, so that the range's ends stay in reach."""
    with np.errstate(over="ignore"):
        near = values.astype(kind)
        beyond = np.nextafter(near, kind.type(limit))
    short = near.astype(np.float64) > values if limit < 0 else near.astype(np.float64) < values
    return np.where(short, beyond, near).astype(np.float64)


def _relative(squares: np.ndarray, part: np.ndarray) -> np.ndarray:
    lengths = np.einsum("rd,rd->r", part, part)
    return np.asarray(np.sqrt(squares / np.where(lengths > 0, lengths, 1.0)))


def largest(table: np.ndarray, *, where: str) -> float:
    """The largest magnitude in a table (rows, dim); raises ``DataError`` naming ``where`` and the
    row of a value that isn't finite.
    """
    found = 0.0
    for at, (first, end) in enumerate(spans(*table.shape)):
        _check(table[first:end], first=first, where=where)
        found = max(found, float(np.abs(table[first:end]).max(initial=0.0)))
        if at % RELEASED_EVERY == 0:
            release(table)
    return found


def _check(part: np.ndarray, *, first: int, where: str) -> None:
    if np.isfinite(part).all():
        return
    row = int(np.argmin(np.isfinite(part).all(axis=1)))
    raise DataError(f"{where}, row {first + row}: a value is not finite; retrain or mend the table")


def _pack(codes: np.ndarray, grid: Grid) -> np.ndarray:
    """Two codes of four bits a byte, (n, half of dim rounded up)."""
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    half = codes.shape[1] // 2
    if grid == "offset":
        low, high = codes[:, :half], codes[:, half:]
    else:
        low, high = codes[:, 0::2], codes[:, 1::2]
    return np.asarray(low | (high << 4), dtype=np.uint8)


def _unpack(codes: np.ndarray, *, bits: int, grid: Grid) -> np.ndarray:
    if bits == 8:
        return codes
    low, high = codes & 15, codes >> 4
    if grid == "offset":
        return np.concatenate([low, high], axis=-1)
    return np.stack([low, high], axis=-1).reshape(*codes.shape[:-1], -1)
