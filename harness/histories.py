"""What each user had before: the past that next items are told from, cut or padded to arrays."""

from dataclasses import dataclass

import numpy as np

from harness.schema import UNKNOWN


@dataclass(frozen=True)
class Histories:
    """The past of every row of a split: ``events[start[request]:end[row]]``, oldest first.

    In training each event has all before it as its past; in validation and test all rows of a
    request share what came before the split.
    """

    events: np.ndarray  # (events,) int32 item ids; of a user one after the other
    start: np.ndarray  # (requests,) int64
    end: np.ndarray  # (rows,) int64

    def last(self, requests: np.ndarray, rows: np.ndarray, *, length: int) -> np.ndarray:
        """The latest ``length`` items before each row, padded on the left with ``UNKNOWN``,
        (rows, length) int32; ``requests`` and ``rows`` are (rows,) indices.
        """
        return self.window(self.start[requests], self.end[rows], length=length)

    def seen(self, requests: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """All items before each row, padded with ``UNKNOWN`` to the longest past of the batch and
        at least to one, (rows, longest) int32; an item that came twice stands there twice.
        """
        start, end = self.start[requests], self.end[rows]
        longest = int(max(1, (end - start).max(initial=0)))
        return self.window(start, end, length=longest)

    def window(self, start: np.ndarray, end: np.ndarray, *, length: int) -> np.ndarray:
        """The last ``length`` of ``events[start:end]`` of each pair, padded on the left."""
        at = end[:, None] + np.arange(-length, 0)  # (rows, length)
        inside = at >= start[:, None]
        if not len(self.events):
            return np.full(at.shape, UNKNOWN, dtype=np.int32)
        taken = self.events[np.where(inside, at, 0)]
        return np.where(inside, taken, UNKNOWN).astype(np.int32)  # (rows, length)
