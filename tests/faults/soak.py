"""Soak: one variant under a server's load for an hour: does memory grow, do descriptors, does p99?

``python tests/faults/soak.py 60`` (minutes); ends with 1 where memory or descriptors grow. The
slope of resident memory is Theil and Sen's (Sen 1968, doi:10.1080/01621459.1968.10480934) over
medians of minutes, since its interval takes samples for independent; the first quarter, in which
an allocator fills its pools, is left out.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from driven import RECIPES, scratch
from scipy.stats import theilslopes

from harness.artifact import read_artifact
from harness.baseline import train_baseline
from harness.loading import load_recipes
from harness.profile import Load
from harness.store import Store
from harness.suites.arms import Arm, Process
from harness.suites.openloop import parse_served
from harness.suites.points import draw_rows, request_point, write_feeds
from harness.variants import Variant, make_variant

CHUNK_SECONDS = 5.0
SHARE_PER_HOUR = 0.01
"""Growth of memory in an hour that is held for none, as a share of it."""
WARM = {"seconds": 1.0, "window_calls": 10, "window_seconds": 0.1, "cap": 5.0}


@dataclass(frozen=True)
class Sample:
    """After one chunk of load: seconds since the start, resident bytes, open descriptors, the
    chunk's p99 latency in seconds, and whether it was cut off, having fallen too far behind.
    """

    at: float
    rss: int
    descriptors: int
    p99: float
    overloaded: bool = False


@dataclass(frozen=True)
class Slope:
    """A trend per hour with its 95 % interval, as a share of the median."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.2%} an hour ({self.low:+.2%} to {self.high:+.2%})"


def slope(at: Sequence[float], values: Sequence[float], *, bins: int = 45) -> Slope:
    """Theil and Sen's slope of medians of at most ``bins`` stretches, the first quarter left out.

    Raises ``ValueError`` for fewer than 8 samples.
    """
    if len(at) < 8:
        raise ValueError(f"{len(at)} samples show no trend: soak for longer")
    times, heights = (np.asarray(side, dtype=float)[len(at) // 4 :] for side in (at, values))
    parts = np.array_split(np.arange(len(times)), min(bins, len(times)))
    x = [float(np.median(times[part])) / 3600 for part in parts]
    y = [float(np.median(heights[part])) for part in parts]
    value, _, low, high = map(float, theilslopes(y, x, 0.95))
    middle = float(np.median(y))
    return Slope(value / middle, low / middle, high / middle)


def grows(found: Slope) -> bool:
    """Whether a trend is shown to be more than ``SHARE_PER_HOUR``."""
    return bool(found.low > SHARE_PER_HOUR)


def soak(seconds: float, folder: Path, *, chunk_seconds: float = CHUNK_SECONDS) -> list[Sample]:
    """Load one variant at half of what it sustains, and look at its process after each chunk."""
    recipe = next(r for r in load_recipes(RECIPES) if r.name == "made-half-int8")
    store = Store(folder / "cache")
    trained = train_baseline(recipe.baseline, store, threads=1, progress=_silent)
    variant = Variant(recipe, recipe.targets[0])
    made = make_variant(variant, trained, store, threads=1, progress=_silent)
    assert made.artifact is not None
    point = request_point(Load(), threads=1)
    test, inputs = trained.data.splits["test"], read_artifact(made.artifact.folder).inputs
    rows = draw_rows(test, point, seed=1)
    feeds = str(write_feeds(folder / "feeds.npz", trained.data.schema, test, rows, inputs))
    arm = Arm("soak", variant.target.engine, made.artifact.folder)
    process = Process(arm, threads=1)
    try:
        return _loaded(process, feeds, (seconds, chunk_seconds))
    finally:
        process.close()


def _loaded(process: Process, feeds: str, how: tuple[float, float]) -> list[Sample]:
    seconds, chunk_seconds = how
    arm = process.arm
    words = {"engine": arm.engine, "folder": str(arm.folder), "feeds": feeds}
    process.ask("load", timeout=120, threads=1, **words)
    process.ask("pin", timeout=10, cpus=[min(os.sched_getaffinity(0))])
    process.ask("point", timeout=120, feeds=feeds, warm=WARM, region="end_to_end")
    told = process.ask("block", timeout=120, seconds=1.0, calls=10)
    rate = 0.5 / (float(np.median(told["latencies"])) / 1e9)
    watched, begun = psutil.Process(process.pid), time.monotonic()
    samples: list[Sample] = []
    while time.monotonic() - begun < seconds:
        requests = max(100, int(rate * chunk_seconds))
        told = process.ask("serve", timeout=600, requests=requests, rate=rate, seed=len(samples))
        served = parse_served(told)
        facts = (watched.memory_info().rss, watched.num_fds())
        p99 = float(np.quantile(served.latencies, 0.99)) / 1e9
        samples.append(Sample(time.monotonic() - begun, *facts, p99, served.stopped))
    return samples


def lines(samples: Sequence[Sample]) -> tuple[list[str], bool]:
    """What a soak found, and whether nothing grew."""
    at = [one.at for one in samples]
    memory = slope(at, [one.rss for one in samples])
    tail = slope(at, [one.p99 for one in samples])
    settled = [one.descriptors for one in samples[len(samples) // 4 :]]
    flat = max(settled) <= settled[0]
    said = [
        f"{len(samples)} chunks in {at[-1] / 60:.1f} minutes",
        f"memory: {samples[-1].rss / 2**20:.1f} MiB, {memory}",
        f"p99: {np.median([one.p99 for one in samples]) * 1e3:.3f} ms, {tail}, "
        f"{sum(one.overloaded for one in samples)} chunks overloaded",
        f"descriptors: {settled[0]} to {max(settled)}, {'flat' if flat else 'they grow'}",
    ]
    return said, flat and not grows(memory)


def _silent(label: str, share: float) -> None:
    return


if __name__ == "__main__":
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with scratch() as where:
        report, well = lines(soak(60 * minutes, where))
    print("\n".join(report))
    sys.exit(0 if well else 1)
