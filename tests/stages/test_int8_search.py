"""The search among kinds of int8, worked by hand: speedups and damages are given, not measured."""

from collections.abc import Callable

import pytest

from harness.errors import EffectError
from harness.stages.int8_notes import TOLD, product_notes, search_note, verdict
from harness.stages.int8_search import Found, Judged, Option, quickest, search, step_back
from harness.stages.mixed_int8 import Kind, Plan
from harness.stages.pairing import Speedup


def option(value: float, damage: float, *, low: float | None = None) -> Option:
    return Option(Speedup(value, value - 0.01 if low is None else low, value + 0.01), damage)


# Time saved: a 1/2 or 1/5, b 1/3, c 1/5 (its static kind isn't sure), d nothing.
OPTIONS: dict[str, dict[Kind, Option]] = {
    "a": {"dynamic": option(1.25, 1.0), "static": option(2.0, 10.0)},
    "b": {"dynamic": option(1.5, 3.0)},
    "c": {"dynamic": option(1.25, 7.0), "static": option(4.0, 0.5, low=0.9)},
    "d": {"dynamic": option(0.8, 0.1)},
}
START = {"a": "static", "b": "dynamic", "c": "dynamic"}


def judging(good: Callable[[Plan], bool]) -> tuple[list[dict[str, Kind]], Callable[[Plan], Judged]]:
    """Plans that were judged, and a judge that passes the good ones."""
    seen = list[dict[str, Kind]]()

    def judge(plan: Plan) -> Judged:
        seen.append(dict(plan))
        return Judged(float(len(seen)), None, good(plan))

    return seen, judge


def run(judge: Callable[[Plan], Judged], *, trials: int = 99, clock: Callable[[], float] = float):
    return search(START, OPTIONS, judge, least=1.0, trials=trials, until=100.0, clock=clock)


def test_each_product_gets_the_kind_that_saves_most_beyond_noise() -> None:
    assert quickest(OPTIONS, least=1.0) == START
    assert quickest(OPTIONS, least=1.3) == {"a": "static", "b": "dynamic"}
    assert quickest(OPTIONS, least=0.5) == {**START, "c": "static", "d": "dynamic"}
    assert quickest(OPTIONS, least=3.0) == {}
    assert OPTIONS["a"]["static"].saved == 0.5


def test_steps_back_by_hand() -> None:
    """Damage for time: c 7 / 0.2 = 35; a to dynamic 9 / 0.3 = 30, then to fp32 1 / 0.2 = 5; b
    3 / (1/3) = 9."""
    one = step_back(START, OPTIONS, least=1.0)
    assert one == {"a": "static", "b": "dynamic"}
    two = step_back(one, OPTIONS, least=1.0)
    assert two == {"a": "dynamic", "b": "dynamic"}
    three = step_back(two, OPTIONS, least=1.0)
    assert three == {"a": "dynamic"}
    assert step_back(three, OPTIONS, least=1.0) == {}


def test_a_product_that_saves_nothing_goes_first() -> None:
    assert step_back({**START, "d": "dynamic"}, OPTIONS, least=1.0) == START


def test_what_passes_at_once_is_kept() -> None:
    seen, judge = judging(lambda plan: True)
    assert run(judge) == Found(START, Judged(1.0, None, True), 1, "at once")
    assert seen == [START]


def test_products_are_put_back_where_another_was_at_fault() -> None:
    """Only b does harm, and goes last. It would save most, but is known to fail with what is left
    of a; then a's quicker kind comes back, then c."""
    seen, judge = judging(lambda plan: "b" not in plan)
    found = run(judge)
    assert seen == [
        START,
        {"a": "static", "b": "dynamic"},
        {"a": "dynamic", "b": "dynamic"},
        {"a": "dynamic"},
        {"a": "static"},
        {"a": "static", "c": "dynamic"},
    ]
    assert found.plan == {"a": "static", "c": "dynamic"}
    assert (found.trials, found.ended) == (6, "nothing more could be put back")
    assert found.judged.loss == 6.0


@pytest.mark.parametrize(
    ("trials", "plan"),
    [(4, {"a": "dynamic"}), (5, {"a": "static"}), (6, {"a": "static", "c": "dynamic"})],
)
def test_the_best_so_far_is_kept_when_the_trials_end(trials: int, plan: Plan) -> None:
    seen, judge = judging(lambda plan: "b" not in plan)
    found = run(judge, trials=trials)
    assert (found.plan, found.trials, len(seen)) == (plan, trials, trials)
    assert ("trials were used up" in found.ended) == (trials < 6)


def test_the_best_so_far_is_kept_when_the_time_ends() -> None:
    """Each graph takes 24 of 100 seconds: the fifth is judged at 96, no sixth after it."""
    seen, judge = judging(lambda plan: "b" not in plan)
    found = run(judge, clock=lambda: 24.0 * len(seen))
    assert (found.plan, found.ended) == ({"a": "static"}, "the time was used up")
    tried, refuse = judging(lambda plan: False)
    with pytest.raises(EffectError, match="the time was used up, and no graph of 2 kept quality"):
        run(refuse, clock=lambda: 50.0 * len(tried))


def test_a_search_that_ends_before_anything_passes_fails() -> None:
    with pytest.raises(
        EffectError,
        match=r"the 2 trials were used up, and no graph of 2 kept quality; the last had loss 2, "
        r"2 of 3 products left; raise trials or minutes",
    ):
        run(judging(lambda plan: False)[1], trials=2)


def test_when_everything_must_go_it_is_said() -> None:
    seen, judge = judging(lambda plan: False)
    with pytest.raises(EffectError, match=r"no product may be int8: with one alone left, loss 4"):
        run(judge)
    assert seen[-1] == {"a": "dynamic"}


def test_notes_by_hand() -> None:
    notes = product_notes(OPTIONS, {"a": "static"}, {"d": {"static": "range 0"}}, unit="damage")
    assert notes[0] == (
        "a: dynamic 1.25x [1.24, 1.26], quicker than fp32, damage 1; "
        "static 2.00x [1.99, 2.01], quicker than fp32, damage 10; static kept"
    )
    assert "static 4.00x [0.90, 4.01], as quick as fp32 within noise, damage 0.5" in notes[2]
    assert notes[3] == (
        "d: dynamic 0.80x [0.79, 0.81], slower than fp32, damage 0.1; "
        "static can't be had (range 0); fp32 kept"
    )
    many = {f"p{at}": OPTIONS["d"] for at in range(TOLD + 7)}
    told = product_notes(many, {}, {}, unit="damage")
    assert (len(told), told[-1]) == (TOLD + 1, "and 7 products more")
    found = Found({"a": "dynamic", "b": "dynamic"}, Judged(1.0, 0.5, True), 3, "ended")
    assert search_note(found, START) == (
        "3 graphs judged, ended; for quality a static -> dynamic, c dynamic -> fp32"
    )
    assert str(found.judged) == "loss 1, list overlap 0.5000"
    assert verdict(Speedup(1.0, 0.9, 1.1)) == "as quick as fp32 within noise"
