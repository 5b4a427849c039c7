"""Calls on a CUDA device: inputs in one block of memory, calls recorded as CUDA graphs, and times
by the device's own events.

torch's memory, streams, events and graphs serve all engines. The block is what a server copies in
one go: a prepared batch has one of its own, a recorded call reads from one that stays where it is.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.errors import UnsupportedError

DEVICE = "cuda"
"""torch's name of the device that calls are made on."""
ALIGNED = 256
"""Bytes that each input starts at a multiple of, as of memory that CUDA gives."""
WARM_CALLS = 3
"""Calls before a recording, on a stream beside: libraries set themselves up in them."""
MOST_GRAPHS = 1024
"""Recorded calls that are kept at once; the distinct batches of a point of the suite."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one input stands in a block: from byte ``start``, in a type and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def end(self) -> int:
        """The byte after the last."""
        return self.start + int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


Layout = tuple[Place, ...]
"""Where the inputs of one size stand; equal for batches of equal sizes."""


def layout_of(feeds: Mapping[str, np.ndarray]) -> Layout:
    """Where the inputs stand in a block, one after the other."""
    places, start = list[Place](), 0
    for name, array in feeds.items():
        place = Place(name, str(array.dtype), array.shape, start)
        places.append(place)
        start = -(-place.end // ALIGNED) * ALIGNED
    return tuple(places)


def packed(feeds: Mapping[str, np.ndarray], layout: Layout, *, pinned: bool) -> torch.Tensor:
    """The inputs as one block of bytes in host memory; ``pinned`` memory is copied without a stop
    on the way.
    """
    block = torch.zeros(max(1, layout[-1].end), dtype=torch.uint8, pin_memory=pinned)
    bytes_ = block.numpy()
    for place in layout:
        flat = np.ascontiguousarray(feeds[place.name]).reshape(-1)
        bytes_[place.start : place.end] = flat.view(np.uint8)
    return block


def tensors_in(block: torch.Tensor, layout: Layout) -> dict[str, torch.Tensor]:
    """The inputs in a block, by name; no copies."""
    return {
        place.name: block[place.start : place.end]
        .view(getattr(torch, place.dtype))
        .view(place.shape)
        for place in layout
    }


@dataclass(frozen=True)
class Batch:
    """A prepared batch: a block on the device and where its inputs stand."""

    block: torch.Tensor
    layout: Layout
    tensors: Mapping[str, torch.Tensor]


def upload(feeds: Mapping[str, np.ndarray]) -> Batch:
    """The inputs on the device; one copy, which may still be under way on the current stream."""
    layout = layout_of(feeds)
    block = packed(feeds, layout, pinned=DEVICE == "cuda").to(DEVICE, non_blocking=True)
    return Batch(block, layout, tensors_in(block, layout))


@dataclass(frozen=True)
class Recorded:
    """A call recorded for batches of one layout: it reads ``block`` and leaves ``outputs``, both of
    which stay where they are.
    """

    graph: Any
    block: torch.Tensor
    outputs: Any

    def replay(self, batch: Batch) -> Any:
        """The outputs for a batch; overwritten by the next replay."""
        self.block.copy_(batch.block, non_blocking=True)
        self.graph.replay()
        return self.outputs


@dataclass
class Recorder:
    """Records a call once a layout; what was recorded is kept, up to ``MOST_GRAPHS``.

    ``call`` gives the outputs for inputs by name, on the current stream. Graphs share one pool of
    memory: they are never replayed at once, and outputs are read before the next replay.
    """

    call: Callable[[dict[str, torch.Tensor]], Any]
    stream: Any
    cuda: Any = torch.cuda
    known: dict[Layout, Recorded] = field(default_factory=dict)
    count: int = 0
    seconds: float = 0.0
    _pool: Any = None

    def recorded(self, batch: Batch) -> Recorded:
        """The call recorded for the batch's layout. Recording waits for the device, and is counted
        in ``count`` and ``seconds``; raises ``UnsupportedError`` for a call that can't be recorded.
        """
        if batch.layout not in self.known:
            if len(self.known) >= MOST_GRAPHS:
                del self.known[next(iter(self.known))]
            begun = time.perf_counter()
            self.known[batch.layout] = self._record(batch)
            self.seconds += time.perf_counter() - begun
            self.count += 1
        return self.known[batch.layout]

    def _record(self, batch: Batch) -> Recorded:
        block = batch.block.clone()
        tensors = tensors_in(block, batch.layout)
        self.cuda.synchronize()
        try:
            with self.cuda.stream(self.stream):
                for _ in range(WARM_CALLS):
                    self.call(tensors)
            self.cuda.synchronize()
            graph = self.cuda.CUDAGraph()
            with self.cuda.graph(graph, pool=self._pool, stream=self.stream):
                outputs = self.call(tensors)
        except RuntimeError as error:
            raise UnsupportedError(
                f"the call can't be recorded as a CUDA graph ({_first_line(error)}): it needs the "
                "host on the way, or memory; take the engine without -graph",
                code=fault_code(error),
            ) from error
        self._pool = self._pool or graph.pool()
        return Recorded(graph, block, outputs)

    @property
    def notes(self) -> dict[str, Any]:
        """What the engine's facts say of it."""
        return {"cuda_graph": True, "graphs": self.count, "graph_seconds": self.seconds}


def device_seconds(
    call: Callable[[], object], calls: int, *, stream: Any = None, cuda: Any = torch.cuda
) -> float:
    """Seconds between two events on a stream (the current one, unless given) around ``calls`` calls
    in a row.
    """
    stream = stream or cuda.current_stream()
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    start.record(stream)
    for _ in range(calls):
        call()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def fault_code(error: Exception) -> str:
    """A probe's code for what a CUDA library raised."""
    full = isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()
    return "out_of_memory" if full else "unsupported_model"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
