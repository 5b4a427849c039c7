"""What of a graph half precision can't hold and so stays in fp32; ids that would go through it."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import EffectError
from harness.stages.graphs import constants

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0
"""Largest number of half precision."""
SCALE_ERROR = 0.01
"""Largest relative error of a scale that is rounded to half precision."""
_BOUNDED = {
    *("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Tanh", "Exp", "Erf", "Sign"),
    *("Clip", "ReduceMax", "ReduceMin", "ArgMax", "ArgMin", "TopK", "Less", "Greater", "Equal"),
    *("LessOrEqual", "GreaterOrEqual", "Min", "Max", "LayerNormalization", "QuantizeLinear"),
}
"""Operators behind which a number that half can't hold is none any more, or has been used up."""
_ARITHMETIC = {
    *("Sub", "Div", "Mul", "Add", "Log", "Sqrt", "Pow", "Reciprocal", "Clip", "Min", "Max"),
    *("BatchNormalization", "LayerNormalization", "Tanh", "Sigmoid", "Erf", "Exp"),
}
"""How numbers are normalised."""
_SHAPES = {"Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose", "Slice", "Split", "Identity"}
_CARRYING = _SHAPES | {
    *("Cast", "Add", "Sub", "Mul", "Div", "Mod", "Floor", "Ceil", "Round", "Clip", "Min", "Max"),
    *("Abs", "Neg", "Concat", "Expand", "Where", "Relu", "Tile"),
}
"""Operators whose result is an id when what they read is one."""
_INDEXED = {
    "Gather": 1,
    "GatherElements": 1,
    "GatherND": 1,
    "OneHot": 0,
    "ScatterElements": 1,
    "ScatterND": 1,
}
"""Operators that read ids, and on which input."""


def name_nodes(model: "onnx.ModelProto") -> None:
    """Give each node without a name of its own one: the converter keeps nodes in fp32 by name."""
    taken = {""}
    for at, node in enumerate(model.graph.node):
        if node.name in taken:
            node.name = f"{node.op_type}.{at}"
        taken.add(node.name)


def beyond_half(model: "onnx.ModelProto", *, bounded: Collection[str] = ()) -> dict[str, float]:
    """Nodes that use a finite number which half precision doesn't hold, such as a mask of -1e9, and
    those that use their results up to one that bounds them (a softmax); with that number. Results
    of the nodes named in ``bounded`` aren't followed, and these are left out.
    """
    carried = {
        name: extreme for name, array in _floats(model) if (extreme := _extreme(array)) is not None
    }
    found = dict[str, float]()
    for node in model.graph.node:  # in order, so one pass is enough
        extreme = next((carried[name] for name in node.input if name in carried), None)
        if extreme is None or node.name in bounded:
            continue
        found[node.name] = extreme
        if node.op_type not in _BOUNDED:
            carried |= dict.fromkeys(node.output, extreme)
    return found


def _floats(model: "onnx.ModelProto") -> Iterator[tuple[str, np.ndarray]]:
    """Constants of the graph in fp32, by name."""
    from onnx import TensorProto, numpy_helper

    made = ((node.output[0], a) for node in model.graph.node for a in node.attribute)
    tensors = constants(model) | {name: a.t for name, a in made if a.name == "value"}
    for name, tensor in tensors.items():
        if tensor.data_type == TensorProto.FLOAT:
            yield name, numpy_helper.to_array(tensor)


def _extreme(array: np.ndarray) -> float | None:
    """The largest finite number that half doesn't hold, None without."""
    finite = array[np.isfinite(array) & (np.abs(array) > LARGEST)]
    return float(finite[np.abs(finite).argmax()]) if finite.size else None


def normalising(model: "onnx.ModelProto") -> set[str]:
    """Nodes that compute with nothing but the graph's numbers and constants, before any matrix: how
    a model normalises its numbers, which may be beyond half precision before. Empty when there is
    no arithmetic among them.
    """
    from onnx import TensorProto

    raw = {
        given.name
        for given in model.graph.input
        if given.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    known, found, computes = {"", *constants(model)}, set[str](), False
    for node in model.graph.node:
        reads = {*node.input}
        if reads & raw and reads <= raw | known and node.op_type in _ARITHMETIC | _SHAPES:
            found.add(node.name)
            raw.update(node.output)
            computes = computes or node.op_type in _ARITHMETIC
    return found if computes else set()


def check_ids(model: "onnx.ModelProto") -> None:
    """Raise ``EffectError`` naming a look-up of a converted graph whose ids pass through half
    precision, which rounds them above 2048.
    """
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type not in _INDEXED:
            continue
        waiting, seen = [node.input[_INDEXED[node.op_type]]], set[str]()
        while waiting:
            name = waiting.pop()
            if types.get(name) == TensorProto.FLOAT16:
                raise EffectError(
                    f"ids of {node.op_type} {node.name} pass through half precision ({name}), "
                    "which rounds those above 2048; keep what makes them in fp32 (keep_ops) or "
                    "make them integers in the model"
                )
            maker = makers.get(name)
            if name not in seen and maker is not None and maker.op_type in _CARRYING:
                waiting += maker.input
            seen.add(name)


def check_scales_held(before: "onnx.ModelProto", after: "onnx.ModelProto") -> None:
    """Raise ``EffectError`` naming a scale of int8 that half precision doesn't hold."""
    from onnx import numpy_helper

    old, new = constants(before), constants(after)
    for node in after.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        name = node.input[1]
        if name in old and name in new:
            exact = numpy_helper.to_array(old[name]).astype(np.float64)
            held = numpy_helper.to_array(new[name]).astype(np.float64)
            error = float(np.max(np.abs(held - exact) / exact, initial=0.0))
            if error > SCALE_ERROR:
                raise EffectError(
                    f"scale {name} is {exact.min():g} at the smallest, which half precision holds "
                    f"with an error of {error:.1%} only; leave its layer out of int8 (exclude)"
                )
