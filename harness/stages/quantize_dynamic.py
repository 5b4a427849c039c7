"""ONNX -> ONNX with int8 weights; activations get their scale from each batch (onnxruntime)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.params import Flag, Names
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import (
    choose,
    graph_facts,
    load_graph,
    write_graph,
)
from harness.stages.left_alone import left_alone
from harness.stages.saturation import check_saturation

if TYPE_CHECKING:
    import onnx


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def quantize_dynamic(
    artifact: Artifact,
    context: Context,
    *,
    ops: tuple[Literal["MatMul", "Gemm"], ...] = ("MatMul", "Gemm"),
    per_channel: Flag = True,
    reduce_range: Flag = True,
    keep_last: Flag = True,
    exclude: Names = (),
) -> Outcome:
    """Quantise the weights of MatMul and Gemm to int8 and their inputs on the fly.

    Scores of a row depend on the batch it is in, since the scale of the inputs does. With
    ``reduce_range`` weights use 7 bits: without it the sums overflow on processors that lack VNNI
    instructions. ``keep_last`` leaves what makes the score in fp32, ``exclude`` the nodes whose
    names the patterns match. Raises ``EffectError`` when a pattern matches nothing, when nothing
    is quantised, or when this machine's kernels saturate.
    """
    model = load_graph(artifact)
    chosen, kept = choose(model, ops=ops, exclude=exclude, keep_last=keep_last)
    context.progress("quantising", 0.1)
    made = quantise_weights(model, chosen, per_channel=per_channel, reduce_range=reduce_range)
    done = graph_facts(made).operators.get("MatMulInteger", 0)
    written = write_graph(made, artifact, context, precision="int8")
    context.progress("checking for saturation", 0.7)
    probe = check_saturation(written, context)
    effects = (
        Effect("quantised_ops", 0, done, asked=len(chosen)),
        Effect("model_bytes", artifact.bytes, written.bytes, unit="bytes"),
        probe,
    )
    notes = (
        "dynamic int8: the scores of a row depend on the batch it is in",
        *left_alone(model, kept=kept, chosen=chosen),
    )
    return Outcome(written, effects, notes)


def quantise_weights(
    model: "onnx.ModelProto", chosen: Sequence[str], *, per_channel: bool, reduce_range: bool
) -> "onnx.ModelProto":
    """A copy of ``model`` in which the nodes called ``chosen`` have int8 weights and scale their
    inputs by each batch; raises ``EffectError`` when it isn't all of them.
    """
    import tempfile
    from pathlib import Path

    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantise

    model = onnx.shape_inference.infer_shapes(model)  # a copy
    # Says that shapes are inferred already; without it the tool warns through the root logger.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    kept = [n for n in model.graph.node if n.op_type == "Gemm" and n.name not in chosen]
    _scale(kept, by=2.0)  # the tool rewrites every plain Gemm, with a copy of its weight
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        quantise(
            model,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            # The tool rewrites a Gemm to a MatMul of this name before it looks for names.
            nodes_to_quantize=[*chosen, *(f"{name}_MatMul" for name in chosen)],
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        made = onnx.load(path)
    names = {node.name for node in kept}
    _scale([node for node in made.graph.node if node.name in names], by=0.5)
    done = sum(node.op_type == "MatMulInteger" for node in made.graph.node)
    if done != len(chosen):
        raise EffectError(f"{len(chosen)} nodes were to be quantised, {done} were")
    return made


def _scale(nodes: list["onnx.NodeProto"], *, by: float) -> None:
    """Multiply the ``alpha`` of Gemm nodes."""
    from onnx import helper

    for node in nodes:
        alpha = next((a.f for a in node.attribute if a.name == "alpha"), 1.0) * by
        others = [a for a in node.attribute if a.name != "alpha"]
        del node.attribute[:]
        node.attribute.extend([*others, helper.make_attribute("alpha", alpha)])
