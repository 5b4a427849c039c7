"""The cross-check with MLPerf LoadGen: our figures over those of an independent load generator.

One artifact on one engine in one process; short runs of the two take turns, so that what drifts
does so for both, and the ratio inside a pair is what counts. LoadGen's way through its Python
callback adds some 30 us to a call, so calls should take a few milliseconds to be compared.
"""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.results import Row
from harness.suites.arms import Arm, ArmError, Process
from harness.suites.points import Point
from harness.suites.statistics import Interval, median_interval, queries_needed

COMMAND = (sys.executable, "-m", "harness.suites.loadgen_worker")
PACKAGE = "mlperf_loadgen"
MISSING = (
    "MLPerf LoadGen is not installed, so no independent load generator confirms these figures; "
    "pip install 'recsys-compression-harness[loadgen]'"
)
BOUND = 0.02
"""How far from 1 a ratio may lie for the two to agree."""

METRICS: Mapping[str, Mapping[str, str]] = {
    "single": {"metric": "single_latency_p50", "unit": "s", "direction": "lower"},
    "offline": {"metric": "offline_rows_per_second", "unit": "rows/s", "direction": "higher"},
    "server": {"metric": "server_latency_p50", "unit": "s", "direction": "lower"},
}
REGIONS = {"single": "model_only", "offline": "end_to_end", "server": "end_to_end"}

_WARM = {"seconds": 0.1, "window_calls": 3, "window_seconds": 0.03, "cap": 0.6}


@dataclass(frozen=True, slots=True)
class Settings:
    """How long is checked: pairs of runs of about ``seconds`` (at least ``calls`` calls) each.

    ``server`` runs at ``rate`` requests/s, or at ``utilisation`` of what one call after the other
    gives; both sides serve LoadGen's arrivals. Keep it low: waiting multiplies the machine's noise.
    """

    pairs: int = 20
    seconds: float = 0.25
    calls: int = 9
    utilisation: float = 0.3
    rate: float | None = None
    seed: int = 0
    warm: Mapping[str, float] = field(default_factory=lambda: _WARM)

    @property
    def told(self) -> dict[str, Any]:
        """The settings as the child takes them."""
        values = {name: getattr(self, name) for name in type(self).__dataclass_fields__}
        return {**values, "warm": dict(self.warm)}


@dataclass(frozen=True, slots=True)
class Compared:
    """One scenario's figures by pair: p50 in seconds, or rows/s; p99 in seconds (None: offline).

    ``spun`` is our open loop as ``server`` rows have it (a short spin instead of a late wake-up),
    where ``ours`` sleeps as LoadGen does. ``count`` calls of ``rows`` rows a run.
    """

    ours: tuple[float, ...]
    loadgen: tuple[float, ...]
    count: int
    rows: int
    ours_p99: tuple[float, ...] = ()
    loadgen_p99: tuple[float, ...] = ()
    spun: tuple[float, ...] = ()
    rate: float | None = None

    @property
    def ratio(self) -> Interval:
        """Median over pairs of ours / LoadGen's, with its 99 % interval."""
        return _over(self.ours, self.loadgen)

    @property
    def verdict(self) -> str:
        """``agrees`` when the whole interval lies within ``BOUND`` of 1, ``differs`` when all of it
        lies outside, else ``inconclusive``.
        """
        low, high = self.ratio.low, self.ratio.high
        if low is None or high is None:
            return "inconclusive"
        if low > 1 + BOUND or high < 1 - BOUND:
            return "differs"
        return "agrees" if low >= 1 - BOUND and high <= 1 + BOUND else "inconclusive"


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """What came of a cross-check: the engine's facts and figures by scenario, or why there are
    none.
    """

    engine: str
    threads: int
    status: Literal["ok", "skipped", "failed"]
    reason: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    compared: Mapping[str, Compared] = field(default_factory=dict)


def cross_check(
    arm: Arm,
    feeds: Mapping[str, Path],
    *,
    threads: int,
    settings: Settings = Settings(),
    timeout: float = 300.0,
    command: Sequence[str] = COMMAND,
) -> CrossCheck:
    """Measure an arm with our loops and with LoadGen in a child process, which is ended after
    ``timeout`` seconds. ``feeds`` has the input files of one request (``single``, used for
    ``server`` too) and of one batch (``offline``). What goes wrong is told in the result, not
    raised.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        return CrossCheck(arm.engine, threads, "skipped", MISSING)
    child = Process(arm, threads=threads, command=command)
    try:
        told = child.ask(
            "cross-check",
            timeout=timeout,
            engine=arm.engine,
            folder=str(arm.folder),
            threads=threads,
            slowdown=arm.slowdown,
            feeds={name: str(path) for name, path in feeds.items()},
            settings=settings.told,
        )
        return _read(arm, threads, told)
    except ArmError as error:
        return CrossCheck(arm.engine, threads, "failed", str(error))
    finally:
        child.close()


def _read(arm: Arm, threads: int, told: Mapping[str, Any]) -> CrossCheck:
    facts = told["facts"]
    if facts["threads"] != threads:
        raise ArmError(
            f"{arm.name}: asked for {threads} threads, {arm.engine} has {facts['threads']}"
        )
    compared = {name: _compared(name, values) for name, values in told["scenarios"].items()}
    return CrossCheck(arm.engine, threads, "ok", None, facts, compared)


def _compared(scenario: str, told: Mapping[str, Any]) -> Compared:
    each = told["rows"] if scenario == "offline" else 1  # calls/s become rows/s
    values = {
        name: tuple(each * value for value, _ in told.get(name, ()))
        for name in ("ours", "loadgen", "spun")
    }
    tails = {
        f"{name}_p99": tuple(p99 for _, p99 in told[name] if p99 is not None)
        for name in ("ours", "loadgen")
    }
    return Compared(count=told["count"], rows=told["rows"], rate=told["rate"], **values, **tails)


def loadgen_rows(
    common: Mapping[str, Any], points: Mapping[str, Point], check: CrossCheck
) -> list[Row]:
    """Rows of a cross-check: LoadGen's figure, and the ratio of ours to it, by scenario; one row
    with the reason when there are none. ``points`` are those that ``single`` and ``offline`` inputs
    were made for.
    """
    base = {**common, "scenario": "loadgen", "threads": check.threads, "engine": check.engine}
    if check.status != "ok":
        told = {"status": check.status, "reason": check.reason}
        return [Row(**{**base, **_place("single", points), **METRICS["single"], **told})]
    base |= {key: check.facts[key] for key in ("engine", "device", "precision")}
    base["engine_version"] = check.facts["version"]
    return [
        Row(**{**base, **_place(name, points), **METRICS[name], **_figures(compared)})
        for name, compared in check.compared.items()
    ]


def _place(scenario: str, points: Mapping[str, Point]) -> dict[str, Any]:
    point = points["offline" if scenario == "offline" else "single"]
    return {
        "region": REGIONS[scenario],
        "batch": point.rows,
        "candidates": point.candidates,
    }


def _figures(compared: Compared) -> dict[str, Any]:
    theirs, ratio = median_interval(compared.loadgen), compared.ratio
    return {
        "value": theirs.value,
        "ci_low": theirs.low,
        "ci_high": theirs.high,
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "n": ratio.n,
        "offered_rate": compared.rate,
        "verdict": compared.verdict,
        "reason": _beside(compared),
    }


def _beside(compared: Compared) -> str:
    """What isn't judged but belongs beside the ratio, in words."""
    ours = median_interval(compared.ours).value
    told = [f"ours {ours:.6g}; {compared.count} calls a run"]
    if compared.spun:
        spun = _over(compared.spun, compared.loadgen).value
        told.append(
            "both serve LoadGen's arrivals, sleep until one and count a late wake-up as latency; "
            f"with the short spin of the server rows instead, the ratio is {spun:.4f}"
        )
    if compared.ours_p99 and compared.count >= queries_needed(0.99):
        p99 = (median_interval(side).value for side in (compared.ours_p99, compared.loadgen_p99))
        told.append("p99 {:.6g} s, LoadGen's {:.6g} s (not judged)".format(*p99))
    return "; ".join(told)


def _over(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    return median_interval([a / b for a, b in zip(ours, theirs, strict=True)])
