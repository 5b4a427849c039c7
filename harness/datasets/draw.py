"""Seeded draws without repetition that depend on the seed and the thing drawn for alone."""

import numpy as np


def mix(values: np.ndarray, seed: int) -> np.ndarray:
    """Well-mixed uint64 of each value and the seed (splitmix64, Steele et al., OOPSLA 2014)."""
    z = values.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 1) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))  # (values,)


def uniform(values: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each value, always the same one; float64 (values,)."""
    return (mix(values, seed) >> np.uint64(11)) / float(1 << 53)


def distinct(
    keys: np.ndarray, sizes: np.ndarray, wanted: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """``wanted[i]`` different positions below ``sizes[i]`` for each key, or all of them.

    Positions are ``start + step * j`` modulo the size, with a seeded start and a seeded step that
    shares no divisor with the size. Gives (drawn,) positions and (drawn,) indices into ``keys``,
    in the order of the keys.
    """
    wanted = np.minimum(sizes, wanted)
    of = np.repeat(np.arange(len(keys)), wanted)
    j = np.arange(len(of)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    start = (mix(keys, seed) % np.maximum(sizes, 1).astype(np.uint64)).astype(np.int64)
    step = _steps(keys, sizes, seed)
    return (start[of] + step[of] * j) % sizes[of], of


def _steps(keys: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    step = np.ones(len(keys), dtype=np.int64)
    undecided, attempt = np.flatnonzero(sizes > 2), 0
    while len(undecided):
        attempt += 1
        size = sizes[undecided]
        drawn = mix(keys[undecided], seed + attempt * 1_000_003) % (size - 1).astype(np.uint64)
        step[undecided] = drawn.astype(np.int64) + 1
        undecided = undecided[np.gcd(step[undecided], size) != 1]
    return step
