"""ONNX -> ONNX, exact: towers over the candidates of each request as products of plain matrices."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.params import Count
from harness.stages.base import Context, Outcome, stage
from harness.stages.catalogue_scan import replace_nodes
from harness.stages.export_onnx import output_gap
from harness.stages.graph_timing import told_pair
from harness.stages.graphs import graph_facts, load_graph, ort_outputs, write_graph
from harness.stages.native_patterns import Graph
from harness.stages.rewriting import compared_batches

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-5
SHAPE_PARTS = 15
"""The opset from which Shape gives some of the axes."""
ALONE = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "HardSigmoid")
"""Operators that take every number by itself, whatever the shape."""


@dataclass(frozen=True)
class _Step:
    """A node of a tower, with the ``bias`` that is added after a product ("" for none), and the
    tensor that comes of it.
    """

    node: "onnx.NodeProto"
    bias: str
    result: str


@dataclass(frozen=True)
class _Tower:
    """What is worked out for every row of ``start``, of ``rank`` axes, whose last are ``columns``;
    ``result`` has as many ``outputs``, or no such axis where it is squeezed (0).
    """

    start: str
    rank: int
    columns: int
    steps: tuple[_Step, ...]
    result: str
    outputs: int


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def flatten_candidates(
    artifact: Artifact, context: Context, *, rows: Count | None = None
) -> Outcome:
    """The same scores with requests and candidates as one axis of rows through every tower: a
    product and its bias are then one Gemm, which a runtime joins with the activation.

    The graph is timed against the one before, on batches of ``rows`` (256 candidates, or 8
    histories), and what came of it is told. Raises ``EffectError`` when no product of more than two
    axes has a bias (so in graphs in 8 bits), or when scores change by more than 1e-5.
    """
    model = load_graph(artifact)
    towers = list(_towers(model))
    if not towers:
        raise EffectError(
            "flatten_candidates had no effect: no product of rows on more than one axis with an "
            "fp32 weight has a bias; leave the stage out, or put it before the stages that quantise"
        )
    old = sum(graph_facts(model).operators.values())
    for tower in towers:
        _flatten(model, tower)
    written = write_graph(model, artifact, context)
    context.progress("comparing scores", 0.3)
    gap = _compare(artifact, written, context)
    context.progress("timing the graphs", 0.6)
    new = sum(graph_facts(model).operators.values())
    return Outcome(
        written,
        (
            Effect("flattened_towers", 0, len(towers), asked=len(towers)),
            Effect("nodes", old, new),
        ),
        (
            f"largest difference of scores: {gap:.1e}",
            told_pair(artifact, written, context, rows=rows),
        ),
    )


def _towers(model: "onnx.ModelProto") -> Iterator[_Tower]:
    """The longest chains of products, their biases and operators of single numbers."""
    graph, seen = Graph(model), set[str]()
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    for node in model.graph.node if opset >= SHAPE_PARTS else ():
        rank = graph.ranks.get(node.input[0], 0) if node.op_type == "MatMul" else 0
        if rank < 3 or node.output[0] in seen:
            continue
        steps = _steps(graph, node)
        seen |= {step.node.output[0] for step in steps}
        if not any(step.bias for step in steps):
            continue
        weights = [graph.constants[s.node.input[1]] for s in steps if s.node.op_type == "MatMul"]
        result, outputs = steps[-1].result, weights[-1].dims[1]
        squeezed = graph.reader(result, "Squeeze") if outputs == 1 else None
        if squeezed is not None and _last_axis(graph, squeezed, rank):
            result, outputs = squeezed.output[0], 0
        yield _Tower(node.input[0], rank, weights[0].dims[0], tuple(steps), result, outputs)


def _steps(graph: Graph, first: "onnx.NodeProto") -> list[_Step]:
    """What follows from a product on, row by row; nothing when its weight isn't a constant."""
    found: list[_Step] = []
    node: onnx.NodeProto | None = first
    while node is not None:
        step = _Step(node, "", node.output[0])
        if node.op_type == "MatMul":
            weight = graph.constants.get(node.input[1])
            if weight is None or len(weight.dims) != 2:
                break
            step = _with_bias(graph, step, weight.dims[1])
        found.append(step)
        node = graph.reader(step.result, "MatMul", *ALONE)
        if node is not None and node.input[0] != step.result:
            break  # as the right side of a product
    return found


def _with_bias(graph: Graph, step: _Step, width: int) -> _Step:
    """A product's step with the bias that is added next, if there is one."""
    added = graph.reader(step.result, "Add")
    if added is None:
        return step
    name = next((each for each in added.input if each != step.result), "")
    bias = graph.constants.get(name)
    if bias is None or list(bias.dims) != [width]:
        return step
    return _Step(step.node, name, added.output[0])


def _last_axis(graph: Graph, node: "onnx.NodeProto", rank: int) -> bool:
    axes = graph.array(node.input[1]) if len(node.input) > 1 else None
    return axes is not None and axes.ravel().tolist() in ([-1], [rank - 1])


def _flatten(model: "onnx.ModelProto", tower: _Tower) -> None:
    """Put the tower over rows in the place of the one over all axes, in the model itself."""
    from onnx import helper, numpy_helper

    def constant(name: str, values: list[int]) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
        return name

    def make(op: str, inputs: list[str], result: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [result], name=result, **attributes))
        return result

    nodes: list[onnx.NodeProto] = []
    result = tower.result
    columns = constant(f"{result}.columns", [-1, tower.columns])
    rows = make("Reshape", [tower.start, columns], f"{result}.start")
    for step in tower.steps:
        nodes.append(_over_rows(step, rows))
        rows = nodes[-1].output[0]
    shape = make("Shape", [tower.start], f"{result}.axes", start=0, end=tower.rank - 1)
    if tower.outputs:
        outputs = constant(f"{result}.outputs", [tower.outputs])
        shape = make("Concat", [shape, outputs], f"{result}.shape", axis=0)
    make("Reshape", [rows, shape], result, allowzero=1)  # a request may have no candidates
    replace_nodes(model.graph, {result}, nodes)


def _over_rows(step: _Step, rows: str) -> "onnx.NodeProto":
    """A step's node, or its product and bias as one Gemm, for rows."""
    from onnx import helper

    node: onnx.NodeProto = type(step.node).FromString(step.node.SerializeToString())
    made = f"{step.result}.rows"
    if step.bias:
        return helper.make_node("Gemm", [rows, node.input[1], step.bias], [made], name=node.name)
    node.input[0], node.output[0] = rows, made
    return node


def _compare(before: Artifact, after: Artifact, context: Context) -> float:
    """Largest difference of the two graphs' scores; raises ``EffectError`` above ``TOLERANCE``."""
    old, new, worst = ort_outputs(before.file), ort_outputs(after.file), 0.0
    for batch in compared_batches(before, context):
        gap, allowed, fault = output_gap(new(batch), old(batch), tolerance=TOLERANCE)
        if fault or not gap <= allowed:
            told = fault or f"scores differ by {gap:.1e}, at most {allowed:g} is rounding"
            raise EffectError(f"flatten_candidates isn't exact here: {told}")
        worst = max(worst, gap)
    return worst
