"""A stand-in for ``torch.cuda`` on the CPU: graphs that run their call again, events that count.

It has names of the real module alone; ``test_cuda_calls`` compares them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stream:
    """``torch.cuda.Stream``: it only has an address."""

    cuda_stream = 7

    def synchronize(self) -> None:
        pass


class CUDAGraph:
    """``torch.cuda.CUDAGraph``: ``replay`` runs what the test says was recorded."""

    recorded: Callable[[], None] | None = None

    def replay(self) -> None:
        assert self.recorded is not None
        self.recorded()

    def pool(self) -> tuple[int, int]:
        return (0, 1)


class Event:
    """``torch.cuda.Event``: the time is how many calls the log has had."""

    log: list[str] = []  # noqa: RUF012

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at = 0

    def record(self, stream: Any = None) -> None:
        self.at = len(self.log)

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Event") -> float:
        return 1000.0 * (end.at - self.at)


class FakeCuda:
    """``torch.cuda``; ``pools`` are those that graphs were given, in order."""

    Stream, CUDAGraph, Event = Stream, CUDAGraph, Event

    def __init__(self) -> None:
        self.pools: list[Any] = []
        self.streams: list[Any] = []
        self.capturing: CUDAGraph | None = None

    @contextmanager
    def graph(self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None) -> Iterator[None]:
        self.pools.append(pool)
        self.capturing = cuda_graph
        yield
        self.capturing = None

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.streams.append(stream)
        yield

    def synchronize(self) -> None:
        pass

    def get_device_name(self, device: Any = None) -> str:
        return "Some Card 80GB"

    def empty_cache(self) -> None:
        pass

    def is_available(self) -> bool:
        return False  # else torch's compiler looks for a device of its own

    def is_current_stream_capturing(self) -> bool:
        return self.capturing is not None

    def current_stream(self) -> Stream:
        return Stream()


def recording(cuda: FakeCuda, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``call``, which while a graph is captured is kept as what the graph replays: it puts what it
    gives into the outputs' own place."""

    def recorded(tensors: Any) -> Any:
        outputs = call(tensors)
        if cuda.capturing is not None:

            def again() -> None:
                with torch.inference_mode():
                    fresh = call(tensors)
                    both = isinstance(outputs, tuple)
                    for old, new in (
                        zip(outputs, fresh, strict=True) if both else [(outputs, fresh)]
                    ):
                        old.copy_(new)

            cuda.capturing.recorded = again
        return outputs

    return recorded


def use_fake_cuda(monkeypatch: Any) -> FakeCuda:
    """Put a stand-in in the place of ``torch.cuda``, and the engines' device on the CPU."""
    from harness.engines import cuda_calls

    cuda = FakeCuda()
    for name in (name for name in vars(FakeCuda) if not name.startswith("_")):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    monkeypatch.setattr(cuda_calls, "DEVICE", "cpu")
    return cuda
