"""ONNX -> FP16 ONNX: weights and sums in half precision, what half can't hold kept in fp32."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.params import Count, Flag, Names, Positive
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import (
    Feeds,
    downstream,
    draw_rows,
    last_nodes,
    load_graph,
    ort_scores,
    row_batches,
    weighted_nodes,
    write_graph,
)
from harness.stages.reference import reference_scores
from harness.stages.saturation import relative_gap

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


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def convert_fp16(
    artifact: Artifact,
    context: Context,
    *,
    keep_score: Flag = True,
    keep_ops: Names = (),
    check_rows: Count = 128,
    tolerance: Positive = 0.01,
) -> Outcome:
    """Convert to FP16; inputs, outputs, ids, softmax, norms, large sums and the layer that makes
    the score (``keep_score``) keep their types, and so do operators of ``keep_ops``.

    Scores of ``check_rows`` training rows, and of a row of unknown ids, are computed in true half
    precision: not finite ones, and ones further from fp32 than ``tolerance`` (root mean square, as
    a share of the scores' spread), raise ``EffectError``. Raises ``UnsupportedError`` for a graph
    that is quantised or has recurrent layers.
    """
    model = load_graph(artifact)
    operators = {node.op_type for node in model.graph.node}
    if found := sorted(operators & {"QuantizeLinear", "DequantizeLinear", "MatMulInteger"}):
        raise UnsupportedError(
            f"convert_fp16 takes an fp32 graph, this one has {', '.join(found)}; leave out one of "
            "the two stages"
        )
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
    made, cut = _convert(model, keep_ops=keep_ops, keep_score=keep_score)
    halves = _halves(made)
    if halves == 0:
        raise EffectError("convert_fp16 had no effect: no weight is in half precision")
    written = write_graph(made, artifact, context, precision="fp16")
    context.progress(f"checking ranges on {check_rows} rows", 0.4)
    drift = check_range(artifact, written, context, rows=check_rows, tolerance=tolerance)
    effects = (
        Effect("fp16_parameters", 0, halves),
        Effect("model_bytes", artifact.bytes, written.bytes, unit="bytes"),
        Effect("drift", 0.0, drift, unit="share of the scores' spread"),
    )
    kept = ", ".join(sorted(operators & {*KEPT_OPS, *keep_ops})) or "none in this graph"
    notes = [f"operators kept in fp32: {kept}"]
    if keep_score:
        notes.append("the layer that makes the score is kept in fp32")
    if cut:
        notes.append(f"{cut} constants were cut to the range of half precision")
    return Outcome(written, effects, tuple(notes))


def _convert(
    model: "onnx.ModelProto", *, keep_ops: tuple[str, ...], keep_score: bool
) -> tuple["onnx.ModelProto", int]:
    """The converted graph, and of how many constants values had to be cut."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    score = last_nodes(model, weighted_nodes(model, ("MatMul", "Gemm"))) if keep_score else set()
    kept = downstream(model, score)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")  # the converter warns once for each constant that it cuts
        made: Any = convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *KEPT_OPS, *keep_ops],
            node_block_list=sorted(kept),
        )
    _join_casts(made.graph, kept)
    cut = sum("will be truncated" in str(warning.message) for warning in told)
    return made, cut


def _join_casts(graph: "onnx.GraphProto", kept: set[str]) -> None:
    """Take out the casts to half and back that the converter puts after a node that it keeps in
    fp32, before the next such node and before an output: they would round what is kept.
    """
    makers = {node.output[0]: node for node in graph.node}
    outputs = {output.name for output in graph.output}
    names, removed = dict[str, str](), set[str]()
    for last in makers.values():
        first = makers.get(last.input[0]) if last.op_type == "Cast" else None
        if first is None or first.op_type != "Cast" or first.input[0] not in makers:
            continue
        if makers[first.input[0]].name in kept:
            exact, rounded = first.input[0], last.output[0]
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


def _halves(model: "onnx.ModelProto") -> int:
    """How many numbers the graph stores in half precision."""
    from onnx import TensorProto

    return sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT16
    )


def check_range(
    fp32: Artifact, fp16: Artifact, context: Context, *, rows: int, tolerance: float
) -> float:
    """Drift of the scores of training rows and of unknown ids, in true half precision (the CPU
    engine computes FP16 graphs in fp32, which hides overflow). Raises ``EffectError``.
    """
    split = context.data.splits["train"]
    drawn = draw_rows(split, count=rows, seed=context.seed)
    batches = list(row_batches(context.data, split, drawn, fp32.inputs))
    half, exact = reference_scores(load_graph(fp16)), ort_scores(fp32.file)
    with np.errstate(all="ignore"):  # overflow is what is looked for, in the scores below
        found = [half(batch) for batch in (*batches, _unknown(batches[0]))]
    expected = [exact(batch) for batch in (*batches, _unknown(batches[0]))]
    scores, right = (
        np.concatenate([np.ravel(part) for part in all_]) for all_ in (found, expected)
    )
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise EffectError(
            f"FP16 overflows: {bad} of {len(scores)} scores are not finite; keep the operators "
            "that overflow in fp32 (keep_ops) or scale the numbers down"
        )
    drift = relative_gap(scores.astype(np.float64), right.astype(np.float64))
    if not drift <= tolerance:
        raise EffectError(
            f"FP16 scores are {drift:.2%} of their spread away from fp32, tolerance {tolerance:.2%}"
        )
    return drift


def _unknown(batch: Feeds) -> Feeds:
    """One row with id 0 and number 0 everywhere: what an unseen user and item look like."""
    return {name: np.zeros_like(array[:1]) for name, array in batch.items()}
