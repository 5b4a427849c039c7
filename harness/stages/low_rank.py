"""How many directions of a matrix stay, and the products that are nearest to it."""

import numpy as np


def rank_of(squares: np.ndarray, *, energy: float | None, rank: int | None) -> int:
    """How many of the squared singular values (count,), largest first, to keep: the fewest that
    have the share ``energy`` of their sum, or ``rank``; at least one, at most all.
    """
    if rank is None:
        assert energy is not None, "one of the two limits"
        sums = np.cumsum(squares)
        # Sums in another order differ by a rounding error, which isn't a direction.
        rank = int(np.searchsorted(sums, energy * sums[-1] * (1 - 1e-12))) + 1
    return max(1, min(rank, len(squares)))
