"""Tables of a graph read out, and their look-ups replaced."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.stages.graphs import constants
from harness.stages.lookup_forms import MICROSOFT, Written
from harness.stages.lookups import Lookup

if TYPE_CHECKING:
    import onnx


def table_arrays(model: "onnx.ModelProto", lookups: Sequence[Lookup]) -> dict[str, np.ndarray]:
    """The tables' numbers, (rows, dim) float32 by name."""
    from onnx import numpy_helper

    known = constants(model)
    return {each.table: numpy_helper.to_array(known[each.table]) for each in lookups}


def replace_tables(model: "onnx.ModelProto", tables: Mapping[Lookup, Written]) -> None:
    """Take the tables out of a graph and look rows up as written; results keep their names."""
    from onnx import helper, numpy_helper

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
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    domains = {each.domain for each in model.opset_import}
    if MICROSOFT not in domains and any(node.domain == MICROSOFT for node in nodes):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
