"""Arms of a comparison, each in a worker process of its own, and the parent's side of the talk.

All workers stay loaded; the parent's request is the token, so only one of them computes at a time.
What goes wrong in one worker (an exception, a crash, no answer in time) ends that arm alone.
"""

import json
import logging
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, Self

from harness.environment import usable_threads
from harness.errors import HarnessError
from harness.process import child_environment, ended_how

Role = Literal["reference", "aa", "variant"]
COMMAND = (sys.executable, "-m", "harness.suites.worker")


@dataclass(frozen=True, slots=True)
class Arm:
    """One artifact on one engine. ``aa`` is a second copy of the engine's reference; ``slowdown``
    is a planted one (calls take that many times as long), for gates that must see it. ``beside`` is
    the engine whose reference it is compared with, where that is another one.
    """

    name: str
    engine: str
    folder: Path
    role: Role = "variant"
    slowdown: float = 1.0
    beside: str = ""

    @property
    def judge(self) -> str:
        """The engine whose reference the arm is compared with."""
        return self.beside or self.engine


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker said after loading: the engine's facts, peak bytes and seconds by step, and
    the latencies (ns) of calls 2 to 10.
    """

    facts: Mapping[str, Any]
    memory: Mapping[str, int]
    seconds: Mapping[str, float]
    os_threads: int | None
    calls: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Most seconds that a worker may take to answer, by command."""

    load: float = 120.0
    point: float = 120.0
    block: float = 60.0


class ArmError(HarnessError):
    """An arm can't go on; the message is the reason that its rows carry."""


class Process:
    """A worker process seen from its parent."""

    def __init__(self, arm: Arm, *, threads: int, command: Sequence[str] = COMMAND) -> None:
        self.arm = arm
        self.threads = threads
        self._said = TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._buffer = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=child_environment(threads=threads),
        )

    def ask(self, command: str, *, timeout: float, **values: Any) -> dict[str, Any]:
        """The worker's answer to a command; raises ``ArmError`` when there is none, after ending
        the process, or when the answer is an error.
        """
        line = self._exchange({"command": command, **values}, command, timeout)
        answer = self._read(line, command)
        if not answer.pop("ok"):
            raise ArmError(f"{self.arm.name}: {command} failed: {answer['error']}")
        return answer

    def follow(
        self,
        command: str,
        *,
        pause: float,
        timeout: float,
        heard: Callable[[str, float], None],
        **values: Any,
    ) -> dict[str, Any]:
        """The worker's answer, right or wrong, to a command during which it tells how far it is:
        lines with ``at`` and ``share`` (and ``log``, for what is to be logged here), each at most
        ``pause`` seconds after the one before, all within ``timeout``. Raises ``ArmError``, which
        says how far it was, after ending the process.
        """
        deadline = time.monotonic() + timeout
        line = self._exchange({"command": command, **values}, command, pause)
        answer = self._read(line, command)
        while "at" in answer:
            if "log" in answer:
                level, name, text = answer["log"]
                logging.getLogger(name).log(level, "%s", text)
            heard(answer["at"], answer["share"])
            during = f"{command} ({answer['at']})"
            if (left := deadline - time.monotonic()) <= 0:
                raise self._failed(f"{during} wasn't done after {timeout:g} s")
            limit = pause if pause <= left else timeout
            line = self._line(during, time.monotonic() + min(pause, left), limit)
            answer = self._read(line, during)
        return answer

    def _read(self, line: bytes, command: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise self._failed(f"{command} gave no answer that can be read") from error
        return answer

    def _exchange(self, request: Mapping[str, Any], command: str, timeout: float) -> bytes:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._died(command) from error
        return self._line(command, time.monotonic() + timeout, timeout)

    def _line(self, command: str, deadline: float, timeout: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._failed(f"{command} gave no answer within {timeout:g} s")
                chunk = os.read(self._process.stdout.fileno(), 1 << 20)
                if not chunk:
                    raise self._died(command)
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self, command: str) -> ArmError:
        try:
            how = ended_how(self._process.wait(timeout=5))
        except subprocess.TimeoutExpired:
            how = "closed its output"
        return self._failed(f"the worker {how} during {command}")

    def _failed(self, what: str) -> ArmError:
        last = self._last_words()
        self.close()
        return ArmError(f"{self.arm.name}: {what}{f' ({last})' if last else ''}")

    def _last_words(self) -> str:
        if self._said.closed:
            return ""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 2000))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    @property
    def pid(self) -> int:
        """The system's number of the process."""
        return self._process.pid

    def close(self) -> None:
        """End the process at once; it holds nothing that must be saved."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                _close(stream)


def _close(stream: Any) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return  # unsent bytes to a process that has ended are of no use to anyone


@dataclass
class Session:
    """Workers of several arms at one thread count; a context manager that ends them all.

    ``failures`` maps the arms that can't go on to the reason.
    """

    arms: tuple[Arm, ...]
    threads: int
    limits: Limits = Limits()
    command: Sequence[str] = COMMAND
    loaded: dict[str, Loaded] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.close()

    @property
    def alive(self) -> tuple[Arm, ...]:
        """The arms that haven't failed, in order."""
        return tuple(arm for arm in self.arms if arm.name not in self.failures)

    def load(self, feeds: Mapping[str, Path], progress: Callable[[str, float], None]) -> None:
        """Start and load all arms; ``feeds`` has each arm's file of inputs for its first call."""
        done: list[str] = []

        def start(arm: Arm) -> None:
            self.processes[arm.name] = Process(arm, threads=self.threads, command=self.command)
            self.loaded[arm.name] = self._load(arm, feeds[arm.name])

        def finish(arm: Arm) -> None:
            self._guard(arm, lambda: start(arm))
            done.append(arm.name)
            progress(f"loading {arm.name}", len(done) / len(self.arms))

        # Importing is one thread's work: start as many at a time as there are cores.
        with ThreadPoolExecutor(max(1, usable_threads())) as pool:
            list(pool.map(finish, self.arms))

    def _load(self, arm: Arm, feeds: Path) -> Loaded:
        process, limit = self.processes[arm.name], self.limits.load
        told = process.ask(
            "load",
            timeout=limit,
            engine=arm.engine,
            folder=str(arm.folder),
            threads=self.threads,
            feeds=str(feeds),
            slowdown=arm.slowdown,
        )
        facts = process.ask("facts", timeout=limit)
        if facts["threads"] != self.threads:
            raise ArmError(
                f"{arm.name}: asked for {self.threads} threads, {arm.engine} has {facts['threads']}"
            )
        return Loaded(
            facts, told["memory"], told["seconds"], told["os_threads"], tuple(told["calls"])
        )

    def pin(self) -> tuple[int, ...] | None:
        """Keep all arms on the same last cores, as many as they have threads, and this process off
        them; the cores. None when the arms need every core, or where the system can't.
        """
        if not hasattr(os, "sched_getaffinity") or self.threads >= usable_threads():
            return None
        cpus = sorted(os.sched_getaffinity(0))[-self.threads :]
        for arm in self.alive:
            told = self.ask(arm, "pin", timeout=self.limits.load, cpus=cpus)
            if told is not None and told["cpus"] != cpus:
                self.failures[arm.name] = (
                    f"{arm.name}: asked for CPUs {cpus}, it runs on {told['cpus']}"
                )
        return tuple(cpus)

    def prepare(
        self,
        feeds: Mapping[str, Path],
        warm: Mapping[str, float],
        *,
        region: str = "model_only",
    ) -> dict[str, Any]:
        """Give the arms in ``feeds`` their inputs of one point and warm them up, one at a time as
        they will be timed; what each warm-up took.
        """
        told = {
            arm.name: self.ask(
                *(arm, "point"),
                timeout=self.limits.point,
                feeds=str(feeds[arm.name]),
                warm=dict(warm),
                region=region,
            )
            for arm in self.alive
            if arm.name in feeds
        }
        return {name: answer for name, answer in told.items() if answer is not None}

    def block(self, arm: Arm, **length: float) -> dict[str, Any] | None:
        """One block of calls of one arm (``seconds``, ``calls``, ``cap``: see ``Worker.block``);
        None when that was the end of it.
        """
        return self.ask(arm, "block", timeout=self.limits.block, **length)

    def ask(
        self, arm: Arm, command: str, *, timeout: float, **values: Any
    ) -> dict[str, Any] | None:
        """An arm's answer to a command (see ``Worker``); None when it failed, which ends the arm:
        ``failures`` then says why.
        """
        answers: list[dict[str, Any]] = []

        def exchange() -> None:
            answers.append(self.processes[arm.name].ask(command, timeout=timeout, **values))

        if arm.name in self.failures:
            return None
        self._guard(arm, exchange)
        return answers[0] if answers else None

    def _guard(self, arm: Arm, work: Callable[[], None]) -> None:
        try:
            work()
        except ArmError as error:
            self.failures[arm.name] = str(error)
