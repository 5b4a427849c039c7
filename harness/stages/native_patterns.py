"""What one operator that only onnxruntime has can stand for in an ONNX graph: our own for sums of
looked-up rows and for the dot interaction of looked-up vectors, and onnxruntime's integer product
with its bias, which it doesn't make of rows of more than one axis by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.native import DOMAIN
from harness.schema import UNKNOWN
from harness.stages.catalogue_scan import replace_nodes
from harness.stages.graphs import constants
from harness.stages.lookup_forms import MICROSOFT
from harness.stages.lookup_graphs import declare_domains

if TYPE_CHECKING:
    import onnx

INT64 = 7
"""ONNX's number of the type."""

Kind = Literal["bag", "dots", "product"]


@dataclass(frozen=True)
class Match:
    """A tensor that one ``node`` can work out."""

    kind: Kind
    result: str
    node: "onnx.NodeProto"


class Graph:
    """A graph that can be asked who makes and who reads a tensor."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self.constants = constants(model)
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers = dict[str, list["onnx.NodeProto"]]()
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in model.graph.output}
        self.ranks = _ranks(model)

    def made_by(self, name: str, op: str) -> "onnx.NodeProto | None":
        """The node that makes a tensor if it is such an operator, or None."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == op else None

    def reader(self, name: str, *ops: str) -> "onnx.NodeProto | None":
        """The one node that reads a tensor if it is one of these operators, or None."""
        nodes = self.readers.get(name, [])
        alone = len(nodes) == 1 and name not in self.outputs
        return nodes[0] if alone and nodes[0].op_type in ops else None

    def array(self, name: str) -> np.ndarray | None:
        """A constant's numbers, or None."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def floats(self, name: str) -> bool:
        """Whether a tensor is a constant table of floats."""
        table = self.constants.get(name)
        return table is not None and table.data_type == 1 and len(table.dims) == 2


def find_matches(model: "onnx.ModelProto") -> list[Match]:
    """All that such operators can work out, kind by kind in the order of the graph."""
    graph = Graph(model)
    return [*_bags(graph, model), *_interactions(graph, model), *_products(graph, model)]


def replace_matches(model: "onnx.ModelProto", matches: Sequence[Match]) -> None:
    """Put the operators in their places, in the model itself."""
    replace_nodes(model.graph, {m.result for m in matches}, [m.node for m in matches])
    declare_domains(model)


def _attribute(node: "onnx.NodeProto", name: str, default: Any) -> Any:
    from onnx import helper

    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _looks_up(graph: Graph, node: "onnx.NodeProto | None") -> bool:
    """Whether a node looks rows up in a table of floats."""
    if node is None or node.op_type != "Gather" or _attribute(node, "axis", 0) != 0:
        return False
    return graph.floats(node.input[0])


def _own(op: str, inputs: Sequence[str], result: str, **attributes: Any) -> "onnx.NodeProto":
    from onnx import helper

    return helper.make_node(
        op, inputs, [result], name=f"{result}.{op}", domain=DOMAIN, **attributes
    )


def _bags(graph: Graph, model: "onnx.ModelProto") -> Iterator[Match]:
    """Rows looked up and added: Gather -> [Mul by weights ->] ReduceSum over the last but one axis,
    the rows of our own Lookup too.
    """
    for node in model.graph.node:
        narrow = node.op_type == "Lookup" and node.domain == DOMAIN
        if not narrow and not _looks_up(graph, node):
            continue
        rows, weights = node.output[0], ""
        scaled = graph.reader(rows, "Mul")
        if scaled is not None:
            other = next((name for name in scaled.input if name != rows), "")
            widened = graph.made_by(other, "Unsqueeze")
            if widened is None or not _last_axis(graph, widened):
                continue
            rows, weights = scaled.output[0], widened.input[0]
        added = graph.reader(rows, "ReduceSum")
        if added is None or _attribute(added, "keepdims", 1):
            continue
        if not _over_ids(graph, added, node.input[1]):
            continue
        inputs = [*node.input[:2], *([weights] if weights else [])]
        given = {a.name: _attribute(node, a.name, None) for a in node.attribute} if narrow else {}
        given["padding"] = _padding(graph, node, ends=2 * given["scale_bytes"] if narrow else 0)
        op = "Bag" if narrow else "FloatBag"
        yield Match("bag", added.output[0], _own(op, inputs, added.output[0], **given))


def _last_axis(graph: Graph, node: "onnx.NodeProto") -> bool:
    axes = graph.array(node.input[1])
    return axes is not None and axes.ravel().tolist() == [-1]


def _over_ids(graph: Graph, node: "onnx.NodeProto", ids: str) -> bool:
    """Whether a sum of looked-up rows goes over the last axis of their ids."""
    axes = graph.array(node.input[1]) if len(node.input) > 1 else None
    last = graph.ranks.get(ids, 0) - 1
    return axes is not None and axes.ravel().tolist() in ([-2], [last])


def _padding(graph: Graph, node: "onnx.NodeProto", *, ends: int) -> int:
    """The id of the unknown row if its vector is all zero, so that it needn't be added; else -1.
    A row in codes is zero when its scale and offset, the last ``ends`` bytes, are.
    """
    table = graph.array(node.input[0])
    assert table is not None
    return UNKNOWN if not table[UNKNOWN, -ends:].any() else -1


def _ranks(model: "onnx.ModelProto") -> dict[str, int]:
    """Ranks of tensors, as far as they can be inferred; weights aren't copied for it."""
    from onnx import helper, shape_inference

    small = [t for t in model.graph.initializer if t.data_type == INT64]
    others = [
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        for t in model.graph.initializer
        if t.data_type != INT64
    ]
    graph = helper.make_graph(
        list(model.graph.node),
        "ranks",
        [*model.graph.input, *others],
        list(model.graph.output),
        small,
    )
    made = helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    told = shape_inference.infer_shapes(made).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*told.input, *told.value_info, *told.output)
        if value.type.tensor_type.HasField("shape")
    }


def _interactions(graph: Graph, model: "onnx.ModelProto") -> Iterator[Match]:
    """The candidates' part of a dot interaction: vectors X, (requests, candidates, own, dim), of a
    look-up, after given ones or alone; Concat of [those given,] X times the requests' vectors, and
    X times X below the diagonal.
    """
    for node in model.graph.node:
        if node.op_type != "MatMul" or not _turned(
            graph, node.input[1], node.input[0], [0, 1, 3, 2]
        ):
            continue
        vectors = node.input[0]
        looked, given = _vectors(graph, vectors)
        pairs = _pairs(graph, node.output[0])
        joined = graph.reader(pairs, "Concat") if pairs else None
        if looked is None or joined is None:
            continue
        *before, across, last = joined.input if len(joined.input) > 1 else ("", "")
        shared = _across(graph, across, vectors)
        flat = graph.made_by(given, "Unsqueeze") if given else None
        told = [flat.input[0]] if flat is not None else []
        if last != pairs or not shared or before != told or (given and flat is None):
            continue
        inputs = [*looked.input[:2], given, shared]
        yield Match("dots", joined.output[0], _own("Dots", inputs, joined.output[0]))


def _turned(graph: Graph, name: str, of: str, order: list[int]) -> bool:
    node = graph.made_by(name, "Transpose")
    return node is not None and node.input[0] == of and _attribute(node, "perm", None) == order


def _vectors(graph: Graph, name: str) -> tuple["onnx.NodeProto | None", str]:
    """The look-up whose vectors stand in a tensor, and the tensor of those before them, or ""."""
    whole = graph.makers.get(name)
    if _looks_up(graph, whole):
        return whole, ""
    if whole is None or whole.op_type != "Concat" or len(whole.input) != 2:
        return None, ""
    looked = graph.makers.get(whole.input[1])
    return (looked, whole.input[0]) if _looks_up(graph, looked) else (None, "")


def _pairs(graph: Graph, products: str) -> str:
    """The tensor of the products below the diagonal, row by row; "" if they are taken otherwise."""
    flat = graph.reader(products, "Reshape")
    taken = graph.reader(flat.output[0], "Gather") if flat is not None else None
    if taken is None or _attribute(taken, "axis", 0) != 2:
        return ""
    places = graph.array(taken.input[1])
    if places is None or places.ndim != 1 or not len(places):
        return ""
    own = (1 + int(np.sqrt(1 + 8 * len(places)))) // 2
    rows, columns = np.tril_indices(own, -1)
    return taken.output[0] if np.array_equal(places, rows * own + columns) else ""


def _across(graph: Graph, name: str, vectors: str) -> str:
    """The requests' vectors, (requests, shared, dim), whose products with all of ``vectors`` are in
    a tensor, candidate by candidate; "" if it holds something else.
    """
    flat = graph.made_by(name, "Reshape")
    product = graph.made_by(flat.input[0], "MatMul") if flat is not None else None
    if product is None:
        return ""
    rows = graph.made_by(product.input[0], "Reshape")
    turned = graph.made_by(product.input[1], "Transpose")
    if rows is None or turned is None or rows.input[0] != vectors:
        return ""
    return turned.input[0] if _attribute(turned, "perm", None) == [0, 2, 1] else ""


def _products(graph: Graph, model: "onnx.ModelProto") -> Iterator[Match]:
    """Products of codes, per tensor, with codes of a weight, per output, and their bias."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type != "MatMul":
            continue
        rows, weight = (graph.made_by(name, "DequantizeLinear") for name in node.input)
        added = graph.reader(node.output[0], "Add")
        if rows is None or weight is None or added is None:
            continue
        bias = next((name for name in added.input if name != node.output[0]), "")
        codes = graph.constants.get(weight.input[0])
        if codes is None or len(codes.dims) != 2 or _attribute(weight, "axis", 1) != 1:
            continue
        if bias not in graph.constants or list(graph.constants[bias].dims) != [codes.dims[1]]:
            continue
        (x, x_scale, x_zero), (w, w_scale, w_zero) = rows.input, weight.input
        inputs = [x, w, x_scale, w_scale, x_zero, w_zero, bias]
        result = added.output[0]
        made = helper.make_node(
            "MatMulIntegerToFloat", inputs, [result], name=node.name, domain=MICROSOFT
        )
        yield Match("product", result, made)
