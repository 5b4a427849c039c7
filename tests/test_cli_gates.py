"""``gate`` and ``build`` on the command line: a mistake is one line and 2, a code is told."""

import subprocess
import sys
from pathlib import Path

import made_rows
import pytest
from made_rows import row, timed

ROOT = Path(__file__).parent.parent


def harness(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gate",), "give the folder of a run or a build"),
        (("gate", "x", "--out", "y"), "only --calibrate N writes files"),
        (("gate", "x", "--calibrate", "1"), "takes no folder"),
        (("build", "absent.yaml", "--out", "x"), "can't be read"),
        (("build", "absent.yaml", "--out", "x", "--targets", "ort"), "no such engine"),
    ],
)
def test_a_mistake_is_one_line_and_2(arguments: tuple, told: str) -> None:
    done = harness(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_codes_reach_the_shell(tmp_path: Path) -> None:
    slow = timed(ratio=0.16, ratio_low=0.15, ratio_high=0.17)
    now = made_rows.save(tmp_path / "now", [slow, row()])
    then = made_rows.save(tmp_path / "then", [timed(), row()])
    for arguments, code in (
        ((now, "--against", then), 1),
        ((now, "--against", then, "--shadow"), 0),
        ((now, "--against", now), 0),
        ((now, "--against", tmp_path / "none"), 4),
    ):
        done = harness("gate", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1].startswith("exit code ")
