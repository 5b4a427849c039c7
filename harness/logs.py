"""What is logged: lines on stderr in which nothing is hidden, and none of what libraries say."""

import logging

from harness.visible import told

NOISY = ("matplotlib", "PIL", "filelock", "torch", "onnxscript", "onnx_ir")
"""Libraries whose every step is a line of the log."""


class Visible(logging.Formatter):
    """Names of files and items are others' text: what a terminal would obey is an escape."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, and its traceback's."""
        return told(super().format(record))


def begin_logging(*, debug: bool) -> None:
    """Log warnings to stderr, and with ``debug`` everything of ours."""
    handler = logging.StreamHandler()
    handler.setFormatter(Visible("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])
    quieten()


def quieten() -> None:
    """Of libraries only warnings are logged."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
