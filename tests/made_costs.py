"""Times that are counted instead of measured, for stages that time graphs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from harness.stages.graph_timing import Pair
from harness.stages.pairing import Speedup

OVERHEAD = 200
"""What a call costs beside its products."""


def sure(value: float, *, before: float = 1.0) -> Pair:
    """A pair whose ratio is known exactly."""
    return Pair(Speedup(value, value, value), before, before / value)


def graph_cost(path: Path) -> int:
    """Numbers in the weights of an ONNX file's products, and the overhead."""
    graph = onnx.load(path).graph
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    weights = [sizes[name] for node in products for name in node.input if name in sizes]
    return OVERHEAD + sum(dims[0] * dims[1] for dims in weights if len(dims) == 2)


def counted_pair(
    before: Path, after: Path, batches: Sequence[Any], *, seconds: float, level: float = 0.99
) -> Pair:
    """In place of ``time_pair``: a graph's time is its cost."""
    assert batches
    assert seconds > 0
    assert 0 < level < 1
    costs = graph_cost(before), graph_cost(after)
    return sure(costs[0] / costs[1], before=costs[0] * 1e-6)
