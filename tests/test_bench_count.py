"""The speed gates can't pass without measuring: what doesn't run is counted against them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def bench(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "tests/bench", "-q", "-p", "no:cacheprovider"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [*command, *arguments],
        env={**clean, "HARNESS_CACHE": str(tmp_path), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("how", ["--benchmark-disable", "--benchmark-skip"])
def test_a_gate_that_measures_nothing_fails_by_name(tmp_path: Path, how: str) -> None:
    done = bench(tmp_path, how)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "0 of 11 comparisons were measured" in done.stdout
    assert "not measured: control:same" in done.stdout
    assert done.stdout.splitlines()[-1] == "exit code 4: not measured"


def test_a_deselected_gate_is_no_pass(tmp_path: Path) -> None:
    done = bench(tmp_path, "-k", "no_such_gate")
    assert done.returncode == 4
    assert "0 of 11 comparisons were measured" in done.stdout


def test_in_shadow_the_code_is_told_and_is_0(tmp_path: Path) -> None:
    done = bench(tmp_path, "-k", "no_such_gate", HARNESS_GATE_SHADOW="1")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == (
        "exit code 4: not measured without HARNESS_GATE_SHADOW; with it 0"
    )


@pytest.mark.parametrize(("status", "code"), [(0, 4), (1, 1), (5, 4)])
def test_pytests_own_status_becomes_a_gates_outcome(status: int, code: int) -> None:
    """With a failed comparison it is 1 even when others weren't measured; never 0 without any."""
    from bench.conftest import outcomes

    from harness.outcomes import code_of

    assert code_of(outcomes(status)) == code
