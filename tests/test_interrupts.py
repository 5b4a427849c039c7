"""Interrupts kept back: the first until the work is done, the second not at all."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.interrupts import kept_back

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _as_the_command_line_does() -> Iterator[None]:
    before = {number: signal.signal(number, signal.default_int_handler) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_one_is_heard_when_all_is_done(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with kept_back():
            os.kill(os.getpid(), number)
            done.append("inside")
        done.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inside"]
    assert signal.getsignal(number) is signal.default_int_handler


def test_a_second_one_ends_the_work() -> None:
    done = []

    def work() -> None:
        with kept_back():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("once")
            os.kill(os.getpid(), signal.SIGINT)
            done.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["once"]
    assert all(signal.getsignal(number) is signal.default_int_handler for number in NUMBERS)


def test_without_one_nothing_happens_and_what_is_raised_is_raised() -> None:
    with kept_back():
        pass
    with pytest.raises(ValueError, match="mine"), kept_back():
        raise ValueError("mine")
    assert all(signal.getsignal(number) is signal.default_int_handler for number in NUMBERS)


def test_in_another_thread_it_changes_nothing() -> None:
    seen = []

    def work() -> None:
        with kept_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_the_exit_code_is_given_though_an_interrupt_came_amid_an_import(tmp_path: Path) -> None:
    """``exec`` of text stands for what dataclasses do; the last signal for one at the very end."""
    (tmp_path / "ends.py").write_text(
        "import os, signal, sys\n"
        "from harness.interrupts import heed_no_more\n"
        "try:\n"
        "    exec('raise KeyboardInterrupt')\n"
        "except KeyboardInterrupt:\n"
        "    heed_no_more()\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    sys.exit(130)\n"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "ends"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "")
