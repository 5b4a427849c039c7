"""Interrupts (Ctrl-C, SIGTERM) kept back from work that must not be cut short: what is half
written, or half imported, which some packages don't recover from in the same process.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


def heed_sigterm() -> None:
    """Make an interrupt of SIGTERM too: whoever ends a run loses nothing."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def kept_back() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` for a first interrupt only when all inside is done; a second one
    is heeded at once. Outside of the main thread, which alone hears of interrupts, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        del frame
        heard.append(number)
        if len(heard) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, hear) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise KeyboardInterrupt


def heed_no_more() -> None:
    """Ignore interrupts from here on: all is done or told, only the exit code is left to give.

    CPython remembers an interrupt that once passed through code compiled from text, such as what
    dataclasses write while a module is imported, although it was caught, and kills itself by SIGINT
    at its end: -2 in place of 130. Running such code again makes it forget.
    """
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    exec("")
