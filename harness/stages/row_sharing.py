"""How the ids of a table share rows: who keeps its own, in which order, and the rows that fit."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from harness.compressed import HashedRows, QuotientRemainder, quotient_rows
from harness.stages.table_reads import FLOAT, TableReads

Method = Literal["hash", "quotient_remainder"]
UNREAD = 0.01
"""What a row counts that training never reads, in reads of a mean row: its sum is fitted too."""


@dataclass(frozen=True)
class Sharing:
    """How the ids of a table are placed: ``places`` (rows,) gives each its place, of which those
    below ``hot`` have a row of their own and the others share ``buckets``. With ``ordered`` the
    places are stored; else they are the ids themselves.
    """

    method: Method
    places: np.ndarray
    hot: int
    buckets: int
    ordered: bool

    @property
    def rows(self) -> int:
        """Rows stored, those of quotients included."""
        parts = self.hot + self.buckets
        if self.method == "hash":
            return parts
        return parts + quotient_rows(len(self.places), hot=self.hot, buckets=self.buckets)

    def bytes(self, dim: int) -> int:
        """Bytes of rows of ``dim`` numbers and of stored places."""
        return self.rows * dim * FLOAT + self.ordered * len(self.places) * FLOAT

    @property
    def bucket(self) -> np.ndarray:
        """Each id's bucket (rows,), -1 for those that have a row of their own."""
        found: np.ndarray = np.where(
            self.places < self.hot, -1, (self.places - self.hot) % self.buckets
        )
        return found


def place_ids(
    table: TableReads,
    *,
    padding: int | None,
    share: float | None,
    rows: int,
) -> Sharing:
    """The ids with rows of their own: the unknown and the padding one, and of the others those read
    most, until they have the ``share`` of all reads or are ``rows``; nothing is shared yet.

    Vocabularies are in the order of traffic, so that mostly these are the first ids and each is its
    own place. Where they aren't, places are stored.
    """
    always = table.unknown if padding is None else np.union1d(table.unknown, [padding])
    first = [] if padding is None else [padding]  # its row has the first place
    others = np.argsort(-table.reads, kind="stable")
    order = np.concatenate(
        [first, np.setdiff1d(always, first), others[~np.isin(others, always)]]
    ).astype(np.int64)
    hot = max(len(always), min(rows, len(order)))
    if share is not None:
        reads = np.cumsum(table.reads[order])
        enough = int(np.searchsorted(reads, share * reads[-1])) + 1
        hot = max(len(always), min(enough, len(order)))
    by_id = np.arange(len(order))
    if padding in (None, 0) and set(order[:hot]) == set(range(hot)):
        return Sharing("hash", by_id, hot, 0, ordered=False)
    places = np.empty(len(order), np.int64)
    places[order] = by_id
    return Sharing("hash", places, hot, 0, ordered=True)


def with_buckets(
    placed: Sharing, method: Method, *, dim: int, buckets: int | None, limit: int
) -> Sharing | str:
    """The sharing with ``buckets``, or with as many as fit in ``limit`` bytes; or why not."""
    shared = len(placed.places) - placed.hot
    if buckets is None:
        stored = placed.ordered * len(placed.places) * FLOAT
        room = (limit - stored) // (dim * FLOAT) - placed.hot
        buckets = room if method == "hash" else _remainders(room, shared)
        if buckets < 1:
            least = 1 if method == "hash" else math.ceil(2 * math.sqrt(shared)) + 1
            return f"{placed.hot} rows of their own leave room for {room}, expected {least} or more"
    found = replace(placed, method=method, buckets=buckets)
    if found.bytes(dim) >= len(placed.places) * dim * FLOAT:
        return "it wouldn't shrink"
    return found


def _remainders(room: int, shared: int) -> int:
    """The most remainder rows that leave room for the quotients of ``shared`` ids and of the hot
    ones; 0 where there is none.
    """
    room -= 1
    square = room * room - 4 * shared
    if room < 1 or square < 0:
        return 0
    most = (room + math.isqrt(square)) // 2
    while most and most + -(-shared // most) > room:
        most -= 1
    return most


def fill(layer: HashedRows, table: torch.Tensor, sharing: Sharing, reads: np.ndarray) -> None:
    """Give a layer of that ``sharing`` the rows with which it is nearest to a ``table`` (rows, dim)
    by the squared error of all ``reads`` (rows,).
    """
    ids = np.empty(len(sharing.places), np.int64)
    ids[sharing.places] = np.arange(len(ids))
    order = torch.from_numpy(ids)
    own, shared = order[: sharing.hot], order[sharing.hot :]
    grid, weights = _grid(table[shared], torch.from_numpy(reads)[shared], sharing.buckets)
    with torch.no_grad():
        rows = layer.rows.weight
        rows[: sharing.hot] = table[own]
        if isinstance(layer, QuotientRemainder):
            quotients, remainders = nearest_sums(grid, weights)
            layer.quotients.weight[0] = 0.0
            layer.quotients.weight[1:] = quotients
        else:
            remainders = bucket_means(grid, weights)
        rows[sharing.hot :] = remainders
        if layer.order is not None:
            layer.order.copy_(torch.from_numpy(sharing.places).unsqueeze(1))


def _grid(
    rows: torch.Tensor, reads: torch.Tensor, buckets: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in the order of their places as (quotients, buckets, dim) float64, and their reads
    (quotients, buckets) float64, -1 where there is no such place.
    """
    missing = -len(rows) % buckets
    padded = torch.nn.functional.pad(rows.double(), (0, 0, 0, missing))
    weights = torch.nn.functional.pad(reads.double(), (0, missing), value=-1.0)
    return padded.view(-1, buckets, rows.shape[1]), weights.view(-1, buckets)


def bucket_means(grid: torch.Tensor, reads: torch.Tensor) -> torch.Tensor:
    """The mean of each bucket's rows (buckets, dim), weighted by reads; the plain one where
    training reads none of them.
    """
    there = (reads >= 0).double()
    weights = reads.clamp(min=0)
    weights = torch.where(weights.sum(dim=0) > 0, weights, there)  # (quotients, buckets)
    total = weights.sum(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.einsum("qb,qbd->bd", weights, grid) / total.unsqueeze(1)


def nearest_sums(grid: torch.Tensor, reads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of quotients (quotients, dim) and of remainders (buckets, dim) whose sums are nearest to
    a grid (quotients, buckets, dim) in squares weighted by reads.

    Given the quotients the best remainders are means, so that one linear system of the smaller
    side, which has at most the root of all ids, gives both.
    """
    if grid.shape[0] > grid.shape[1]:
        remainders, quotients = nearest_sums(grid.transpose(0, 1), reads.T)
        return quotients, remainders
    there = reads >= 0
    weights = torch.where(there, reads + (UNREAD * float(reads[there].mean()) or 1.0), 0.0)
    by_quotient = torch.einsum("qb,qbd->qd", weights, grid)
    by_remainder = torch.einsum("qb,qbd->bd", weights, grid)
    total = weights.sum(dim=0).clamp(min=torch.finfo(torch.float64).tiny)  # (buckets,)
    share = weights / total
    system = weights.sum(dim=1).diag() - share @ weights.T
    # What is added to all quotients and taken from all remainders changes nothing: of these sums
    # the one is asked for whose quotients add up to 0.
    system += weights.sum() / len(system) ** 2
    quotients = torch.linalg.solve(system, by_quotient - share @ by_remainder)
    return quotients, (by_remainder - weights.T @ quotients) / total.unsqueeze(1)


def collisions(sharing: Sharing, reads: np.ndarray) -> int:
    """Training reads whose vector another id that is read has too; none of quotient and remainder,
    whose pairs are unique.
    """
    if sharing.method == "quotient_remainder":
        return 0
    bucket = sharing.bucket
    shared = (bucket >= 0) & (reads > 0)
    readers = np.bincount(bucket[shared], minlength=sharing.buckets)
    return int(reads[shared][readers[bucket[shared]] > 1].sum())
