"""The int8 scan of a catalogue with an exact rescore, put in the place of an ONNX graph's scoring.

Codes of all items are multiplied with codes of the queries; the best of them, the candidates, get
their exact fp32 scores, and the list is cut from those.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.schema import UNKNOWN
from harness.stages.catalogue_graph import PREFIX, Chunk, Scoring
from harness.stages.graphs import NOTHING_LEFT
from harness.stages.qdq import weight_scales

if TYPE_CHECKING:
    import onnx

HIDDEN = -3e38
"""What the scan gives to items that may not be recommended: below all it can work out."""
LIMIT = 127
"""Largest code of an item's number."""


class _Writer:
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


def insert_scan(
    model: "onnx.ModelProto", found: Scoring, *, candidates: int, reduce_range: bool
) -> None:
    """Put the scan in the place of ``found``, in the model itself.

    Codes of a query have 7 bits with ``reduce_range``: two products with an item's 8 bits fit 16
    bits then (2 x 127 x 127). QuantizeLinear and DequantizeLinear pairs say all of it, which
    runtimes make one integer kernel of that writes floats.
    """
    put = _Writer(model.graph)
    codes, largest = _query_codes(put, found.queries, middle=64 if reduce_range else 128)
    for at, chunk in enumerate(found.chunks):
        _scan_chunk(put, chunk, (codes, largest), at=at)
        _hide(put, chunk, at=at)
        if found.ids is not None:
            chunk.best.input[1] = put.count(min(candidates, len(chunk.vectors)))
    _rescore(put, found, candidates)
    old = [found.last, found.named, *(chunk.product for chunk in found.chunks)]
    replace_nodes(model.graph, {node.output[0] for node in old if node is not None}, put.nodes)


def _query_codes(put: _Writer, queries: str, *, middle: int) -> tuple[str, str]:
    """The queries through 2 x ``middle`` - 1 codes, and their largest numbers (requests, 1).

    Each is divided by its largest number first: the scale is a constant then, and a request's codes
    are the same in every batch. That leaves the order of its scores as it is.
    """
    size = put.node("Abs", [queries], "scan.size")
    largest = put.node("ReduceMax", [size, put.count(1)], "scan.largest", keepdims=1)
    tiny = put.number("tiny", float(np.finfo(np.float32).tiny))
    divisor = put.node("Max", [largest, tiny], "scan.divisor")  # a query may be all zeros
    even = put.node("Div", [queries, divisor], "scan.even")
    scale = put.number("query_scale", 1 / (middle - 1))
    pair = [scale, put.constant("query_zero", np.array(middle, np.uint8))]
    rounded = put.node("QuantizeLinear", [even, *pair], "scan.query_codes")
    return put.node("DequantizeLinear", [rounded, *pair], "scan.query"), divisor


def _scan_chunk(put: _Writer, chunk: Chunk, query: tuple[str, str], *, at: int) -> None:
    """The product with the codes of a chunk's items under the name of the exact product."""
    name, product = f"{at}.weight", chunk.product.output[0]
    weight = chunk.vectors.T  # (dim, items)
    scales = weight_scales(weight, limit=LIMIT)
    codes = np.clip(np.rint(weight / scales), -LIMIT, LIMIT).astype(np.int8)
    parts = [
        put.constant(f"{name}_codes", codes),
        put.constant(f"{name}_scale", scales),
        put.constant(f"{name}_zero", np.zeros(len(scales), np.int8)),
    ]
    items = put.node("DequantizeLinear", parts, f"scan.{name}", axis=1)
    if not chunk.biased:
        put.node("MatMul", [query[0], items], product)
        return
    even = put.node("MatMul", [query[0], items], f"scan.{at}.even")
    whole = put.node("Mul", [even, query[1]], f"scan.{at}.whole")
    put.node("Add", [whole, chunk.product.input[2]], product)


def _hide(put: _Writer, chunk: Chunk, *, at: int) -> None:
    """Let the mask write ``HIDDEN``: the scan's scores aren't in the units of the exact ones."""
    from onnx import numpy_helper

    shape = put.node("Shape", [chunk.scatter.input[1]], f"scan.{at}.hidden_shape")
    value = numpy_helper.from_array(np.array([HIDDEN], np.float32))
    chunk.scatter.input[2] = put.node("ConstantOfShape", [shape], f"scan.{at}.hidden", value=value)


def _rescore(put: _Writer, found: Scoring, candidates: int) -> None:
    """The exact scores of the candidates, in the order of their ids, and the best of them."""
    best = ("scan.candidate_scores", "scan.candidate_places")
    put.node("TopK", [found.last.input[0], put.count(candidates)], *best, axis=1)
    places, none = best[1], put.constant("none", np.array(UNKNOWN, np.int64))
    if found.ids is not None:
        places = put.node("GatherElements", [found.ids, places], "scan.candidate_ids", axis=1)
    left = put.node("Greater", [best[0], put.number("hidden_half", HIDDEN / 2)], "scan.left")
    allowed = put.node("Where", [left, places, none], "scan.allowed")
    ordered = ("scan.ids", "scan.ids_places")  # TopK gives the first of equal ones: the lowest id
    ids = put.node("TopK", [allowed, put.count(candidates)], *ordered, axis=1, largest=0)
    exact = _exact(put, found, ids)
    absent = put.node("Equal", [ids, none], "scan.absent")
    masked = put.number("masked", NOTHING_LEFT)
    scores = put.node("Where", [absent, masked, exact], "scan.rescored")
    place = found.last.output[1] if found.named is not None else "scan.places"
    items = found.named.output[0] if found.named is not None else found.last.output[1]
    put.node("TopK", [scores, put.count(found.top)], found.last.output[0], place, axis=1)
    put.node("GatherElements", [ids, place], items, axis=1)


def _exact(put: _Writer, found: Scoring, ids: str) -> str:
    """fp32 scores of items, (requests, candidates).

    Summed over the second axis, candidates side by side: so each sum is in the same order, and
    items of equal vectors have equal scores. In a MatMul, and over the last axis, onnxruntime sums
    in an order that depends on where a row lies.
    """
    vectors = put.node("Gather", [_stored(put, "table", found.table), ids], "scan.vectors", axis=0)
    turned = put.node("Transpose", [vectors], "scan.turned", perm=[0, 2, 1])
    query = put.node("Unsqueeze", [found.queries, put.count(2)], "scan.one_query")
    products = put.node("Mul", [turned, query], "scan.products")  # (requests, dim, candidates)
    exact = put.node("ReduceSum", [products, put.count(1)], "scan.sums", keepdims=0)
    if found.bias is None:
        return exact
    bias = put.node("Gather", [_stored(put, "bias", found.bias), ids], "scan.biases", axis=0)
    return put.node("Add", [exact, bias], "scan.exact")


def _stored(put: _Writer, name: str, array: np.ndarray) -> str:
    """The name of a stored tensor of these values: one that is there, such as what histories are
    looked up in, or a new one.
    """
    from onnx import TensorProto, numpy_helper

    for tensor in put.graph.initializer:
        same = tensor.data_type == TensorProto.FLOAT and tuple(tensor.dims) == array.shape
        if same and np.array_equal(numpy_helper.to_array(tensor), array):
            return str(tensor.name)
    return put.constant(name, array)


def replace_nodes(
    graph: "onnx.GraphProto", removed: set[str], made: Sequence["onnx.NodeProto"]
) -> None:
    """Take out the nodes of these first outputs and what only they have read, and put others in."""
    left = [node for node in graph.node if node.output[0] not in removed]
    outputs = {output.name for output in graph.output}
    while True:
        read = {*_reads([*left, *made]), *outputs}
        used = [node for node in left if read & set(node.output)]
        if len(used) == len(left):
            break
        left = used
    nodes = [type(node).FromString(node.SerializeToString()) for node in (*left, *made)]
    stored = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(stored)


def _reads(nodes: Iterable["onnx.NodeProto"]) -> Iterator[str]:
    """Names that nodes and their branches read."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _reads(attribute.g.node)
            yield from (output.name for output in attribute.g.output)
