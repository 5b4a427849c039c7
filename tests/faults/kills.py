"""Kills: a run is killed or interrupted at random moments of every part, and goes on afterwards.

The last run ends with 0 and the figures of an undisturbed one; nothing that was finished is made
twice; no half file is read.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

from driven import (
    PHASES,
    Run,
    accuracy,
    expect,
    finish,
    phase_of,
    scratch,
    start,
    store_log,
    wait_for,
)

from harness.results import read_rows

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
"""Of these one is drawn each time: most are kills."""
FALLBACK = 2.0
"""Seconds that a part is taken to last when no undisturbed run told."""


def main(seconds: float, seed: int) -> dict[str, int]:
    """Kill runs until the time is up, at least one; how often, by signal and part."""
    chance, end = random.Random(seed), time.monotonic() + seconds
    counts = Counter[str]()
    with scratch() as folder:
        begun = time.monotonic()
        whole = finish(folder / "whole", folder / "cache-whole")
        took = time.monotonic() - begun
        expected = accuracy(folder / "whole")
        expect(bool(expected), "an undisturbed run has no figures")
        lasts = _lasts(whole, took)
        while not counts or time.monotonic() + 2 * took < end:
            fit = int((end - time.monotonic() - took) / took * 2)  # a kill comes half way, or so
            counts += _series(folder / "series", expected, lasts, (chance, fit))
    return dict(counts)


def _lasts(whole: Run, took: float) -> dict[str, float]:
    """About how long each part lasts: by its share of the lines, for want of times."""
    shares = Counter(phase_of(line) for line in whole.lines)
    del shares[None]
    total = sum(shares.values()) or 1
    return {name: max(FALLBACK, took * shares[name] / total) for name in PHASES}


def _series(
    folder: Path,
    expected: dict[tuple[object, ...], float | None],
    lasts: dict[str, float],
    how: tuple[random.Random, int],
) -> Counter[str]:
    """One empty cache, kills in as many parts as ``how`` tells, and the run that goes on."""
    chance, fit = how
    cache, out, counts, runs = folder / "cache", folder / "out", Counter[str](), list[Run]()
    shutil.rmtree(folder, ignore_errors=True)
    drawn = chance.sample(list(PHASES), max(1, min(len(PHASES), fit)))
    for phase in sorted(drawn, key=list(PHASES).index):
        number = chance.choice(SIGNALS)
        run, at = _stopped(out, cache, phase, (number, chance.uniform(0, lasts[phase])))
        runs.append(run)
        counts[f"{signal.Signals(number).name} in {at}" if at else "ended before"] += 1
        _check_folder(out)
    runs.append(finish(out, cache))
    expect(accuracy(out) == expected, "the figures differ from an undisturbed run's")
    left = [*cache.rglob("*.partial"), *out.rglob("*.partial"), *out.glob(".lock")]
    expect(not left, f"left behind: {left}")
    again, made = store_log(runs)
    expect(not again, f"made again though it was finished: {again}")
    expect(bool(made), "the store's log tells of nothing made")
    for run in runs:
        half = [line for line in run.errors if "made again" in line or "can't be read" in line]
        expect(not half, f"a half file was read: {half}")
    return counts


def _stopped(
    out: Path, cache: Path, phase: str, how: tuple[signal.Signals, float]
) -> tuple[Run, str | None]:
    """A run that was sent a signal some time after it had come to a part, and where it then was
    (None: it had ended by itself).
    """
    number, after = how
    run = start(out, cache)
    order = ["start", *PHASES]
    wait_for(lambda: order.index(run.phase) >= order.index(phase), run, seconds=300)
    time.sleep(after)
    at = run.phase
    if run.process.poll() is not None:
        expect(run.process.returncode == 0, f"ended with {run.process.returncode}:\n{run.story()}")
        return run, None
    os.kill(run.process.pid, number)  # the run alone: what it started must end by itself
    code = run.wait()
    if number == signal.SIGKILL:
        return run, at
    # It may have been at its very end.
    expect(code in (0, 130), f"{number.name} in {at} ended with {code}:\n{run.story()}")
    expect((out / "report.md").exists(), f"{number.name} in {at} left no report:\n{run.story()}")
    return run, at


def _check_folder(out: Path) -> None:
    """Whatever stands in a run's folder can be read."""
    if (out / "rows.jsonl").exists():
        expect(bool(read_rows(out)), "a folder without a row")
        expect((out / "environment.json").is_file(), "rows without an environment")
