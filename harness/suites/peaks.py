"""The machine's peaks at one thread count, measured in a child process that may be killed.

``python -m harness.suites.peaks`` reads one JSON line of settings from stdin and answers with one
on the stdout it was given. A peak is the best of its repeats, the one that took the least time, of
everything that was tried for it (libraries, sizes, kernels); its ``n`` is how many timed repeats
the winner had, three at least after one that isn't counted. So a peak is what this machine was
seen to do at that moment, not a data sheet's figure.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any

from harness.errors import HarnessError
from harness.process import child_environment, claim_stdout, ended_how

COMMAND = (sys.executable, "-m", "harness.suites.peaks")
MIB = 1 << 20
ROW_BYTES = 128
"""Bytes of a gathered row: 32 numbers of fp32, two cache lines."""
CHUNK = 16_384
"""Rows of one timed gather (2 MiB); the next repeat takes other rows."""
MIN_REPEATS = 3

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is tried: edges of square products, bytes of streamed arrays, bytes of tables."""

    products: tuple[int, ...] = (256, 512, 1024)
    streams: tuple[int, ...] = (MIB // 2, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB)
    tables: tuple[int, ...] = (4 * MIB, 64 * MIB, 256 * MIB)


SIZES = Sizes()


@dataclass(frozen=True, slots=True)
class Peak:
    """The best rate seen (None where nothing could be tried), its repeats, and how it was had or
    why it couldn't be.
    """

    value: float | None
    n: int
    how: str


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peaks at one thread count: ``fp32`` (FLOP/s, two per multiply-accumulate), ``int8`` (op/s,
    the same count), bandwidths (bytes/s) by bytes of the streamed array or of the gathered table.

    Of a GPU (``device`` cuda; ``threads`` says nothing there) also ``halves``, its products in fp16
    and bf16, and ``links``, the bandwidths to the device (``to_device``) and back (``to_host``).
    """

    threads: int
    fp32: Peak
    int8: Peak
    streams: Mapping[int, Peak]
    random_rows: Mapping[int, Peak]
    device: str = "cpu"
    halves: Mapping[str, Peak] = field(default_factory=dict)
    links: Mapping[str, Peak] = field(default_factory=dict)

    @property
    def every(self) -> tuple[Peak, ...]:
        """All peaks there are."""
        by_size = (*self.streams.values(), *self.random_rows.values())
        return (self.fp32, self.int8, *by_size, *self.halves.values(), *self.links.values())


class PeaksError(HarnessError):
    """The peaks can't be had; the message is the reason that their row carries."""


def measure_peaks(
    threads: int,
    *,
    seconds: float,
    timeout: float,
    sizes: Sizes = SIZES,
    command: Sequence[str] = COMMAND,
) -> Peaks:
    """The peaks at ``threads``, about ``seconds`` for each of them; ten peaks with the default
    sizes. Raises ``PeaksError`` when the child ends early, isn't done within ``timeout`` seconds,
    or says what went wrong.
    """
    settings = json.dumps({"threads": threads, "seconds": seconds, "sizes": asdict(sizes)})
    try:
        done = subprocess.run(
            command,
            input=settings + "\n",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=child_environment(threads=threads),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PeaksError(
            f"peaks at {threads} threads: no answer within {timeout:g} s; give a longer timeout "
            "or fewer seconds per peak"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1][:300]
        told = f" ({last})" if last else ""
        raise PeaksError(
            f"peaks at {threads} threads: the child {ended_how(done.returncode)}{told}"
        )
    return _answer(done.stdout, threads)


def _answer(line: str, threads: int) -> Peaks:
    where = f"peaks at {threads} threads"
    try:
        told = json.loads(line)
        if not told.pop("ok"):
            raise PeaksError(f"{where}: {told['error']}")
        peaks = Peaks(
            told["threads"],
            Peak(**told["fp32"]),
            Peak(**told["int8"]),
            {size: Peak(**peak) for size, peak in told["streams"]},
            {size: Peak(**peak) for size, peak in told["random_rows"]},
            told.get("device", "cpu"),
            {name: Peak(**peak) for name, peak in told.get("halves", {}).items()},
            {name: Peak(**peak) for name, peak in told.get("links", {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PeaksError(f"{where}: the child gave no answer that can be read") from error
    if peaks.threads != threads:
        raise PeaksError(f"{where}: the child computed on {peaks.threads}")
    wrong = [peak for peak in peaks.every if peak.value is not None and not _is_rate(peak.value)]
    if wrong:
        raise PeaksError(f"{where}: {wrong[0].value!r} is no rate ({wrong[0].how})")
    return peaks


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


# From here on: the child's side. Only it loads torch and onnxruntime.

Maker = Callable[[int, int], Call]
"""Makes a call of a square product from its edge and the thread count."""


def measure(*, threads: int, seconds: float, sizes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """All peaks as JSON-ready values; raises what the libraries raise."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    edges = sizes["products"]
    with torch.inference_mode():
        return {
            "threads": torch.get_num_threads(),
            "fp32": asdict(product_peak(_FP32, edges, threads, seconds=seconds)),
            "int8": asdict(product_peak(_INT8, edges, threads, seconds=seconds)),
            "streams": [(size, asdict(_stream(size, seconds))) for size in sizes["streams"]],
            "random_rows": [(size, asdict(_rows(size, seconds))) for size in sizes["tables"]],
        }


def best_time(call: Call, seconds: float) -> tuple[float, int]:
    """The least seconds that a call took, and of how many: ``MIN_REPEATS`` and ``seconds`` of them
    after one that doesn't count.
    """
    call()
    least, repeats, end = math.inf, 0, time.perf_counter() + seconds
    while repeats < MIN_REPEATS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        least, repeats = min(least, time.perf_counter() - start), repeats + 1
    return least, repeats


def product_peak(
    makers: Mapping[str, Maker], edges: Sequence[int], threads: int, *, seconds: float
) -> Peak:
    """The best of all makers and edges, in operations a second; without a value, and with every
    reason, when none of the makers works here.
    """
    share = seconds / (len(makers) * len(edges))
    found: list[Peak] = []
    refused = []
    for name, make in makers.items():
        try:
            found += _products(name, make, edges, (threads, share, seconds))
        except Exception as error:  # the libraries share no base class; a refusal is an answer
            refused.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if not found:
        return Peak(None, 0, "; ".join(refused))
    return max(found, key=lambda peak: peak.value or 0.0)


def _products(
    name: str, make: Maker, edges: Sequence[int], plan: tuple[int, float, float]
) -> list[Peak]:
    """A peak for every edge, up to the one where a single call would take all the time there is."""
    threads, share, most = plan
    found: list[Peak] = []
    for edge in edges:
        operations = 2 * edge**3
        if found and operations / (found[-1].value or 1.0) > most:
            break
        least, repeats = best_time(make(edge, threads), share)
        found.append(Peak(operations / least, repeats, f"{name}, {edge} x {edge} x {edge}"))
    return found


def _torch_fp32(edge: int, threads: int) -> Call:
    import torch

    a, b, out = torch.randn(edge, edge), torch.randn(edge, edge), torch.empty(edge, edge)
    return lambda: torch.mm(a, b, out=out)


def _torch_int8(edge: int, threads: int) -> Call:
    import torch

    a, b = (torch.randint(-100, 100, (edge, edge), dtype=torch.int8) for _ in "ab")
    return lambda: torch._int_mm(a, b)


def _ort(operator: str, types: tuple[str, str, str]) -> Maker:
    """Products of one onnxruntime operator, whose right side is a constant as weights are."""

    def make(edge: int, threads: int) -> Call:
        import numpy as np

        left, right, _ = types
        rng = np.random.default_rng(0)
        feeds = {"a": rng.integers(0, 100, (edge, edge)).astype(left)}
        weights = rng.integers(0, 100, (edge, edge)).astype(right)
        session = _ort_session(operator, types, weights, threads)
        return lambda: session.run(None, feeds)

    return make


def _ort_session(operator: str, types: tuple[str, str, str], weights: Any, threads: int) -> Any:
    import numpy as np
    import onnxruntime
    from onnx import helper, numpy_helper

    left, _, out = (helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in types)
    shape = list(weights.shape)
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", left, shape)],
        [helper.make_tensor_value_info("c", out, shape)],
        [numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


_FP32: Mapping[str, Maker] = {
    "torch mm": _torch_fp32,
    "onnxruntime MatMul": _ort("MatMul", ("float32", "float32", "float32")),
}
_INT8: Mapping[str, Maker] = {
    "onnxruntime MatMulInteger u8 x s8": _ort("MatMulInteger", ("uint8", "int8", "int32")),
    "onnxruntime MatMulInteger u8 x u8": _ort("MatMulInteger", ("uint8", "uint8", "int32")),
    "torch _int_mm s8 x s8": _torch_int8,
}


def _stream(size: int, seconds: float) -> Peak:
    """Bytes a second of reading ``size`` bytes of fp32 from one end to the other."""
    import torch

    values = torch.ones(size // 4)
    calls: dict[str, Call] = {
        "torch sum": values.sum,
        "torch dot with itself": lambda: torch.dot(values, values),
    }
    return _fastest(calls, values.numel() * 4, seconds)


def _rows(size: int, seconds: float) -> Peak:
    """Bytes a second of rows gathered from a table of ``size`` bytes, uniformly at random."""
    import torch

    rows, width = size // ROW_BYTES, ROW_BYTES // 4
    table, out = torch.ones(rows, width), torch.empty(CHUNK, width)
    # As many ids as there are rows: a few ids again and again would make a small table of it.
    chunks = torch.randint(0, rows, (max(1, rows // CHUNK), CHUNK)).unbind()
    copied, summed = cycle(chunks), cycle([ids.view(-1, 32) for ids in chunks])
    calls: dict[str, Call] = {
        "torch index_select": lambda: torch.index_select(table, 0, next(copied), out=out),
        "torch embedding_bag, sums of 32": lambda: torch.nn.functional.embedding_bag(
            next(summed), table, mode="sum"
        ),
    }
    return _fastest(calls, CHUNK * ROW_BYTES, seconds)


def _fastest(calls: Mapping[str, Call], size: int, seconds: float) -> Peak:
    peaks = []
    for name, call in calls.items():
        least, repeats = best_time(call, seconds / len(calls))
        peaks.append(Peak(size / least, repeats, name))
    return max(peaks, key=lambda peak: peak.value or 0.0)


def main(measure: Callable[..., Mapping[str, Any]] = measure) -> None:
    """Answer the one request on stdin."""
    answers = claim_stdout()
    try:
        request = json.loads(sys.stdin.readline())
        answer = {"ok": True, **measure(**request)}
    except Exception as error:  # the parent gets whatever went wrong and fails one row only
        told = " ".join(str(error).split())
        answer = {"ok": False, "error": f"{type(error).__name__}: {told}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
