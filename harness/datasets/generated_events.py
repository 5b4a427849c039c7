"""Generated events with a planted chain of item groups, whose best possible ranking is known."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from harness.datasets.base import Column, Tables
from harness.datasets.draw import uniform
from harness.datasets.split import leave_last, ties
from harness.errors import DataError

GROUPS = 8
FOLLOW = 0.8
"""Chance that the next event is of the group that follows the last one's; else of any group."""

FEWEST = 3
USER_GROUPS = 3
TOP = 10
MAX_GAP = 20


@dataclass(frozen=True)
class Chain:
    """The chance of every item after each group: that of its group times its share of it."""

    group: np.ndarray  # (items,) int64
    chance: np.ndarray  # (groups, items)


def load_events(
    *, users: int, items: int, rows: int, length: int, repeats: bool, seed: int
) -> Tables:
    """``rows`` events of ``users``, at least three each, in the order of time; each user's last
    one is the test and the one before it the validation.

    Items follow a chain of groups and, within a group, Zipf's law; without ``repeats`` a draw that
    the user had before is drawn again. The column ``probability`` is the true chance of each item
    given the user's past and no feature: ranking by it is the best that can be done, and the fact
    ``best possible`` says how good that is. Raises ``DataError`` for too few events or items.
    """
    counts = _counts(users, items, rows, seed=seed)
    chain = make_chain(items, seed=seed)
    rng = np.random.default_rng(seed + 2)
    drawn = draw_events(rng, chain, counts, repeats=repeats)
    user = np.repeat(np.arange(users), counts)
    item = drawn[np.arange(drawn.shape[1]) < counts[:, None]]
    begins = rng.integers(0, MAX_GAP * int(counts.mean()), users)
    gaps = rng.integers(0, MAX_GAP, drawn.shape)
    time = (begins[:, None] + np.cumsum(gaps, axis=1))[np.arange(drawn.shape[1]) < counts[:, None]]
    frame = pl.DataFrame(
        {
            "user": user,
            "user_group": (uniform(user, seed + 3) * USER_GROUPS).astype(np.int64),
            "item": item,
            "item_group": chain.group[item],
            "label": np.ones(rows, dtype=np.int8),
            "probability": chances(chain, drawn, counts, repeats=repeats),
            "request": user,
            "time": time,
        }
    )
    split = leave_last(frame["user"], frame["time"], validation=1, test=1)
    best = best_possible(chain, drawn, counts, repeats=repeats)
    return Tables(
        frame=frame.with_columns(split).sort("time", maintain_order=True),
        columns=(
            Column("user", "categorical", "user"),
            Column("user_group", "categorical", "user"),
            Column("item", "categorical", "item"),
            Column("item_group", "categorical", "item"),
        ),
        label="label",
        user="user",
        item="item",
        split_rule="leave last out per user: the last event is the test, the one before it the "
        "validation",
        read=rows,
        facts={
            "generated": f"seed {seed}, {users:,} users, {items:,} items, {GROUPS} groups in a "
            f"chain that is followed {FOLLOW:.0%} of the time",
            "best possible": f"expected ndcg@{TOP} {best[0]:.4f}, recall@{TOP} {best[1]:.4f}",
            "ties": ties(frame["user"], frame["time"]),
        },
        task="next_item",
        length=length,
        repeats=repeats,
        time="time",
        protocol="leave_last",
    )


def make_chain(items: int, *, seed: int) -> Chain:
    """Groups of about the same size, one after the other in a seeded circle."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(items)  # (items,): which group, and how well known within it
    group = place % GROUPS
    weight = 1.0 / (1.0 + place // GROUPS)
    weight /= np.bincount(group, weights=weight, minlength=GROUPS)[group]
    circle = rng.permutation(GROUPS)
    step = np.full((GROUPS, GROUPS), (1.0 - FOLLOW) / GROUPS)
    step[circle, np.roll(circle, -1)] += FOLLOW
    return Chain(group, step[:, group] * weight)


def draw_events(
    rng: np.random.Generator, chain: Chain, counts: np.ndarray, *, repeats: bool
) -> np.ndarray:
    """Items of each user in order, (users, most events); what lies beyond a user's count is no
    event. All users go one event further at a time.
    """
    users, longest = len(counts), int(counts.max())
    drawn: np.ndarray = np.full((users, longest), -1, dtype=np.int64)
    below = np.cumsum(chain.chance, axis=1)  # (groups, items)
    state = rng.integers(0, GROUPS, users)
    for event in range(longest):
        open_ = np.flatnonzero(counts > event)
        while len(open_):
            drawn[open_, event] = _pick(rng, below, state[open_])
            again = (drawn[open_, :event] == drawn[open_, event, None]).any(axis=1)
            open_ = open_[again & (not repeats)]
        state = np.where(counts > event, chain.group[drawn[:, event]], state)
    return drawn


def chances(chain: Chain, drawn: np.ndarray, counts: np.ndarray, *, repeats: bool) -> np.ndarray:
    """True chance of each event given all before it, (events,); of a first one without its state,
    the mean over all states.
    """
    before = np.vstack([chain.chance, chain.chance.mean(axis=0)])  # the last line: no state yet
    found = np.zeros(drawn.shape)
    for event in range(drawn.shape[1]):
        state = _state(chain, drawn, np.full(len(drawn), event))
        left = 1.0 if repeats else 1.0 - before[state[:, None], drawn[:, :event]].sum(axis=1)
        found[:, event] = before[state, drawn[:, event]] / left
    kept: np.ndarray = found[np.arange(drawn.shape[1]) < counts[:, None]]
    return kept


def best_possible(
    chain: Chain, drawn: np.ndarray, counts: np.ndarray, *, repeats: bool
) -> tuple[float, float]:
    """NDCG and recall at ``TOP`` of the true chances for the last event, expected over its draw
    and averaged over users.
    """
    longest = drawn.shape[1]
    likely = np.argsort(-chain.chance, axis=1, kind="stable")[:, : TOP + longest]
    state = _state(chain, drawn, counts - 1)
    past = np.where(np.arange(longest) < counts[:, None] - 1, drawn, -1)
    offered = likely[state]  # (users, TOP + longest), best first
    chance = np.take_along_axis(chain.chance[state], offered, axis=1)
    if not repeats:
        chance[(offered[:, :, None] == past[:, None, :]).any(axis=2)] = 0.0
        gone = np.where(past < 0, 0.0, chain.chance[state[:, None], past]).sum(axis=1)
        chance /= 1.0 - gone[:, None]
    top = -np.sort(-chance, axis=1)[:, :TOP]
    gain = 1.0 / np.log2(np.arange(top.shape[1]) + 2)
    return float((top * gain).sum(axis=1).mean()), float(top.sum(axis=1).mean())


def _state(chain: Chain, drawn: np.ndarray, event: np.ndarray) -> np.ndarray:
    """The group before each user's ``event``-th event, ``GROUPS`` before a first one."""
    last = drawn[np.arange(len(drawn)), np.maximum(event - 1, 0)]
    return np.where(event > 0, chain.group[last], GROUPS)  # (users,)


def _pick(rng: np.random.Generator, below: np.ndarray, state: np.ndarray) -> np.ndarray:
    """An item for each state by inverting its cumulative chances, (states,)."""
    dice = rng.random(len(state))
    found: np.ndarray = np.empty(len(state), dtype=np.int64)
    for group in range(GROUPS):
        here = state == group
        found[here] = np.searchsorted(below[group], dice[here] * below[group, -1], side="right")
    return found


def _counts(users: int, items: int, rows: int, *, seed: int) -> np.ndarray:
    """Events of each user: ``FEWEST``, and the rest of the rows spread at random."""
    if rows < FEWEST * users:
        raise DataError(
            f"generated: {rows} events for {users} users: next_item needs at least {FEWEST} each"
        )
    spare = np.random.default_rng(seed + 1).integers(0, users, rows - FEWEST * users)
    counts = FEWEST + np.bincount(spare, minlength=users)
    if items < max(4 * GROUPS, 2 * int(counts.max())):
        raise DataError(
            f"generated: {items} items for up to {counts.max()} events of a user: next_item needs "
            f"at least {4 * GROUPS} items, and twice as many as the most events of a user"
        )
    return counts  # (users,)
