"""Sums of bags of rows in an ONNX graph: fp32 rows, and our row-wise codes in each of their forms.

Ids come padded with row 0, which is all zeros, so that a sum over all places is the bag's.
"""

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.peers.material import Material, describe_graph
from harness.stages.lookup_forms import Form, encode, written
from harness.stages.lookup_graphs import declare_domains
from harness.stages.native_patterns import find_matches, replace_matches

if TYPE_CHECKING:
    import onnx

OPSET = 21


def make_fp32(material: Material) -> None:
    """Gather and ReduceSum of the table as it is."""
    from onnx import helper

    _write(
        material,
        {"table": material.table()},
        [helper.make_node("Gather", ["table", "ids"], ["rows"])],
        precision="fp32",
    )


def _coded(material: Material, *, form: Form, bits: Literal[4, 8]) -> None:
    """Codes of ``bits``, looked up in that form."""
    # As quantize_tables does; our own operator is shown with its smallest rows.
    scales: Literal["fp16", "fp32"] = "fp16" if bits == 4 or form == "native" else "fp32"
    table = material.table()
    coded = encode(table, form, bits=bits, scales=scales, search=True, where="table")
    parts = written("table", coded)
    _write(
        material,
        dict(parts.constants),
        parts.nodes("ids", "rows"),
        precision=f"fp32 compute, int{bits} weights",
        native=form == "native",
    )


def _write(
    material: Material,
    constants: dict[str, np.ndarray],
    nodes: list["onnx.NodeProto"],
    *,
    precision: str,
    native: bool = False,
) -> None:
    import onnx
    from onnx import helper, numpy_helper

    dim = material.start.outputs[0].shape[1]
    places = material.start.inputs[0].shape[1]
    constants = {**constants, "places": np.array([1])}
    graph = helper.make_graph(
        [*nodes, helper.make_node("ReduceSum", ["rows", "places"], ["sums"], keepdims=0)],
        "bags",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["requests", places])],
        [helper.make_tensor_value_info("sums", onnx.TensorProto.FLOAT, ["requests", dim])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    domains = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    declare_domains(model)
    if native:  # as the stage native_operators does
        replace_matches(model, find_matches(model))
    onnx.save(model, material.file)
    describe_graph(material, precision=precision, made_of=("Bag" if native else "ReduceSum",))


make_plain8 = partial(_coded, form="plain", bits=8)
make_plain4 = partial(_coded, form="plain", bits=4)
make_block8 = partial(_coded, form="block", bits=8)
make_block4 = partial(_coded, form="block", bits=4)
make_native8 = partial(_coded, form="native", bits=8)
make_native4 = partial(_coded, form="native", bits=4)
