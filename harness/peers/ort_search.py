"""A catalogue searched as a graph of MatMul and TopK: exact, and what exports contain."""

import numpy as np

from harness.peers.material import Material, describe_graph

OPSET = 18


def make(material: Material) -> None:
    """Queries x all items' vectors, and the best of them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    top, dim = material.start.outputs[0].shape[1], material.start.inputs[0].shape[1]
    table = np.ascontiguousarray(material.table().T)  # (dim, items)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["query", "table"], ["all"]),
            helper.make_node("TopK", ["all", "top"], ["scores", "items"]),
        ],
        "search",
        [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["requests", dim])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["requests", top]),
            helper.make_tensor_value_info("items", TensorProto.INT64, ["requests", top]),
        ],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([top]), "top")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.save(model, material.file)
    describe_graph(material, precision="fp32", made_of=("TopK",))
