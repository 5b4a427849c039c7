"""What is logged, told of progress and printed: names of others come out with nothing hidden."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import visible
from harness.logs import NOISY, Visible
from harness.progress import tasks
from harness.store import MANIFEST

NAMES = ["\x1b]0;owned\x07", "\x9b2J", "pdf.\u202egpj", "\rover", "a\u2028b", "\ud800"]


def record(text: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord("harness.x", logging.WARNING, "x.py", 1, text, values, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_line_of_the_log_hides_nothing(name: str) -> None:
    line = Visible("%(levelname)s: %(message)s").format(record("%s: odd", f"x{name}.csv"))
    assert line == f"WARNING: {visible.visible(f'x{name}.csv')}: odd"
    assert line.isprintable()


def test_a_traceback_of_the_log_hides_nothing_and_keeps_its_lines() -> None:
    try:
        raise ValueError("bad \x1b[2J" + "y" * 9999)
    except ValueError:
        one = record("failed")
        one.exc_info = sys.exc_info()
    lines = Visible().format(one).split("\n")
    assert lines[:2] == ["failed", "Traceback (most recent call last):"]
    assert lines[-1].startswith("ValueError: bad \\x1b[2Jyyy")
    assert len(lines[-1]) < 2100


@given(st.text(), st.text())
def test_a_line_of_progress_is_one_line_that_hides_nothing(name: str, label: str) -> None:
    said: list[str] = []
    with tasks(said.append) as task:
        task(name)(label, 0.0)
    (line,) = said
    assert "\n" not in line
    assert visible.hidden(line.replace("\t", " ")) is None
    assert not set(line) & set("\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029")


def test_libraries_are_quiet_and_ours_are_visible() -> None:
    code = (
        "import logging, sys\n"
        "from harness.logs import begin_logging\n"
        "begin_logging(debug=True)\n"
        f"for name in {NOISY!r}: logging.getLogger(name + '.x').info('said')\n"
        "logging.getLogger('harness.x').debug('%s', sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "a\x1b[31m"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "DEBUG: a\\x1b[31m\n")


def test_what_the_command_line_prints_hides_nothing(tmp_path: Path) -> None:
    """Names of files, here of the cache's, as they stand on a disk: not even UTF-8."""
    entry = tmp_path / "artifacts" / "x\x1b]0;owned\x07\r"
    entry.mkdir(parents=True)
    (entry / MANIFEST).write_text(json.dumps({"files": {}}))
    os.mkdir(os.fsencode(tmp_path / "artifacts") + b"/bad\xff\x9b")
    (tmp_path / "artifacts" / os.fsdecode(b"bad\xff\x9b") / MANIFEST).write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "cache", "list"],
        env={**os.environ, "HARNESS_CACHE": str(tmp_path)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "artifacts/x\\x1b]0;owned\\x07\\x0d" in text
    assert "artifacts/bad\\udcff\\udc9b" in text
    assert text.replace("\n", "").isprintable()
