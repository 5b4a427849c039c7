"""Kills: a run is killed or interrupted at random moments of all its time, and goes on afterwards.

The last run ends with 0 and the figures of an undisturbed one; nothing that was finished is made
twice; no half file is read. Every core has a series of its own, whose runs stay on it.
``PYTHONPATH=tests python tests/faults/kills.py SECONDS [SEED]`` kills alone.
"""

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from driven import (
    BRIEF,
    E2E,
    PHASES,
    Run,
    Work,
    accuracy,
    expect,
    finish,
    scratch,
    start,
    store_log,
    wait_for,
)

from harness.results import read_rows

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
"""Of these one is drawn each time: most are kills."""
MOST = 12
"""Kills before a run may go on to its end. More would seldom meet what is made but once."""
WORK = Work((E2E / "recipes" / "made-half-int8.yaml",), BRIEF)
"""Training, exports, stages, scores, times and a report, each at least once, and little more."""
ORDER = ("start", *PHASES)

Figures = dict[tuple[object, ...], float | None]


@dataclass(frozen=True)
class Undisturbed:
    """A whole run: its figures, how long it took, and when each part of it began."""

    figures: Figures
    took: float
    begins: dict[str, float]

    def part(self, at: float) -> tuple[str, float]:
        """The part of the run at a moment of it, and how long it had lasted."""
        phase = max(
            (name for name in self.begins if self.begins[name] <= at), key=self.begins.__getitem__
        )
        return phase, at - self.begins[phase]


def main(seconds: float, seed: int) -> dict[str, int]:
    """Kill runs until the time is up, at least one; how often, by signal and part."""
    end = time.monotonic() + seconds
    cores = sorted(os.sched_getaffinity(0))
    with scratch() as folder, ThreadPoolExecutor(len(cores)) as pool:
        # A thread's core is that of the processes it starts.
        whole = pool.submit(_undisturbed, folder / "whole", cores[0]).result()
        jobs = [
            pool.submit(_one_core, folder / f"core{core}", whole, (core, end, f"{seed}-{core}"))
            for core in cores
        ]
        counts = sum((job.result() for job in jobs), Counter[str]())
    return {"kills": sum(n for name, n in counts.items() if " in " in name), **counts}


def _undisturbed(folder: Path, core: int) -> Undisturbed:
    os.sched_setaffinity(0, {core})
    run = start(folder / "out", folder / "cache", work=WORK)
    began, begins = time.monotonic(), {"start": 0.0}
    while run.process.poll() is None:
        begins.setdefault(run.phase, time.monotonic() - began)
        time.sleep(0.05)
    expect(run.wait() == 0, f"an undisturbed run did not end with 0:\n{run.story()}")
    expect(set(begins) == set(ORDER), f"parts that an undisturbed run had: {sorted(begins)}")
    figures = accuracy(folder / "out")
    expect(bool(figures), "an undisturbed run has no figures")
    return Undisturbed(figures, time.monotonic() - began, begins)


def _one_core(folder: Path, whole: Undisturbed, how: tuple[int, float, str]) -> Counter[str]:
    core, end, seed = how
    os.sched_setaffinity(0, {core})
    chance, counts, each = random.Random(seed), Counter[str](), whole.took / 2
    while not counts or time.monotonic() + whole.took + each < end:
        left = end - time.monotonic() - whole.took  # the last run may have all to do
        kills = max(1, min(MOST, int(left / each)))
        begun = time.monotonic()
        counts += _series(folder, whole, (chance, kills))
        each = (time.monotonic() - begun) / kills
    return counts


def _series(folder: Path, whole: Undisturbed, how: tuple[random.Random, int]) -> Counter[str]:
    """One empty cache, as many kills as ``how`` tells at moments drawn evenly over the whole run,
    each of a run that goes on where the one before was, and a run that goes on to its end.
    """
    chance, kills = how
    cache, out, counts, runs = folder / "cache", folder / "out", Counter[str](), list[Run]()
    shutil.rmtree(folder, ignore_errors=True)
    for moment in sorted(chance.uniform(0, whole.took) for _ in range(kills)):
        number = chance.choice(SIGNALS)
        run, at = _stopped(out, cache, whole.part(moment), number)
        runs.append(run)
        counts[f"{signal.Signals(number).name} in {at}" if at else "ended before"] += 1
        _check_folder(out)
    runs.append(finish(out, cache, work=WORK))
    expect(accuracy(out) == whole.figures, "the figures differ from an undisturbed run's")
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
    out: Path, cache: Path, where: tuple[str, float], number: signal.Signals
) -> tuple[Run, str | None]:
    """A run that was sent a signal some time after it had come to a part, and where it then was
    (None: it had ended by itself).
    """
    phase, after = where
    run = start(out, cache, work=WORK)
    wait_for(lambda: ORDER.index(run.phase) >= ORDER.index(phase), run, seconds=300)
    wait_for(lambda: False, run, seconds=after)
    at = run.phase
    if run.process.poll() is not None:
        expect(run.process.returncode == 0, f"ended with {run.process.returncode}:\n{run.story()}")
        return run, None
    os.kill(run.process.pid, number)  # the run alone: what it started must end by itself
    code = run.wait()
    if number == signal.SIGKILL:
        return run, at
    # It may have been at its very end; or at its very beginning, when Python answers for it.
    ends = (0, 130, -number) if at == "start" else (0, 130)
    expect(code in ends, f"{number.name} in {at} ended with {code}:\n{run.story()}")
    if at != "start":
        expect((out / "report.md").exists(), f"{number.name} in {at} left no report")
    return run, at


def _check_folder(out: Path) -> None:
    """Whatever stands in a run's folder can be read."""
    if (out / "rows.jsonl").exists():
        expect(bool(read_rows(out)), "a folder without a row")
        expect((out / "environment.json").is_file(), "rows without an environment")


if __name__ == "__main__":
    found = main(float(sys.argv[1]), int((*sys.argv, "1")[2]))
    print(", ".join(f"{name}: {count}" for name, count in found.items()))
