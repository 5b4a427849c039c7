"""The precision that a graph computes in, read from the graph that a runtime really executes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.native import add_operators

_INTEGER = {
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QGemm",
    "QLinearConv",
    "ConvInteger",
}
FOUR_BIT = ".codes4"
"""End of the name of a tensor that holds two four-bit codes a byte (``stages.lookups``)."""
_FLOAT = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """``precision`` is a label; ``products`` counts matrix products by the type they compute in,
    ``operators`` all nodes by type.
    """

    precision: str
    products: Mapping[str, int]
    operators: Mapping[str, int]


def precision_label(products: Mapping[str, int], *, stored: str | None) -> str:
    """What a graph is called: the narrowest type its products compute in, or, when they compute in
    fp32 from narrower weights (``stored``), both, so that storage never passes for speed.
    """
    for name in ("int8", "fp8", "fp16", "bf16"):
        if products.get(name):
            return name
    return f"fp32 compute, {stored} weights" if stored else "fp32"


def graph_facts(model: Any) -> GraphFacts:
    """Facts of an ``onnx.ModelProto`` (weights may be external and unread)."""
    from onnx import TensorProto

    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    half, bfloat = TensorProto.FLOAT16, TensorProto.BFLOAT16
    names = {half: "fp16", bfloat: "bf16"}
    products: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in _INTEGER:
            products["int8"] += 1
        elif node.op_type in _FLOAT:
            products[
                next((names[types[i]] for i in node.input if types.get(i) in names), "fp32")
            ] += 1
    operators = Counter(node.op_type for node in model.graph.node)
    label = precision_label(products, stored=_stored(model))
    return GraphFacts(label, dict(products), dict(sorted(operators.items())))


def _stored(model: Any) -> str | None:
    from onnx import TensorProto

    # A byte of two codes has no type of its own that every operator takes; its name tells.
    if any(tensor.name.endswith(FOUR_BIT) for tensor in model.graph.initializer):
        return "int4"
    types = {tensor.data_type for tensor in model.graph.initializer}
    if types & {TensorProto.INT8, TensorProto.UINT8}:
        return "int8"
    return "fp16" if TensorProto.FLOAT16 in types else None


def stored_type(path: Path) -> str | None:
    """The narrow type that a model file keeps weights in: int4, int8, fp16, or None."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return _stored(model)


def executed_graph(path: Path, options: Any, providers: list[Any]) -> GraphFacts:
    """Facts of the graph that onnxruntime runs: optimised and placed for ``providers``.

    A file as exported says little: the CPU provider computes fp16 graphs in fp32, and a
    quantised product that isn't fused computes in fp32 too.
    """
    import onnx
    import onnxruntime

    with TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        add_operators(options, path)
        onnxruntime.InferenceSession(str(path), options, providers=providers)
        facts = graph_facts(onnx.load(target, load_external_data=False))
    # The optimised graph may hold narrow weights widened already: what is stored, the file tells.
    label = precision_label(facts.products, stored=stored_type(path))
    return replace(facts, precision=label)
