"""The worker: a child process that holds one engine and times it when told, a JSON line at a time.

``python -m harness.suites.worker`` reads requests from stdin and answers on the stdout it was
given; while it isn't asked it sleeps in a read, so that of many workers only one runs. It imports
what its own engine needs and no more. Commands: load, point, block, facts, quit.
"""

import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness import registry
from harness.artifact import read_artifact
from harness.engines.base import Engine
from harness.errors import DataError
from harness.process import claim_stdout

MAX_SAMPLES = 200_000


def peak_bytes() -> int:
    """Most memory that was ever resident (VmHWM); ``ru_maxrss`` would count the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def read_feeds(path: Path) -> list[dict[str, np.ndarray]]:
    """Batches of a .npz file whose arrays are batches stacked along the first axis."""
    try:
        with np.load(path, allow_pickle=False) as file:
            stacked = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a plain file of arrays ({error})") from error
    sizes = {len(array) for array in stacked.values()}
    if len(sizes) != 1 or sizes == {0}:
        raise DataError(f"{path}: inputs have {sorted(sizes)} batches, expected one number of them")
    return [{name: array[i] for name, array in stacked.items()} for i in range(sizes.pop())]


class Worker:
    """One engine, its prepared inputs and the clock around its calls."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.prepared: list[Any] = []
        self.at = 0
        self.slowdown = 1.0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; raises what the engine raises."""
        command = request.pop("command")
        if command not in ("load", "point", "block", "facts"):
            raise ValueError(f"unknown command {command!r}")
        result: dict[str, Any] = getattr(self, command)(**request)
        return result

    def load(
        self, *, engine: str, folder: str, threads: int, feeds: str, slowdown: float = 1.0
    ) -> dict[str, Any]:
        """Load an artifact and make its first call; seconds and peak memory after each step."""
        self.slowdown = slowdown
        marks, clock = {}, time.perf_counter
        start = clock()
        kind = registry.resolve("engines", engine)
        importlib.import_module(getattr(kind, "PACKAGE", "numpy"))
        imported, marks["import"] = clock(), peak_bytes()
        loaded_engine: Engine = kind(read_artifact(Path(folder)), threads=threads)
        loaded, marks["load"] = clock(), peak_bytes()
        self.engine = loaded_engine
        first = loaded_engine.prepare(read_feeds(Path(feeds))[0])
        called = clock()
        logits = loaded_engine.fetch(self._call(first))
        done, marks["first_call"] = clock(), peak_bytes()
        if not np.isfinite(logits).all():
            raise DataError(f"{folder}: gives scores that aren't finite")
        seconds = {
            "import": imported - start,
            "load": loaded - imported,
            "first_call": done - called,
        }
        return {"memory": marks, "seconds": seconds, "os_threads": _os_threads()}

    def facts(self) -> dict[str, Any]:
        """What the engine says it really runs on, with what precision and threads."""
        facts = self._loaded().describe()
        return {name: getattr(facts, name) for name in type(facts).__dataclass_fields__}

    def point(self, *, feeds: str, warm: dict[str, float]) -> dict[str, Any]:
        """Take new inputs and run them until steady; what the warm-up took."""
        engine = self._loaded()
        self.prepared = []
        gc.collect()
        self.prepared = [engine.prepare(batch) for batch in read_feeds(Path(feeds))]
        self.at = 0
        gc.freeze()
        gc.disable()  # a collection inside a timed call would be charged to the model
        return {**self._warm(**warm), "batches": len(self.prepared)}

    def _warm(
        self, *, seconds: float, window_calls: float, window_seconds: float, cap: float
    ) -> dict[str, Any]:
        """At least 3 calls and ``seconds``; then windows until the last three medians lie within
        5 % of each other, or until ``cap`` seconds have passed.
        """
        start = time.perf_counter()
        calls = len(self._calls(seconds, 3))
        medians: list[float] = []
        while not (steady := _steady(medians)) and time.perf_counter() - start < cap:
            window = self._calls(window_seconds, int(window_calls))
            medians.append(float(np.median(window)))
            calls += len(window)
        return {"calls": calls, "seconds": time.perf_counter() - start, "steady": steady}

    def block(self, *, seconds: float, calls: int, cap: float = 60.0) -> dict[str, Any]:
        """Latencies (ns) of calls one after the other: at least ``seconds`` and ``calls`` of them,
        but none is begun after ``cap`` seconds; wall (ns) and CPU time (ns) of them all.
        """
        if not self.prepared:
            raise ValueError("no inputs yet: 'point' comes before 'block'")
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        latencies = self._calls(seconds, calls, cap)
        cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        return {"latencies": latencies, "wall": wall, "cpu": cpu}

    def _calls(self, seconds: float, calls: int, cap: float = 60.0) -> list[int]:
        clock, latencies = time.perf_counter_ns, list[int]()
        begun = clock()
        end, last = begun + int(seconds * 1e9), begun + int(cap * 1e9)
        most = MAX_SAMPLES
        while not latencies or (
            (len(latencies) < calls or clock() < end) and clock() < last and len(latencies) < most
        ):
            batch = self.prepared[self.at % len(self.prepared)]
            self.at += 1
            start = clock()
            self._call(batch)
            if self.slowdown > 1:
                until = start + int((clock() - start) * self.slowdown)
                while clock() < until:
                    pass
            latencies.append(clock() - start)
        return latencies

    def _call(self, batch: Any) -> Any:
        engine = self._loaded()
        outputs = engine.run(batch)
        engine.synchronize()
        return outputs

    def _loaded(self) -> Engine:
        if self.engine is None:
            raise ValueError("nothing is loaded yet")
        return self.engine


def _steady(medians: list[float]) -> bool:
    last = medians[-3:]
    return len(last) == 3 and max(last) <= 1.05 * min(last)


def _os_threads() -> int | None:
    """Threads of this process as the system counts them; None where it doesn't tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


def main() -> None:
    """Answer requests until stdin ends or ``quit`` comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    answers = claim_stdout()
    worker = Worker()
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
