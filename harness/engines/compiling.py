"""torch.compile and what it did: seconds of compiling, how often anew, where it broke off.

torch falls back to eager without a word when a function was compiled too often; here that raises.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo as dynamo
from torch import nn
from torch._dynamo import utils as counting

from harness.errors import UnsupportedError

Sizes = tuple[tuple[str, tuple[int, ...]], ...]
"""Shapes of a call's inputs by name."""
SPARE = 4
"""Compilations of one function over the sizes asked for: torch tells 0 and 1 from other sizes."""


class CompiledCall:
    """A module's forward through torch.compile: with kernels for each set of sizes (``free=False``,
    at most ``most`` sets), or with one set of kernels for any sizes. ``how`` goes to torch.compile.
    """

    def __init__(self, module: nn.Module, *, free: bool, most: int, **how: Any) -> None:
        self.free, self.most, self.seconds = free, most, 0.0
        self.frames = self.breaks = 0
        """Of the first sizes: functions that were compiled, and places where the graph broke."""
        self.known: set[Sizes] = set()
        self._compiled: Callable[..., Any] = torch.compile(module, dynamic=free, **how)

    def __call__(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """What the module gives; of sizes that ``compile_for`` has had."""
        with torch.inference_mode():
            return self._compiled(**tensors)

    @property
    def full(self) -> bool:
        """Whether no more sizes may be compiled for."""
        return not self.free and len(self.known) >= self.most

    def compile_for(
        self, tensors: Mapping[str, torch.Tensor], *, synchronize: Callable[[], object]
    ) -> None:
        """Compile for inputs of these sizes, unless that is done; the time counts in ``seconds``.

        Raises ``UnsupportedError`` when torch would go back to eager, having compiled too often,
        and when the compiler fails.
        """
        sizes = tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items())
        if sizes in self.known:
            return
        begun, before = time.perf_counter(), _counted()
        with _limited(SPARE if self.free else self.most + SPARE):
            self(tensors)
            self(tensors)  # what is chosen by trial at a first call is chosen now
        synchronize()
        self.seconds += time.perf_counter() - begun
        if not self.known:
            after = _counted()
            self.frames, self.breaks = after[0] - before[0], after[1] - before[1]
        self.known.add(sizes)


def forget() -> None:
    """Drop what torch compiled in this process, and its counters."""
    dynamo.reset()
    counting.counters.clear()


def compile_notes(*calls: CompiledCall) -> dict[str, Any]:
    """What an engine's facts say of compiled calls, from torch's own counters since ``forget``:
    seconds, sizes that have kernels of their own, functions that were compiled again for other
    sizes, and graph breaks of one forward.
    """
    used = [call for call in calls if call.known]
    reasons = [told.strip().splitlines()[0][:120] for told in counting.counters["graph_break"]]
    return {
        "compile_seconds": sum(call.seconds for call in used),
        "sizes": sum(len(call.known) for call in used if not call.free),
        "recompiles": _counted()[0] - sum(call.frames for call in used),
        "graph_breaks": max((call.breaks for call in used), default=0),
        **({"break_reasons": reasons} if reasons else {}),
    }


def _counted() -> tuple[int, int]:
    """Functions compiled, and graph breaks met, since ``forget``."""
    counters = counting.counters
    return int(counters["frames"]["ok"]), int(sum(counters["graph_break"].values()))


@contextmanager
def _limited(most: int) -> Iterator[None]:
    """A limit of compilations of one function over which torch fails instead of running eager."""
    limits: Any = {
        "recompile_limit": most,
        "accumulated_recompile_limit": most * 64,
        "fail_on_recompile_limit_hit": True,
    }
    try:
        with dynamo.config.patch(limits):
            yield
    except dynamo.exc.FailOnRecompileLimitHit as error:
        raise UnsupportedError(
            f"torch.compile compiled one function {most} times, its limit here; over that torch "
            "runs eager without a word: ask for fewer batch sizes, or take torch-cuda-graph",
            code="unsupported_model",
        ) from error
    except dynamo.exc.TorchDynamoException as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        first = " ".join(lines[:2])[:300]  # which backend, and what it raised
        raise UnsupportedError(
            f"torch.compile can't compile the model: {first}", code="build_failed"
        ) from error
