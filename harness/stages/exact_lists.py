"""The exact lists of queries over a catalogue in chunks, and how much of them other lists hold."""

from typing import TYPE_CHECKING

import numpy as np

from harness.schema import UNKNOWN
from harness.stages.graphs import NOTHING_LEFT

if TYPE_CHECKING:
    import torch

CHUNK = 65_536
Lists = tuple[np.ndarray, np.ndarray]
"""Scores and items, (requests, top) each, best first."""


def exact_lists(
    queries: np.ndarray,
    table: np.ndarray,
    hidden: np.ndarray,
    *,
    top: int,
    bias: np.ndarray | None = None,
    chunk: int = CHUNK,
) -> Lists:
    """The ``top`` items of the highest scores for each query, of equal ones the lowest ids.

    ``queries`` (requests, dim), ``table`` (items, dim), ``hidden`` (requests, any) ids that are
    left out, as id 0 is; ``bias`` (items,) is added. Sums are in fp64, rounded to fp32. Places that
    nothing is left for have id 0 and the score of such places. Memory grows with requests x chunk.
    """
    import torch

    exact = torch.from_numpy(np.asarray(queries, np.float64))
    seen = torch.from_numpy(np.pad(hidden.astype(np.int64), ((0, 0), (1, 0))))
    scores = torch.empty(len(queries), 0)
    items = torch.empty(len(queries), 0, dtype=torch.int64)
    for first in range(0, len(table), chunk):
        part = torch.from_numpy(np.array(table[first : first + chunk], np.float64))
        found = exact @ part.T  # (requests, chunk)
        if bias is not None:
            found += torch.from_numpy(np.array(bias[first : first + chunk], np.float64))
        request, place = torch.nonzero((seen >= first) & (seen < first + len(part))).unbind(1)
        found[request, seen[request, place] - first] = NOTHING_LEFT
        ids = torch.arange(first, first + len(part)).expand(len(found), -1)
        # What stands before has lower ids: of equal scores the first place is right.
        scores, items = torch.cat([scores, found.float()], 1), torch.cat([items, ids], 1)
        places = _best(scores, top)
        scores, items = scores.gather(1, places), items.gather(1, places)
    items[scores <= NOTHING_LEFT / 2] = UNKNOWN
    return scores.numpy(), items.numpy()


def _best(scores: "torch.Tensor", top: int) -> "torch.Tensor":
    """Places of the highest scores of each row, of equal ones the first, (requests, top)."""
    found, places = scores.topk(min(top + 1, scores.shape[1]), dim=1)
    tied = (found[:, :-1] == found[:, 1:]).any(dim=1)  # torch's choice among equals is any
    order = scores[tied].argsort(dim=1, descending=True, stable=True)
    places[tied] = order[:, : places.shape[1]]
    return places[:, :top]


def list_overlap(found: Lists, exact: Lists, *, tolerance: float) -> np.ndarray:
    """The share of each exact list that a list of the same length holds, (requests,); NaN where the
    exact list is empty.

    An item that isn't in the exact list stands for one that is if its score is that of the exact
    list's last place within ``tolerance``. An item where nothing is left to recommend counts as one
    missed.
    """
    (scores, items), (right, expected) = found, exact
    same = (items[:, :, None] == expected[:, None, :]).any(axis=2)  # (requests, top)
    tied = np.abs(scores - right[:, -1:]) <= tolerance
    real, wanted = items != UNKNOWN, (expected != UNKNOWN).sum(axis=1)
    held = (real & (same | tied)).sum(axis=1)
    of = np.maximum(wanted, real.sum(axis=1)).astype(np.float64)
    return np.where(wanted > 0, held / np.maximum(of, 1), np.nan)
