"""Interrupts (Ctrl-C, SIGTERM) kept back from work that must not be cut short: what is half
written, or half imported, which some packages don't recover from in the same process.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


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
