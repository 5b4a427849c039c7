"""The speed gates can't pass without measuring: what doesn't run is counted against them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def bench(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "tests/bench", "-q", "-p", "no:cacheprovider"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [*command, *arguments],
        env={**clean, "HARNESS_CACHE": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("how", ["--benchmark-disable", "--benchmark-skip"])
def test_a_gate_that_measures_nothing_fails_by_name(tmp_path: Path, how: str) -> None:
    done = bench(tmp_path, how, "-k", "control_the_same")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "0 of 10 comparisons were measured" in done.stdout
    assert "not measured: control:same" in done.stdout


def test_a_deselected_gate_is_no_pass(tmp_path: Path) -> None:
    done = bench(tmp_path, "-k", "no_such_gate")
    assert done.returncode != 0
    assert "0 of 10 comparisons were measured" in done.stdout
