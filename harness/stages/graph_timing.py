"""What a torch model costs where it is to run: its ONNX graph in onnxruntime on one CPU thread,
timed in turns with another one's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from harness.artifact import Artifact
from harness.errors import DataError, EffectError
from harness.stages.base import Context
from harness.stages.export_onnx import export_module, module_outputs, output_gap
from harness.stages.graphs import Feeds, constants, ort_outputs, ort_session, write_graph
from harness.stages.pairing import LEVEL, Call, Speedup, paired_times, speedup
from harness.tables import feeds
from harness.tasks import TASKS

if TYPE_CHECKING:
    import onnx
    from torch import nn

BATCHES = 4
CANDIDATES, HISTORIES = 256, 8
"""Rows of a call unless a stage is told otherwise: candidates of one request, or histories."""
OPSET = 18
SECONDS = 1.0
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Pair:
    """How many times as quick one graph is as another, and the median seconds of both."""

    speedup: Speedup
    before: float
    after: float


@dataclass(frozen=True)
class Bench:
    """Where graphs are written for timing, and what they are timed on: ``batches`` of ``rows``
    each, for ``seconds`` a pair.
    """

    folder: Path
    context: Context
    batches: Sequence[Feeds]
    rows: str
    seconds: float


def time_pair(
    before: Path, after: Path, batches: Sequence[Feeds], *, seconds: float, level: float = LEVEL
) -> Pair:
    """Two ONNX files timed in turns; ``level`` is that of the speedup's interval."""
    times = paired_times(
        {"before": _call(before, batches), "after": _call(after, batches)},
        batches=len(batches),
        seconds=seconds,
    )
    old, new = times["before"], times["after"]
    return Pair(speedup(old, new, level=level), float(np.median(old)), float(np.median(new)))


def _call(path: Path, batches: Sequence[Feeds]) -> Call:
    session = ort_session(path)
    return lambda at: session.run(None, batches[at])


def bench_of(
    artifact: Artifact, context: Context, folder: Path, *, rows: int | None, seconds: float
) -> Bench:
    """A bench in ``folder`` with batches of training rows, drawn as they come: one request of
    ``rows`` candidates, or as many histories where the task is next items. Raises ``DataError``
    when the train split is empty.
    """
    split, schema = context.data.splits["train"], context.data.schema
    if split.rows == 0:
        raise DataError("the train split is empty; there are no rows to time a graph on")
    lists = TASKS[schema.task].lists
    count = rows or (HISTORIES if lists else CANDIDATES)
    shape = (count, 1) if lists else (1, count)
    random = np.random.default_rng(context.seed)
    drawn = random.integers(0, split.rows, size=(BATCHES, *shape))
    batches = [feeds(schema, split, at, artifact.inputs) for at in drawn]
    told = f"{count} histories" if lists else f"{count} rows"
    return Bench(folder, context, batches, told, seconds)


def exported(module: "nn.Module", artifact: Artifact, bench: Bench, name: str) -> Path:
    """The ONNX file of a module, in a folder of the bench called ``name``."""
    return _written(export_module(module, artifact, opset=OPSET), artifact, bench, name)


def resized(
    module: "nn.Module", artifact: Artifact, bench: Bench, name: str, *, like: Path
) -> Path:
    """As ``exported``, of a module that differs in widths alone from the one that ``like`` was
    exported from: an export takes seconds, other weights in the same graph don't. Where such a
    graph doesn't give what the module gives (an attention's head size is a constant of the graph),
    the module is exported.
    """
    try:
        path = _written(_with_weights(like, module), artifact, bench, name)
    except EffectError:  # not a valid graph
        return exported(module, artifact, bench, name)
    if _same(path, module, bench.batches[0]):
        return path
    return exported(module, artifact, bench, name)


def timed(
    before: Path, after: Path, bench: Bench, *, times: float = 1.0, level: float = LEVEL
) -> Pair:
    """Two files timed in turns for ``times`` as long as the bench says."""
    return time_pair(before, after, bench.batches, seconds=bench.seconds * times, level=level)


def told_pair(before: Artifact, after: Artifact, context: Context, *, rows: int | None) -> str:
    """How quick a graph is beside the one that it was made of, in words; for a second, on a bench's
    batches of ``rows``.
    """
    with TemporaryDirectory() as folder:
        bench = bench_of(after, context, Path(folder), rows=rows, seconds=SECONDS)
        pair = timed(before.file, after.file, bench)
    told = (
        f"{pair.speedup} as quick as the graph before on {bench.rows}, onnxruntime on one thread "
        f"({pair.before * 1e6:.0f} us, {pair.after * 1e6:.0f} us)"
    )
    return told if pair.speedup.low > 1 else f"no quicker here: {told}"


def _written(graph: "onnx.ModelProto", artifact: Artifact, bench: Bench, name: str) -> Path:
    folder = bench.folder / name
    folder.mkdir(exist_ok=True)
    return write_graph(graph, artifact, replace(bench.context, folder=folder)).file


def _with_weights(path: Path, module: "nn.Module") -> "onnx.ModelProto":
    """The graph of a file with the weights of ``module``, found by their names and by the names of
    the products that read them.
    """
    import onnx
    from torch import nn

    graph = onnx.load(path)
    known, state = constants(graph), module.state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items() if name in known}
    linears = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    for node in graph.graph.node:
        owner = linears.get(node.name.partition(":")[0])
        if owner is not None and node.op_type in ("MatMul", "Gemm"):
            weight = owner.weight.detach().numpy()  # (out, in)
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            arrays[node.input[1]] = weight if turned else weight.T
    for name, array in arrays.items():
        if name in known:
            known[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
    return graph


def _same(path: Path, module: "nn.Module", batch: Feeds) -> bool:
    """Whether a file runs and gives what the module gives."""
    try:
        found = ort_outputs(path)(batch)
    except Exception:  # onnxruntime's exceptions share no base of their own
        return False
    gap, allowed, fault = output_gap(found, module_outputs(module, batch), tolerance=_TOLERANCE)
    return not fault and gap <= allowed
