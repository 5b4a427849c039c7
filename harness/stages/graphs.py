"""ONNX graphs of artifacts: what is in them, their quantisable nodes, and writing them whole."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.artifact import Artifact, write_artifact
from harness.errors import DataError, EffectError
from harness.modules import axis_sizes, copy_description
from harness.native import add_operators
from harness.schema import UNKNOWN, FeatureSchema
from harness.stages.base import Context
from harness.stages.side_files import SIDE_FOLDER, check_side_files, save_graph
from harness.tables import PAST, Prepared, Split, TensorSpec, feeds

if TYPE_CHECKING:
    import onnx

PRODUCER = "recsys-compression-harness"

NOTHING_LEFT = -1e4
"""Score of the places of a list that no item was left for (``harness.models.catalogue``)."""

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a graph holds: numbers stored (index and shape constants, int64, not counted), those
    that are looked up by id, and how many nodes there are of each operator.
    """

    parameters: int
    embedding_parameters: int
    operators: Mapping[str, int]


def load_graph(artifact: Artifact, *, weights: bool = True) -> "onnx.ModelProto":
    """The graph of an ONNX artifact, with all ``weights`` or without those of a side file (see
    ``side_files``); raises ``DataError`` when it isn't one.
    """
    import onnx

    try:
        model = onnx.load(artifact.file, load_external_data=weights)
    except Exception as error:  # protobuf's own class isn't reachable through onnx
        raise DataError(f"{artifact.file}: not a readable ONNX file ({error})") from error
    check_side_files(model, artifact.folder)
    return model


def write_graph(
    model: "onnx.ModelProto", parent: Artifact, context: Context, *, precision: str | None = None
) -> Artifact:
    """Write a graph as the ONNX artifact of ``context.folder``, described after ``parent`` with
    another ``precision`` where it changed; gives the description, sizes read from the file.

    Nodes are put in order and stripped of where they were traced, so that the same model always
    gives the same bytes. Raises ``EffectError`` when the strict checker or ``parent``'s free axes
    don't accept the file.
    """
    import onnx

    sort_nodes(model.graph)
    _stamp(model, context.folder.name.removesuffix(".partial"), parent)
    path = context.folder / "model.onnx"
    save_graph(model, path, folder=parent.folder)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EffectError(f"the ONNX file is not valid: {reason}") from error
    written = onnx.load(path, load_external_data=False)
    check_free_axes(written, parent.inputs)
    copy_description(parent, context.folder)
    facts = graph_facts(written)
    return write_artifact(
        replace(
            parent,
            folder=context.folder,
            format="onnx",
            parameters=facts.parameters,
            embedding_parameters=facts.embedding_parameters,
            precision=precision or parent.precision,
        )
    )


def _stamp(model: "onnx.ModelProto", key: str, parent: Artifact) -> None:
    del model.metadata_props[:]
    del model.graph.value_info[:]  # types of inner tensors, which a stage may have changed
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    model.doc_string = ""
    model.producer_name = PRODUCER
    for name, value in (("key", key), ("model", parent.model.name)):
        model.metadata_props.add(key=name, value=value)


def sort_nodes(graph: "onnx.GraphProto") -> None:
    """Put nodes after the nodes that they read from; the order is kept where it is right."""
    ready = {"", *(i.name for i in graph.initializer), *(i.name for i in graph.input)}
    waiting, ordered = list(graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if _reads(node) <= ready:
                ordered.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            names = ", ".join(sorted(node.name or node.op_type for node in later))
            raise EffectError(f"the graph has a cycle or an input that nothing makes: {names}")
        waiting = later
    if ordered != list(graph.node):
        copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
        del graph.node[:]
        graph.node.extend(copies)


def _reads(node: "onnx.NodeProto") -> set[str]:
    """Names a node reads, those that its own branches take from outside included."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            inner = attribute.g
            made = {o for n in inner.node for o in n.output}
            made |= {i.name for i in (*inner.initializer, *inner.input)}
            reads: set[str] = set().union(*(_reads(n) for n in inner.node))
            names |= (reads | {o.name for o in inner.output}) - made
    return names


def check_free_axes(model: "onnx.ModelProto", inputs: Sequence[TensorSpec]) -> None:
    """Raise ``EffectError`` naming the input and axis when the file fixes an axis that should be
    free, frees one that should be fixed, or lacks an input.
    """
    found = {i.name: i.type.tensor_type.shape.dim for i in model.graph.input}
    if set(found) != {spec.name for spec in inputs}:
        raise EffectError(
            f"the ONNX file takes {sorted(found)}, the model {sorted(s.name for s in inputs)}"
        )
    for spec in inputs:
        for axis, (dim, asked) in enumerate(zip(found[spec.name], spec.shape, strict=True)):
            if isinstance(asked, str) and not dim.dim_param:
                raise EffectError(
                    f"input {spec.name!r}, axis {axis} ({asked}) is frozen to {dim.dim_value} in "
                    "the ONNX file; the model's forward fixes it (a view, a loop or a constant of "
                    "that size): use sizes taken from the tensor"
                )
            if isinstance(asked, int) and dim.dim_value != asked:
                raise EffectError(
                    f"input {spec.name!r}, axis {axis} is {dim.dim_value or dim.dim_param} in the "
                    f"ONNX file, expected {asked}"
                )


def graph_facts(model: "onnx.ModelProto") -> GraphFacts:
    """What a graph holds."""
    from onnx import TensorProto

    sizes = {
        tensor.name: int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type not in (TensorProto.INT64, TensorProto.BOOL)
    }
    nodes = model.graph.node
    decoded = {n.output[0]: n.input[0] for n in nodes if n.op_type == "DequantizeLinear"}
    tables = {decoded.get(n.input[0], n.input[0]) for n in nodes if n.op_type == "Gather"}
    operators = Counter(node.op_type for node in model.graph.node)
    embedding = sum(sizes[name] for name in tables & set(sizes))
    return GraphFacts(sum(sizes.values()), embedding, dict(sorted(operators.items())))


def constants(model: "onnx.ModelProto") -> dict[str, "onnx.TensorProto"]:
    """Initialisers by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def weighted_nodes(model: "onnx.ModelProto", ops: Sequence[str]) -> list["onnx.NodeProto"]:
    """MatMul and Gemm nodes with a constant matrix on their second input, in graph order (those
    of two computed inputs, such as an interaction, are not among them).
    """
    known = constants(model)
    return [
        node
        for node in model.graph.node
        if node.op_type in ops
        and node.input[1] in known
        and node.input[0] not in known
        and len(known[node.input[1]].dims) == 2
        and _plain(node, known)
    ]


def _plain(node: "onnx.NodeProto", known: Mapping[str, "onnx.TensorProto"]) -> bool:
    """Whether a Gemm is x @ W + constant bias (any MatMul is)."""
    values = {a.name: a.f if a.name in ("alpha", "beta") else a.i for a in node.attribute}
    bias = len(node.input) < 3 or node.input[2] in known
    scaled = values.get("alpha", 1.0) != 1.0 or values.get("beta", 1.0) != 1.0
    return node.op_type == "MatMul" or (bias and not scaled and not values.get("transA", 0))


def last_nodes(model: "onnx.ModelProto", nodes: Sequence["onnx.NodeProto"]) -> set[str]:
    """Names of the nodes that make the score: those of ``nodes``, and products with a part of a
    table, whose result reaches an output through no other one. Rounded, they would leave few
    distinct scores.
    """
    names = {node.name for node in nodes} | _table_products(model)
    producer = {output: node for node in model.graph.node for output in node.output}
    waiting, seen, last = [o.name for o in model.graph.output], set[str](), set[str]()
    while waiting:
        node = producer.get(waiting.pop())
        if node is None or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        if node.name in names:
            last.add(node.name)
        else:
            waiting.extend(node.input)
    return last


def _table_products(model: "onnx.ModelProto") -> set[str]:
    """Names of MatMul and Gemm nodes whose matrix a node cuts or turns out of a constant, as a
    large catalogue's is, or the centroids of one in product codes (on the left).
    """
    known, fixed, found = set(constants(model)), set[str](), set[str]()
    for node in model.graph.node:
        product = node.op_type in ("MatMul", "Gemm")
        if product and (node.input[1] in fixed or node.input[0] in known | fixed):
            found.add(node.name)
        if node.op_type in ("Slice", "Transpose", "Reshape") and node.input[0] in known | fixed:
            fixed.update(node.output)
    return found


def downstream(model: "onnx.ModelProto", names: set[str]) -> set[str]:
    """Names of the nodes called ``names`` and of all that use their results."""
    found, results = set(names), set[str]()
    for node in model.graph.node:  # in order, so one pass is enough
        if node.name in found or results & set(node.input):
            found.add(node.name)
            results.update(node.output)
    return found


def choose(
    model: "onnx.ModelProto", *, ops: Sequence[str], exclude: Sequence[str], keep_last: bool
) -> tuple[list[str], list[str]]:
    """Names of the nodes to quantise, and of the weighted ones that stay in fp32.

    ``exclude`` are shell patterns (``top.*``) of node names, which are the Linears' names in the
    torch module. Raises ``EffectError`` for a pattern that matches nothing and when none is left.
    """
    nodes = weighted_nodes(model, ops)
    names = [node.name for node in nodes]
    kept = last_nodes(model, nodes) if keep_last else set[str]()
    for pattern in exclude:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise EffectError(
                f"exclude: {pattern!r} matches no layer; the layers are {', '.join(names)}"
            )
        kept |= found
    chosen = [name for name in names if name not in kept]
    if not chosen:
        raise EffectError(
            f"nothing to quantise: of {len(names)} {' or '.join(ops)} nodes with constant weights "
            f"all are kept in fp32 ({', '.join(names) or 'none there'})"
        )
    return chosen, [name for name in names if name in kept]


def draw_rows(split: Split, *, count: int, seed: int) -> np.ndarray:
    """Row indices (rows,) drawn without repetition, in order; all rows when there are fewer.
    Raises ``DataError`` when the split is empty.
    """
    if split.rows == 0:
        raise DataError(f"calibration_rows: the {split.name} split is empty; no row to draw")
    random = np.random.default_rng(seed)
    return np.sort(random.choice(split.rows, min(count, split.rows), replace=False))


def row_batches(
    data: Prepared, split: Split, rows: np.ndarray, inputs: tuple[TensorSpec, ...]
) -> Iterator[Feeds]:
    """Feeds of 256 rows at a time, each row a request of one candidate.

    Raises ``DataError`` naming row and field at the first number that isn't finite.
    """
    for first in range(0, len(rows), 256):
        part = rows[first : first + 256]
        batch = feeds(data.schema, split, part[:, None], inputs)
        for spec in inputs:
            _check_finite(batch[spec.name], spec, split, part)
        yield batch


def _check_finite(array: np.ndarray, spec: TensorSpec, split: Split, rows: np.ndarray) -> None:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    flat = array.reshape(len(rows), -1)  # (rows, fields)
    row, column = (int(index) for index in np.argwhere(~np.isfinite(flat))[0])
    raise DataError(
        f"{split.name} row {split.row_id[rows[row]]}, field {spec.fields[column]!r}: value is "
        f"{flat[row, column]}, expected a finite number; mend the column or drop the row"
    )


def random_feeds(artifact: Artifact, data: Prepared, *, sizes: tuple[int, int], seed: int) -> Feeds:
    """Random legal ids (each below its field's cardinality) and standard normal numbers for
    ``sizes`` = (requests, candidates); flat models get their product as rows. Pasts are as in
    ``random_past``.
    """
    return random_inputs(artifact.inputs, data.schema, sizes=sizes, seed=seed)


def random_inputs(
    inputs: Sequence[TensorSpec], schema: FeatureSchema, *, sizes: tuple[int, int], seed: int
) -> Feeds:
    """``random_feeds`` of any inputs of a schema."""
    random = np.random.default_rng(seed)
    lengths = axis_sizes(*sizes)
    batch = {}
    for spec in inputs:
        shape = [lengths[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        if spec.name in PAST:
            items = schema.field(spec.fields[0]).cardinality
            batch[spec.name] = random_past(random, shape, items)
            continue
        if spec.dtype.startswith("float"):
            batch[spec.name] = random.normal(size=shape).astype(spec.dtype)
            continue
        limits = np.array([schema.field(name).cardinality for name in spec.fields])
        top = limits if len(shape) == len(spec.shape) and shape[-1] == len(limits) else limits[0]
        batch[spec.name] = random.integers(0, top, size=shape).astype(spec.dtype)
    return batch


def random_past(random: np.random.Generator, shape: Sequence[int], items: int) -> np.ndarray:
    """Histories (requests, length) int64, padded on the left: by turns full, empty, of one item
    and of any length. One that is as long as the catalogue holds all of its items.
    """
    requests, length = shape
    any_length = random.integers(0, length + 1, size=requests)
    kinds = (np.arange(requests) + int(random.integers(4))) % 4
    filled = np.choose(kinds, [np.full(requests, length), 0, min(1, length), any_length])
    past = random.integers(1, items, size=(requests, length))
    if length >= items - 1:
        past[:, : items - 1] = np.arange(1, items)
    return np.where(np.arange(length) >= length - filled[:, None], past, UNKNOWN)


def ort_scores(model: "onnx.ModelProto | Path", *, optimise: bool = True) -> Callable[[Feeds], Any]:
    """A function from feeds to the first output (logits, or the scores of lists), run by
    onnxruntime on one CPU thread.
    """
    run = ort_outputs(model, optimise=optimise)
    return lambda batch: run(batch)[0]


def ort_outputs(
    model: "onnx.ModelProto | Path", *, optimise: bool = True
) -> Callable[[Feeds], list[Any]]:
    """A function from feeds to all outputs, run by onnxruntime on one CPU thread."""
    session = ort_session(model, optimise=optimise)
    return lambda batch: list(session.run(None, batch))


def ort_session(
    model: "onnx.ModelProto | Path",
    *,
    optimise: bool = True,
    threads: int = 1,
    folder: Path | None = None,
) -> Any:
    """An onnxruntime session on the CPU, side files mapped in ``folder``; raises what it raises."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as it is served
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry(SIDE_FOLDER, str(folder))
    add_operators(options, model)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
