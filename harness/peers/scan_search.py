"""A catalogue searched by our own operator: scanned in codes, the best items scored exactly."""

from functools import partial

import numpy as np

from harness.native import DOMAIN, library
from harness.peers.candidates import set_candidates
from harness.peers.material import Material, describe_graph
from harness.peers.spec import Search
from harness.stages.graphs import ort_outputs
from harness.stages.native_scan import Bits, pack_items, scan_node

OPSET = 18


def _make(material: Material, *, bits: Bits) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    library()
    table, asked = material.table(), Search.model_validate(material.start.model.parameters)
    codes, scales = pack_items(table, bits)
    constants = {"codes": codes, "scales": scales, "vectors": table}
    names = ("scores", TensorProto.FLOAT), ("items", TensorProto.INT64)
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]

    def lists(candidates: int, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        how = {"bits": bits, "candidates": candidates, "top": asked.top, "padding": -1}
        node = scan_node(["query", *constants], ["scores", "items"], **how)
        shape = ["requests", table.shape[1]]
        graph = helper.make_graph(
            [node],
            "search",
            [helper.make_tensor_value_info("query", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(n, kind, ["requests", asked.top]) for n, kind in names],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), material.file)
        scores, items = ort_outputs(material.file)({"query": queries})
        return scores, items

    set_candidates(asked, table, lists)
    describe_graph(material, precision=f"int{bits}", made_of=("Scan",))


make8 = partial(_make, bits=8)
make4 = partial(_make, bits=4)
