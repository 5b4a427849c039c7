"""Scoring in a child: the same answer as in this process, and whatever an engine does there ends
one variant with a sentence that says where.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.artifact import Artifact
from harness.engines.torch_cpu import TorchCpu
from harness.errors import EffectError, UnsupportedError
from harness.profile import Scoring
from harness.results import read_rows
from harness.suites import lists
from harness.suites.arms import Arm, ArmError
from harness.suites.scoring import COMMAND, Scorer
from harness.suites.scoring_worker import check_answer
from harness.tables import Prepared, write_prepared

FILES = ["answer.npy", "facts.json", "rows.jsonl", "rows.parquet"]
CHILD = """
import os, signal, sys, time
from harness.engines.torch_cpu import TorchCpu
from harness.errors import UnsupportedError
from harness.suites import scoring_worker

fault, at = sys.argv[1], int(sys.argv[2])

class Planted(TorchCpu):
    calls = 0
    def run(self, prepared):
        bad = self.artifact.folder.name == "bad"
        type(self).calls += bad
        if bad and fault == "slow":
            time.sleep(0.4)
        if bad and self.calls >= at:
            if fault == "hangs":
                time.sleep(600)
            if fault == "raises":
                raise IndexError("planted")
            if fault == "refuses":
                raise UnsupportedError("planted", code="no_device")
            if fault == "full":
                raise OSError(28, "No space left on device")
            if fault in ("SIGKILL", "SIGSEGV"):
                os.kill(os.getpid(), getattr(signal, fault))
        out = super().run(prepared)
        return out * float("nan") if bad and fault == "nan" else out

scoring_worker.TELL_SECONDS = 0.0
scoring_worker.main(lambda name: Planted)
"""


@pytest.fixture
def request_of(tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path) -> dict[str, object]:
    folder = tmp_path / "data"
    folder.mkdir()
    write_prepared(folder, tiny)
    columns = {"recipe": "r", "baseline": "b", "target": "torch-cpu"}
    source = str(tiny_artifact.folder)
    return {"source": source, "data": str(folder), "columns": columns, "seed": 7}


@pytest.fixture
def arms(tiny_artifact: Artifact, tmp_path: Path) -> tuple[Arm, Arm]:
    (tmp_path / "bad").symlink_to(tiny_artifact.folder)
    good = Arm("good", "torch-cpu", tiny_artifact.folder)
    return good, Arm("bad", "torch-cpu", tmp_path / "bad")


@pytest.fixture
def ask(request_of: dict[str, object], arms: tuple[Arm, Arm], tmp_path: Path) -> Iterator[Callable]:
    """``ask(fault, at, **limits)`` scores the bad arm; then the good one must still be scored."""

    def go(fault: str, at: int = 3, **limits: float) -> None:
        command = (sys.executable, "-c", CHILD, fault, str(at))
        good, bad = arms
        with Scorer(1, command=command) as scorer:

            def score(arm: Arm, name: str, limits: Scoring) -> None:
                (tmp_path / name).mkdir()
                scorer.limits = limits
                scorer.score(arm, request_of, tmp_path / name, lambda label, share: None)

            if limits:  # what a busy machine takes to start a process is no silence
                score(good, "before", Scoring())
            try:
                score(bad, "out", Scoring(**limits))
            finally:
                score(good, "after", Scoring())
                assert sorted(p.name for p in (tmp_path / "after").iterdir()) == FILES

    return go


def test_the_answer_is_that_of_the_engine_in_this_process(
    tiny: Prepared,
    tiny_artifact: Artifact,
    arms: tuple[Arm, Arm],
    request_of: dict[str, object],
    tmp_path: Path,
) -> None:
    heard: list[float] = []
    out = tmp_path / "out"
    out.mkdir()
    with Scorer(1) as scorer:
        scorer.score(arms[0], request_of, out, lambda label, share: heard.append(share))
    assert scorer.command == COMMAND
    assert heard
    with TorchCpu(tiny_artifact, threads=1) as engine:
        expected = lists.answer_split(engine, tiny, tiny.splits["test"])
    answer = np.load(out / "answer.npy")
    assert answer.dtype == np.float32
    assert np.array_equal(answer, expected)
    found = {row.metric: row.value for row in read_rows(out)}
    assert found["parity_large"] == found["batch_invariance"] * 0  # torch against torch
    assert "probe_extreme_inputs" in found
    assert "importance[price]" in found


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("SIGKILL", "bad: the worker was killed by SIGKILL during scoring {}; a system out of mem"),
        ("SIGSEGV", "bad: the worker was killed by SIGSEGV during scoring {}"),
        ("raises", "bad: scoring failed: IndexError: planted (after {}"),
    ],
)
def test_a_crash_ends_one_variant_and_says_where(ask: Callable, fault: str, told: str) -> None:
    with pytest.raises(ArmError) as caught:
        ask(fault)
    head, _, tail = told.partition("{}")
    where, _, rest = str(caught.value).removeprefix(head).partition(" done, call 3")
    assert str(caught.value).startswith(head)
    assert where.strip("(").startswith("the test split, ")
    assert tail.lstrip(")") in rest


def test_a_hang_is_found_by_its_silence(ask: Callable) -> None:
    with pytest.raises(ArmError, match=r"scoring \(the test split.* call 2\) gave no .* 2 s"):
        ask("hangs", at=2, call_seconds=2.0)


def test_a_variant_that_never_ends_is_given_up(ask: Callable) -> None:
    with pytest.raises(ArmError, match=r"(gave no answer within|wasn't done after) 4 s"):
        ask("slow", variant_seconds=4.0)


def test_what_an_engine_says_comes_through_as_it_was(ask: Callable) -> None:
    with pytest.raises(UnsupportedError, match="planted") as caught:
        ask("refuses")
    assert caught.value.code == "no_device"


def test_scores_that_arent_finite_are_refused(ask: Callable) -> None:
    with pytest.raises(EffectError, match=r"bad: 5\d\d of 5\d\d scores aren't finite"):
        ask("nan")


def test_a_full_disk_is_an_error_of_the_system(ask: Callable) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        ask("full")
    assert caught.value.errno == 28


def test_a_finite_answer_passes(tiny: Prepared) -> None:
    check_answer(np.zeros(3, np.float32), "v", tiny)
    with pytest.raises(EffectError, match="v: 1 of 3 scores"):
        check_answer(np.array([0, np.inf, 0], np.float32), "v", tiny)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone ends orphans")
def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'from harness.suites import "
        "scoring_worker as w; w.end_with_parent(); print(1, flush=True); import time; "
        "time.sleep(600)'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not _runs(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
