"""Races: several runs at once on one cache share the work; two on one folder do not."""

import random
import time
from collections import Counter

from driven import BRIEF, RECIPES, Work, accuracy, expect, scratch, start, store_log, wait_for

MOST = 4
"""Runs at once: the first race is of so many, the others of two or more."""
WORK = Work(RECIPES, BRIEF)


def main(seconds: float, seed: int) -> dict[str, int]:
    """Race runs until the time is up, at least once; how many ran and were turned away."""
    chance, end = random.Random(seed), time.monotonic() + seconds
    counts, took = Counter[str](), 0.0
    while not counts or time.monotonic() + took < end:
        begun = time.monotonic()
        counts += _race(chance.randint(2, MOST) if counts else MOST, chance)
        took = time.monotonic() - begun
    return dict(counts)


def _race(number: int, chance: random.Random) -> Counter[str]:
    with scratch() as folder:
        cache = folder / "cache"
        outs = [folder / f"out{at}" for at in range(number)]
        runs = []
        for out in outs:
            runs.append(start(out, cache, work=WORK))
            time.sleep(chance.uniform(0, 2))
        expect(
            wait_for((outs[0] / ".lock").exists, runs[0], seconds=120),
            f"the first run never took its folder:\n{runs[0].story()}",
        )
        late = start(outs[0], cache, debug=False, work=WORK)
        code = late.wait()
        expect(code == 2, f"a second run in one folder ended with {code}:\n{late.story()}")
        expect(
            len(late.errors) == 1 and "another run is writing there" in late.errors[0],
            f"not one sentence: {late.errors}",
        )
        for run in runs:
            code = run.wait()
            expect(code == 0, f"one of several runs ended with {code}:\n{run.story()}")
        first, *others = (accuracy(out) for out in outs)
        expect(bool(first), "no figures")
        expect(all(other == first for other in others), "runs of one cache differ in their figures")
        _, made = store_log(runs)
        twice = {key: count for key, count in made.items() if count > 1}
        expect(bool(made) and not twice, f"made by more than one run: {twice}")
    return Counter({f"races of {number}": 1, "runs": number, "turned away": 1})
