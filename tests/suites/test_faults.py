"""One worker that is killed, hangs or raises, at every command: its arm fails and the rest go on.

The workers are made up; which of them goes wrong, when and how is in their artifacts' folders'
names (``bad``) and their command lines.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifact import Artifact
from harness.profile import Load, Profile, Protocol
from harness.results import Row
from harness.suites import arms as arms_module
from harness.suites import throughput
from harness.suites.arms import Arm, Limits, Session
from harness.suites.plan import Plan
from harness.suites.throughput import Throughput, run_throughput
from harness.tables import Prepared

COMMANDS = ("load", "facts", "pin", "point", "block", "serve", "outputs", "memory")
FAULTS = ("killed", "hangs", "raises")
SAID = {
    "killed": "bad: the worker was killed by SIGKILL during {}",
    "hangs": "bad: {} gave no answer within {} s",
    "raises": "bad: {} failed: ValueError: planted",
}

SPOIL = """
import json, os, signal, sys, time
command, fault, threads = sys.argv[1:]
def spoil(request):
    global bad
    if request["command"] == "load":
        bad = os.path.basename(request["folder"]) == "bad"
    if not bad or request["command"] != command:
        return
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hangs":
        time.sleep(600)
    if fault == "raises":
        raise ValueError("planted")
"""

PUPPET = (
    SPOIL
    + """
answers = {
    "load": {
        "memory": {"import": 1, "load": 2, "first_call": 3},
        "seconds": {"import": 0.1, "load": 0.2, "first_call": 0.3},
        "calls": [1] * 9,
        "os_threads": 1,
    },
    "facts": {"engine": "torch-cpu", "version": "1", "device": "cpu", "precision": "fp32"},
}
for line in sys.stdin:
    request = json.loads(line)
    try:
        spoil(request)
        answer = {"ok": True, **answers.get(request["command"], {"told": request["command"]})}
        if request["command"] == "facts":
            answer["threads"] = int(threads) if bad else 1
        if request["command"] == "pin":
            answer["cpus"] = request["cpus"] + [999] * (bad and fault == "elsewhere")
    except ValueError as error:
        answer = {"ok": False, "error": f"ValueError: {error}"}
    print(json.dumps(answer), flush=True)
"""
)
"""Answers everything at once, imports nothing: for talks between a session and its workers."""

REAL = (
    SPOIL
    + """
import numpy as np
from harness import registry
from harness.engines.base import Engine, EngineFacts, Probe
from harness.suites import worker

class First(Engine):
    @classmethod
    def probe(cls):
        return Probe("ok")
    def prepare(self, feeds):
        return feeds["candidates"]
    def run(self, prepared):
        return prepared[..., 0]
    def fetch(self, outputs):
        return outputs.astype(np.float32).ravel()
    def describe(self):
        return EngineFacts("torch-cpu", "1", "cpu", "fp32", "numpy", self.threads)

registry.resolve = lambda kind, name: First
answer = worker.Worker.answer
def spoiled(self, request):
    spoil(request)
    return answer(self, request)
worker.Worker.answer = spoiled
worker.main()
"""
)
"""The real worker around an engine of numpy, whose logit is the product's id."""


def silent(label: str, share: float) -> None:
    assert 0 <= share <= 1 + 1e-9


def command(code: str, at: str, fault: str, threads: int = 1) -> tuple[str, ...]:
    quick = ("-S",) if code == PUPPET else ()  # it needs no package
    return (sys.executable, *quick, "-c", code, at, fault, str(threads))


def arms(*names: str) -> tuple[Arm, ...]:
    return tuple(Arm(name, "torch-cpu", Path(name)) for name in names)


@pytest.fixture
def puppets() -> Callable[..., Session]:
    """``puppets(at, fault, threads=1)``: a session whose arm ``bad`` goes wrong at a command."""

    def start(at: str, fault: str, threads: int = 1, limits: Limits = Limits()) -> Session:
        words = command(PUPPET, at, fault, threads)
        return Session(arms("good", "bad", "fine"), 1, limits, words)

    return start


def load(session: Session) -> None:
    session.load({arm.name: Path("feeds.npz") for arm in session.arms}, silent)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", COMMANDS[2:])
def test_a_worker_that_goes_wrong_when_asked_ends_its_arm_alone(
    puppets: Callable[..., Session], at: str, fault: str
) -> None:
    with puppets(at, fault) as session:
        load(session)
        good, bad, fine = session.arms
        limit = 0.2 if fault == "hangs" else 60
        assert session.ask(bad, at, timeout=limit, cpus=[0]) is None
        assert session.failures == {"bad": SAID[fault].format(at, "0.2")}
        assert session.alive == (good, fine)
        # Neither asked nor waited for again: another answer would be the next command's.
        assert session.ask(bad, "memory", timeout=60) is None
        assert session.block(bad, seconds=0.0, calls=1) is None
        assert session.failures == {"bad": SAID[fault].format(at, "0.2")}
        for arm in (good, fine):
            assert session.ask(arm, at, timeout=60, cpus=[0]) is not None


@pytest.mark.parametrize("fault", ["killed", "raises"])
@pytest.mark.parametrize("at", COMMANDS[:2])
def test_a_worker_that_goes_wrong_while_it_loads_ends_its_arm_alone(
    puppets: Callable[..., Session], at: str, fault: str
) -> None:
    with puppets(at, fault) as session:
        load(session)
        assert session.failures == {"bad": SAID[fault].format(at)}
        assert set(session.loaded) == {"good", "fine"}
        assert session.prepare(dict.fromkeys(("good", "bad", "fine"), Path()), {}).keys() == {
            *("good", "fine")
        }


def test_a_worker_that_never_gets_loaded_is_given_up(puppets: Callable[..., Session]) -> None:
    with puppets("load", "hangs", limits=Limits(load=2.0)) as session:
        load(session)
        assert session.failures["bad"] == "bad: load gave no answer within 2 s"
        assert session.processes["bad"]._process.returncode is not None  # ended, not left behind


def test_all_workers_end_with_their_session(puppets: Callable[..., Session]) -> None:
    with puppets("block", "killed") as session:
        load(session)
        assert session.ask(session.arms[1], "block", timeout=60) is None
    assert all(process._process.returncode is not None for process in session.processes.values())


def test_arms_of_one_table_run_with_the_threads_that_were_asked(
    puppets: Callable[..., Session],
) -> None:
    with puppets("nothing", "raises", threads=2) as session:
        load(session)
        assert session.failures == {"bad": "bad: asked for 1 threads, torch-cpu has 2"}
        assert {told.facts["threads"] for told in session.loaded.values()} == {1}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins nothing")
def test_a_worker_on_other_cores_than_asked_fails(
    puppets: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = os.sched_getaffinity(0)
    monkeypatch.setattr(arms_module, "usable_threads", lambda: 4)
    with puppets("pin", "elsewhere") as session:
        load(session)
        try:
            cores = session.pin()
        finally:
            os.sched_setaffinity(0, mine)
    assert cores == (max(mine),)
    asked = f"bad: asked for CPUs [{max(mine)}], it runs on [{max(mine)}, 999]"
    assert session.failures == {"bad": asked}


# Whole runs.

PROFILE = Profile(
    load=Load(
        scenarios=("single", "offline", "server", "parity"),
        candidates=4,
        offline_batch=8,
        rate=2000.0,
    ),
    protocol=Protocol(
        min_pairs=3,
        max_pairs=3,
        min_seconds=0.001,
        max_seconds=0.01,
        block_seconds=0.001,
        block_calls=2,
        warm_seconds=0.001,
        warm_window_seconds=0.001,
        warm_cap=0.02,
    ),
    requests=20,
)


@pytest.fixture
def run(
    tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Throughput]:
    """``run(at, fault)``: a whole run of a reference and of an arm that goes wrong."""
    folder = tmp_path / "bad"
    shutil.copytree(tiny_artifact.folder, folder)
    schedule = (
        Arm("plain", "torch-cpu", tiny_artifact.folder, "reference"),
        Arm("bad", "torch-cpu", folder),
    )
    logits = tiny.splits["test"].arrays["candidates"][:, 0].astype(np.float32)
    common: dict[str, Mapping[str, Any]] = {
        arm.name: {"recipe": arm.name, "baseline": "b", "target": "t"} for arm in schedule
    }

    def go(at: str, fault: str) -> Throughput:
        words = command(REAL, at, fault)
        made = partial(Session, limits=Limits(block=2.0), command=words)
        monkeypatch.setattr(throughput, "Session", made)
        return run_throughput(
            schedule,
            tiny,
            common=common,
            plan=Plan(PROFILE, (1,), seed=3),
            answers={arm.name: logits for arm in schedule},
            progress=silent,
        )

    return go


def told(rows: list[Row], recipe: str, status: str) -> set[str]:
    return {row.scenario for row in rows if (row.recipe, row.status) == (recipe, status)}


EVERY = {"single", "offline", "server", "parity"}


@pytest.mark.parametrize(
    ("at", "fault", "failed"),
    [
        ("load", "killed", {"single", "offline", "server", "parity"}),
        ("block", "hangs", {"single", "offline", "server", "parity"}),
        ("outputs", "killed", {"parity", "single", "offline", "server"}),
        ("serve", "raises", {"server"}),
        ("memory", "killed", set()),
    ],
)
def test_a_run_with_a_bad_arm_has_failed_rows_and_goes_on(
    run: Callable[[str, str], Throughput], at: str, fault: str, failed: set[str]
) -> None:
    found = run(at, fault)
    reason = SAID[fault].format(at, "2")
    assert found.failures == {"bad": reason}
    assert told(found.rows, "plain", "failed") == set()
    assert told(found.rows, "plain", "ok") == EVERY
    assert told(found.rows, "bad", "failed") == failed
    mine = [row for row in found.rows if row.recipe == "bad" and row.status == "failed"]
    assert {(row.value, row.reason) for row in mine} == ({(None, reason)} if failed else set())
    assert set(found.steady) == {"plain"}


def test_a_run_without_a_fault_has_no_failed_row(run: Callable[[str, str], Throughput]) -> None:
    found = run("nothing", "raises")
    assert found.failures == {}
    assert {row.status for row in found.rows} == {"ok"}
    assert told(found.rows, "bad", "ok") == EVERY
    threads = {row.threads for row in found.rows}
    assert threads == {1}
    areas = [row for row in found.rows if row.metric.startswith("timed_")]
    assert [row.value for row in areas] == [0.0] * 4
    assert set(found.steady) == {"plain", "bad"}
