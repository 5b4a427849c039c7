"""Calls that take turns, and the interval of the ratio of their times."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from harness.stages.pairing import LEAST, Speedup, paired_times, speedup


def calls(now: list[float], spent: float) -> dict[str, Callable[[int], object]]:
    def run(at: int) -> None:
        now[0] += spent

    return {"one": run, "other": run}


@pytest.mark.parametrize(("seconds", "timed"), [(None, 100), (1e9, 100), (200.0, 91), (3.0, LEAST)])
def test_no_round_is_begun_when_the_time_is_up(seconds: float | None, timed: int) -> None:
    """A round is two calls of a second, and ten are warm: after 100 rounds 200 seconds are there
    but not past, so one more is timed."""
    now = [0.0]
    times = paired_times(
        calls(now, 1.0),
        batches=3,
        rounds=100,
        warm=10,
        seconds=seconds,
        clock=lambda: now[0],
    )
    assert {len(each) for each in times.values()} == {timed}
    assert all((each == 1.0).all() for each in times.values())


def test_an_interval_by_hand() -> None:
    """Of eight rounds the chance that all lie on one side of the median is 2 / 256, below 1 %: the
    smallest and largest. Of seven it is 2 / 128, more than that."""
    own = np.ones(8)
    ratios = np.array([1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0])
    assert speedup(ratios, own) == Speedup(4.5, 1.0, 8.0)
    assert speedup(ratios[:7], own[:7]) == Speedup(4.0, 0.0, float("inf"))
    assert str(speedup(ratios, own)) == "4.50x [1.00, 8.00]"


@given(st.integers(8, 300), st.integers(0, 2**32 - 1))
def test_the_interval_holds_the_median_as_often_as_it_says(rounds: int, seed: int) -> None:
    """Its ends' places from below and above miss it with at most 1 %, one place further in with
    more; and turning the calls round turns the interval round."""
    random = np.random.default_rng(seed)
    reference, own = random.uniform(1, 2, (2, rounds))
    found, turned = speedup(reference, own), speedup(own, reference)
    ratios = np.sort(reference / own)
    below = int(np.searchsorted(ratios, found.low))
    assert 2 * binom.cdf(below, rounds, 0.5) <= 0.01 < 2 * binom.cdf(below + 1, rounds, 0.5)
    assert found.high == ratios[rounds - 1 - below]
    assert found.low <= found.value <= found.high
    assert turned.low == pytest.approx(1 / found.high)
    assert turned.high == pytest.approx(1 / found.low)
