"""Models of others are no larger than their files say: refused before the memory is taken."""

from collections.abc import Callable, Iterator, Mapping
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
            plain = {name: value for name, value in given.items() if name not in _NOT_META}
            made = function(*args, **plain, device="meta")  # a shape, and no memory
            self.asked += made.nbytes
            if self.asked > self.limit:
                raise DataError(
                    f"{self.told}; with a tensor of {tuple(made.shape)} the model that it is for "
                    f"would have {self.asked:,}, expected {self.limit:,} at most: not its weights?"
                )
        return function(*args, **given)


def _largest(tensors: Mapping[str, torch.Tensor]) -> str:
    if not tensors:
        return ""
    name = max(tensors, key=lambda each: tensors[each].nbytes)
    return f", the largest {name!r} of {tuple(tensors[name].shape)}"
