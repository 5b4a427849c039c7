"""A GPU's peaks, measured with torch in a child process (``peaks``), by the device's own events.

``python -m harness.suites.gpu_peaks`` is asked as ``harness.suites.peaks`` is. TF32 is off. Copies
within the device count twice, once read and once written; copies from and to the host go through
pinned memory and count once, and so do gathered rows, though they are written too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import cycle
from typing import Any

from harness.suites.peaks import MIB, MIN_REPEATS, Call, Peak, Peaks, Sizes, main, measure_peaks

COMMAND_MODULE = "harness.suites.gpu_peaks"
SIZES = Sizes(
    products=(2048, 4096, 8192),
    streams=(4 * MIB, 16 * MIB, 64 * MIB, 512 * MIB),
    tables=(16 * MIB, 128 * MIB, 1024 * MIB),
)
"""Below and above the caches (an H100 has 50 MB); products large enough to fill a large device."""
ROW_BYTES = 256
"""Bytes of a gathered row: 64 numbers of fp32, as the large published DLRMs have or more."""
CHUNK = 1 << 18
"""Rows of one timed gather (64 MiB); the next repeat takes other rows."""
LINK = 256 * MIB

Clock = Callable[[Call], float]
"""Seconds of one call."""


def measure_gpu_peaks(*, seconds: float, timeout: float) -> Peaks:
    """The peaks of the first CUDA device, about ``seconds`` for each of the 13; ``threads`` is 1.
    Raises ``PeaksError`` as ``measure_peaks`` does.
    """
    import sys

    command = (sys.executable, "-m", COMMAND_MODULE)
    return measure_peaks(1, seconds=seconds, timeout=timeout, sizes=SIZES, command=command)


# From here on: the child's side.


def measure(*, threads: int, seconds: float, sizes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """All peaks as JSON-ready values; raises what torch raises."""
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    how = ("cuda", _event_seconds, seconds)
    with torch.inference_mode():
        found = measure_on(*how, sizes=sizes)
        return {"threads": threads, "device": "cuda", **found, "links": _links(seconds)}


def measure_on(
    device: str, clock: Clock, seconds: float, *, sizes: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Peaks of products, copies and gathers on a torch device, each call timed by ``clock``."""
    kinds = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
    products = {
        name: asdict(_product(kind, device, clock, seconds, sizes["products"]))
        for name, kind in kinds.items()
    }
    return {
        "fp32": products["fp32"],
        "int8": products["int8"],
        "halves": {name: products[name] for name in ("fp16", "bf16")},
        "streams": [
            (size, asdict(_copy(size, device, clock, seconds))) for size in sizes["streams"]
        ],
        "random_rows": [
            (size, asdict(_rows(size, device, clock, seconds))) for size in sizes["tables"]
        ],
    }


def _event_seconds(call: Call) -> float:
    """Seconds between two events of the device around a call."""
    import torch

    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000  # told in milliseconds


def best_seconds(call: Call, clock: Clock, seconds: float) -> tuple[float, int]:
    """The least that a call took by the clock, and of how many: ``MIN_REPEATS`` and ``seconds`` of
    them by the same clock, after one that doesn't count.
    """
    clock(call)
    least, repeats, spent = math.inf, 0, 0.0
    while repeats < MIN_REPEATS or spent < seconds:
        took = clock(call)
        least, repeats, spent = min(least, took), repeats + 1, spent + took
    return least, repeats


def _product(kind: str, device: str, clock: Clock, seconds: float, edges: Sequence[int]) -> Peak:
    """The best of all edges, operations a second; without a value, and with the reason, where the
    device has no such product.
    """
    import torch

    found: list[Peak] = []
    try:
        for edge in edges:
            if kind == "int8":
                made = torch.randint(-100, 100, (2, edge, edge), dtype=torch.int8)
                a, b = made.to(device)
                call = _int8_product(a, b)
            else:
                a, b = torch.randn(2, edge, edge).to(device, getattr(torch, kind))
                call = _float_product(a, b)
            least, repeats = best_seconds(call, clock, seconds / len(edges))
            how = f"torch, {kind}, {edge} x {edge} x {edge}"
            found.append(Peak(2 * edge**3 / least, repeats, how))
    except RuntimeError as error:  # torch's for a device without such a kernel
        if not found:
            return Peak(None, 0, f"torch, {kind}: {' '.join(str(error).split())[:200]}")
    return max(found, key=lambda peak: peak.value or 0.0)


def _float_product(a: Any, b: Any) -> Call:
    import torch

    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _int8_product(a: Any, b: Any) -> Call:
    import torch

    columns = b.t().contiguous().t()  # the layout that cuBLASLt asks of the right side
    return lambda: torch._int_mm(a, columns)


def _copy(size: int, device: str, clock: Clock, seconds: float) -> Peak:
    """Bytes read and written a second in copies of ``size`` bytes in all, half of them read."""
    import torch

    source = torch.ones(size // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    least, repeats = best_seconds(lambda: target.copy_(source), clock, seconds)
    return Peak(2 * source.numel() / least, repeats, "torch copy within the device")


def _rows(size: int, device: str, clock: Clock, seconds: float) -> Peak:
    """Bytes a second of rows gathered from a table of ``size`` bytes, uniformly at random."""
    import torch

    rows, width = size // ROW_BYTES, ROW_BYTES // 4
    table = torch.ones(rows, width, device=device)
    count = min(CHUNK, rows)
    chunks = cycle(torch.randint(0, rows, (8, count), device=device).unbind())
    out = torch.empty(count, width, device=device)
    call = lambda: torch.index_select(table, 0, next(chunks), out=out)  # noqa: E731 - a call
    least, repeats = best_seconds(call, clock, seconds)
    return Peak(count * ROW_BYTES / least, repeats, f"torch index_select, rows of {ROW_BYTES} B")


def _links(seconds: float) -> dict[str, dict[str, Any]]:
    """Bandwidths between pinned host memory and the device."""
    import torch

    host = torch.ones(LINK, dtype=torch.uint8).pin_memory()
    device = torch.ones(LINK, dtype=torch.uint8, device="cuda")
    calls: dict[str, Call] = {
        "to_device": lambda: device.copy_(host, non_blocking=True),
        "to_host": lambda: host.copy_(device, non_blocking=True),
    }
    found = {}
    for name, call in calls.items():
        least, repeats = best_seconds(call, _event_seconds, seconds)
        found[name] = asdict(Peak(LINK / least, repeats, "torch copy, pinned host memory"))
    return found


if __name__ == "__main__":
    main(measure)
