"""Progress: bars on a terminal, elsewhere lines that are said by whoever may print."""

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.visible import told

if TYPE_CHECKING:
    from rich.console import Console

QUIET_SECONDS = 10.0


def open_console() -> "Console":
    """The terminal; elsewhere one of 200 columns."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, markup=False, width=width)


def take_any_text(*streams: object) -> None:
    """Have streams write an escape for a character that their encoding lacks."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):  # one that is closed is None
            stream.reconfigure(errors="backslashreplace")


def _shown(text: str) -> str:
    """A name or label, part of which may be others' text, as it may stand in a line."""
    return told(text).replace("\n", "\\n")


@contextmanager
def tasks(say: Callable[[str], None]) -> Iterator[Any]:
    """Progress bars on a terminal; elsewhere a line when a task begins and ends, and one every
    ``QUIET_SECONDS`` in between.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = open_console()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def task(name: str) -> Any:
            name = _shown(name)
            number = bars.add_task(name, total=1.0)
            said: dict[str, float] = {}

            def progress(label: str, share: float) -> None:
                label = _shown(label)
                bars.update(number, completed=share, description=f"{name}: {label}")
                due = time.monotonic() - max(said.values(), default=0.0) >= QUIET_SECONDS
                if not console.is_terminal and label not in said and (share in (0.0, 1.0) or due):
                    said[label] = time.monotonic()
                    say(f"{name}: {label}")

            return progress

        yield task
