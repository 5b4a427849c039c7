"""The worker process: what it answers, and how its parent takes a crash, a hang and chatter."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifact import Artifact
from harness.process import child_environment, ended_how
from harness.suites import worker
from harness.suites.arms import Arm, ArmError, Process, Session
from harness.suites.points import Point, draw_rows, write_feeds
from harness.tables import Prepared

POINT = Point("sweep", 4, 1, 1)
WARM = {"seconds": 0.0, "window_calls": 3, "window_seconds": 0.001, "cap": 0.05}


@pytest.fixture
def feeds_file(tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path) -> Path:
    split = tiny.splits["test"]
    rows = draw_rows(split, POINT, seed=1)
    return write_feeds(tmp_path / "feeds.npz", tiny.schema, split, rows, tiny_artifact.inputs)


@pytest.fixture
def arm(tiny_artifact: Artifact) -> Arm:
    return Arm("plain", "torch-cpu", tiny_artifact.folder)


def fake(arm: Arm, code: str) -> Process:
    """A worker that is a line of Python instead."""
    return Process(arm, threads=1, command=(sys.executable, "-c", code))


@pytest.fixture
def loaded(arm: Arm, feeds_file: Path) -> Iterator[tuple[Process, dict[str, Any]]]:
    process = Process(arm, threads=1)
    told = process.ask(
        "load",
        timeout=60,
        engine=arm.engine,
        folder=str(arm.folder),
        threads=1,
        feeds=str(feeds_file),
    )
    yield process, told
    process.close()


def test_a_worker_loads_warms_up_and_times_blocks(
    loaded: tuple[Process, dict[str, Any]], feeds_file: Path
) -> None:
    process, told = loaded
    memory = told["memory"]
    assert 0 < memory["import"] <= memory["load"] <= memory["first_call"]
    assert set(told["seconds"]) == {"import", "load", "first_call"}
    assert len(told["calls"]) == 9  # the second to the tenth

    facts = process.ask("facts", timeout=60)
    assert (facts["engine"], facts["device"], facts["precision"]) == ("torch-cpu", "cpu", "fp32")
    assert facts["threads"] == 1

    warm = process.ask("point", timeout=60, feeds=str(feeds_file), warm=WARM)
    assert warm["batches"] == POINT.batches
    assert warm["calls"] >= 3

    few = process.ask("block", timeout=60, seconds=0.0, calls=5)
    assert len(few["latencies"]) == 5
    assert few["wall"] >= sum(few["latencies"])
    long = process.ask("block", timeout=60, seconds=0.05, calls=1)
    assert sum(long["latencies"]) <= long["wall"]
    assert long["wall"] >= 50_000_000
    assert long["switches"] >= 0


def test_the_whole_request_takes_its_inputs_and_gives_scores(
    loaded: tuple[Process, dict[str, Any]], feeds_file: Path, tmp_path: Path
) -> None:
    process, _ = loaded
    given = {"feeds": str(feeds_file), "warm": WARM}
    process.ask("point", timeout=60, **given, region="end_to_end")
    block = process.ask("block", timeout=60, seconds=0.0, calls=5)
    assert len(block["latencies"]) == 5

    path = tmp_path / "outputs.npy"
    process.ask("outputs", timeout=60, path=str(path), batches=3)
    logits = np.load(path)
    assert (logits.shape, logits.dtype) == ((3 * POINT.rows,), np.float32)
    assert np.isfinite(logits).all()


def test_a_worker_keeps_to_its_cores_with_all_its_threads(
    loaded: tuple[Process, dict[str, Any]],
) -> None:
    process, _ = loaded
    core = sorted(os.sched_getaffinity(0))[-1]
    assert process.ask("pin", timeout=60, cpus=[core]) == {"cpus": [core]}
    number = process._process.pid
    threads = [int(name) for name in os.listdir(f"/proc/{number}/task")]
    assert {tuple(os.sched_getaffinity(thread)) for thread in threads} == {(core,)}


def test_what_an_engine_raises_is_an_answer_and_the_worker_goes_on(
    loaded: tuple[Process, dict[str, Any]], feeds_file: Path, tmp_path: Path
) -> None:
    process, _ = loaded
    with pytest.raises(ArmError, match=r"plain: point failed: DataError: .*not a file of batches"):
        process.ask("point", timeout=60, feeds=str(tmp_path / "none.npz"), warm=WARM)
    assert process.ask("point", timeout=60, feeds=str(feeds_file), warm=WARM)["calls"] >= 3


def test_a_command_that_is_not_known_is_refused(arm: Arm) -> None:
    process = Process(arm, threads=1)
    with pytest.raises(ArmError, match="unknown command 'sing'"):
        process.ask("sing", timeout=60)
    with pytest.raises(ArmError, match="nothing is loaded yet"):
        process.ask("facts", timeout=60)
    with pytest.raises(ArmError, match="no inputs yet: 'point' comes before 'block'"):
        process.ask("block", timeout=60, seconds=0.0, calls=1)
    process.close()


def test_a_crash_is_told_with_its_signal(arm: Arm) -> None:
    process = fake(arm, "import os, signal; input(); os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ArmError, match="plain: the worker was killed by SIGKILL during block"):
        process.ask("block", timeout=60, seconds=0.0, calls=1)
    with pytest.raises(ArmError, match="the worker was killed by SIGKILL during block"):
        process.ask("block", timeout=60, seconds=0.0, calls=1)


def test_last_words_are_kept(arm: Arm) -> None:
    process = fake(arm, "input(); raise SystemExit('no room left')")
    with pytest.raises(ArmError, match=r"ended with status 1 during load \(no room left\)"):
        process.ask("load", timeout=60)


def test_a_hang_is_ended_after_its_time(arm: Arm) -> None:
    process = fake(arm, "import time; time.sleep(60)")
    with pytest.raises(ArmError, match=r"plain: load gave no answer within 0\.2 s"):
        process.ask("load", timeout=0.2)


def test_garbage_is_no_answer(arm: Arm) -> None:
    process = fake(arm, "input(); print('{oops'); input()")
    with pytest.raises(ArmError, match="load gave no answer that can be read"):
        process.ask("load", timeout=60)


def test_chatter_on_stdout_does_not_reach_the_answers() -> None:
    code = (
        "import os\n"
        "from harness.process import claim_stdout\n"
        "answers = claim_stdout()\n"
        "print('from python', flush=True)\n"
        "os.system('echo from a library')\n"
        "answers.write('answer\\n')\n"
        "answers.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=child_environment(threads=1),
        check=True,
    )
    assert done.stdout == "answer\n"
    assert done.stderr == "from python\nfrom a library\n"


def test_a_worker_ends_with_its_parent(arm: Arm) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.suites.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(threads=1),
    )
    out, _ = process.communicate(timeout=60)  # closes stdin
    assert (process.returncode, out) == (0, b"")


def test_threads_are_in_the_environment_before_anything_is_imported() -> None:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    environment = child_environment(threads=3)
    assert [environment[name] for name in names] == ["3", "3", "PASSIVE", "0"]


def test_a_light_engine_loads_no_torch() -> None:
    code = (
        "import sys, json\n"
        "import harness.suites.worker\n"
        "from harness import registry\n"
        "registry.resolve('engines', 'ort-cpu'); registry.resolve('engines', 'openvino-cpu')\n"
        "print(json.dumps([m for m in ('torch', 'pandas', 'scipy', 'onnx') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=child_environment(threads=1),
        check=True,
    )
    assert json.loads(done.stdout) == []


def test_another_thread_count_than_asked_fails_the_arm(
    arm: Arm, feeds_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Process.ask

    def ask(self: Process, command: str, **values: Any) -> dict[str, Any]:
        answer = real(self, command, **values)
        return {**answer, "threads": 7} if command == "facts" else answer

    monkeypatch.setattr(Process, "ask", ask)
    with Session((arm,), 1) as session:
        session.load({"plain": feeds_file}, lambda label, share: None)
    assert session.failures == {"plain": "plain: asked for 1 threads, torch-cpu has 7"}
    assert session.loaded == {}


def test_steady_means_the_last_three_windows_agree() -> None:
    assert not worker._steady([1.0, 1.0])
    assert worker._steady([9.0, 1.0, 1.02, 1.04])
    assert not worker._steady([1.0, 1.0, 1.06])


@pytest.mark.parametrize(
    ("code", "said"),
    [(3, "ended with status 3"), (-11, "was killed by SIGSEGV"), (-99, "was killed by signal 99")],
)
def test_exit_statuses_in_words(code: int, said: str) -> None:
    assert ended_how(code) == said
