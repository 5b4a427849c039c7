"""Health of the host while a block runs: waiting for CPUs, stolen time, throttling, load, MHz.

A sample reads counters only, so that it fits between two blocks; what can't be read is None. How
finely a counter counts decides what it may be asked: pressure, throttling and context switches
count microseconds or single events and are judged block by block; stolen time counts clock ticks
(10 ms), about as long as a block, and tells little before the blocks of a point are added up.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.results import MACHINE, Row

MOST_STEAL = 0.01
"""Share of the CPUs' time: a ratio of two arms is to be known to 1-2 %."""
MOST_PRESSURE = 0.05
"""Share of a block in which some process waited for a CPU. A quiet machine's blocks of 12-25 ms
have 0 in nine of ten; a busy neighbour takes turns of 3 ms and more."""
MOST_SWITCHES = 100
"""Involuntary context switches per second of a one-threaded worker, judged only where the system
tells no pressure: a busy neighbour takes a turn every 3-8 ms, the system's own tasks few."""
MOST_NOISY_BLOCKS = 0.25
"""Share of a point's blocks: medians and p10 over blocks bear that many disturbed ones, and a
virtual machine's own agents disturb one in five."""
MOST_MHZ_SPREAD = 0.10
"""Highest clock over lowest, less 1; blocks further apart show the clock and not the model."""
HEAT_FILES = 8
"""Most cores whose heat throttling is read (some 7 us each): the last, where arms are pinned."""

_STOPS = re.compile(r"^nr_throttled (\d+)$", re.MULTILINE)
_STOPPED = re.compile(r"^throttled_(usec|time) (\d+)$", re.MULTILINE)
_PER_SECOND = {"usec": 1e6, "time": 1e9}
"""Control groups of version 2 count microseconds, those of version 1 nanoseconds."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters of the host at one moment (``seconds`` of a clock with a start of its own)."""

    seconds: float
    waited: float | None = None
    """Seconds in which at least one process waited for a CPU."""
    stolen: int | None = None
    """Clock ticks of all CPUs that the hypervisor gave to others."""
    ticks: int | None = None
    """Clock ticks of all CPUs, whatever they did."""
    load: float | None = None
    throttled: float | None = None
    """Seconds in which this process's control groups were stopped for their CPU quota."""
    quota_stops: int | None = None
    heat_stops: int | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """What happened on the host in ``seconds``, from one sample to the next; None is unknown."""

    seconds: float
    pressure: float | None = None
    """Share of the time in which at least one process waited for a CPU."""
    stolen: int | None = None
    ticks: int | None = None
    load: float | None = None
    """Processes that ran or waited, averaged by the system over the last minute."""
    throttled: float | None = None
    quota_stops: int | None = None
    heat_stops: int | None = None
    switches: int | None = None
    """Involuntary context switches of a one-threaded worker."""

    @property
    def steal(self) -> float | None:
        """Share of the CPUs' time that the hypervisor gave to others, in steps of a clock tick;
        None when no tick passed.
        """
        if self.stolen is None or not self.ticks:
            return None
        return self.stolen / self.ticks

    @property
    def throttle_events(self) -> int | None:
        """Stops for the CPU quota and for heat, as far as they are told."""
        known = _known((self.quota_stops, self.heat_stops))
        return int(sum(known)) if known else None


def sample(root: Path = Path("/")) -> Sample:
    """The counters now, in about 0.1 ms; ``root`` is where ``proc`` and ``sys`` are."""
    now = time.perf_counter()
    waited = re.match(r"some .*total=(\d+)", _read(root / "proc/pressure/cpu"))
    load = re.match(r"\d+\.\d+", _read(root / "proc/loadavg"))
    stolen, ticks = _ticks(_read(root / "proc/stat"))
    throttled, quota_stops = _quota(_quota_files(root))
    return Sample(
        seconds=now,
        waited=int(waited[1]) / 1e6 if waited else None,
        stolen=stolen,
        ticks=ticks,
        load=float(load[0]) if load else None,
        throttled=throttled,
        quota_stops=quota_stops,
        heat_stops=_heat(_heat_files(root)),
    )


def mhz(root: Path = Path("/")) -> float | None:
    """Clock of the fastest CPU now, MHz (the others may be idle); None where it isn't told.

    Slow (a file or a paragraph for each CPU): read it between points or every few blocks.
    """
    folder = root / "sys/devices/system/cpu"
    files = [_read(path).strip() for path in folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    clocks = [int(text) / 1000 for text in files if text.isdigit()]
    if not clocks:
        told = _read(root / "proc/cpuinfo", 1 << 24)
        clocks = [float(value) for value in re.findall(r"^cpu MHz\s*: (\d+\.\d+)$", told, re.M)]
    return max(clocks, default=None)


def _read(path: Path, size: int = 4096) -> str:
    """The start of a file; nothing where the system doesn't have it or won't tell."""
    try:
        with path.open("rb", buffering=0) as file:
            return (file.read(size) or b"").decode(errors="replace")
    except OSError:
        return ""


def _ticks(stat: str) -> tuple[int | None, int | None]:
    """Stolen and all clock ticks of ``/proc/stat``; guests' time is part of user time there."""
    line = re.match(r"cpu +((?:\d+ ?){8,})", stat)
    if line is None:
        return None, None
    fields = [int(field) for field in line[1].split()[:8]]
    return fields[7], sum(fields)


def _quota(files: Sequence[Path]) -> tuple[float | None, int | None]:
    """Seconds and number of stops of all these control groups."""
    seconds, stops = 0.0, 0
    for text in map(_read, files):
        count, stopped = _STOPS.search(text), _STOPPED.search(text)
        if count is None or stopped is None:
            return None, None
        seconds += int(stopped[2]) / _PER_SECOND[stopped[1]]
        stops += int(count[1])
    return (seconds, stops) if files else (None, None)


@cache
def _quota_files(root: Path) -> tuple[Path, ...]:
    """Every ``cpu.stat`` that tells throttling, of the own control group and of those above it;
    version 2 before version 1. A container sees its own group as the top one.
    """
    groups = dict[str, str]()
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path.strip("/"))
    mounts = {"": "", "unified": "", "cpu": "cpu", "cpu,cpuacct": "cpu"}
    for mount, controller in mounts.items():
        top = root / "sys/fs/cgroup" / mount
        own = top / groups.get(controller, "")
        folders = (own, *(above for above in own.parents if above.is_relative_to(top)))
        files = (folder / "cpu.stat" for folder in folders)
        told = tuple(path for path in files if _STOPS.search(_read(path)))
        if told:
            return told
    return ()


def _heat(files: Sequence[Path]) -> int | None:
    counts = [_read(path).strip() for path in files]
    return sum(map(int, counts)) if counts and all(map(str.isdigit, counts)) else None


@cache
def _heat_files(root: Path) -> tuple[Path, ...]:
    folder = root / "sys/devices/system/cpu"
    found = folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    ordered = sorted(found, key=lambda path: int(path.parts[-3].removeprefix("cpu")))
    return tuple(ordered[-HEAT_FILES:])


def health(before: Sample, after: Sample, *, switches: int | None = None) -> Health:
    """What happened from one sample to the next; a counter that is missing or ran backwards gives
    None. Give ``switches`` (involuntary, of the worker) for a worker with one thread only: threads
    that wait for each other also wait for a CPU without being switched.
    """
    seconds = after.seconds - before.seconds
    waited = _since(before.waited, after.waited)
    return Health(
        seconds=seconds,
        pressure=None if waited is None or seconds <= 0 else min(1.0, waited / seconds),
        stolen=_since(before.stolen, after.stolen),
        ticks=_since(before.ticks, after.ticks),
        load=after.load,
        throttled=_since(before.throttled, after.throttled),
        quota_stops=_since(before.quota_stops, after.quota_stops),
        heat_stops=_since(before.heat_stops, after.heat_stops),
        switches=switches,
    )


def _since(before: Number | None, after: Number | None) -> Number | None:
    return None if before is None or after is None or after < before else after - before


def noise(health: Health) -> str | None:
    """Why a block counts as noisy, in one sentence; None when nothing is known against it."""
    return next(iter(_causes(health).values()), None)


def _causes(health: Health) -> dict[str, str]:
    """What disturbed a block: kinds, with a sentence each."""
    found = {}
    if health.throttled or health.quota_stops:
        found["the CPU quota"] = f"the CPU quota stopped the worker ({health.throttled or 0:.3f} s)"
    if health.heat_stops:
        found["heat"] = f"cores were slowed down for heat ({health.heat_stops} times)"
    if _much_stolen([health]):
        found["stolen time"] = _stolen_sentence(health.steal)
    if health.pressure is None:
        if health.switches and health.switches > MOST_SWITCHES * health.seconds:
            found["other processes"] = f"the worker lost its CPU {health.switches} times"
    elif health.pressure > MOST_PRESSURE and health.switches != 0:  # 0: others waited, not we
        share = f"{100 * health.pressure:.1f} %"
        found["other processes"] = f"processes waited for a CPU in {share} of the time"
    return found


def _steal(healths: Sequence[Health]) -> tuple[int, int]:
    """Stolen and all ticks of the blocks that know both."""
    known = [(h.stolen, h.ticks) for h in healths if h.stolen is not None and h.ticks is not None]
    return sum(stolen for stolen, _ in known), sum(ticks for _, ticks in known)


def _much_stolen(healths: Sequence[Health]) -> bool:
    """Whether more than ``MOST_STEAL`` was stolen for sure: of k counted ticks only k - 1 surely
    passed within the time, so that one tick in a short block proves nothing.
    """
    stolen, ticks = _steal(healths)
    return stolen - 1 > MOST_STEAL * ticks


def _stolen_sentence(steal: float | None) -> str:
    return f"the hypervisor took {100 * (steal or 0):.1f} % of the CPUs' time"


def point_noise(healths: Sequence[Health], mhzs: Sequence[float | None]) -> str | None:
    """Why a measured point (the blocks of all arms) counts as noisy; None when it doesn't."""
    causes = [_causes(health) for health in healths]
    noisy = sum(map(bool, causes))
    if noisy > MOST_NOISY_BLOCKS * len(healths):
        most = Counter(kind for found in causes for kind in found).most_common(1)[0][0]
        return f"{noisy} of {len(healths)} blocks were disturbed, most often by {most}"
    if _much_stolen(healths):
        stolen, ticks = _steal(healths)
        return _stolen_sentence(stolen / ticks)
    clocks = _known(mhzs)
    if clocks and max(clocks) > (1 + MOST_MHZ_SPREAD) * min(clocks):
        return f"the CPU's clock varied from {min(clocks):.0f} to {max(clocks):.0f} MHz"
    return None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def health_rows(
    common: Mapping[str, Any],
    threads: int,
    healths: Sequence[Health],
    mhzs: Sequence[float | None],
) -> list[Row]:
    """The machine's health over the blocks of one thread count: share of noisy blocks, median
    pressure, steal in all, seconds stopped in all, highest load, median MHz. ``n`` counts the
    blocks (of ``mhz`` the readings) that tell it; a figure that none tells is None with a reason.
    """
    reason = "this system doesn't tell it" if healths else "no block was measured"
    base = _machine(common, threads) | {"noise": point_noise(healths, mhzs)}
    return [
        Row(
            **{
                **base,
                "metric": metric,
                "direction": "none" if metric == "mhz" else "lower",
                "unit": unit,
                "value": value,
                "n": n,
                "reason": reason if value is None else None,
            }
        )
        for metric, (unit, value, n) in _figures(healths, mhzs).items()
    ]


def _figures(
    healths: Sequence[Health], mhzs: Sequence[float | None]
) -> dict[str, tuple[str, float | None, int]]:
    """Unit, value and what it was told by, by metric."""
    known = {name: _known(getattr(h, name) for h in healths) for name in ("pressure", "load")}
    throttled, clocks = _known(h.throttled for h in healths), _known(mhzs)
    stolen, ticks = _steal(healths)
    noisy = [noise(h) is not None for h in healths]
    return {
        "noisy_blocks": ("share", float(np.mean(noisy)) if noisy else None, len(noisy)),
        "pressure": ("share", _median(known["pressure"]), len(known["pressure"])),
        "steal": (
            "share",
            stolen / ticks if ticks else None,
            len(_known(h.steal for h in healths)),
        ),
        "throttled": ("s", sum(throttled) if throttled else None, len(throttled)),
        "load": ("count", max(known["load"], default=None), len(known["load"])),
        "mhz": ("MHz", _median(clocks), len(clocks)),
    }


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _machine(common: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Columns of a row about the machine: nothing of any variant."""
    of_variant = ("technique", "target", "engine", "engine_version", "device", "precision")
    shared = {name: value for name, value in common.items() if name not in of_variant}
    own = {"recipe": MACHINE, "scenario": "health", "threads": threads}
    return {**shared, **own}
