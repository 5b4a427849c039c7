"""ONNX -> FP16 ONNX: weights and sums in half precision, what half can't hold kept in fp32."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.params import Count, Flag, Names, Positive
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import (
    downstream,
    last_nodes,
    load_graph,
    sort_nodes,
    weighted_nodes,
    write_graph,
)
from harness.stages.half_check import check_range
from harness.stages.half_precision import (
    beyond_half,
    check_ids,
    check_scales_held,
    name_nodes,
    normalising,
)
from harness.stages.tensorrt_dialect import FOREIGN, require_dialect

if TYPE_CHECKING:
    import onnx

KEPT_OPS = (
    "Softmax",
    "LogSoftmax",
    "LayerNormalization",
    "ReduceSum",
    "ReduceMean",
    "Sigmoid",
    "Exp",
    "Pow",
)
"""Operators that overflow or lose much in half precision."""
RECURRENT = {"GRU", "LSTM", "RNN"}
"""Operators beside which half precision takes onnxruntime 1.32 down (a segmentation fault when its
CPU engine loads the file with all optimisations), kept in fp32 or not.
"""
QUANTISED = FOREIGN | {"QuantizeLinear", "DequantizeLinear"}
TOLERANCE, INT8_TOLERANCE = 0.01, 0.02
SCALED_OPSET = 19
"""The first in which QuantizeLinear and DequantizeLinear know half precision."""


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def convert_fp16(
    artifact: Artifact,
    context: Context,
    *,
    keep_score: Flag = True,
    keep_ops: Names = (),
    check_rows: Count = 128,
    tolerance: Positive | None = None,
) -> Outcome:
    """Convert to FP16; inputs, outputs, ids, softmax, norms, large sums and the layer that makes
    the score (``keep_score``) keep their types, and so do operators of ``keep_ops``, what a number
    beyond half precision passes through (a mask of -1e9 up to its softmax) and how the model
    normalises its numbers. A graph in TensorRT's dialect of int8 keeps its int8.

    Scores of ``check_rows`` training rows, of unknown ids and of empty, one-item and full histories
    are computed in true half precision: not finite ones, and ones further from fp32 than
    ``tolerance`` (root mean square, as a share of the scores' spread; 0.01, or 0.02 beside int8,
    whose codes may round the other way, unless given; a single one: ten times that), raise
    ``EffectError``, as do ids that pass through half precision. Raises ``UnsupportedError`` for a
    graph of another int8 or with recurrent layers.
    """
    model = load_graph(artifact)
    operators = {node.op_type for node in model.graph.node}
    quantised = bool(operators & QUANTISED)
    if quantised:
        require_dialect(model, what="convert_fp16")
        model = _with_opset(model, SCALED_OPSET)
    if found := sorted(operators & RECURRENT):
        raise UnsupportedError(
            f"convert_fp16: the graph has {', '.join(found)}, and onnxruntime crashes when it "
            "loads such a graph in half precision; leave the stage out"
        )
    if _halves(model):
        raise EffectError(
            "convert_fp16 would have no effect: the graph is in half precision already"
        )
    context.progress("converting to FP16", 0.1)
    sort_nodes(model.graph)
    name_nodes(model)
    kept, notes = _kept(model, keep_score=keep_score)
    made = _convert(model, kept, keep_ops=keep_ops)
    halves = _halves(made)
    if halves == 0:
        raise EffectError("convert_fp16 had no effect: no weight is in half precision")
    check_ids(made)
    check_scales_held(model, made)
    precision = "int8+fp16" if quantised else "fp16"
    tolerance = tolerance or (INT8_TOLERANCE if quantised else TOLERANCE)
    written = write_graph(made, artifact, context, precision=precision)
    context.progress(f"checking ranges on {check_rows} rows", 0.4)
    drift, checked = check_range(artifact, written, context, rows=check_rows, tolerance=tolerance)
    effects = (
        Effect("fp16_parameters", 0, halves),
        Effect("model_bytes", artifact.bytes, written.bytes, unit="bytes"),
        Effect("drift", 0.0, drift, unit="share of the scores' spread"),
    )
    ops = ", ".join(sorted(operators & {*KEPT_OPS, *keep_ops})) or "none in this graph"
    return Outcome(written, effects, (f"operators kept in fp32: {ops}", *notes, *checked))


def _kept(model: "onnx.ModelProto", *, keep_score: bool) -> tuple[set[str], list[str]]:
    """Names of the nodes that stay in fp32 for what they compute, and why."""
    kept, notes = set[str](), []
    if keep_score:
        kept |= downstream(model, last_nodes(model, weighted_nodes(model, ("MatMul", "Gemm"))))
        notes.append("the layer that makes the score is kept in fp32")
    first = normalising(model)
    if beyond := beyond_half(model, bounded=first):
        numbers = ", ".join(f"{number:g}" for number in dict.fromkeys(beyond.values()))
        names = ", ".join(beyond)
        notes.append(f"kept in fp32, since half precision doesn't hold {numbers}: {names}")
    if first:
        notes.append(f"numbers are normalised in fp32: {', '.join(sorted(first))}")
    return kept | set(beyond) | first, notes


def _convert(
    model: "onnx.ModelProto", kept: set[str], *, keep_ops: tuple[str, ...]
) -> "onnx.ModelProto":
    """The converted graph."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    copy = type(model).FromString(model.SerializeToString())  # the converter changes what it gets
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers too small for half; scores are checked below
        made: Any = convert_float_to_float16(
            copy,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *KEPT_OPS, *keep_ops],
            node_block_list=sorted(kept),
        )
    _join_casts(made.graph, kept)
    sort_nodes(made.graph)  # casts stand at the end
    return made  # type: ignore[no-any-return]


def _with_opset(model: "onnx.ModelProto", least: int) -> "onnx.ModelProto":
    """The graph in at least that opset."""
    from onnx import version_converter

    current = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if current >= least:
        return model
    made: onnx.ModelProto = version_converter.convert_version(model, least)
    return made


def _join_casts(graph: "onnx.GraphProto", kept: set[str]) -> None:
    """Take out the casts to half and back that the converter puts after an input or a node that it
    keeps in fp32, before the next such node and before an output: they would round what is kept.
    """
    makers = {node.output[0]: node for node in graph.node}
    outputs, inputs = {o.name for o in graph.output}, {i.name for i in graph.input}
    names, removed = dict[str, str](), set[str]()
    for last in makers.values():
        first = makers.get(last.input[0]) if _casts(last, "FLOAT") else None
        if first is None or not _casts(first, "FLOAT16"):
            continue
        exact, rounded = first.input[0], last.output[0]
        if exact in inputs or (exact in makers and makers[exact].name in kept):
            names |= {exact: rounded} if rounded in outputs else {rounded: exact}
            removed.add(rounded)
    names = {old: names.get(new, new) for old, new in names.items()}  # an output may be read too
    nodes = [node for node in graph.node if node.output[0] not in removed]
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    read = {name for node in nodes for name in node.input} | outputs
    wanted = [node for node in nodes if node.op_type != "Cast" or node.output[0] in read]
    copies = [type(node).FromString(node.SerializeToString()) for node in wanted]
    del graph.node[:]
    graph.node.extend(copies)


def _casts(node: "onnx.NodeProto", to: str) -> bool:
    """Whether the node casts to that type."""
    from onnx import TensorProto

    kind = TensorProto.DataType.Value(to)
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)


def _halves(model: "onnx.ModelProto") -> int:
    """How many numbers the graph stores in half precision."""
    from onnx import TensorProto

    return sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT16
    )
