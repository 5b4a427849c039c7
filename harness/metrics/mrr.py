"""Reciprocal rank at 10 within requests."""

import numpy as np

from harness.metrics.base import Prepared, Record, metric
from harness.metrics.ranking import Places, mean_over_requests, ranked

K = 10


@metric(unit="share", direction="higher", over="request", tasks=("next_item",))
def mrr_at_10(record: Record) -> Prepared:
    """Mean over requests of 1 / place of the first positive, 0 where that is beyond place 10.

    Ties count their expected value over all orders of the equal scores; requests without a positive
    are left out and counted (``requests_left_out``).

    >>> label, score = np.array([0, 1, 1]), np.array([0.9, 0.8, 0.1])
    >>> one = np.zeros(3, dtype=int)
    >>> mrr_at_10(Record(label, score, one, one, np.arange(3))).statistic(np.ones(3))
    0.5
    """
    requests = int(record.request.max(initial=-1)) + 1
    places = ranked(record)
    kept = np.zeros(requests, dtype=bool)
    kept[places.request[places.positive]] = True
    return mean_over_requests(record, _expected(places, requests), kept)


def _expected(places: Places, requests: int) -> np.ndarray:
    """Expected reciprocal rank of each request's first positive, (requests,).

    Only the first equal scores that hold a positive matter: of ``tied`` places with ``hits``
    positives, the first positive stands at the x-th with the chance that x - 1 others came before.
    """
    hits = np.flatnonzero(places.positive & places.hit)
    run = places.first[hits]
    _, opening = np.unique(places.request[hits], return_index=True)
    at = hits[opening]  # (requests with a hit,) one candidate of the run that decides
    of_run = run == np.repeat(run[opening], np.diff(opening, append=len(hits)))
    count = np.bincount(places.request[hits[of_run]], minlength=requests)[places.request[at]]
    tied, first = places.tied[at], places.first[at]
    value, none_yet = np.zeros(len(at)), np.ones(len(at))
    for x in range(1, K + 1):
        left = np.maximum(tied - x + 1, 1)  # places of the run from x on
        chance = np.where(x <= tied, np.minimum(count / left, 1.0), 0.0)
        value += np.where(first + x <= K, none_yet * chance / (first + x), 0.0)
        none_yet *= 1 - chance
    found = np.zeros(requests)
    found[places.request[at]] = value
    return found
