"""What an int8 stage quantised and what it left in fp32, in words for its notes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.stages.graphs import constants, graph_facts

if TYPE_CHECKING:
    import onnx

TABLES_STAY = "embedding tables stay fp32"
RECURRENT = ("GRU", "LSTM", "RNN")


def left_alone(
    model: "onnx.ModelProto", *, kept: Sequence[str], chosen: Sequence[str] = ()
) -> tuple[str, ...]:
    """Notes on the ``chosen`` nodes of an fp32 graph and their share of its numbers, on ``kept``
    ones, recurrent layers and embedding tables, and on a table of the chosen nodes that is looked
    up too: it stays as it is beside its int8 copy.
    """
    facts, known = graph_facts(model), constants(model)
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    read = [node.input[1] for node in model.graph.node if node.name in chosen]
    twice = [name for name in dict.fromkeys(read) if name in looked_up]
    notes = []
    if chosen:
        numbers = sum(int(np.prod(known[name].dims)) for name in dict.fromkeys(read))
        share = numbers / facts.parameters
        notes.append(f"int8: {', '.join(chosen)} ({share:.1%} of the numbers)")
    notes += [f"kept in fp32: {', '.join(kept)}"] if kept else []
    notes += [f"{name} layers stay fp32" for name in RECURRENT if facts.operators.get(name)]
    if facts.embedding_parameters:
        notes.append(f"{TABLES_STAY} ({facts.embedding_parameters:,} numbers)")
    notes += [f"{name} is stored twice: fp32 to look up, int8 to score with" for name in twice]
    return tuple(notes)
