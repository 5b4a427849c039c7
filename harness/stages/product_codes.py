"""Product quantisation of vectors: k-means on each part of them (Jegou et al. 2011).

Centroids start by k-means++ (Arthur and Vassilvitskii 2007): a row is drawn the more often the
further it is from those drawn before, and never one that is equal to one of them, so that rows of
no more kinds than centroids are found exactly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

CHUNK = 16_384
"""Rows that are worked on at a time."""
ROWS_EACH = 256
"""Most rows a centroid is fitted to, as in faiss; of more a seeded sample is drawn."""
ITERATIONS = 25


@dataclass(frozen=True)
class ProductCodes:
    """Vectors as ``codes`` (rows, splits) uint8 of ``centroids`` (splits, count, dim / splits)
    float32; ``used`` (splits,) says how many of a split's centroids stand for any row.
    """

    codes: torch.Tensor
    centroids: torch.Tensor
    used: tuple[int, ...]


def product_codes(vectors: torch.Tensor, *, splits: int, count: int, seed: int) -> ProductCodes:
    """The codes of ``vectors`` (rows, dim) with ``count`` centroids, 256 at most, for each of so
    many ``splits``, which divide dim. The same for the same seed: one thread, sums in fp64.
    """
    random = torch.Generator().manual_seed(seed)
    most = count * ROWS_EACH
    rows = torch.arange(len(vectors))
    if len(vectors) > most:
        rows = torch.randperm(len(vectors), generator=random)[:most].sort().values
    codes, found = [], []
    with _one_thread():
        for part in vectors.tensor_split(splits, dim=1):
            centres = fit_centres(part[rows].double(), count, random).float()
            found.append(centres)
            codes.append(nearest(part, centres))
    used = tuple(int(torch.bincount(code).count_nonzero()) for code in codes)
    return ProductCodes(torch.stack(codes, dim=1).to(torch.uint8), torch.stack(found), used)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of several threads would differ in their last bit from run to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fit_centres(rows: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
    """``count`` centres (count, dim) of ``rows`` (rows, dim) float64 by Lloyd's algorithm; those
    that no row is left for are zeros.
    """
    centres = _first_centres(rows, count, random)
    for _ in range(ITERATIONS):
        codes = nearest(rows, centres)
        size = torch.bincount(codes, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, codes, rows)
        means = torch.where(size.unsqueeze(1) > 0, sums / size.clamp(min=1).unsqueeze(1), centres)
        if torch.equal(means, centres):
            break
        centres = means
    return torch.cat([centres, rows.new_zeros(count - len(centres), rows.shape[1])])


def _first_centres(rows: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
    """Rows to start from, ``count`` of them or as many as are different, (at most count, dim)."""
    chosen = [int(torch.randint(len(rows), (1,), generator=random))]
    away = (rows - rows[chosen[0]]).square().sum(dim=1)
    while len(chosen) < count and bool(away.any()):
        chosen.append(int(torch.multinomial(away, 1, generator=random)))
        away = torch.minimum(away, (rows - rows[chosen[-1]]).square().sum(dim=1))
    return rows[chosen]


def nearest(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """The nearest of ``centres`` (count, dim) to each row, (rows,) int64; of equal ones the
    first.
    """
    right = centres.double()
    lengths = right.square().sum(dim=1)
    found = [
        (lengths - 2 * (part.double() @ right.T)).argmin(dim=1) for part in torch.split(rows, CHUNK)
    ]
    return torch.cat(found)
