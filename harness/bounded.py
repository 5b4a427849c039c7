"""Models of others are no larger than their files say: refused before the memory is taken."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch.overrides import TorchFunctionMode

from harness.errors import DataError

SHARE = 1000
"""How many times as large as the file's tensors a model may be before it takes their shapes:
pruning and sharing leave that little of some tables.
"""
LEAST = 1 << 30
"""Bytes that any model may have."""
MAKERS = (
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint),
    *(torch.arange, torch.eye, torch.linspace, torch.randperm, torch.tril_indices),
)
"""What makes a tensor of nothing but a size."""
LITTLE = 1 << 26
"""Bytes that may be taken to be counted. On the meta device half of ``MAKERS`` import sympy, some
all of dynamo too: a second, and memory, of every process that loads a model of a few indices.
"""
_WIDEST = 2 * 16
"""Bytes of two of the widest numbers: ``tril_indices`` has two for each pair, and ``arange`` goes
from below zero to above.
"""
_NOT_META = ("device", "generator", "out", "pin_memory")


@contextmanager
def bounded_by(tensors: Mapping[str, torch.Tensor], *, where: str) -> Iterator[None]:
    """Within, a module may be built that is to take the shapes of ``tensors``, the content of the
    file ``where``. Raises ``DataError`` at the first tensor with which it would be ``SHARE`` times
    as large, or larger than this machine's memory; that one isn't made.
    """
    held = sum(tensor.nbytes for tensor in tensors.values())
    limit = min(max(LEAST, SHARE * held), psutil.virtual_memory().total)
    with _Bounded(limit, f"{where}: its tensors have {held:,} bytes{_largest(tensors)}"):
        yield


class _Bounded(TorchFunctionMode):
    """Adds up what ``MAKERS`` are asked for."""

    def __init__(self, limit: int, told: str) -> None:
        super().__init__()
        self.limit, self.told, self.asked = limit, told, 0

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if function in MAKERS and given.get("out") is None:
            if _most_bytes(function, [*args, *given.values()]) <= LITTLE:
                made = function(*args, **given)
                self._count(made)
                return made
            plain = {name: value for name, value in given.items() if name not in _NOT_META}
            self._count(function(*args, **plain, device="meta"))  # a shape, and no memory
        return function(*args, **given)

    def _count(self, made: torch.Tensor) -> None:
        self.asked += made.nbytes
        if self.asked > self.limit:
            raise DataError(
                f"{self.told}; with a tensor of {tuple(made.shape)} the model that it is for "
                f"would have {self.asked:,}, expected {self.limit:,} at most: not its weights?"
            )


def _most_bytes(function: Callable[..., Any], given: Iterable[Any]) -> float:
    """A bound of what one of ``MAKERS`` makes: all whole numbers that it is given, one times the
    other (``eye`` may square its one). None for fractions, which may be steps of ``arange``.
    """
    product = 1
    for value in given:
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, float | torch.Tensor):
                return math.inf
            product *= max(1, abs(number)) if isinstance(number, int) else 1
    return (product**2 if function is torch.eye else product) * _WIDEST


def _largest(tensors: Mapping[str, torch.Tensor]) -> str:
    if not tensors:
        return ""
    name = max(tensors, key=lambda each: tensors[each].nbytes)
    return f", the largest {name!r} of {tuple(tensors[name].shape)}"
