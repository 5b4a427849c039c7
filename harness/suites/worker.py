"""The worker: a child process that holds one engine and times it when told, a JSON line at a time.

``python -m harness.suites.worker`` reads requests from stdin and answers on the stdout it was
given; while it isn't asked it sleeps in a read, so that of many workers only one runs. It imports
what its own engine needs and no more. Commands: load, facts, pin, point, block, serve, outputs,
memory, quit.
"""

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness import catalog, registry
from harness.artifact import read_artifact
from harness.engines.base import Engine, scores_of
from harness.errors import DataError
from harness.process import claim_stdout
from harness.suites import openloop
from harness.suites.gpu_health import Gpu, settled
from harness.suites.points import read_feeds

MAX_SAMPLES = 200_000
COMMANDS = ("load", "facts", "pin", "point", "block", "serve", "outputs", "memory")
EARLY_CALLS = 9
"""Calls 2 to 10 of a fresh process."""
GROUP_SECONDS = 0.001
"""Least time on the device between two events: their own cost, some microseconds, is then lost."""
MOST_GROUPED = 1000


def peak_bytes() -> int:
    """Most memory that was ever resident (VmHWM); ``ru_maxrss`` would count the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def catalog_engine(name: str) -> Any:
    """The class of an engine of the catalog."""
    return registry.resolve("engines", name)


class Worker:
    """One engine, its prepared inputs and the clock around its calls; ``find_engine`` gives the
    class of an engine's name.
    """

    def __init__(self, find_engine: Callable[[str], Any] = catalog_engine) -> None:
        self.find_engine = find_engine
        self.engine: Engine | None = None
        self.batches: list[dict[str, np.ndarray]] = []
        self.prepared: list[Any] = []
        self.region = "model_only"
        self.at = 0
        self.group = 1
        self.slowdown = 1.0
        self.gpu: Gpu | None = None
        self.device_bytes: list[int] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; raises what the engine raises."""
        command = request.pop("command")
        if command not in COMMANDS:
            raise ValueError(f"unknown command {command!r}")
        result: dict[str, Any] = getattr(self, command)(**request)
        return result

    def load(
        self, *, engine: str, folder: str, threads: int, feeds: str, slowdown: float = 1.0
    ) -> dict[str, Any]:
        """Load an artifact and make its first ten calls; seconds and peak memory after each step,
        and the latencies (ns) of calls 2 to 10.
        """
        self.slowdown = slowdown
        marks, clock = {}, time.perf_counter
        start = clock()
        kind = self.find_engine(engine)
        importlib.import_module(getattr(kind, "PACKAGE", "numpy"))
        imported, marks["import"] = clock(), peak_bytes()
        loaded_engine: Engine = kind(read_artifact(Path(folder)), threads=threads)
        loaded, marks["load"] = clock(), peak_bytes()
        self.engine = loaded_engine
        if engine in catalog.ENGINES and registry.entry("engines", engine).marks["device"] != "cpu":
            self.gpu = Gpu()
        batches = read_feeds(Path(feeds))
        self.prepared = [loaded_engine.prepare(batch) for batch in batches[: 1 + EARLY_CALLS]]
        called = clock()
        answer = loaded_engine.fetch(self._model(self.prepared[0]))
        done, marks["first_call"] = clock(), peak_bytes()
        if not np.isfinite(scores_of(answer)).all():
            raise DataError(f"{folder}: gives scores that aren't finite")
        seconds = {
            "import": imported - start,
            "load": loaded - imported,
            "first_call": done - called,
        }
        self.at = 1
        calls = [self._timed() for _ in range(EARLY_CALLS)]
        return {
            "memory": marks,
            "seconds": seconds,
            "calls": calls,
            "os_threads": len(_threads()) or None,
        }

    def pin(self, *, cpus: list[int]) -> dict[str, Any]:
        """Keep every thread of this process on these CPUs; those it is really on, read back.

        Arms that take turns on one core share its caches and clock: two copies of one model then
        differ by half of what they do when the system places them.
        """
        for thread in _threads():
            os.sched_setaffinity(thread, cpus)
        return {"cpus": sorted(os.sched_getaffinity(0))}

    def memory(self) -> dict[str, Any]:
        """Most memory that was resident until now, bytes; of a GPU's engine also that of its
        device (``device``, None where it isn't known) and how it was read.
        """
        host = {"peak": peak_bytes()}
        if self.gpu is None:
            return host
        if getattr(type(self._loaded()), "PACKAGE", "") == "torch":
            import torch

            most = torch.cuda.max_memory_allocated() or None
            return {**host, "device": most, "how": "the most that torch's allocator gave out"}
        if self.device_bytes:
            how = f"the process's own by NVML, the most of {len(self.device_bytes)} readings"
            return {**host, "device": max(self.device_bytes), "how": how}
        why = self.gpu.missing or "NVML doesn't list this process (a container's own numbers?)"
        return {**host, "device": None, "how": why}

    def facts(self) -> dict[str, Any]:
        """What the engine says it really runs on, with what precision and threads."""
        facts = self._loaded().describe()
        return {name: getattr(facts, name) for name in type(facts).__dataclass_fields__}

    def point(
        self, *, feeds: str, warm: dict[str, float], region: str = "model_only"
    ) -> dict[str, Any]:
        """Take new inputs and run them until steady, on a GPU until its clock has settled too; what
        the warm-up took. ``refused`` says why the engine can't be timed in this region.
        """
        engine = self._loaded()
        self.prepared = []
        gc.collect()
        self.region, self.batches = region, read_feeds(Path(feeds))
        self.prepared = [engine.prepare(batch) for batch in self.batches]
        self.at = 0
        gc.freeze()
        gc.disable()  # a collection inside a timed call would be charged to the model
        if region == "device_only" and (refused := self._group_calls()):
            return {"refused": refused}
        return {**self._warm(**warm), "batches": len(self.prepared), "group": self.group}

    def _group_calls(self) -> str | None:
        """Find how many calls take ``GROUP_SECONDS`` on the device; why there are no events."""
        engine = self._loaded()
        self._model(self.prepared[0])  # a new shape's first call may compile
        took = engine.device_seconds(self.prepared[0], EARLY_CALLS)
        if took is None:
            told = engine.describe().notes.get("device_seconds")
            return str(told or "the engine gives no events of a device")
        calls = int(np.ceil(GROUP_SECONDS * EARLY_CALLS / max(took, 1e-9)))
        self.group = min(max(1, calls), MOST_GROUPED)
        return None

    def _warm(
        self, *, seconds: float, window_calls: float, window_seconds: float, cap: float
    ) -> dict[str, Any]:
        """At least 3 calls and ``seconds``; then windows until the last three medians lie within
        5 % of each other and a GPU's last three clocks within 3 %, or until ``cap`` seconds have
        passed. Clocks (``mhz``) are read right after each window, before the device is idle.
        """
        start = time.perf_counter()
        calls = len(self._calls(seconds, 3))
        medians: list[float] = []
        clocks: list[float | None] = []
        while not (steady := _steady(medians) and settled(clocks)):
            if time.perf_counter() - start >= cap:
                break
            window = self._calls(window_seconds, int(window_calls))
            medians.append(float(np.median(window)))
            calls += len(window)
            if self.gpu is not None:
                clocks.append(self.gpu.sample().sm_mhz)
        seconds = time.perf_counter() - start
        return {"calls": calls, "seconds": seconds, "steady": steady, "mhz": clocks}

    def block(self, *, seconds: float, calls: int, cap: float = 60.0) -> dict[str, Any]:
        """Latencies (ns) of calls one after the other: at least ``seconds`` and ``calls`` of them,
        but none is begun after ``cap`` seconds; wall (ns), CPU time (ns) and involuntary context
        switches of them all; of a GPU its state right after them (``gpu``).

        ``device_only``: each latency is one call's share of a group of ``group`` calls on the same
        inputs, by the device's events; the next group takes the next inputs. Wall is then the
        device's seconds, of one call of each group, as CPU time is.
        """
        self._need_inputs("block")
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        latencies = self._calls(seconds, calls, cap)
        cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        if self.region == "device_only":
            wall, cpu = sum(latencies), cpu // self.group
        told = {"latencies": latencies, "wall": wall, "cpu": cpu, "switches": switches}
        return {**told, **self._gpu_state()}

    def _gpu_state(self) -> dict[str, Any]:
        if self.gpu is None:
            return {}
        sample = self.gpu.sample()
        self.device_bytes += [] if sample.own_bytes is None else [sample.own_bytes]
        return {"gpu": asdict(sample)}

    def serve(
        self,
        *,
        requests: int,
        rate: float | None = None,
        seed: int = 0,
        late_after: float | None = None,
        most_late: int | None = None,
        null: bool = False,
    ) -> dict[str, Any]:
        """An open loop at ``rate`` requests/s from feature arrays to scores in host memory (with
        ``null``: of a model that does nothing); see ``openloop.serve_load``.
        """
        self._need_inputs("serve")
        load = openloop.PoissonLoad(rate, requests, seed, late_after, most_late)
        return openloop.serve_load(None if null else self.end_to_end, self.batches, load)

    def outputs(self, *, path: str, batches: int) -> dict[str, Any]:
        """Write the answers to the point's first batches, end to end, as .npy: (rows,) float32, or
        (requests, places) of ``RANKED``.
        """
        self._need_inputs("outputs")
        engine = self._loaded()
        answers = [engine.fetch(self._model(batch)) for batch in self.prepared[:batches]]
        np.save(path, np.concatenate(answers), allow_pickle=False)
        return {"batches": len(answers)}

    def _need_inputs(self, command: str) -> None:
        if not self.batches:
            raise ValueError(f"no inputs yet: 'point' comes before {command!r}")

    def _calls(self, seconds: float, calls: int, cap: float = 60.0) -> list[int]:
        clock, latencies = time.perf_counter_ns, list[int]()
        begun = clock()
        end, last = begun + int(seconds * 1e9), begun + int(cap * 1e9)
        most = MAX_SAMPLES
        while not latencies or (
            (len(latencies) < calls or clock() < end) and clock() < last and len(latencies) < most
        ):
            latencies.append(self._timed())
        return latencies

    def _timed(self) -> int:
        """Latency (ns) of one call of the region on the next inputs."""
        clock = time.perf_counter_ns
        call, inputs = self.timed_call()
        batch = inputs[self.at % len(inputs)]
        self.at += 1
        if self.region == "device_only":
            return self._device_timed(batch)
        start = clock()
        call(batch)
        if self.slowdown > 1:
            until = start + int((clock() - start) * self.slowdown)
            while clock() < until:
                pass
        return clock() - start

    def _device_timed(self, batch: Any) -> int:
        """Device time (ns) of one call, of a group on the same inputs."""
        took = self._loaded().device_seconds(batch, self.group)
        assert took is not None, "refused at the point"
        return max(1, round(took / self.group * 1e9))

    def timed_call(self) -> tuple[Callable[[Any], object], Sequence[Any]]:
        """What is timed in the point's region, and the inputs that it takes in turns."""
        if self.region == "end_to_end":
            return self.end_to_end, self.batches
        return self._model, self.prepared

    def _model(self, prepared: Any) -> Any:
        engine = self._loaded()
        outputs = engine.run(prepared)
        engine.synchronize()
        return outputs

    def end_to_end(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """The answer in host memory from feature arrays."""
        engine = self._loaded()
        return engine.fetch(self._model(engine.prepare(batch)))

    def _loaded(self) -> Engine:
        if self.engine is None:
            raise ValueError("nothing is loaded yet")
        return self.engine


def _steady(medians: list[float]) -> bool:
    last = medians[-3:]
    return len(last) == 3 and max(last) <= 1.05 * min(last)


def _threads() -> list[int]:
    """Threads of this process as the system counts them; none where it doesn't tell."""
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return []


def main(find_engine: Callable[[str], Any] = catalog_engine) -> None:
    """Answer requests until stdin ends or ``quit`` comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    answers = claim_stdout()
    worker = Worker(find_engine)
    for line in sys.stdin:
        request = json.loads(line)
        if request["command"] == "quit":
            break
        try:
            answer = {"ok": True, **worker.answer(request)}
        except Exception as error:  # the parent gets whatever went wrong and fails this arm only
            answer = {
                "ok": False,
                "error": f"{type(error).__name__}: {' '.join(str(error).split())}",
            }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if worker.engine is not None:
        worker.engine.close()


if __name__ == "__main__":
    main()
