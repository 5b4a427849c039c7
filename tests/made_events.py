"""A small next-item dataset and lists made by hand, for the tests of lists."""

from collections.abc import Sequence

import numpy as np

from harness.datasets.pasts import with_histories
from harness.engines.base import RANKED
from harness.schema import FeatureSchema, Field
from harness.tables import Prepared, Split

Events = Sequence[Sequence[int]]
"""Item ids of each user's events, in the order of time."""


def made_data(train: Events, test: Events, *, items: int, repeats: bool = False) -> Prepared:
    """Users 1, 2, 3... with these events; no validation; ids 1..items, 0 for a cold item."""
    fields = (
        Field("user", "categorical", "user", cardinality=len(train) + 1),
        Field("item", "categorical", "item", cardinality=items + 1),
    )
    schema = FeatureSchema(
        fields, "label", "user", "item", task="next_item", length=4, repeats=repeats
    )
    parts = {"train": train, "validation": [[] for _ in train], "test": test}
    splits: dict[str, Split] = {}
    owners: list[np.ndarray] = []
    first = 0
    for name, events in parts.items():
        users = np.array([user for user, own in enumerate(events) if own], dtype=np.int64)
        lengths = np.array([len(own) for own in events if own], dtype=np.int64)
        item = np.array([one for own in events for one in own], dtype=np.int32)
        splits[name] = Split(
            name,
            {"user": (1 + users[:, None]).astype(np.int32), "candidates": item[:, None]},
            np.ones(len(item), dtype=np.float32),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.arange(first, first + len(item)),
        )
        owners.append(np.repeat(users, lengths))
        first += len(item)
    found = with_histories(splits, np.concatenate(owners), schema)
    return Prepared(schema, {}, found, {}, "lists", "by hand", {})


def made_lists(*lists: Sequence[tuple[int, float]]) -> np.ndarray:
    """Lists of (item, score), (requests, places) of ``RANKED``; shorter ones end in item 0."""
    longest = max(map(len, lists))
    found = np.zeros((len(lists), longest), dtype=RANKED)
    found["score"] = -1e4
    for at, places in enumerate(lists):
        for place, (item, score) in enumerate(places):
            found[at, place] = (score, item)
    return found


def ranking(*items: int) -> list[tuple[int, float]]:
    """A list in this order, all scores different."""
    return [(item, float(-place)) for place, item in enumerate(items)]
