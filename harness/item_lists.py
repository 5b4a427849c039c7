"""Lists of a faiss index: it proposes candidates, their exact scores decide."""

import numpy as np

from harness.item_index import FIRST, LARGEST, IndexSpec, ItemIndex
from harness.schema import UNKNOWN

NOTHING_LEFT = -1e4
"""Score of the places of a list that no item was left for (``harness.models.catalogue``)."""


def find_lists(
    index: ItemIndex, queries: np.ndarray, seen: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and ids (requests, top) of the best items for ``queries`` (requests, dim) float32,
    best first, ties by id; ``seen`` (requests, any) are ids that aren't recommended.

    Each request asks for ``candidates`` items and for as many more as it has seen: its list doesn't
    depend on the others of its batch. Places that nothing is left for have id 0 and
    ``NOTHING_LEFT``.
    """
    if seen is None:
        return _lists(index, queries, None, asked=index.spec.candidates)
    asked = _asked(np.count_nonzero(seen, axis=1), index.spec)
    counts = np.unique(asked)
    if len(counts) == 1:
        return _lists(index, queries, seen, asked=int(counts[0]))
    scores = np.empty((len(queries), index.spec.top), np.float32)
    items = np.empty(scores.shape, np.int64)
    for count in counts:
        rows = np.flatnonzero(asked == count)
        scores[rows], items[rows] = _lists(index, queries[rows], seen[rows], asked=int(count))
    return scores, items


def _asked(seen: np.ndarray, spec: IndexSpec) -> np.ndarray:
    """Items that each request asks for, (requests,), having ``seen`` (requests,) of them: as many
    more, rounded up to a power of two, so that few searches do for a batch.
    """
    more = np.where(seen > 0, 1 << np.ceil(np.log2(np.maximum(seen, 16))).astype(np.int64), 0)
    asked: np.ndarray = np.minimum(spec.candidates + more, spec.rows)
    return asked


def _lists(
    index: ItemIndex, queries: np.ndarray, seen: np.ndarray | None, *, asked: int
) -> tuple[np.ndarray, np.ndarray]:
    """``find_lists`` of requests that all ask for so many items."""
    items = _propose(index, queries, asked) + FIRST  # id 0 where faiss found fewer
    if seen is not None:
        items = np.where(_is_among(items, seen, index.spec.items), UNKNOWN, items)
    return _best(_rescore(index, queries, items), items, index.spec.top)


def _propose(index: ItemIndex, queries: np.ndarray, asked: int) -> np.ndarray:
    """Rows (requests, asked) of the index, the likeliest first, -1 where there is none."""
    import faiss

    if asked >= index.spec.rows:  # of all rows the scan of codes may leave the last one out
        return np.broadcast_to(np.arange(index.spec.rows), (len(queries), index.spec.rows))
    wide = queries
    if index.spec.width != queries.shape[1]:
        wide = np.zeros((len(queries), index.spec.width), np.float32)
        wide[:, : index.spec.dim] = queries
        if index.bias is not None:
            wide[:, index.spec.dim] = 1
    told = None
    if index.spec.kind == "hnsw":
        told = faiss.SearchParametersHNSW(efSearch=asked)
    places: np.ndarray = index.found.search(wide, asked, params=told)[1]
    return places


def _is_among(items: np.ndarray, seen: np.ndarray, count: int) -> np.ndarray:
    """Whether each of ``items`` (requests, any) is among its own request's ``seen``; both are
    below ``count``.
    """
    shift = np.arange(len(items), dtype=np.int64)[:, None] * count
    known = (np.sort(seen, axis=1) + shift).ravel()
    wanted = items + shift
    place = np.searchsorted(known, wanted.ravel()).clip(max=len(known) - 1)
    same: np.ndarray = known[place].reshape(items.shape) == wanted
    return same


def _rescore(index: ItemIndex, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Exact scores (requests, any) of items; ``NOTHING_LEFT`` for id 0.

    Each is one sum over the vector in one order: items of equal vectors have equal scores.
    """
    import faiss

    scores = np.empty(items.shape, np.float32)
    pointer = faiss.swig_ptr
    faiss.fvec_inner_products_by_idx(
        *(pointer(scores), pointer(queries), pointer(index.vectors), pointer(items)),
        *(index.spec.dim, *items.shape),
    )
    if index.bias is not None:
        scores += index.bias[items]
    scores[items == UNKNOWN] = NOTHING_LEFT
    return scores


def _best(scores: np.ndarray, items: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``top`` highest scores of each row with their items, of equal ones the lowest ids.

    Score and id are sorted as one whole number: the float's bits, in an order that is the float's,
    above the id, turned round.
    """
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)  # -0 and 0 are equal
    ordered = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = np.sort(-(ordered << 32 | (LARGEST - items)), axis=1)[:, :top]
    found = -keys
    high = found >> 32
    bits = np.where(high < 0, high ^ 0x7FFFFFFF, high).astype(np.int32)
    best = bits.view(np.float32)
    named = LARGEST - (found & LARGEST)
    return best, np.where(best > NOTHING_LEFT / 2, named, UNKNOWN)
