"""The int8 scan of a catalogue with an exact rescore, put in the place of an ONNX graph's scoring.

Codes of all items are multiplied with codes of the queries; the best of them, the candidates, get
their exact fp32 scores, and the list is cut from those.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.schema import UNKNOWN
from harness.stages.catalogue_graph import Chunk, Scoring
from harness.stages.graphs import NOTHING_LEFT
from harness.stages.qdq import weight_scales
from harness.stages.scan_nodes import Writer, padding, put_best

if TYPE_CHECKING:
    import onnx

HIDDEN = -3e38
"""What the scan gives to items that may not be recommended: below all it can work out."""
LIMIT = 127
"""Largest code of an item's number."""
CANDIDATES = ("scan.candidate_scores", "scan.candidate_places")
"""Names of the candidates' scores in the scan, and of where they stand."""


def insert_scan(
    model: "onnx.ModelProto", found: Scoring, *, candidates: int, reduce_range: bool
) -> None:
    """Put the scan in the place of ``found``, in the model itself.

    Codes of a query have 7 bits with ``reduce_range``: two products with an item's 8 bits fit 16
    bits then (2 x 127 x 127). QuantizeLinear and DequantizeLinear pairs say all of it, which
    runtimes make one integer kernel of that writes floats.
    """
    put = Writer(model.graph)
    codes, largest = _query_codes(put, found.queries, middle=64 if reduce_range else 128)
    old = [found.last, found.named, *(chunk.product for chunk in found.chunks)]
    for at, chunk in enumerate(found.chunks):
        count = min(candidates, len(chunk.vectors))
        more = 0 if _is_cut(chunk) else padding(len(chunk.vectors), count)
        _scan_chunk(put, chunk, (codes, largest), at=at, more=more)
        _hide(put, chunk, at=at, more=more)
        outputs = CANDIDATES if found.ids is None else tuple(chunk.best.output)
        size = len(chunk.vectors) + more
        put_best(
            put,
            chunk.best.input[0],
            size,
            count,
            outputs=(outputs[0], outputs[1]),
            name=f"{at}.best",
        )
        old.append(chunk.best)
    _rescore(put, found, candidates)
    replace_nodes(model.graph, {node.output[0] for node in old if node is not None}, put.nodes)


def _query_codes(put: Writer, queries: str, *, middle: int) -> tuple[str, str]:
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


def _is_cut(chunk: Chunk) -> bool:
    """Whether a chunk's scores are cut to its items, or a number is added to each, so that there is
    no place for more columns.
    """
    return chunk.biased or chunk.best.input[0] != chunk.scatter.output[0]


def _scan_chunk(put: Writer, chunk: Chunk, query: tuple[str, str], *, at: int, more: int) -> None:
    """The product with the codes of a chunk's items, and ``more`` columns of zeros, under the name
    of the exact product.
    """
    name, product = f"{at}.weight", chunk.product.output[0]
    weight = chunk.vectors.T  # (dim, items)
    scales = weight_scales(weight, limit=LIMIT)
    codes = np.clip(np.rint(weight / scales), -LIMIT, LIMIT).astype(np.int8)
    codes, scales = np.pad(codes, ((0, 0), (0, more))), np.pad(scales, (0, more), mode="edge")
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


def _hide(put: Writer, chunk: Chunk, *, at: int, more: int) -> None:
    """Let the mask write ``HIDDEN``, into the ``more`` columns too: the scan's scores aren't in the
    units of the exact ones.
    """
    from onnx import numpy_helper

    if more:
        size = len(chunk.vectors)
        beyond = put.constant(f"{at}.beyond", np.arange(size, size + more)[None, :])
        start, end = put.count(0), put.count(1)
        whole = put.node("Shape", [chunk.scatter.input[1]], f"scan.{at}.mask_shape")
        requests = put.node("Slice", [whole, start, end, start], f"scan.{at}.requests")
        wanted = put.node("Concat", [requests, end], f"scan.{at}.beyond_shape", axis=0)
        each = put.node("Expand", [beyond, wanted], f"scan.{at}.beyond_each")
        chunk.scatter.input[1] = put.node(
            "Concat", [chunk.scatter.input[1], each], f"scan.{at}.mask", axis=1
        )
    shape = put.node("Shape", [chunk.scatter.input[1]], f"scan.{at}.hidden_shape")
    value = numpy_helper.from_array(np.array([HIDDEN], np.float32))
    chunk.scatter.input[2] = put.node("ConstantOfShape", [shape], f"scan.{at}.hidden", value=value)


def _rescore(put: Writer, found: Scoring, candidates: int) -> None:
    """The exact scores of the candidates, in the order of their ids, and the best of them."""
    best = CANDIDATES
    if found.ids is not None:
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


def _exact(put: Writer, found: Scoring, ids: str) -> str:
    """fp32 scores of items, (requests, candidates).

    Summed over the second axis, candidates side by side: so each sum is in the same order, and
    items of equal vectors have equal scores. In a MatMul, and over the last axis, onnxruntime sums
    in an order that depends on where a row lies.
    """
    vectors = put.node("Gather", [stored(put, "table", found.table), ids], "scan.vectors", axis=0)
    turned = put.node("Transpose", [vectors], "scan.turned", perm=[0, 2, 1])
    query = put.node("Unsqueeze", [found.queries, put.count(2)], "scan.one_query")
    products = put.node("Mul", [turned, query], "scan.products")  # (requests, dim, candidates)
    exact = put.node("ReduceSum", [products, put.count(1)], "scan.sums", keepdims=0)
    if found.bias is None:
        return exact
    bias = put.node("Gather", [stored(put, "bias", found.bias), ids], "scan.biases", axis=0)
    return put.node("Add", [exact, bias], "scan.exact")


def stored(put: Writer, name: str, array: np.ndarray) -> str:
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
