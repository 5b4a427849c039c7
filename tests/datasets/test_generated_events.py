"""Planted chains: the true chances sum to one, are what is drawn, and nothing ranks better."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from harness.datasets.base import Tables
from harness.datasets.generated import fingerprint, load
from harness.datasets.generated_events import FOLLOW, GROUPS, load_events, make_chain
from harness.datasets.prepare import prepare
from harness.errors import DataError

USERS, ITEMS = 3000, 200


@pytest.fixture(scope="module")
def made() -> Tables:
    return load_events(users=USERS, items=ITEMS, rows=12 * USERS, length=20, repeats=False, seed=3)


def test_after_every_group_the_chances_sum_to_one() -> None:
    chain = make_chain(ITEMS, seed=3)
    assert chain.chance.shape == (GROUPS, ITEMS)
    np.testing.assert_allclose(chain.chance.sum(axis=1), 1.0)
    follows = [
        max(chain.chance[state, chain.group == group].sum() for group in range(GROUPS))
        for state in range(GROUPS)
    ]
    np.testing.assert_allclose(follows, FOLLOW + (1 - FOLLOW) / GROUPS)


@pytest.mark.parametrize("repeats", [False, True])
def test_what_is_drawn_has_its_chance(repeats: bool) -> None:
    """Ranked by the true chance, the last event is as good as was expected of it: the mean of
    NDCG over 3000 users has a standard error below 0.01."""
    tables = load_events(
        users=USERS, items=ITEMS, rows=12 * USERS, length=20, repeats=repeats, seed=3
    )
    chain = make_chain(ITEMS, seed=3)
    ndcg, recall = ranked_by_chance(tables.frame, chain.chance, chain.group, repeats=repeats)
    words = tables.facts["best possible"].replace(",", "").split()
    expected = float(words[2]), float(words[4])
    assert ndcg == pytest.approx(expected[0], abs=0.03)
    assert recall == pytest.approx(expected[1], abs=0.04)


def ranked_by_chance(
    frame: pl.DataFrame, chance: np.ndarray, group: np.ndarray, *, repeats: bool
) -> tuple[float, float]:
    """NDCG@10 and recall@10 of the last events, worked out user by user."""
    places = []
    for (_,), events in frame.group_by("user", maintain_order=True):
        items = events["item"].to_numpy()
        scores = chance[group[items[-2]]].copy()
        if not repeats:
            scores[items[:-1]] = -1.0
        places.append(int(np.flatnonzero(np.argsort(-scores, kind="stable") == items[-1])[0]))
    place = np.array(places)
    hit = place < 10
    return float((hit / np.log2(place + 2)).mean()), float(hit.mean())


def test_the_stated_chances_are_those_of_the_chain(made: Tables) -> None:
    chain = make_chain(ITEMS, seed=3)
    for (_,), events in list(made.frame.group_by("user", maintain_order=True))[:20]:
        items, stated = events["item"].to_numpy(), events["probability"].to_numpy()
        assert stated[0] == pytest.approx(chain.chance[:, items[0]].mean())
        for at in range(1, len(items)):
            line = chain.chance[chain.group[items[at - 1]]].copy()
            line[items[:at]] = 0.0
            assert stated[at] == pytest.approx(line[items[at]] / line.sum())


def test_popularity_is_much_worse_than_the_best(made: Tables) -> None:
    train = made.frame.filter(pl.col("split") == "train")
    popular = train["item"].value_counts(sort=True)["item"].head(10)
    test = made.frame.filter(pl.col("split") == "test")["item"]
    hits = float(test.is_in(popular.implode()).mean())
    best = float(made.facts["best possible"].split()[-1])
    assert hits < best - 0.2


def test_no_user_has_an_item_twice_unless_repeats_say_so(made: Tables) -> None:
    assert made.frame.select("user", "item").is_unique().all()
    again = load_events(users=50, items=100, rows=1000, length=5, repeats=True, seed=3)
    assert not again.frame.select("user", "item").is_unique().all()


def test_every_user_has_a_test_event_and_two_before_it(made: Tables) -> None:
    prepared = prepare(made)
    sizes = {name: split.rows for name, split in prepared.splits.items()}
    assert sizes == {"train": 10 * USERS, "validation": USERS, "test": USERS}
    assert prepared.counts == {"read": 12 * USERS, "kept": 12 * USERS}
    assert prepared.facts["leakage check"].startswith("passed: every past")
    assert made.frame["time"].is_sorted()
    assert "probability" not in {column.name for column in made.columns}


def test_it_is_seeded(made: Tables) -> None:
    same = load_events(users=60, items=90, rows=600, length=5, repeats=False, seed=3).frame
    assert same.equals(
        load_events(users=60, items=90, rows=600, length=5, repeats=False, seed=3).frame
    )
    assert not same.equals(
        load_events(users=60, items=90, rows=600, length=5, repeats=False, seed=4).frame
    )


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"users": 10, "items": 100, "rows": 29}, "29 events for 10 users: next_item needs at le"),
        ({"users": 10, "items": 31, "rows": 40}, "31 items for up to .* at least 32 items"),
        ({"users": 2, "items": 60, "rows": 100}, "twice as many as the most events of a user"),
    ],
)
def test_too_few_events_or_items_are_refused(size: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_events(length=5, repeats=False, seed=1, **size)


def test_the_dataset_hands_over_the_events() -> None:
    sizes = {"users": 40, "items": 80, "rows": 400}
    tables = load(Path(), task="next_item", **sizes)
    assert (tables.task, tables.length, tables.repeats) == ("next_item", 50, False)
    tables = load(Path(), task="next_item", length=9, repeats=True, seed=2, **sizes)
    assert (tables.length, tables.repeats) == (9, True)
    assert fingerprint(Path(), task="next_item") != fingerprint(Path(), task="click")


@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("next_item", {"candidates": 3}),
        ("next_item", {"fields": 0}),
        ("next_item", {"field_values": 5}),
        ("next_item", {"numeric": 1}),
        ("next_item", {"test_share": 0.2}),
        ("next_item", {"validation_share": 0.2}),
        ("click", {"length": 5}),
        ("rating", {"repeats": False}),
    ],
)
def test_options_without_an_effect_are_refused(task: str, given: dict[str, object]) -> None:
    ((name, value),) = given.items()
    message = f"generated: {name}: {value!r} has no effect with the task {task}; leave it out"
    with pytest.raises(DataError, match=message):
        load(Path(), task=task, users=40, items=80, rows=400, **given)  # type: ignore[arg-type]
