"""TensorRT's dialect of int8: which options fit it, tables in it, and what of a graph doesn't.

TensorRT takes QuantizeLinear and DequantizeLinear alone, signed bytes with zero points of 0, and
biases and tables that are floats where they are used. Everything else its parser or its builder
refuses (its documentation on explicit quantisation; https://github.com/onnx/onnx-tensorrt).
"""

from typing import TYPE_CHECKING

import numpy as np

from harness.errors import EffectError, UnsupportedError
from harness.stages.graphs import constants
from harness.stages.qdq import LARGEST, weight_limit

if TYPE_CHECKING:
    import onnx

FOREIGN = {
    "ConvInteger",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
}
"""Standard operators of int8 that TensorRT doesn't have."""
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def weight_codes(
    dialect: str, *, reduce_range: bool | None, per_channel: bool = True, tables: bool = False
) -> int:
    """The largest code of a weight in a dialect; ``reduce_range`` None is what fits the dialect.

    Raises ``UnsupportedError`` naming the option that contradicts it.
    """
    if dialect != "tensorrt":
        if tables:
            raise UnsupportedError(
                "tables: true needs dialect: tensorrt; elsewhere the stage quantize_tables does it"
            )
        return weight_limit(reduce_range is not False)
    if reduce_range:
        raise UnsupportedError(
            "reduce_range: true contradicts dialect: tensorrt, whose sums don't overflow; leave "
            "one of the two out"
        )
    if not per_channel:
        raise UnsupportedError(
            "per_channel: false contradicts dialect: tensorrt, which has a scale per channel; "
            "leave one of the two out"
        )
    return LARGEST


def decode_tables(model: "onnx.ModelProto") -> list[str]:
    """Put each table of floats that is looked up by id into bytes, one scale a row, decoded before
    it is looked up; gives the tables' names. Raises ``EffectError`` when there is none.
    """
    from onnx import TensorProto, helper, numpy_helper

    known, graph = constants(model), model.graph
    read = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in known]
    tables = {
        node.input[0]: known[node.input[0]]
        for node in read
        if known[node.input[0]].data_type == TensorProto.FLOAT
        and len(known[node.input[0]].dims) == 2
    }
    if not tables:
        raise EffectError("tables: the graph looks up no table of fp32 numbers; leave it out")
    nodes = []
    for name, tensor in tables.items():
        rows = numpy_helper.to_array(tensor)  # (rows, dim)
        if not np.isfinite(rows).all():
            raise EffectError(f"table {name} has numbers that are not finite")
        largest = np.abs(rows).max(axis=1)
        scale = np.where(largest > 0, largest / np.float32(LARGEST), np.float32(1))
        codes = np.rint(rows / scale[:, None]).clip(-LARGEST, LARGEST).astype(np.int8)
        graph.initializer.append(numpy_helper.from_array(codes, f"{name}.codes"))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
        parts, decoded = [f"{name}.codes", f"{name}.scale"], f"{name}.decoded"
        nodes.append(helper.make_node("DequantizeLinear", parts, [decoded], name=decoded, axis=0))
        for node in read:
            if node.input[0] == name:
                node.input[0] = decoded
    kept = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
    used = {name for node in graph.node for name in node.input}
    left = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
    return list(tables)


def quantised_products(model: "onnx.ModelProto") -> int:
    """How many MatMul and Gemm nodes have both operands straight from a DequantizeLinear."""
    decoded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return sum(
        node.op_type in ("MatMul", "Gemm") and {*node.input[:2]} <= decoded
        for node in model.graph.node
    )


def dialect_faults(model: "onnx.ModelProto") -> list[str]:
    """What of a quantised graph TensorRT wouldn't take, a sentence each that names the node."""
    from onnx import numpy_helper

    known = constants(model)
    arrays = {
        name: numpy_helper.to_array(known[name])
        for node in model.graph.node
        if node.op_type in _PAIR
        for name in node.input
        if name in known
    }
    makers = {node.output[0]: node for node in model.graph.node}
    faults = []
    for node in model.graph.node:
        told = f"{node.op_type} {node.name or node.output[0]}"
        if node.domain not in ("", "ai.onnx") or node.op_type in FOREIGN:
            where = f" of {node.domain}" if node.domain else ""
            faults.append(f"{told} is an operator{where} that TensorRT doesn't have")
        elif node.op_type in _PAIR:
            faults += [f"{told}: {fault}" for fault in _pair_faults(node, arrays, makers)]
    return faults


def _pair_faults(
    node: "onnx.NodeProto", arrays: dict[str, np.ndarray], makers: dict[str, "onnx.NodeProto"]
) -> list[str]:
    faults = []
    codes = arrays.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
    zero = arrays.get(node.input[2]) if len(node.input) > 2 else None
    if zero is not None and zero.any():
        faults.append("its zero point isn't 0")
    if node.op_type == "QuantizeLinear" and (zero is None or zero.dtype != np.int8):
        faults.append(f"its codes are {'uint8' if zero is None else zero.dtype}, expected int8")
    if codes is not None and codes.dtype != np.int8:
        faults.append(f"it decodes a constant of {codes.dtype} (a bias?), expected int8")
    maker = makers.get(node.input[0])
    if node.op_type == "DequantizeLinear" and maker is not None and maker.op_type == "Gather":
        faults.append(f"it decodes what {maker.name or 'a Gather'} has looked up in a table")
    return faults


def require_dialect(model: "onnx.ModelProto", *, what: str) -> None:
    """Raise ``UnsupportedError`` when a quantised graph isn't in TensorRT's dialect."""
    if faults := dialect_faults(model):
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise UnsupportedError(
            f"{what} takes a graph that is quantised in TensorRT's dialect (dialect: tensorrt), "
            f"this one isn't: {faults[0]}{more}"
        )
