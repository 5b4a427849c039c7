"""The cross-check's child: one loaded engine, timed in turns by our loops and by MLPerf LoadGen.

``python -m harness.suites.loadgen_worker`` reads one request from stdin and answers it on the
stdout it was given. LoadGen crashes when a callback raises, waits for ever for a sample that isn't
completed, and tells its results only in a file; so it lives here, where the parent can end it.
https://github.com/mlcommons/inference/tree/master/loadgen
"""

import json
import math
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from harness.errors import DataError, HarnessError
from harness.process import claim_stdout
from harness.profile import Region
from harness.suites.openloop import SYSTEM, serve
from harness.suites.worker import Worker

Scenario = Literal["single", "offline", "server"]
SCENARIOS: Mapping[Scenario, tuple[str, Region]] = {
    "single": ("single", "model_only"),
    "server": ("single", "end_to_end"),
    "offline": ("offline", "end_to_end"),
}
"""The inputs and the region of each scenario: those of the rows that it is to confirm."""
THEIRS = {"single": "SingleStream", "offline": "Offline", "server": "Server"}
LOG, MARK = "mlperf_log_detail.txt", ":::MLLOG "
RATE_KEY = "result_samples_per_second"
SCHEDULED_KEY = "result_scheduled_samples_per_sec"
LATENCY_KEY = "result_{:.2f}_percentile_latency_ns"
PLAIN_SLEEP = replace(SYSTEM, spin=0)
"""LoadGen sleeps until an arrival and counts a late wake-up as latency; this clock does so too."""


class LoadGenError(HarnessError):
    """LoadGen's run can't be used: a call inside it failed, or samples are missing."""


@dataclass(frozen=True, slots=True)
class Task:
    """A load that both sides put on the engine: so many calls; ``server`` at a rate (1/s)."""

    scenario: Scenario
    count: int
    rate: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """What one side says: p50 latency (s) or, of ``offline``, calls/s; and p99 (s), unproven."""

    value: float
    p99: float | None = None


class Sut:
    """LoadGen's system under test: answers each query inside the callback that brings it, first
    come first served. Nothing is raised there, and a sample is completed whatever happened.
    """

    def __init__(self, call: Callable[[Any], object], inputs: Sequence[Any]) -> None:
        import mlperf_loadgen as lg

        self.call, self.inputs = call, inputs
        self.errors: list[str] = []
        self.calls = 0
        # What every response points at: LoadGen copies it, so it must stay alive. All is looked up
        # here, since code that runs once in a few milliseconds is cold and counts as latency.
        self._answer = np.zeros(1, dtype=np.float32)
        self._place, self._bytes = self._answer.ctypes.data, self._answer.nbytes
        self._response, self._completed = lg.QuerySampleResponse, lg.QuerySamplesComplete

    def issue(self, samples: Sequence[Any]) -> None:
        """Answer a query's samples one call each; after an error only complete them."""
        for sample in samples:
            try:
                if not self.errors:
                    self.call(self.inputs[sample.index])
                    self.calls += 1
            except Exception as error:  # LoadGen would end the process without a word
                self.errors.append(f"{type(error).__name__}: {error}")
            self.complete(sample.id)

    def complete(self, sample: int) -> None:
        """Tell LoadGen that a sample is answered."""
        self._completed([self._response(sample, self._place, self._bytes)])


def theirs(call: Callable[[Any], object], inputs: Sequence[Any], task: Task) -> Figure:
    """What LoadGen measures when it puts a load on ``call``; one sample is one call.

    Raises ``LoadGenError`` when a call raised or LoadGen asked for another number of them, and
    ``DataError`` when its log doesn't tell.
    """
    sut = Sut(call, inputs)
    with TemporaryDirectory() as folder:
        _start(sut, task, Path(folder))
        if sut.errors:
            raise LoadGenError(f"LoadGen {task.scenario}: call {sut.calls + 1}: {sut.errors[0]}")
        if sut.calls != task.count:
            raise LoadGenError(f"LoadGen {task.scenario}: {sut.calls} calls, asked {task.count}")
        return _result(Path(folder) / LOG, task)


def _result(log: Path, task: Task) -> Figure:
    if task.scenario == "offline":
        return Figure(read_figure(log, RATE_KEY))
    if task.scenario == "server":
        said, due = read_figure(log, SCHEDULED_KEY), their_arrivals(task)
        expected = 1e9 * (len(due) - 1) / due[-1]
        if abs(said / expected - 1) > 1e-4:  # the log has six digits
            raise LoadGenError(
                f"LoadGen server: scheduled {said:g} requests/s, where the arrivals that our loop "
                f"replays have {expected:g}; this LoadGen draws others, so the two can't be paired"
            )
    p50, p99 = (read_figure(log, LATENCY_KEY.format(q)) / 1e9 for q in (50, 99))
    return Figure(p50, p99)


def their_arrivals(task: Task) -> np.ndarray:
    """Scheduled arrivals of LoadGen's Server scenario, (count,) int64 ns, the first at 0.

    Gaps of ``std::exponential_distribution`` over ``std::mt19937`` as libstdc++ draws them, so that
    both sides serve the same arrivals: two Poisson draws of some dozen requests differ by far more
    than two load generators.
    """
    words = np.random.RandomState(task.seed).randint(0, 2**32, 2 * task.count - 2, dtype=np.uint32)
    uniform = (words[0::2] + words[1::2] * 2.0**32) / 2.0**64  # (count - 1,)
    gaps = (-np.log(1 - uniform) / task.rate * 1e9).astype(np.int64)  # whole ns, rounded down
    return np.concatenate([[0], np.cumsum(gaps)])


def _start(sut: Sut, task: Task, folder: Path) -> None:
    """Run LoadGen's test; it comes back when all samples are completed, and logs to ``folder``."""
    import mlperf_loadgen as lg

    logs = lg.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = False
    samples = len(sut.inputs)
    system = lg.ConstructSUT(sut.issue, _nothing)
    library = lg.ConstructQSL(samples, samples, _nothing, _nothing)
    try:  # the last argument keeps an audit.config of the working directory out
        audit = str(folder / "audit.config")
        lg.StartTestWithLogSettings(system, library, _settings(lg, task), logs, audit)
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(system)


def _settings(lg: Any, task: Task) -> Any:
    """Settings that make LoadGen issue ``task.count`` samples, and no more for time's sake."""
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, THEIRS[task.scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = 1
    settings.min_query_count = task.count  # a most count would end the run as an error
    settings.offline_expected_qps = 1.0  # times the duration: the count above then decides
    settings.sample_index_rng_seed = settings.schedule_rng_seed = task.seed
    if task.scenario == "server":
        settings.server_target_qps = task.rate
        settings.server_target_latency_ns = 10**10  # its pass or fail is of no interest here
    return settings


def _nothing(*samples: object) -> None:
    return


def read_figure(path: Path, key: str) -> float:
    """The last value of ``key`` in a LoadGen detail log, a positive number.

    Raises ``DataError`` naming file and line for a log that can't be read, an entry that isn't
    one, an error that LoadGen reports, and a value that is missing or no positive number.
    """
    found: tuple[int, Any] | None = None
    lines = _lines(path)
    for at, line in enumerate(lines, start=1):
        entry = _entry(line, f"{path}:{at}")
        if entry.get("key") == key:
            found = at, entry.get("value")
    if found is None:
        raise DataError(f"{path}:{len(lines)}: the log ends without {key!r}")
    at, value = found
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and value > 0):
        raise DataError(f"{path}:{at}: {key} is {value!r}, expected a positive number")
    return float(value)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}:0: LoadGen wrote no log ({error.strerror})") from error


def _entry(line: str, place: str) -> dict[str, Any]:
    """One entry of a log; empty for a line that isn't meant as one."""
    if not line.startswith(MARK):
        return {}
    try:
        entry: dict[str, Any] = dict(json.loads(line.removeprefix(MARK)))
        failed = entry.get("metadata", {}).get("is_error")
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{place}: not an entry of a LoadGen log: {line[:80]!r}") from error
    if failed:
        raise DataError(f"{place}: LoadGen reports {entry.get('key')}: {entry.get('value')!r}")
    return entry


def ours(worker: Worker, task: Task, *, spin: bool = False) -> Figure:
    """What our loops measure of the same load; ``spin``: the open loop as ``server`` has it, which
    wakes up in time, instead of LoadGen's plain sleep.
    """
    if task.scenario == "server":
        clock = SYSTEM if spin else PLAIN_SLEEP
        served = serve(*worker.timed_call(), due=their_arrivals(task), clock=clock)
        return _latencies(served.latencies)
    block = worker.block(seconds=0.0, calls=task.count, cap=1e6)
    if task.scenario == "offline":
        return Figure(1e9 * len(block["latencies"]) / block["wall"])
    return _latencies(block["latencies"])


def _latencies(nanoseconds: Sequence[int] | np.ndarray) -> Figure:
    p50, p99 = np.quantile(nanoseconds, [0.5, 0.99], method="inverted_cdf") / 1e9
    return Figure(float(p50), float(p99))


def check(request: Mapping[str, Any]) -> dict[str, Any]:
    """Load the artifact and time it in pairs; what ``suites.loadgen.cross_check`` reads."""
    import mlperf_loadgen

    del mlperf_loadgen  # a package that can't be loaded is told before the engine is
    worker, settings, feeds = Worker(), request["settings"], request["feeds"]
    arm = {key: request[key] for key in ("engine", "folder", "threads", "slowdown")}
    worker.load(**arm, feeds=feeds["single"])
    facts = {key: value for key, value in worker.facts().items() if key != "notes"}
    told = {}
    for scenario, (inputs, region) in SCENARIOS.items():
        worker.point(feeds=feeds[inputs], warm=settings["warm"], region=region)
        told[scenario] = _pairs(worker, scenario, settings)
    return {"facts": facts, "scenarios": told}


def _pairs(worker: Worker, scenario: Scenario, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Both sides' figures of every pair, the first one of a pair in turns."""
    task = plan(worker, scenario, settings)
    call, inputs = worker.timed_call()
    sides: dict[str, Callable[[Task], Figure]] = {
        "ours": lambda task: ours(worker, task),
        "loadgen": lambda task: theirs(call, inputs, task),
    }
    if scenario == "server":
        sides["spun"] = lambda task: ours(worker, task, spin=True)
    told: dict[str, list[Figure]] = {name: [] for name in sides}
    for pair in range(settings["pairs"]):
        step = replace(task, seed=settings["seed"] + pair)
        for name in list(sides)[:: 1 if pair % 2 == 0 else -1]:
            told[name].append(sides[name](step))
    figures = {name: [[f.value, f.p99] for f in series] for name, series in told.items()}
    last = worker.end_to_end(worker.batches[0])
    return {**figures, "count": task.count, "rate": task.rate or None, "rows": len(last)}


def plan(worker: Worker, scenario: Scenario, settings: Mapping[str, Any]) -> Task:
    """A load that takes about ``seconds``: an odd number of calls (then both sides mean the same
    call by the median), of ``server`` at the given share of what one call after the other gives.
    """
    latency = ours(worker, Task("single", 5)).value
    rate = 0.0
    if scenario == "server":
        rate = settings["rate"] or settings["utilisation"] / latency
    count = round(settings["seconds"] * (rate or 1 / latency))
    return Task(scenario, max(settings["calls"], count) | 1, rate)


def main() -> None:
    """Answer the one request that comes on stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children itself
    answers = claim_stdout()
    try:
        answer = {"ok": True, **check(json.loads(sys.stdin.readline()))}
    except Exception as error:  # the parent gets whatever went wrong and makes a failed row of it
        answer = {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
