"""Tables of a graph read out, and their look-ups replaced."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.stages.graphs import constants
from harness.stages.lookup_forms import Written
from harness.stages.lookups import Lookup
from harness.stages.side_files import pointing_tensor, tensor_array, whole_map

if TYPE_CHECKING:
    import onnx


def table_arrays(
    model: "onnx.ModelProto", lookups: Sequence[Lookup], folder: Path
) -> dict[str, np.ndarray]:
    """The tables' numbers, (rows, dim) float32 by name, of a graph in ``folder``; mapped where
    they are in a side file.
    """
    known = constants(model)
    return {each.table: tensor_array(known[each.table], folder) for each in lookups}


def replace_tables(model: "onnx.ModelProto", tables: Mapping[Lookup, Written]) -> None:
    """Take the tables out of a graph and look rows up as written; results keep their names.
    Constants that are mapped from scratch files stay there until the graph is written.
    """
    made = {
        result: written.nodes(ids, result)
        for lookup, written in tables.items()
        for ids, result in zip(lookup.ids, lookup.results, strict=True)
    }
    nodes = [
        new
        for node in model.graph.node
        for new in (made.get(node.output[0]) or [type(node).FromString(node.SerializeToString())])
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    gone = {lookup.table for lookup in tables}
    for at in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[at].name in gone:
            del model.graph.initializer[at]
    for written in tables.values():
        for name, array in written.constants.items():
            model.graph.initializer.append(_tensor(array, name))
    declare_domains(model)


def declare_domains(model: "onnx.ModelProto") -> None:
    """Name the domains, beside ONNX's own, whose operators a graph has and doesn't name yet."""
    from onnx import helper

    known = {each.domain for each in model.opset_import} | {"", "ai.onnx"}
    for domain in sorted({node.domain for node in model.graph.node} - known):
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _tensor(array: np.ndarray, name: str) -> "onnx.TensorProto":
    from onnx import numpy_helper

    if whole_map(array):
        return pointing_tensor(array, name)
    return numpy_helper.from_array(np.asarray(array), name)
