"""Where onnxruntime put a graph's nodes, in one sentence: a node on the CPU is told, and whether it
only works out shapes.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPU = "CPUExecutionProvider"
_SHAPES = {"Shape", "Size"}
"""Operators that read the form of a tensor, never its numbers."""
_CONSTANT = {"Constant", "ConstantOfShape"}


@dataclass(frozen=True, slots=True)
class Placement:
    """Nodes by provider; of those on the CPU the types of the ones that only work out shapes, and
    of the others, with how many of each.
    """

    nodes: dict[str, int]
    shapes: dict[str, int]
    computing: dict[str, int]

    @property
    def mixed(self) -> bool:
        """Whether the CPU works on the numbers too."""
        return bool(self.computing)

    @property
    def sentence(self) -> str:
        """The verdict, such as ``mixed: 3 of 120 nodes on the CPU (TopK, 2 Gather)``."""
        total = sum(self.nodes.values())
        beside = sum(self.shapes.values())
        shapes = f"{beside} of {total} nodes on the CPU only work out shapes ({_told(self.shapes)})"
        if self.mixed:
            count = sum(self.computing.values())
            told = f"mixed: {count} of {total} nodes on the CPU ({_told(self.computing)})"
            return f"{told}; another {shapes}" if self.shapes else told
        return f"all numbers on the GPU; {shapes}" if self.shapes else f"all {total} on the GPU"


def placement(session: Any, file: Path) -> Placement:
    """Where the nodes of a session's graph are, as onnxruntime recorded it; ``file`` is the graph
    that the session was made of.
    """
    only_shapes = shape_nodes(file)
    nodes, shapes, computing = Counter[str](), Counter[str](), Counter[str]()
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            nodes[part.ep_name] += 1
            if part.ep_name == CPU:
                kind = shapes if _is_shape(node, only_shapes) else computing
                kind[node.op_type] += 1
    return Placement(dict(nodes), dict(shapes), dict(computing))


def shape_nodes(file: Path) -> set[str]:
    """Names of the nodes of a graph whose inputs are all told by the form of other tensors, or are
    constant.
    """
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    known = {tensor.name for tensor in graph.initializer} | {""}
    found = set[str]()
    for node in graph.node:  # in an order in which what is read was made before
        constant = node.op_type in _CONSTANT and not node.input
        if node.op_type in _SHAPES or constant or known.issuperset(node.input):
            known.update(node.output)
            found.add(node.name)
    return found


def _is_shape(node: Any, only_shapes: Iterable[str]) -> bool:
    return node.op_type in _SHAPES or (bool(node.name) and node.name in only_shapes)


def _told(kinds: dict[str, int]) -> str:
    ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in ordered)
