"""How many candidates a search in codes scores exactly: the fewest whose lists are exact."""

from collections.abc import Callable

import numpy as np

from harness.peers.spec import Search
from harness.peers.synthetic import draw_queries
from harness.stages.exact_lists import Lists, exact_lists, list_overlap

OVERSAMPLES, HELD, QUERIES = (2, 4, 8, 16, 32, 64, 128, 256, 512), 0.999, 1024


def set_candidates(
    asked: Search, table: np.ndarray, lists: Callable[[int, np.ndarray], Lists]
) -> None:
    """Have ``lists`` made with ever more candidates, from twice the places of a list on, until they
    hold 99.9 % of the exact ones' items, for other queries than those of the comparison.

    ``lists`` takes candidates and queries and keeps what it made; its items are rows of ``table``.
    """
    queries = draw_queries(asked, QUERIES, np.random.default_rng([asked.seed, QUERIES, 1]))
    # Row 0 of what is searched is no item.
    vectors = np.concatenate([np.zeros_like(table[:1]), table])
    exact = exact_lists(queries, vectors, np.zeros((QUERIES, 1), np.int64), top=asked.top)
    for oversample in OVERSAMPLES:
        scores, items = lists(min(oversample * asked.top, len(table)), queries)
        if list_overlap((scores, items + 1), exact, tolerance=0.0).mean() >= HELD:
            break
