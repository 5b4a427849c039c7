"""Files of others opened for reading: plain ones only. A pipe or a device under a file's name would
hang whoever reads it, or never end.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """The file, open for reading bytes; raises ``OSError`` for what isn't there or is no plain
    file, and never waits.
    """
    return open(path, "rb", opener=_regular)


def _regular(path: str, flags: int) -> int:
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe isn't waited for
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # which open() itself refuses
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "a pipe or device, expected a plain file", path)
