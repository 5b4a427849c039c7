"""Where an ONNX graph scores its whole catalogue.

In a graph as exported each chunk of the catalogue is queries x vectors, masked by ScatterElements,
cut by TopK; several chunks' lists are joined and cut again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import EffectError, UnsupportedError
from harness.stages.graphs import constants

if TYPE_CHECKING:
    import onnx

PREFIX = "scan"
"""What every name begins with that the scan adds to a graph."""

Nodes = dict[str, "onnx.NodeProto"]


@dataclass(frozen=True)
class Chunk:
    """One part of the catalogue: its nodes, and vectors (items, dim) float32."""

    product: "onnx.NodeProto"
    scatter: "onnx.NodeProto"
    best: "onnx.NodeProto"
    vectors: np.ndarray

    @property
    def biased(self) -> bool:
        """Whether a number is added to each item's score."""
        return len(self.product.input) > 2 and self.product.input[2] != ""


@dataclass(frozen=True)
class Scoring:
    """How a graph scores its catalogue.

    ``last`` is the TopK that gives the list; ``ids`` the tensor of the items of its candidates,
    None where the places of one chunk are the items; ``named`` gives the list's items.
    """

    queries: str
    chunks: tuple[Chunk, ...]
    last: "onnx.NodeProto"
    named: "onnx.NodeProto | None"
    ids: str | None
    top: int
    bias: np.ndarray | None  # (items,)

    @property
    def table(self) -> np.ndarray:
        """All items' vectors, (items, dim) float32; of several chunks a copy."""
        parts = [chunk.vectors for chunk in self.chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def items(self) -> int:
        """Rows of the table, the one of no item included."""
        return sum(len(chunk.vectors) for chunk in self.chunks)

    @property
    def dim(self) -> int:
        """Numbers of an item's vector."""
        return int(self.chunks[0].vectors.shape[1])


def find_scoring(model: "onnx.ModelProto", *, stage: str) -> Scoring:
    """Where the graph scores its catalogue. Raises ``EffectError`` where that is a scan already and
    ``UnsupportedError`` naming the node that isn't as expected, for ``stage``.
    """
    try:
        return _find(model, stage)
    except UnsupportedError as error:
        raise UnsupportedError(f"{stage}: {error}") from error


def _find(model: "onnx.ModelProto", stage: str) -> Scoring:
    known = constants(model)
    if any(name.startswith(f"{PREFIX}.") for name in known):
        raise EffectError(f"{stage}: the catalogue is scanned in int8 already; leave it out")
    makers = {output: node for node in model.graph.node for output in node.output}
    last = _made_by(makers, model.graph.output[0].name, "TopK")
    ids = _made_by(makers, model.graph.output[1].name, "Where").input[1]
    ends, named, joined = [last], None, None
    if ids != last.output[1]:
        named = _made_by(makers, ids, "GatherElements")
        joined = named.input[0]
        ends = [
            _made_by(makers, name, "TopK")
            for name in _made_by(makers, last.input[0], "Concat").input
        ]
    chunks = [_chunk(end, makers, known) for end in ends]
    if len({chunk.product.input[0] for chunk in chunks}) > 1:
        raise _unexpected("chunks of the catalogue are multiplied with different queries")
    top = int(_array(last.input[1], makers, known).ravel()[0])
    bias = _bias(chunks, makers, known)
    return Scoring(chunks[0].product.input[0], tuple(chunks), last, named, joined, top, bias)


def _unexpected(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what}; expected queries x stored fp32 vectors of the items, "
        "ScatterElements, TopK, as a next-item model's export has them: put the stage after "
        "export_onnx, and let what makes the score in fp32"
    )


def _made_by(makers: Nodes, name: str, kind: str, *, through: str = "") -> "onnx.NodeProto":
    """The node of ``kind`` that makes a tensor, past one of the kind ``through``."""
    node = makers.get(name)
    if node is not None and node.op_type == through:
        node = makers.get(node.input[0])
    if node is None or node.op_type not in kind.split(" or "):
        came = f"a {node.op_type} ({node.name})" if node is not None else "no node"
        raise _unexpected(f"{name!r} is made by {came} where {kind} was looked for")
    return node


def _chunk(best: "onnx.NodeProto", makers: Nodes, known: Mapping[str, "onnx.TensorProto"]) -> Chunk:
    scatter = _made_by(makers, best.input[0], "ScatterElements", through="Slice")
    product = _made_by(makers, scatter.input[0], "Gemm or MatMul", through="Pad")
    values = {a.name: a.f if a.name in ("alpha", "beta") else a.i for a in product.attribute}
    if values.get("alpha", 1) != 1 or values.get("beta", 1) != 1 or values.get("transA", 0):
        raise _unexpected(f"{product.name} scales or turns what it multiplies")
    vectors = _array(product.input[1], makers, known)
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise _unexpected(f"the vectors of {product.name} are {vectors.dtype} {vectors.shape}")
    return Chunk(product, scatter, best, vectors if values.get("transB", 0) else vectors.T)


def _array(name: str, makers: Nodes, known: Mapping[str, "onnx.TensorProto"]) -> np.ndarray:
    """A stored tensor, or what Slice and Transpose nodes make of one."""
    from onnx import numpy_helper

    if name in known:
        stored: np.ndarray = numpy_helper.to_array(known[name])
        return stored
    node = _made_by(makers, name, "Slice or Transpose")
    array = _array(node.input[0], makers, known)
    if node.op_type == "Transpose":
        return array.T
    starts, ends, *rest = (_array(one, makers, known).tolist() for one in node.input[1:])
    axes = rest[0] if rest else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    cut = [slice(None)] * array.ndim
    for axis, *part in zip(axes, starts, ends, steps, strict=True):
        cut[axis] = slice(*part)
    return array[tuple(cut)]


def _bias(
    chunks: Sequence[Chunk], makers: Nodes, known: Mapping[str, "onnx.TensorProto"]
) -> np.ndarray | None:
    """What is added to each item's score, (items,); None where nothing is."""
    names = [chunk.product.input[2] for chunk in chunks if chunk.biased]
    if not names:
        return None
    parts = [_array(name, makers, known) for name in names]
    if [part.shape for part in parts] != [(len(chunk.vectors),) for chunk in chunks]:
        raise _unexpected(f"{chunks[0].product.name} adds something else than one number an item")
    return np.concatenate(parts)
