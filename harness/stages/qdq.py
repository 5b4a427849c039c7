"""Quantised layers written into an ONNX graph as QuantizeLinear and DequantizeLinear pairs.

Each chosen layer gets: input -> Q -> DQ (per tensor), codes of the weight -> DQ (signed, per
output, symmetric), MatMul, bias in fp32. onnxruntime fuses that into one integer kernel with its
bias, OpenVINO and others read it too, and no rounding of outputs or biases is added. Codes of
inputs are unsigned with a zero point, or signed around 0, which is all that TensorRT takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import EffectError
from harness.native import add_operators
from harness.stages.graphs import constants

if TYPE_CHECKING:
    import onnx

LEVELS = 255
"""Steps of a byte."""
LARGEST = 127
"""Largest code of a signed byte."""


@dataclass(frozen=True)
class Scales:
    """How a layer is quantised: value = scale * (code - zero_point) for its input, weight_scale
    per output for its weight, whose codes lie in -limit..limit. A ``symmetric`` input has signed
    codes and no zero point.
    """

    scale: float
    zero_point: int
    weight_scale: np.ndarray  # (outputs,) float32
    limit: int
    symmetric: bool = False

    def __post_init__(self) -> None:
        assert not (self.symmetric and self.zero_point)


def weight_limit(reduce_range: bool) -> int:
    """Largest weight code: 127, or 64, with which two products fit 16 bits (255 x 64 x 2)."""
    return 64 if reduce_range else 127


def code_steps(zero_point: int, *, symmetric: bool) -> tuple[int, int]:
    """Lowest and highest value of an input, in steps of its scale."""
    zero = LARGEST + 1 if symmetric else zero_point
    return -zero, LEVELS - zero


def input_scale(
    low: float, high: float, *, name: str, symmetric: bool = False
) -> tuple[float, int]:
    """Scale and zero point of a range, widened to hold 0 exactly, or as far on both sides of it
    when ``symmetric``: the zero point is 0 then.

    Raises ``EffectError`` when the range is empty or not finite.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise EffectError(f"range of {name} is {low} to {high}; calibrate on finite rows")
    if high == low:
        raise EffectError(
            f"range of {name} is 0: it is zero on every calibration row; calibrate on rows that "
            "are like the data"
        )
    span = max(high, -low) / LARGEST if symmetric else (high - low) / LEVELS
    scale = float(np.float32(span))
    if scale <= 0.0:
        raise EffectError(f"range of {name} ({low:g} to {high:g}) is too small for a scale")
    return scale, 0 if symmetric else round(-low / scale)


def weight_scales(weight: np.ndarray, *, limit: int, per_channel: bool = True) -> np.ndarray:
    """Scale of each output (outputs,) of a weight (inputs, outputs); 1 for an output whose weights
    are all zero, whose codes are zero then.
    """
    largest = np.abs(weight).max(axis=0) if per_channel else np.abs(weight).max()
    largest = np.broadcast_to(largest, weight.shape[1:]).astype(np.float32)
    return np.where(largest > 0, largest / np.float32(limit), np.float32(1)).astype(np.float32)


def layer_weight(node: "onnx.NodeProto", known: Mapping[str, "onnx.TensorProto"]) -> np.ndarray:
    """The weight of a MatMul or Gemm node, (inputs, outputs) float32."""
    from onnx import numpy_helper

    weight: np.ndarray = numpy_helper.to_array(known[node.input[1]])
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return weight.T if transposed else weight


def insert_scales(model: "onnx.ModelProto", scales: Mapping[str, Scales]) -> "onnx.ModelProto":
    """A copy of ``model`` in which the nodes named in ``scales`` are quantised with them.

    The model's output stays in fp32. Raises ``EffectError`` when a node isn't there.
    """
    made: onnx.ModelProto = type(model).FromString(model.SerializeToString())
    known, chained = constants(made), _chained(model, scales)
    nodes, inputs = [], dict[tuple[str, float, int, bool], str]()
    found = {node.name for node in made.graph.node}
    if missing := sorted(set(scales) - found):
        raise EffectError(f"no node of the graph is called {', '.join(missing)}")
    for node in made.graph.node:
        if node.name not in scales:
            nodes.append(type(node).FromString(node.SerializeToString()))
            continue
        nodes += _layer(made.graph, node, scales[node.name], known, inputs)
        plain = node.name in chained or scales[node.name].symmetric
        nodes += _bias(made.graph, node, known, added=plain)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    _drop_unused(made.graph)
    return made


def _layer(
    graph: "onnx.GraphProto",
    node: "onnx.NodeProto",
    scales: Scales,
    known: Mapping[str, "onnx.TensorProto"],
    inputs: dict[tuple[str, float, int, bool], str],
) -> list["onnx.NodeProto"]:
    """The nodes that take a layer's place; ``inputs`` remembers what is quantised already."""
    from onnx import helper

    name, nodes = node.name, []
    key = (node.input[0], scales.scale, scales.zero_point, scales.symmetric)
    if key not in inputs:
        inputs[key] = f"{name}.input"
        nodes += _input_pair(graph, node, scales)
    weight = layer_weight(node, known)
    codes = np.clip(np.rint(weight / scales.weight_scale), -scales.limit, scales.limit)
    _add(graph, f"{name}.weight_codes", codes.astype(np.int8))
    _add(graph, f"{name}.weight_scale", scales.weight_scale.astype(np.float32))
    _add(graph, f"{name}.weight_zero", np.zeros(weight.shape[1], np.int8))
    parts = [f"{name}.weight_{part}" for part in ("codes", "scale", "zero")]
    nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}.weight_value"], axis=1))
    product = f"{name}.product" if _biased(node) else node.output[0]
    operands = [inputs[key], f"{name}.weight_value"]
    nodes.append(helper.make_node("MatMul", operands, [product], name=name))
    return nodes


def _biased(node: "onnx.NodeProto") -> bool:
    return len(node.input) > 2 and node.input[2] != ""


def _bias(
    graph: "onnx.GraphProto",
    node: "onnx.NodeProto",
    known: Mapping[str, "onnx.TensorProto"],
    *,
    added: bool,
) -> list["onnx.NodeProto"]:
    """The addition of a Gemm's bias after its product.

    onnxruntime joins MatMul + Add back into a Gemm. That becomes one integer kernel when the next
    layer's codes follow, and else, joined with its ReLU, a kernel of floats; so the negative bias
    is subtracted there, unless the bias is to be ``added``.
    """
    from onnx import helper, numpy_helper

    if not _biased(node):
        return []
    product, out = f"{node.name}.product", node.output[0]
    if added:
        return [helper.make_node("Add", [product, node.input[2]], [out])]
    _add(graph, f"{node.name}.negative_bias", -numpy_helper.to_array(known[node.input[2]]))
    return [helper.make_node("Sub", [product, f"{node.name}.negative_bias"], [out])]


def _chained(model: "onnx.ModelProto", scales: Mapping[str, Scales]) -> set[str]:
    """Layers whose result, through a ReLU, is read by quantised layers only, in codes from 0."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = set()
    for node in model.graph.node:
        after = readers.get(node.output[0], [])
        if node.name in scales and len(after) == 1 and after[0].op_type == "Relu":
            names = {reader.name for reader in readers.get(after[0].output[0], [])}
            if names and names <= set(scales) and not any(scales[n].zero_point for n in names):
                found.add(node.name)
    return found


def _input_pair(
    graph: "onnx.GraphProto", node: "onnx.NodeProto", scales: Scales
) -> list["onnx.NodeProto"]:
    from onnx import helper

    name = node.name
    _add(graph, f"{name}.input_scale", np.array(scales.scale, np.float32))
    kind = np.int8 if scales.symmetric else np.uint8
    _add(graph, f"{name}.input_zero", np.array(scales.zero_point, kind))
    pair = [f"{name}.input_scale", f"{name}.input_zero"]
    return [
        helper.make_node("QuantizeLinear", [node.input[0], *pair], [f"{name}.input_codes"]),
        helper.make_node("DequantizeLinear", [f"{name}.input_codes", *pair], [f"{name}.input"]),
    ]


def _add(graph: "onnx.GraphProto", name: str, array: np.ndarray) -> None:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))


def _drop_unused(graph: "onnx.GraphProto") -> None:
    """Remove initialisers that no node reads any more."""
    used = {name for node in graph.node for name in node.input}
    used |= {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def check_scales(model: "onnx.ModelProto") -> int:
    """Number of scales in the file; raises ``EffectError`` naming those that aren't finite and
    positive.
    """
    from onnx import numpy_helper

    known = constants(model)
    names = {
        node.input[1]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    values = {name: numpy_helper.to_array(known[name]) for name in names if name in known}
    bad = sorted(n for n, v in values.items() if not (np.isfinite(v).all() and (v > 0).all()))
    if bad:
        raise EffectError(f"scales that are not finite and positive: {', '.join(bad)}")
    return sum(value.size for value in values.values())


def integer_kernels(source: str | bytes) -> int:
    """How many layers of a file, given by name or content, onnxruntime runs with integer kernels,
    read back from the graph that it made of it for this machine.
    """
    import tempfile
    from pathlib import Path

    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
        add_operators(options, source)
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return sum(node.op_type in _INTEGER for node in optimised.graph.node)


_INTEGER = {
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearMatMul",
}
