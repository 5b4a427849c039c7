"""The past of every event: in training what came before it, later what came before the split."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from harness.histories import Histories
from harness.schema import FeatureSchema
from harness.tables import SPLITS, Split, item_ids


def with_histories(
    splits: Mapping[str, Split], request: np.ndarray, schema: FeatureSchema
) -> dict[str, Split]:
    """The splits of a next-item dataset with the past of each row.

    ``request`` (rows of all splits, in their order) tells a user's events apart from others'; the
    events of each request stand in the order of time.
    """
    found: dict[str, Split] = {}
    before = 0
    for name in SPLITS:
        split = splits[name]
        own = request[before : before + split.rows]
        items = [item_ids(schema, splits[n]) for n in found]
        past = (
            _rolling(split, item_ids(schema, split))
            if name == "train"
            else _earlier(split, own, request[:before], np.concatenate(items))
        )
        found[name] = replace(split, histories=past)
        before += split.rows
    return found


def _rolling(split: Split, items: np.ndarray) -> Histories:
    start = np.asarray(split.offsets[:-1], dtype=np.int64)
    return Histories(items.astype(np.int32), start, np.arange(split.rows, dtype=np.int64))


def _earlier(split: Split, request: np.ndarray, before: np.ndarray, items: np.ndarray) -> Histories:
    """The events of earlier splits, of a request one after the other."""
    order = np.argsort(before, kind="stable")
    owner = before[order]  # (events,)
    own = request[split.offsets[:-1]]  # (requests,)
    start, end = (np.searchsorted(owner, own, side) for side in ("left", "right"))
    ends = np.repeat(end, np.diff(split.offsets))  # (rows,)
    return Histories(items[order].astype(np.int32), start.astype(np.int64), ends.astype(np.int64))
