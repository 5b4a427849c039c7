"""What the machine refuses (room, memory, a file's place), as one line for whoever may mend it."""

import tempfile
from pathlib import Path

from harness.store import no_room, unwritten


def fault_line(error: BaseException) -> str | None:
    """The line that tells a user of an error that no part of ours answered for; None of any error
    that may be a mistake of ours, which needs its traceback.
    """
    if isinstance(error, OSError) and no_room(error):
        # It doesn't always say where: what no part of ours answers for is scratch.
        return str(unwritten(error, Path(tempfile.gettempdir())))
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; give another place, or free this one"
    # torch has no class of its own for memory that a CPU hasn't got
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        told = (str(error).strip().splitlines() or ["no more is known"])[0]
        return (
            f"this machine's memory doesn't hold it ({told}); give fewer rows, smaller batches or "
            "a smaller model"
        )
    return None
