"""The embedding look-ups of an ONNX graph: which tables, read by what, with which ids."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from harness.artifact import Artifact
from harness.errors import EffectError
from harness.stages.base import Context
from harness.stages.graphs import Feeds, constants, ort_session, random_feeds
from harness.tables import Prepared, Split, feeds

if TYPE_CHECKING:
    import onnx

Reader = Callable[[Feeds], list[np.ndarray]]
BATCH = 4096
"""Training rows read at a time when traffic is counted."""
SIZES = ((3, 5), (64, 1))
"""(requests, candidates) at which look-ups are compared with numpy."""
CODES = ".codes"
FOUR_BIT = ".codes4"
"""Ends of names of tables in codes, the second one for two four-bit codes a byte; engines know
what is stored by it.
"""
SHOWN = 6
"""Tables left alone that a note names; the others are counted."""
CLOSE = 1e-6
"""How far they may be away, relative to the largest value."""


class Named(Protocol):
    """Anything that has a table's name."""

    @property
    def table(self) -> str:
        """The name."""


Table = TypeVar("Table", bound=Named)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A table of fp32 numbers and the Gathers that read it and nothing else does: the names of
    their results and of their ids.
    """

    table: str
    rows: int
    dim: int
    results: tuple[str, ...]
    ids: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the table in fp32."""
        return self.rows * self.dim * 4


def find_lookups(model: "onnx.ModelProto", *, min_rows: int) -> tuple[list[Lookup], dict[str, str]]:
    """The tables of a graph that may be changed, and why others were left, by name."""
    from onnx import TensorProto

    readers, known = _readers(model), constants(model)
    found, left = list[Lookup](), dict[str, str]()
    for name, tensor in known.items():
        nodes = [node for node in readers.get(name, []) if _looks_up(node, name)]
        if len(tensor.dims) != 2 or not nodes or _beside_codes(name, known):
            continue
        others = [node for node in readers[name] if not _looks_up(node, name)]
        if tensor.data_type != TensorProto.FLOAT:
            left[name.removesuffix(CODES).removesuffix(FOUR_BIT)] = "not in fp32"
        elif others:
            told = ", ".join(f"{node.op_type} {node.name!r}" for node in others)
            left[name] = f"also read by {told}"
        elif tensor.dims[0] < min_rows:
            left[name] = f"{tensor.dims[0]} rows"
        else:
            results, ids = (tuple(n.output[0] for n in nodes), tuple(n.input[1] for n in nodes))
            found.append(Lookup(name, int(tensor.dims[0]), int(tensor.dims[1]), results, ids))
    return found, left


def _beside_codes(name: str, known: Container[str]) -> bool:
    """Whether a constant is the scale or offset of a table in codes, which are no table."""
    table, _, part = name.rpartition(".")
    coded = f"{table}{CODES}" in known or f"{table}{FOUR_BIT}" in known
    return coded and part in ("scale", "offset", "zero")


def _looks_up(node: "onnx.NodeProto", table: str) -> bool:
    first = node.op_type == "Gather" and node.input[0] == table
    return first and not any(a.name == "axis" and a.i for a in node.attribute)


def _readers(model: "onnx.ModelProto") -> dict[str, list["onnx.NodeProto"]]:
    """Nodes by the names they read, what their branches read included."""
    readers = dict[str, list["onnx.NodeProto"]]()
    for node in model.graph.node:
        for name in {*node.input, *_inner_names(node)}:
            readers.setdefault(name, []).append(node)
    for output in model.graph.output:
        readers.setdefault(output.name, [])
    return readers


def _inner_names(node: "onnx.NodeProto") -> set[str]:
    names = set[str]()
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= set(inner.input) | _inner_names(inner)
        names |= {output.name for output in attribute.g.output}
    return names


def tensor_reader(
    model: "onnx.ModelProto", names: Sequence[str], folder: Path
) -> tuple[Reader, set[str]]:
    """A function from feeds to the tensors called ``names`` of a graph in ``folder``, worked out by
    onnxruntime on one thread from nothing but what they depend on, and the inputs that it needs.
    """
    from onnx import ValueInfoProto, helper

    wanted, nodes = set(names), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= {*node.input, *_inner_names(node)}
            nodes.append(node)
    told = {name: f"{name}.read" for name in dict.fromkeys(names)}
    nodes = [
        *reversed(nodes),
        *(helper.make_node("Identity", [name], [own]) for name, own in told.items()),
    ]
    inputs = [each for each in model.graph.input if each.name in wanted]
    kept = [each for each in model.graph.initializer if each.name in wanted]
    outputs = [ValueInfoProto(name=own) for own in told.values()]
    part = helper.make_model(
        helper.make_graph(nodes, "part", inputs, outputs, kept),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    session = ort_session(part, folder=folder)
    needed = {each.name for each in inputs}
    asked = [told[name] for name in names]

    def read(batch: Feeds) -> list[np.ndarray]:
        return list(session.run(asked, {name: batch[name] for name in needed}))

    return read, needed


def fields_read(
    model: "onnx.ModelProto", lookups: Sequence[Lookup], artifact: Artifact, data: Prepared
) -> dict[str, tuple[str, ...]]:
    """The fields whose ids each table is looked up with, found by changing one at a time."""
    names = [name for lookup in lookups for name in lookup.ids]
    read, _ = tensor_reader(model, names, artifact.folder)
    owners = [lookup.table for lookup in lookups for _ in lookup.ids]
    return fields_moving(read, owners, artifact, data)


def fields_moving(
    read: Reader, owners: Sequence[str], artifact: Artifact, data: Prepared
) -> dict[str, tuple[str, ...]]:
    """The fields that change the ids which ``read`` gives, by the table that each is an id of."""
    zeros = unknown_feeds(artifact, data, sizes=(2, 3))
    usual = read(zeros)
    found: dict[str, tuple[str, ...]] = dict.fromkeys(owners, ())
    for spec in artifact.inputs:
        for at, field in enumerate(spec.fields if spec.dtype.startswith("int") else ()):
            changed = zeros[spec.name].copy()
            packed = spec.shape[-1] == len(spec.fields)
            changed[..., at if packed else slice(None)] = 1
            moved = read({**zeros, spec.name: changed})
            for owner, was, now in zip(owners, usual, moved, strict=True):
                if field not in found[owner] and not np.array_equal(was, now):
                    found[owner] = (*found[owner], field)
    return found


def chosen_by(
    lookups: Sequence[Table], fields: Mapping[str, tuple[str, ...]], patterns: Sequence[str]
) -> list[Table]:
    """The tables whose name or field a shell pattern matches; all without patterns. Raises
    ``EffectError`` for a pattern that matches none.
    """
    known = {each.table: (each.table, *fields[each.table]) for each in lookups}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for own in known.values() for name in own):
            told = ", ".join(f"{table} ({', '.join(of)})" for table, (_, *of) in known.items())
            raise EffectError(f"fields: {pattern!r} matches no table; the tables are {told}")
    return [
        each
        for each in lookups
        if not patterns or any(fnmatchcase(name, p) for name in known[each.table] for p in patterns)
    ]


def find_tables(
    model: "onnx.ModelProto",
    artifact: Artifact,
    data: Prepared,
    *,
    min_rows: int,
    patterns: Sequence[str],
) -> tuple[list[Lookup], dict[str, str]]:
    """The tables to change, of those that ``patterns`` match, and why the others stay, by name.
    Raises ``EffectError`` when none is left.
    """
    lookups, left = find_lookups(model, min_rows=min_rows)
    if lookups and patterns:
        own = fields_read(model, lookups, artifact, data)
        chosen = chosen_by(lookups, own, patterns)
        left |= {t.table: "not asked for" for t in lookups if t not in chosen}
        lookups = chosen
    if not lookups:
        told = ", ".join(f"{name} ({reason})" for name, reason in left.items())
        raise EffectError(
            f"no embedding table to change; {told or 'no Gather reads a table of numbers'}"
        )
    return lookups, left


def left_notes(left: Mapping[str, str]) -> tuple[str, ...]:
    """One note on the tables left alone and why; none where there are none."""
    told = [f"{name} ({reason})" for name, reason in left.items()]
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return (f"tables left alone: {', '.join(told[:SHOWN])}{more}",) if told else ()


def count_reads(
    model: "onnx.ModelProto", lookups: Sequence[Lookup], artifact: Artifact, data: Prepared
) -> dict[str, np.ndarray]:
    """How often training rows read each row of each table, (rows,) int64 by table."""
    names = [name for lookup in lookups for name in lookup.ids]
    owners = [lookup.table for lookup in lookups for _ in lookup.ids]
    read, needed = tensor_reader(model, names, artifact.folder)
    rows = {lookup.table: lookup.rows for lookup in lookups}
    return count_ids(read, owners, rows, id_batches(artifact, data, data.splits["train"], needed))


def count_ids(
    read: Reader, owners: Sequence[str], rows: Mapping[str, int], batches: Iterable[Feeds]
) -> dict[str, np.ndarray]:
    """How often each of a table's ``rows`` is among the ids that ``read`` gives of all batches."""
    counts = {table: np.zeros(size, np.int64) for table, size in rows.items()}
    for batch in batches:
        for owner, ids in zip(owners, read(batch), strict=True):
            counts[owner] += np.bincount(ids.ravel(), minlength=rows[owner])
    return counts


def id_batches(
    artifact: Artifact, data: Prepared, split: Split, needed: set[str], *, step: int = BATCH
) -> Iterator[Feeds]:
    """Feeds of ``step`` rows at a time, each row a request of one candidate, of those inputs."""
    inputs = tuple(spec for spec in artifact.inputs if spec.name in needed)
    for first in range(0, split.rows, step):
        rows = np.arange(first, min(split.rows, first + step))
        yield feeds(data.schema, split, rows[:, None], inputs)


def unknown_rows(
    model: "onnx.ModelProto", lookups: Sequence[Lookup], artifact: Artifact, data: Prepared
) -> dict[str, np.ndarray]:
    """The rows that unknown ids read, sorted, by table."""
    names = [name for lookup in lookups for name in lookup.ids]
    read, _ = tensor_reader(model, names, artifact.folder)
    told = iter(read(unknown_feeds(artifact, data, sizes=(1, 1))))
    return {
        lookup.table: np.unique(np.concatenate([next(told).ravel() for _ in lookup.ids]))
        for lookup in lookups
    }


def check_lookups(
    model: "onnx.ModelProto",
    decoders: Mapping[Lookup, Callable[[np.ndarray], np.ndarray]],
    artifact: Artifact,
    context: Context,
) -> float:
    """The largest difference between what an artifact's graph looks up and what the decoders give
    for the same ids, relative to the largest value, over random and unknown ids; raises
    ``EffectError`` above ``CLOSE``.
    """
    pairs = [
        (lookup, ids, result)
        for lookup in decoders
        for ids, result in zip(lookup.ids, lookup.results, strict=True)
    ]
    read, _ = tensor_reader(model, [name for _, *both in pairs for name in both], artifact.folder)
    worst = 0.0
    drawn = [
        random_feeds(artifact, context.data, sizes=sizes, seed=context.seed) for sizes in SIZES
    ]
    for batch in (*drawn, _unknown(drawn[0])):
        found = iter(read(batch))
        for lookup, _, _ in pairs:
            ids, rows = next(found), next(found)
            right = decoders[lookup](ids)
            gap = np.inf
            if rows.shape == right.shape:
                largest = float(np.abs(right).max(initial=0.0)) or 1.0
                gap = float(np.abs(rows - right).max(initial=0.0)) / largest
            if not gap <= CLOSE:
                raise EffectError(
                    f"{lookup.table}: onnxruntime looks up other rows than its codes say "
                    f"(relative difference {gap:.1e}, at most {CLOSE:g})"
                )
            worst = max(worst, gap)
    return worst


def unknown_feeds(artifact: Artifact, data: Prepared, *, sizes: tuple[int, int]) -> Feeds:
    """Inputs of ``sizes`` = (requests, candidates) whose ids are all unknown."""
    return _unknown(random_feeds(artifact, data, sizes=sizes, seed=0))


def _unknown(batch: Feeds) -> Feeds:
    return {name: np.zeros_like(array) for name, array in batch.items()}
