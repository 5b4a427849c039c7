"""ONNX -> QDQ ONNX: int8 weights and activations, with ranges measured on training rows."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.params import Count, Flag, Names, Positive
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import (
    Feeds,
    choose,
    constants,
    draw_rows,
    load_graph,
    ort_session,
    row_batches,
    weighted_nodes,
    write_graph,
)
from harness.stages.left_alone import TABLES_STAY, left_alone
from harness.stages.qdq import (
    Scales,
    check_scales,
    input_scale,
    insert_scales,
    integer_kernels,
    layer_weight,
    weight_scales,
)
from harness.stages.saturation import LIMIT, check_saturation, saturation_gap
from harness.stages.tensorrt_dialect import (
    decode_tables,
    quantised_products,
    require_dialect,
    weight_codes,
)

if TYPE_CHECKING:
    import onnx

OPS = ("MatMul", "Gemm")
BINS = 2048
Ranges = dict[str, tuple[float, float]]


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def quantize_static(
    artifact: Artifact,
    context: Context,
    *,
    calibration_rows: Count = 4096,
    method: Literal["minmax", "percentile", "entropy"] = "minmax",
    percentile: Positive = 99.99,
    per_channel: Flag = True,
    reduce_range: Flag | None = None,
    keep_last: Flag = True,
    exclude: Names = (),
    dialect: Literal["onnxruntime", "tensorrt"] = "onnxruntime",
    tables: Flag = False,
) -> Outcome:
    """Quantise MatMul and Gemm with constant weights to int8, inputs by ranges of training rows.

    Interactions, norms, the score's own layer (``keep_last``) and layers whose names ``exclude``
    matches stay in fp32. With ``reduce_range`` (so unless it is false) weights use 7 bits, without
    which sums overflow on processors that lack VNNI instructions. ``dialect: tensorrt`` writes what
    TensorRT takes: codes symmetric around 0, weights in 8 bits per channel; with ``tables``,
    embedding tables too, decoded before they are looked up.

    Raises ``DataError`` at a row that isn't finite, ``UnsupportedError`` for an option that
    contradicts the dialect and ``EffectError`` for a range of 0, a pattern without a match, kernels
    that saturate, and layers that onnxruntime doesn't run in integers.
    """
    limit = weight_codes(dialect, reduce_range=reduce_range, per_channel=per_channel, tables=tables)
    symmetric = dialect == "tensorrt"
    model = load_graph(artifact)
    chosen, kept = choose(model, ops=OPS, exclude=exclude, keep_last=keep_last)
    split = context.data.splits["train"]
    rows = draw_rows(split, count=calibration_rows, seed=context.seed)
    batches = row_batches(context.data, split, rows, artifact.inputs)
    context.progress(f"calibrating on {len(rows)} rows", 0.1)
    layers = [node for node in weighted_nodes(model, OPS) if node.name in chosen]
    ranges = measure_ranges(
        model, [n.input[0] for n in layers], batches, method=method, percentile=percentile
    )
    scales = layer_scales(
        model, layers, ranges, limit=limit, per_channel=per_channel, symmetric=symmetric
    )
    notes = [f"calibrated by {method} on {len(rows)} training rows, seed {context.seed}"]
    made = insert_scales(model, scales)
    told = left_alone(model, kept=kept, chosen=chosen)
    if tables:
        names = decode_tables(made)
        told = tuple(note for note in told if not note.startswith(TABLES_STAY))
        notes.append(f"tables in int8, a scale a row: {', '.join(names)}")
    return finish(made, artifact, context, notes=(*notes, *told), dialect=dialect)


def layer_scales(
    model: "onnx.ModelProto",
    layers: Sequence["onnx.NodeProto"],
    ranges: Ranges,
    *,
    limit: int,
    per_channel: bool,
    symmetric: bool = False,
) -> dict[str, Scales]:
    """Scales of each layer by name, from the ranges of their inputs; raises ``EffectError`` naming
    a layer whose range is 0.
    """
    known, found = constants(model), {}
    for node in layers:
        told = f"the input of {node.name}"
        scale, zero = input_scale(*ranges[node.input[0]], name=told, symmetric=symmetric)
        weights = weight_scales(layer_weight(node, known), limit=limit, per_channel=per_channel)
        found[node.name] = Scales(scale, zero, weights, limit, symmetric)
    return found


def finish(
    model: "onnx.ModelProto",
    artifact: Artifact,
    context: Context,
    *,
    notes: tuple[str, ...],
    dialect: str = "onnxruntime",
) -> Outcome:
    """Write a graph with int8 layers, check that scales are usable, that onnxruntime runs each
    layer in integers and that its sums don't saturate here. Of TensorRT's dialect the graph alone
    is checked; what onnxruntime makes of it on this machine is told.
    """
    scales = check_scales(model)
    asked = sum(tensor.name.endswith(".weight_codes") for tensor in model.graph.initializer)
    asked += sum(node.op_type == "MatMulInteger" for node in model.graph.node)
    written = write_graph(model, artifact, context, precision="int8")
    context.progress("checking the integer kernels", 0.8)
    done = integer_kernels(str(written.file))
    if dialect == "tensorrt":
        require_dialect(model, what="TensorRT")
        notes = (*notes, f"in TensorRT's dialect; onnxruntime runs {done} of {asked} in integers")
        done = quantised_products(model)
        gap = saturation_gap(written, context)
        if not gap.after <= LIMIT:
            notes = (*notes, "int8 sums saturate on this CPU: here scores are not TensorRT's")
    else:
        gap = check_saturation(written, context)
    if done != asked:
        raise EffectError(f"{asked} layers are quantised, onnxruntime runs {done} in integers")
    effects = (
        Effect("quantised_ops", 0, done, asked=asked),
        Effect("scales", 0, scales),
        Effect("model_bytes", artifact.bytes, written.bytes, unit="bytes"),
        gap,
    )
    return Outcome(written, effects, notes)


def measure_ranges(
    model: "onnx.ModelProto",
    tensors: Sequence[str],
    batches: Iterator[Feeds],
    *,
    method: str,
    percentile: float,
) -> Ranges:
    """Lowest and highest value of each tensor over all batches, one batch in memory at a time.

    Raises ``EffectError`` naming a tensor that isn't finite.
    """
    names = sorted(set(tensors))
    run = _with_outputs(model, names)
    collector = None if method == "minmax" else _collector(method, percentile)
    ranges: Ranges = {}
    for batch in batches:
        values = dict(zip(names, run(batch), strict=True))
        for name, array in values.items():
            if not np.isfinite(array).all():
                raise EffectError(f"tensor {name} is not finite on a calibration row")
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = (min(low, float(array.min())), max(high, float(array.max())))
        if collector is not None:
            with contextlib.redirect_stdout(io.StringIO()):  # the collector prints
                collector.collect(values)
    if collector is not None:
        ranges = {name: _clipped(collector, name, ranges[name]) for name in names}
    return ranges


def _with_outputs(model: "onnx.ModelProto", names: Sequence[str]) -> Any:
    """A function from feeds to the values of inner tensors."""
    import onnx

    probed = onnx.ModelProto.FromString(model.SerializeToString())
    del probed.graph.output[:]
    for name in names:
        probed.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    session = ort_session(probed)
    return lambda batch: session.run(list(names), batch)


def _collector(method: str, percentile: float) -> Any:
    from onnxruntime.quantization.calibrate import HistogramCollector

    bins = BINS if method == "percentile" else 128
    return HistogramCollector(method, False, bins, 128, percentile, "same")


def _clipped(collector: Any, name: str, whole: tuple[float, float]) -> tuple[float, float]:
    """The range that the histogram chose; the whole one where that is empty (all values equal)."""
    with contextlib.redirect_stdout(io.StringIO()):
        low, high = (float(v) for v in collector.compute_collection_result()[name][:2])
    return (low, high) if min(low, 0.0) < max(high, 0.0) else whole
