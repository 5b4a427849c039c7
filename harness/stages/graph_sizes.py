"""Graphs of others: tensors no larger than what is in the file, and none made that no memory holds.

onnxruntime and OpenVINO run in processes of their own and are refused what the system hasn't got;
this says which tensor it is before anything is taken.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DataError

if TYPE_CHECKING:
    import onnx

MOST = 1 << 31
"""Values of a tensor that a graph makes out of a size alone."""
SIZED = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
"""Operators that make as many values as an input says, and which input that is."""
_PACKED = 2
"""Values in a byte at most (int4)."""


def check_sizes(model: "onnx.ModelProto", folder: Path) -> None:
    """Raise ``DataError`` for a tensor of more values than the graph holds of it, and for a node
    that makes more than ``MOST`` values out of a constant size; names the tensor or the node.
    """
    for tensor in _tensors(model):
        values = math.prod(tensor.dims)
        held = tensor.ByteSize()
        if min(tensor.dims, default=1) < 0 or values > _PACKED * held:
            raise DataError(
                f"{folder}: the graph says that {tensor.name!r} is of {list(tensor.dims)}, and "
                f"holds {held:,} bytes of it: damaged, or not to be trusted"
            )
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            made = node.output[0]
            constants.update((made, a.t) for a in node.attribute if a.name == "value")
    for node in model.graph.node:
        at = SIZED.get(node.op_type)
        size = constants.get(node.input[at]) if at is not None and len(node.input) > at else None
        if size is not None and (asked := _values(size)) > MOST:
            raise DataError(
                f"{folder}: node {node.name or node.output[0]!r} ({node.op_type}) makes "
                f"{asked:,} values, expected {MOST:,} at most"
            )


def _tensors(model: "onnx.ModelProto") -> Iterator["onnx.TensorProto"]:
    """The tensors whose numbers are in the graph itself, those of nodes too."""
    from onnx import TensorProto

    for tensor in (*model.graph.initializer, *inner_tensors(model)):
        if tensor.data_location != TensorProto.EXTERNAL:
            yield tensor


def inner_tensors(model: "onnx.ModelProto") -> Iterator["onnx.TensorProto"]:
    """The tensors of nodes, and of the graphs and functions inside."""
    nodes = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    while nodes:
        for attribute in nodes.pop().attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graph.initializer
                nodes += graph.node


def _values(size: "onnx.TensorProto") -> int:
    """How many values a size stands for."""
    from onnx import TensorProto, numpy_helper

    if size.data_location == TensorProto.EXTERNAL:
        return 0  # sizes are a few numbers: nothing of ours puts them aside
    return math.prod(max(int(length), 0) for length in numpy_helper.to_array(size).ravel())
