"""Faiss indexes of a catalogue, built the same each time: one thread, a fixed seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UnsupportedError
from harness.item_index import BITS, CODES, INDEX, IndexSpec, widened

SAMPLE = 1024
"""Most vectors a code that codes are learned from."""
LINKS, BUILD_DEPTH = 32, 200
"""Links of an item in a graph, and candidates looked at for them (Malkov and Yashunin 2016,
arXiv:1603.09320: M and efConstruction)."""


def build_index(
    spec: IndexSpec, vectors: np.ndarray, bias: np.ndarray | None, folder: Path, *, seed: int
) -> int:
    """Write the index of ``spec``'s kind over ``vectors`` (items, dim) to ``folder``; gives its
    bytes, 0 for ``flat``, which has no file: its vectors are all there is.

    Raises ``UnsupportedError`` for fewer items than ``pq4`` has codes.
    """
    import faiss

    if spec.kind == "flat":
        return 0
    with _one_thread():
        wide = widened(spec, vectors, bias)
        index = _codes(spec, wide, seed) if spec.kind == "pq4" else _links(spec, wide)
        path = folder / INDEX
        faiss.write_index(index, str(path), faiss.IO_FLAG_SKIP_STORAGE)
    return path.stat().st_size


def link_count(folder: Path) -> int:
    """Links that the graph of a ``hnsw`` index stores."""
    import faiss

    found = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_SKIP_STORAGE)
    return int(found.hnsw.neighbors.size())


def _codes(spec: IndexSpec, wide: np.ndarray, seed: int) -> Any:
    """Four-bit codes that are added up from tables held in registers (Andre et al. 2017,
    arXiv:1704.07355), learned by k-means for each group of numbers.
    """
    import faiss

    if spec.rows < CODES:
        raise UnsupportedError(
            f"index_catalogue: {spec.rows} items are fewer than the {CODES} codes of pq4; use flat"
        )
    index = faiss.IndexPQFastScan(spec.width, spec.codes, BITS, faiss.METRIC_INNER_PRODUCT)
    clustering = index.pq.cp
    clustering.seed = seed % (1 << 31)
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = SAMPLE
    index.train(wide)
    index.add(wide)
    return index


def _links(spec: IndexSpec, wide: np.ndarray) -> Any:
    import faiss

    index = faiss.IndexHNSWFlat(spec.width, LINKS, faiss.METRIC_L2)
    index.hnsw.efConstruction = BUILD_DEPTH
    index.add(wide)
    return index


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads add to a graph in any order; one alone makes the same index each time."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
