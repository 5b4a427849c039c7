"""What an int8 stage left in fp32, in words for its notes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.stages.graphs import graph_facts

if TYPE_CHECKING:
    import onnx

RECURRENT = ("GRU", "LSTM", "RNN")


def left_alone(
    model: "onnx.ModelProto", *, kept: Sequence[str], chosen: Sequence[str] = ()
) -> tuple[str, ...]:
    """Notes on ``kept`` nodes, recurrent layers and embedding tables of a graph, and on a table of
    the ``chosen`` nodes that is looked up too: it stays as it is beside its int8 copy.
    """
    facts = graph_facts(model)
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    read = [node.input[1] for node in model.graph.node if node.name in chosen]
    twice = [name for name in dict.fromkeys(read) if name in looked_up]
    notes = [f"kept in fp32: {', '.join(kept)}"] if kept else []
    notes += [f"{name} layers stay fp32" for name in RECURRENT if facts.operators.get(name)]
    if facts.embedding_parameters:
        notes.append(f"embedding tables stay fp32 ({facts.embedding_parameters:,} numbers)")
    notes += [f"{name} is stored twice: fp32 to look up, int8 to score with" for name in twice]
    return tuple(notes)
