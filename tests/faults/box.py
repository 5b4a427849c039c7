"""Everything that may go wrong, for so many minutes: kills, disks, races, made-up input.

``PYTHONPATH=tests python tests/faults/box.py --minutes 20`` prints what was counted; it ends with 1
when something that must hold did not. ``--seed`` repeats a run's draws.
"""

import argparse
import importlib
import random
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

SHARES = {"kills": 0.4, "races": 0.15, "disk": 0.2}
FUZZ = 0.25
"""Share of the time for all files ``fuzz_*.py`` beside this one."""

Part = Callable[[float, int], object]
"""Takes seconds and a seed, raises when something did not hold, and may give back counts."""


def parts() -> dict[str, tuple[Part, float]]:
    """What there is to run, and its share of the time."""
    fuzzers = sorted(path.stem for path in Path(__file__).parent.glob("fuzz_*.py"))
    shares = {**SHARES, **{name: FUZZ / len(fuzzers) for name in fuzzers}}
    total = sum(shares.values())
    return {
        name: (importlib.import_module(name).main, share / total) for name, share in shares.items()
    }


def told(name: str, found: object, seconds: float) -> str:
    """One line for one part."""
    counts = found if isinstance(found, Mapping) else {"done": found} if found else {}
    text = ", ".join(f"{what}: {count}" for what, count in counts.items()) or "nothing counted"
    return f"{name} ({seconds:.0f} s): {text}"


def main(minutes: float, seed: int) -> int:
    """Run all parts; the exit code."""
    print(f"faults for {minutes:g} minutes, seed {seed}", flush=True)
    failed, end = [], time.monotonic() + 60 * minutes
    left = 1.0
    for name, (part, share) in parts().items():
        begun = time.monotonic()
        seconds = max(1.0, end - begun) * share / left  # what took longer is taken from the others
        left -= share
        try:
            found = part(seconds, seed)
        except Exception:  # the others are still worth running; this one is told of and counted
            traceback.print_exc()
            failed.append(name)
            continue
        print(told(name, found, time.monotonic() - begun), flush=True)
    print(f"failed: {', '.join(failed)} (seed {seed})" if failed else "all held", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    chosen = parser.parse_args()
    sys.exit(main(chosen.minutes, chosen.seed))
