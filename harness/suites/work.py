"""The work of one call, counted from an artifact's files: operations, bytes read and written.

Operations are two per multiply-accumulate of the products (the artifact's ``macs``; sums, ReLUs
and the like aren't counted). Bytes are those that any implementation must move at least once: the
weights as the file holds them, the table rows that are looked up, inputs and outputs; what passes
between layers isn't counted. So the count is a lower bound, and the time it allows is one too.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.artifact import Artifact
from harness.errors import UnsupportedError
from harness.modules import axis_sizes, example_feeds, load_module
from harness.suites.memory import table_bytes
from harness.tables import TensorSpec

_SIZES = ((2, 3), (2, 5), (3, 3), (3, 8))
"""(requests, candidates) that lookups are counted at, to tell what they grow with."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of ``bytes`` from which rows of ``row_bytes`` are looked up: so many each call, each
    request, and each scored row.
    """

    bytes: int
    row_bytes: int
    per_call: int
    per_request: int
    per_row: int

    def gathered(self, *, requests: int, rows: int) -> int:
        """Bytes of the rows that one call looks up."""
        lookups = self.per_call + self.per_request * requests + self.per_row * rows
        return lookups * self.row_bytes


@dataclass(frozen=True, slots=True)
class Counts:
    """What an artifact's calls are made of; ``macs`` is of one scored row."""

    macs: int
    weight_bytes: int
    tables: tuple[Table, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """One call's work; ``gathered`` is pairs of a table's bytes and the bytes looked up in it."""

    operations: int
    weight_bytes: int
    gathered: tuple[tuple[int, int], ...]
    input_bytes: int
    output_bytes: int

    @property
    def dense_bytes(self) -> int:
        """Bytes read or written one after the other: weights, inputs, outputs."""
        return self.weight_bytes + self.input_bytes + self.output_bytes

    @property
    def gathered_bytes(self) -> int:
        """Bytes of all rows looked up in tables."""
        return sum(size for _, size in self.gathered)

    @property
    def bytes(self) -> int:
        """All bytes of the call."""
        return self.dense_bytes + self.gathered_bytes


def call_work(counts: Counts, *, requests: int, candidates: int) -> Work:
    """The work of a call of ``requests`` of ``candidates`` each."""
    rows = requests * candidates
    sizes = axis_sizes(requests, candidates)
    gathered = ((t.bytes, t.gathered(requests=requests, rows=rows)) for t in counts.tables)
    return Work(
        operations=2 * counts.macs * rows,
        weight_bytes=counts.weight_bytes,
        gathered=tuple(pair for pair in gathered if pair[1]),
        input_bytes=sum(_tensor_bytes(spec, sizes) for spec in counts.inputs),
        output_bytes=sum(_tensor_bytes(spec, sizes) for spec in counts.outputs),
    )


def _tensor_bytes(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    axes = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
    return int(np.prod(axes, dtype=np.int64)) * int(np.dtype(spec.dtype).itemsize)


def count_work(artifact: Artifact) -> Counts:
    """What an artifact's calls are made of.

    Raises ``UnsupportedError`` with the reason when it can't be counted: a TensorRT plan, a model
    without counted multiply-accumulates, lookups that the graph doesn't show.
    """
    if artifact.format == "faiss":
        raise UnsupportedError("not counted: what a faiss index reads isn't in the graph")
    if artifact.format == "tensorrt":
        raise UnsupportedError("not counted: a TensorRT plan doesn't show its weights and lookups")
    if artifact.macs <= 0:
        raise UnsupportedError("not counted: the artifact tells no multiply-accumulates")
    torch_format = artifact.format == "torch"
    total, tables = _torch_counts(artifact) if torch_format else _onnx_counts(artifact)
    stored = table_bytes(artifact)
    if stored is None:
        raise UnsupportedError("not counted: weights of several types, tables aren't told apart")
    if artifact.embedding_parameters and not tables:
        raise UnsupportedError("not counted: the model has tables, but no lookup in them is seen")
    return Counts(artifact.macs, total - stored, tables, artifact.inputs, artifact.outputs)


Lookups = dict[tuple[str, int, int], int]
"""How often a table is looked up, by its name, its bytes and those of one of its rows."""


def _tables(count: Callable[[int, int], Lookups]) -> tuple[Table, ...]:
    """The tables of a model whose lookups at a size ``count`` gives."""
    few, more, requests, check = (count(*size) for size in _SIZES)
    tables = []
    for key in few:
        name, size, row_bytes = key
        per_row = (more[key] - few[key]) // 4  # 2 x 5 rows against 2 x 3
        per_request = requests[key] - few[key] - 3 * per_row
        per_call = few[key] - 2 * per_request - 6 * per_row
        if check[key] != per_call + 3 * per_request + 24 * per_row:
            raise UnsupportedError(f"not counted: lookups in {name!r} don't grow with the rows")
        tables.append(Table(size, row_bytes, per_call, per_request, per_row))
    return tuple(tables)


def _torch_counts(artifact: Artifact) -> tuple[int, tuple[Table, ...]]:
    """Bytes of all tensors of the file, and the tables that a forward looks rows up in."""
    with artifact.file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    header.pop("__metadata__", None)
    ends = (tensor["data_offsets"] for tensor in header.values())
    whole: dict[str, int] = {}
    tables = _tables(_torch_lookups(artifact, whole))
    return sum(end - start for start, end in ends) + sum(whole.values()), tables


def _torch_lookups(artifact: Artifact, whole: dict[str, int]) -> Callable[[int, int], Lookups]:
    """Counts the lookups of a forward by watching torch's embedding operators; the bytes of tables
    that other operators read go into ``whole``, by name.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    module = load_module(artifact)
    names = {parameter.data_ptr(): name for name, parameter in module.named_parameters()}
    kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    held = {part.weight.data_ptr() for part in module.modules() if isinstance(part, kinds)}
    seen: Lookups = Counter()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if "embedding" in func.name():
                table, ids = args[0], args[1]
                size = table.element_size()
                name = names.get(table.data_ptr(), "a computed table")
                seen[name, table.numel() * size, table.shape[1] * size] += ids.numel()
            else:
                read = (a for a in args if torch.is_tensor(a) and a.data_ptr() in held)
                whole.update({names[a.data_ptr()]: a.numel() * a.element_size() for a in read})
            return func(*args, **(kwargs or {}))

    def count(requests: int, candidates: int) -> Lookups:
        seen.clear()
        feeds = example_feeds(artifact.inputs, requests=requests, candidates=candidates)
        with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
            module(**feeds)
        return Counter(seen)

    return count


def _onnx_counts(artifact: Artifact) -> tuple[int, tuple[Table, ...]]:
    """Bytes of all initialisers of the file, and the tables that its Gather nodes read; a table
    that another node reads counts among the first once more, as it is read whole.
    """
    import onnx

    model = onnx.load(artifact.file, load_external_data=False)
    total = sum(_initializer_bytes(tensor) for tensor in model.graph.initializer)
    sources = _gathered(model)
    total += sum(size for name, size, _ in {key for key, _ in sources} if _whole(model, name))
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 1024:
            tensor.ClearField("raw_data")  # shapes don't follow from weights; copies stay small
    shapes = _index_shapes(model, artifact.inputs, {indices for _, indices in sources})

    def count(requests: int, candidates: int) -> Lookups:
        found = shapes(axis_sizes(requests, candidates))
        lookups: Lookups = Counter()
        for key, indices in sources:
            lookups[key] += int(np.prod(found[indices], dtype=np.int64))
        return lookups

    return total, _tables(count)


def _gathered(model: Any) -> list[tuple[tuple[str, int, int], str]]:
    """Each look-up in a 2-D weight as (name, bytes, bytes of a row) and the ids' name: gathered as
    it is stored, or dequantised on the way; scales that are gathered by the same ids count too.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    scaled = {n.output[0]: n.input for n in model.graph.node if n.op_type == "DequantizeLinear"}
    gathers = [n for n in model.graph.node if n.op_type == "Gather"]
    found, ids = [], set()
    for node in gathers:
        parts = list(scaled.get(node.input[0], [node.input[0]]))
        if parts[0] in weights and len(weights[parts[0]].dims) == 2:
            rows = weights[parts[0]].dims[0]
            per_row = [n for n in parts if n in weights and list(weights[n].dims[:1]) == [rows]]
            size = sum(_initializer_bytes(weights[name]) for name in per_row)
            found.append(((parts[0], size, size // rows), node.input[1]))
            ids.add(node.input[1])
    for node in gathers:
        scales = weights.get(node.input[0])
        if node.input[1] in ids and scales is not None and len(scales.dims) == 1:
            size = _initializer_bytes(scales)
            found.append(((scales.name, size, size // scales.dims[0]), node.input[1]))
    return found


def _whole(model: Any, table: str) -> bool:
    """Whether a node reads a table, as it is stored or dequantised, otherwise than row by row."""
    nodes = model.graph.node
    same = {table} | {
        n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] == table
    }
    return any(
        same & set(node.input)
        for node in nodes
        if node.op_type not in ("Gather", "DequantizeLinear")
    )


def _initializer_bytes(tensor: Any) -> int:
    from onnx import helper

    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return int(np.prod(tensor.dims, dtype=np.int64)) * int(kind.itemsize)


def _index_shapes(
    model: Any, inputs: tuple[TensorSpec, ...], names: set[str]
) -> Callable[[Mapping[str, int]], dict[str, list[int]]]:
    """Gives the shapes of the named values at a size, as ONNX infers them from the inputs'."""
    import onnx

    specs = {spec.name: spec for spec in inputs}
    constant = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}

    def shapes(sizes: Mapping[str, int]) -> dict[str, list[int]]:
        sized = onnx.ModelProto()
        sized.CopyFrom(model)
        del sized.graph.value_info[:]
        for value in sized.graph.input:
            if value.name not in specs:
                continue
            for dim, axis in zip(
                value.type.tensor_type.shape.dim, specs[value.name].shape, strict=True
            ):
                dim.dim_value = sizes[axis] if isinstance(axis, str) else axis
        graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
        known = {value.name: _shape(value) for value in (*graph.input, *graph.value_info)}
        return {name: _known(name, {**known, **constant}) for name in names}

    return shapes


def _shape(value: Any) -> list[int] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return [int(dim.dim_value) for dim in kind.shape.dim]


def _known(name: str, shapes: Mapping[str, list[int] | None]) -> list[int]:
    shape = shapes.get(name)
    if shape is None:
        raise UnsupportedError(f"not counted: the graph doesn't tell the shape of the ids {name!r}")
    return shape
