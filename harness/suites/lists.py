"""Lists of recommendations: every request's answer from the whole catalogue, and its record.

A split's request has one list, told from what came before its first row; every row of the request
is an item that the list should have held.
"""

from collections.abc import Callable, Iterator

import numpy as np

from harness import tables
from harness.engines.base import RANKED, Engine
from harness.metrics.base import Record
from harness.schema import UNKNOWN
from harness.suites import accuracy
from harness.tasks import TASKS

MAX_REQUESTS = 256
"""Most requests of a batch: a model holds their scores of a chunk of the catalogue."""
MAX_IDS = 1 << 20
"""Most ids, of histories and of what was seen, that a batch is made of."""


def answer_split(engine: Engine, data: tables.Prepared, split: tables.Split) -> np.ndarray:
    """What an engine answers to a split: logits (rows,) float32, or where the task asks for lists
    (requests, places) of ``RANKED``.
    """
    if TASKS[data.schema.task].lists:
        return recommend_split(engine, data, split)
    return accuracy.score_split(engine, data, split)


def record_of(data: tables.Prepared, split: tables.Split, answer: np.ndarray) -> Record:
    """What the task's metrics see of an answer; see ``accuracy.record`` and ``list_record``."""
    if TASKS[data.schema.task].lists:
        return list_record(data, split, answer)
    return accuracy.record(data, split, answer)


def recommend_split(
    engine: Engine,
    data: tables.Prepared,
    split: tables.Split,
    *,
    max_requests: int = MAX_REQUESTS,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The list of every request, (requests, places) of ``RANKED``, in the split's order.

    A batch has at most ``max_requests`` with pasts of about one length, fewer where those are
    long; ``progress`` gets the requests of each batch.
    """
    inputs, found = engine.artifact.inputs, None
    seen = np.zeros(split.requests, dtype=np.int64)
    for batch in batches(data, split, max_requests=max_requests):
        rows = split.offsets[:-1][batch, None]  # (requests, 1)
        answer = engine.score(tables.feeds(data.schema, split, rows, inputs))
        assert answer.dtype == RANKED, f"{answer.dtype} isn't a list"
        assert len(answer) == len(batch), f"{len(answer)} lists for {len(batch)} requests"
        if found is None:
            found = np.empty((split.requests, answer.shape[1]), dtype=RANKED)
        found[batch] = answer
        seen[batch] += 1
        if progress:
            progress(len(batch))
    assert (seen == 1).all(), "a request was answered twice or not at all"
    return np.empty((0, 0), dtype=RANKED) if found is None else found


def batches(
    data: tables.Prepared, split: tables.Split, *, max_requests: int = MAX_REQUESTS
) -> Iterator[np.ndarray]:
    """Indices of all requests, those with the shortest pasts first, in batches of at most
    ``max_requests`` and ``MAX_IDS`` padded ids (or of one request).
    """
    lengths = past_lengths(split)
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        part = order[first : first + max_requests]
        ids = np.arange(1, len(part) + 1) * (data.schema.length + lengths[part])
        part = part[: max(1, int(np.count_nonzero(ids <= MAX_IDS)))]
        yield part
        first += len(part)


def past_lengths(split: tables.Split) -> np.ndarray:
    """Items before each request's first row, repeats included, (requests,)."""
    assert split.histories is not None, "the data has no histories"
    assert (np.diff(split.offsets) > 0).all(), "a request without rows"
    lengths: np.ndarray = split.histories.end[split.offsets[:-1]] - split.histories.start
    return lengths


def seen_items(split: tables.Split, requests: np.ndarray) -> np.ndarray:
    """All items before each request's first row, padded with 0, (requests, longest) int32."""
    assert split.histories is not None, "the data has no histories"
    return split.histories.seen(requests, split.offsets[:-1][requests])


def list_record(
    data: tables.Prepared,
    split: tables.Split,
    lists: np.ndarray,
    *,
    requests: np.ndarray | None = None,
) -> Record:
    """The places of all lists as rows, best first, then the items that should have been there.

    The label is 1 for an item that is among the request's rows, each counted once. One that wasn't
    served has the score -inf, which is never a hit; so has an item that train never showed, under
    an id of its own (negative). Places with nothing to recommend are no rows. ``requests`` (lists,)
    are the split's requests that the lists answer (all in order, unless given; one may come twice).
    Users are as in ``accuracy.record``.
    """
    requests = np.arange(split.requests) if requests is None else requests
    assert len(lists) == len(requests), f"{len(lists)} lists for {len(requests)} requests"
    true_at, true_item = _relevant(data, split, requests)
    at, place = np.nonzero(lists["item"] != UNKNOWN)
    item, score = lists["item"][at, place], lists["score"][at, place].astype(np.float64)
    size = np.int64(data.schema.field(data.schema.item).cardinality)
    hit = np.isin(at * size + item, (true_at * size + true_item)[true_item > UNKNOWN])
    missed = (true_item < UNKNOWN) | ~np.isin(true_at * size + true_item, at * size + item)
    request = np.concatenate([at, true_at[missed]])
    order = np.argsort(request, kind="stable")
    nothing = np.full(np.count_nonzero(missed), -np.inf)
    user = np.asarray(split.arrays["user"][:, 0], dtype=np.int64)[requests]
    user = tables.told_apart(user, requests)
    return Record(
        label=np.concatenate([hit, np.ones(len(nothing))])[order],
        score=np.concatenate([score, nothing])[order],
        user=np.unique(user, return_inverse=True)[1][request[order]],
        request=request[order],
        item=np.concatenate([item, true_item[missed]])[order],
        beyond=_beyond(data, split, lists, requests),
    )


def _relevant(
    data: tables.Prepared, split: tables.Split, requests: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Index of the list and the item of everything that should be found, each once; unknown items
    have the negative of their row's number, less 1.
    """
    counts = np.diff(split.offsets)[requests]
    at = np.repeat(np.arange(len(requests)), counts)
    opening = np.repeat(np.cumsum(counts) - counts, counts)
    rows = split.offsets[:-1][requests][at] + np.arange(len(at)) - opening
    item = tables.told_apart(tables.item_ids(data.schema, split)[rows].astype(np.int64), rows)
    span = np.int64(split.rows + data.schema.field(data.schema.item).cardinality)
    pairs = np.unique(at * span + split.rows + item)  # a pair as one number: quick to sort
    return pairs // span, pairs % span - split.rows


def _beyond(
    data: tables.Prepared, split: tables.Split, lists: np.ndarray, requests: np.ndarray
) -> np.ndarray:
    """Of a full list that ends in equal scores, how many more items could have stood there,
    (lists,); of any other 0.
    """
    found = np.zeros(len(lists), dtype=np.int64)
    if not len(lists) or lists.shape[1] < 2:
        return found
    score = lists["score"]
    at = np.flatnonzero((score[:, -1] == score[:, -2]) & (lists["item"][:, -1] != UNKNOWN))
    left = data.schema.field(data.schema.item).cardinality - 1 - lists.shape[1]
    found[at] = left
    if not data.schema.repeats:
        step = max(1, MAX_IDS // max(1, int(past_lengths(split).max(initial=0))))
        for first in range(0, len(at), step):
            part = at[first : first + step]
            past = np.sort(seen_items(split, requests[part]), axis=1)
            new = (past[:, 1:] != past[:, :-1]).sum(axis=1) + (past[:, 0] != UNKNOWN)
            found[part] -= new
    return np.maximum(found, 0)


def forbidden(data: tables.Prepared, split: tables.Split, lists: np.ndarray) -> str | None:
    """What is wrong with the lists of a split: an item that is none, stands twice in a list, or was
    seen before where repeats aren't allowed; None when nothing is.
    """
    size = data.schema.field(data.schema.item).cardinality
    none = int(np.count_nonzero((lists["item"] < UNKNOWN) | (lists["item"] >= size)))
    if none:
        return f"{none} places hold an id outside 0..{size - 1}"
    twice = seen = 0
    for part in batches(data, split):
        items = np.sort(lists["item"][part], axis=1)
        same = (items[:, 1:] == items[:, :-1]) & (items[:, 1:] != UNKNOWN)
        twice += int(np.count_nonzero(same))
        if not data.schema.repeats:
            own = np.arange(len(part))[:, None] * np.int64(size)
            past = seen_items(split, part)
            hit = np.isin(own + items, (own + past)[past != UNKNOWN])
            seen += int(np.count_nonzero(hit & (items != UNKNOWN)))
    if twice:
        return f"{twice} items stand in a list twice"
    return f"{seen} items were recommended to users who had them before" if seen else None
