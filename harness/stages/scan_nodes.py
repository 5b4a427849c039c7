"""Nodes that the scan of a catalogue adds to a graph, and the best scores found block by block."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.stages.catalogue_graph import PREFIX

if TYPE_CHECKING:
    import onnx

WIDTH = 64
"""Scores of a block."""
WORTH = 256
"""Scores a place from which blocks are quicker than a TopK of all: it compares one at a time."""


class Writer:
    """Adds constants to a graph and gathers new nodes, all of them named ``scan.*``."""

    def __init__(self, graph: "onnx.GraphProto") -> None:
        self.graph, self.nodes = graph, list["onnx.NodeProto"]()
        self.known = {tensor.name for tensor in graph.initializer}

    def constant(self, name: str, array: np.ndarray) -> str:
        """The name of a stored constant, put in unless it is there."""
        from onnx import numpy_helper

        name = f"{PREFIX}.{name}"
        if name not in self.known:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
            self.graph.initializer.append(tensor)
            self.known.add(name)
        return name

    def count(self, number: int) -> str:
        """The name of a constant of one whole number, (1,)."""
        return self.constant(f"count_{number}", np.array([number], np.int64))

    def number(self, name: str, value: float) -> str:
        """The name of a constant float, a scalar."""
        return self.constant(name, np.array(value, np.float32))

    def node(self, op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """The name of the first output of a new node."""
        from onnx import helper

        name = outputs[0] if outputs[0].startswith(PREFIX) else f"{PREFIX}.{outputs[0]}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs[0]


def padding(size: int, count: int) -> int:
    """How many columns ``size`` of them lack of whole blocks; 0 where ``count`` places aren't found
    by blocks anyway.
    """
    return -size % WIDTH if size >= WORTH * count else 0


def put_best(
    put: Writer, scores: str, size: int, count: int, *, outputs: tuple[str, str], name: str
) -> None:
    """The ``count`` highest of ``scores`` (requests, size) and their places, of equal ones the
    first, under the names ``outputs``.

    Where ``size`` is whole blocks and large beside ``count``, only those blocks are looked into
    that have the ``count`` highest maxima, the first of equal ones. What lies in another block has
    as many that go before it, one in each of those: the result is that of a TopK of all.
    """
    if size % WIDTH or size < WORTH * count:
        put.node("TopK", [scores, put.count(count)], *outputs, axis=1)
        return
    blocks, whole = size // WIDTH, f"scan.{name}"
    kept = min(count, blocks)
    shape = put.constant(f"{name}.shape", np.array([-1, blocks, WIDTH]))
    cut = put.node("Reshape", [scores, shape], f"{whole}.blocks")
    most = put.node("ReduceMax", [cut, put.count(2)], f"{whole}.most", keepdims=0)
    found = (f"{whole}.maxima", f"{whole}.found")
    put.node("TopK", [most, put.count(kept)], *found, axis=1)
    ordered = (f"{whole}.ordered", f"{whole}.ordered_places")  # the first place is the lowest id
    ids = put.node("TopK", [found[1], put.count(kept)], *ordered, axis=1, largest=0)
    column = put.node("Unsqueeze", [ids, put.count(2)], f"{whole}.column")
    inside = put.node("GatherND", [cut, column], f"{whole}.inside", batch_dims=1)
    flat = put.constant(f"{name}.flat", np.array([-1, kept * WIDTH]))
    row = put.node("Reshape", [inside, flat], f"{whole}.row")
    put.node("TopK", [row, put.count(count)], outputs[0], f"{whole}.places", axis=1)
    width = put.count(WIDTH)
    block = put.node("Div", [f"{whole}.places", width], f"{whole}.block")
    rest = put.node("Mod", [f"{whole}.places", width], f"{whole}.rest")
    chosen = put.node("GatherElements", [ids, block], f"{whole}.chosen", axis=1)
    start = put.node("Mul", [chosen, width], f"{whole}.start")
    put.node("Add", [start, rest], outputs[1])
