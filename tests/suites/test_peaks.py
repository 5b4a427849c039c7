"""Peaks come from a child: its protocol, its failures, and one real measurement."""

import json
import sys
from typing import Any

import pytest

from harness.suites import peaks
from harness.suites.peaks import MIB, Peak, PeaksError, Sizes, best_time, measure_peaks

ANSWER: dict[str, Any] = {
    "ok": True,
    "threads": 3,
    "fp32": {"value": 1e11, "n": 5, "how": "a"},
    "int8": {"value": None, "n": 0, "how": "nothing can"},
    "streams": [[MIB, {"value": 2e10, "n": 7, "how": "b"}]],
    "random_rows": [[4 * MIB, {"value": 3e9, "n": 9, "how": "c"}]],
}


def child(code: str) -> tuple[str, ...]:
    """A command whose child runs ``code`` in place of the real one."""
    return (sys.executable, "-c", code)


def answering(answer: object) -> tuple[str, ...]:
    return child(f"print({json.dumps(answer)!r})")


def ask(command: tuple[str, ...], *, timeout: float = 60.0) -> peaks.Peaks:
    return measure_peaks(3, seconds=0.5, timeout=timeout, command=command)


def test_an_answer_is_read() -> None:
    found = ask(answering(ANSWER))
    assert found.threads == 3
    assert found.fp32 == Peak(1e11, 5, "a")
    assert found.int8 == Peak(None, 0, "nothing can")
    assert found.streams == {MIB: Peak(2e10, 7, "b")}
    assert found.random_rows == {4 * MIB: Peak(3e9, 9, "c")}


def test_the_child_is_told_its_settings_and_its_threads() -> None:
    code = (
        "import json, os, sys; told = json.loads(sys.stdin.readline());"
        "told = os.environ['OMP_NUM_THREADS'] + json.dumps(told);"
        "print(json.dumps({'ok': False, 'error': told}))"
    )
    with pytest.raises(PeaksError) as caught:
        measure_peaks(
            3, seconds=0.5, timeout=60, sizes=Sizes((8,), (16,), (32,)), command=child(code)
        )
    told = str(caught.value).removeprefix("peaks at 3 threads: ")
    assert told[0] == "3"
    assert json.loads(told[1:]) == {
        "threads": 3,
        "seconds": 0.5,
        "sizes": {"products": [8], "streams": [16], "tables": [32]},
    }


def test_an_exception_in_the_child_is_told() -> None:
    message = "^peaks at 3 threads: MemoryError: no room$"
    with pytest.raises(PeaksError, match=message):
        ask(answering({"ok": False, "error": "MemoryError: no room"}))


def test_a_crash_is_told_with_the_last_words() -> None:
    code = "import os, sys; print('bad kernel', file=sys.stderr, flush=True); os.abort()"
    with pytest.raises(PeaksError, match=r"the child was killed by SIGABRT \(bad kernel\)$"):
        ask(child(code))
    with pytest.raises(PeaksError, match=r"the child ended with status 7$"):
        ask(child("raise SystemExit(7)"))


def test_a_hang_is_ended() -> None:
    with pytest.raises(PeaksError, match=r"no answer within 0\.3 s; give a longer timeout"):
        ask(child("import time; time.sleep(600)"), timeout=0.3)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        [],
        {"ok": True},
        {**ANSWER, "fp32": None},
        {**ANSWER, "streams": [[1]]},
        {**ANSWER, "fp32": {"value": 1}},
    ],
)
def test_nonsense_is_refused(answer: object) -> None:
    with pytest.raises(PeaksError, match="no answer that can be read"):
        ask(answering(answer))


def test_other_threads_than_asked_are_refused() -> None:
    with pytest.raises(PeaksError, match="at 3 threads: the child computed on 2"):
        ask(answering({**ANSWER, "threads": 2}))


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), "fast"])
def test_what_is_no_rate_is_refused(value: object) -> None:
    with pytest.raises(PeaksError, match=r"is no rate \(a\)"):
        ask(answering({**ANSWER, "fp32": {"value": value, "n": 5, "how": "a"}}))


class Clock:
    """Time that only moves when a call takes some of it."""

    def __init__(self, durations: list[float]) -> None:
        self.now = 0.0
        self.durations = iter(durations)

    def __call__(self) -> float:
        return self.now

    def call(self) -> None:
        self.now += next(self.durations)


def test_the_best_of_the_repeats_after_one_that_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock([0.5, 2.0, 1.0, 4.0])  # the first is the fastest, and isn't counted
    monkeypatch.setattr(peaks.time, "perf_counter", clock)
    assert best_time(clock.call, 0.0) == (1.0, 3)
    clock = Clock([9.0, 2.0, 2.0, 2.0, 2.0, 1.0])
    monkeypatch.setattr(peaks.time, "perf_counter", clock)
    assert best_time(clock.call, 9.0) == (1.0, 5)


def test_the_best_library_and_edge_win_and_refusals_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took: dict[int, float] = {}

    def best(call: Any, seconds: float) -> tuple[float, int]:
        return took[call()], 4

    def slow(edge: int, threads: int) -> Any:
        return lambda: edge

    def refuses(edge: int, threads: int) -> Any:
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(peaks, "best_time", best)
    took = {10: 2.0, 20: 1.0}
    found = peaks.product_peak({"no": refuses, "a": slow}, (10, 20), 1, seconds=9e9)
    assert found == Peak(2 * 20**3 / 1.0, 4, "a, 20 x 20 x 20")
    # The second edge would take 8 x 2 s, more than there is: it isn't tried.
    found = peaks.product_peak({"a": slow}, (10, 20), 1, seconds=10.0)
    assert found == Peak(2 * 10**3 / 2.0, 4, "a, 10 x 10 x 10")
    found = peaks.product_peak({"no": refuses, "nor": refuses}, (10,), 1, seconds=1.0)
    assert found == Peak(
        None, 0, "no: RuntimeError: no such kernel; nor: RuntimeError: no such kernel"
    )


def test_a_real_machine_has_every_peak() -> None:
    sizes = Sizes(products=(64,), streams=(MIB // 2,), tables=(4 * MIB,))
    found = measure_peaks(1, seconds=0.01, timeout=120, sizes=sizes)
    every = (found.fp32, found.int8, *found.streams.values(), *found.random_rows.values())
    assert found.threads == 1
    assert (list(found.streams), list(found.random_rows)) == ([MIB // 2], [4 * MIB])
    assert all(peak.value is not None and peak.value > 0 and peak.n >= 3 for peak in every)


def test_an_exception_in_the_real_child_is_an_answer() -> None:
    nothing = Sizes(products=(), streams=(), tables=())
    with pytest.raises(PeaksError, match="peaks at 1 threads: ZeroDivisionError: "):
        measure_peaks(1, seconds=0.001, timeout=120, sizes=nothing)
