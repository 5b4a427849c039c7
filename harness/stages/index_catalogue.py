"""ONNX -> faiss: a next-item catalogue is searched by a faiss index, the best rescored in fp32."""

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.artifact import Artifact, Effect, write_artifact
from harness.errors import UnsupportedError
from harness.item_index import (
    CODES,
    VECTORS,
    IndexSpec,
    ItemIndex,
    index_numbers,
    open_index,
    save_index,
)
from harness.item_lists import find_lists
from harness.params import Count, Share
from harness.stages.base import Context, Outcome, stage
from harness.stages.catalogue_graph import Scoring, find_scoring
from harness.stages.exact_lists import Lists
from harness.stages.graphs import Feeds, load_graph, ort_outputs, write_graph
from harness.stages.index_building import build_index, link_count
from harness.stages.list_check import check_lists, cut_queries, require_lists, require_overlap
from harness.stages.side_files import is_aside

if TYPE_CHECKING:
    import onnx

STAGE = "index_catalogue"


@stage(accepts="onnx", produces="faiss", technique="closed_like")
def index_catalogue(
    artifact: Artifact,
    context: Context,
    *,
    kind: Literal["flat", "pq4", "hnsw"] = "pq4",
    oversample: Count = 32,
    numbers_per_code: Count = 1,
    overlap: Share = 0.999,
    requests: Count = 1024,
) -> Outcome:
    """Cut the scoring of all items from the graph; faiss proposes ``oversample`` x as many as a
    list holds, which get their exact fp32 scores.

    ``pq4`` scans four-bit codes, one for each ``numbers_per_code`` numbers of a vector; ``hnsw``
    follows links between near items; ``flat`` looks at every item in fp32. Lists of ``requests``
    validation rows hold at least ``overlap`` of the exact lists' items. Raises
    ``UnsupportedError`` for a model without a catalogue, with an unknown form of one, or without
    faiss, and ``EffectError`` for a smaller overlap.
    """
    if importlib.util.find_spec("faiss") is None:
        raise UnsupportedError(
            f"{STAGE}: faiss isn't installed; install the 'faiss' extra", code="no_package"
        )
    require_lists(artifact, stage=STAGE)
    if numbers_per_code != 1 and kind != "pq4":
        raise UnsupportedError(
            f"{STAGE}: numbers_per_code {numbers_per_code} is for pq4, {kind} has no codes; leave "
            "it out"
        )
    model = load_graph(artifact)
    found = find_scoring(model, stage=STAGE)
    spec = _spec(found, kind, oversample=oversample, numbers=numbers_per_code)
    context.progress(f"building the {kind} index", 0.1)
    written, spec = _write(artifact, model, found, spec, context)
    context.progress("comparing with exact lists", 0.6)
    index = open_index(written.folder)
    held, gap, visited = _check(written, index, found, context, requests)
    told = f"{kind}, oversample {oversample} ({spec.candidates} candidates)"
    require_overlap(held, gap, overlap, told=told, stage=STAGE)
    macs = artifact.macs - found.items * found.dim + _macs(spec, visited)
    written = write_artifact(replace(written, macs=macs))
    return Outcome(
        written,
        (
            Effect("indexed_items", 0, int(index.found.ntotal), asked=spec.rows),
            Effect("candidates", found.top, spec.candidates, asked=oversample * found.top),
            Effect("list_overlap", 1.0, held, asked=overlap, unit="share"),
            Effect("index_bytes", 0, spec.index_bytes, asked=_asked_bytes(spec), unit="bytes"),
            Effect("model_bytes", artifact.bytes, written.bytes, unit="bytes"),
        ),
        _notes(spec, capped=oversample * found.top > spec.rows),
    )


def _spec(
    found: Scoring, kind: Literal["flat", "pq4", "hnsw"], *, oversample: int, numbers: int
) -> IndexSpec:
    width = found.dim + (found.bias is not None)
    if numbers > width:
        raise UnsupportedError(
            f"{STAGE}: numbers_per_code {numbers} is more than the {width} numbers of a vector"
        )
    return IndexSpec(
        kind=kind,
        items=found.items,
        dim=found.dim,
        top=found.top,
        candidates=min(oversample * found.top, found.items - 1),
        codes=-(-width // numbers) if kind == "pq4" else 0,
        bias=None if found.bias is None else tuple(map(float, found.bias)),
        queries=found.queries,
        index_bytes=0,
        stored_at=(VECTORS, 0),
    )


def _write(
    artifact: Artifact,
    model: "onnx.ModelProto",
    found: Scoring,
    spec: IndexSpec,
    context: Context,
) -> tuple[Artifact, IndexSpec]:
    """The artifact of the cut graph, the vectors and the index, and what the index has become."""
    table = np.ascontiguousarray(found.table)
    cut_queries(model, found)
    kept = _name_of(model, table)
    written = write_graph(model, artifact, context)
    place = _place(load_graph(written, weights=False), kept)
    if place is None:
        (written.folder / VECTORS).write_bytes(table.tobytes())
    size = build_index(spec, table, found.bias, written.folder, seed=context.seed)
    spec = replace(spec, index_bytes=size, stored_at=place or (VECTORS, 0))
    save_index(written.folder, spec)
    links = link_count(written.folder) if spec.kind == "hnsw" else 0
    more = index_numbers(spec, links) + (0 if kept else table.size)
    more += 0 if found.bias is None else len(found.bias)
    made = replace(written, format="faiss", parameters=written.parameters + more)
    return write_artifact(made), spec


def _name_of(model: "onnx.ModelProto", table: np.ndarray) -> str | None:
    """The tensor that histories are looked up in, where that is the table of the items too."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        same = tensor.data_type == TensorProto.FLOAT and tuple(tensor.dims) == table.shape
        if same and np.array_equal(numpy_helper.to_array(tensor), table):
            return str(tensor.name)
    return None


def _place(model: "onnx.ModelProto", name: str | None) -> tuple[str, int] | None:
    """Where a tensor's numbers stand in a side file of the graph; None where they don't."""
    for tensor in model.graph.initializer:
        if tensor.name == name and is_aside(tensor):
            told = {entry.key: entry.value for entry in tensor.external_data}
            return told["location"], int(told.get("offset", 0))
    return None


def _check(
    written: Artifact, index: ItemIndex, found: Scoring, context: Context, requests: int
) -> tuple[float, float, float]:
    """What ``check_lists`` gives, and how many items a search of ``hnsw`` has looked at."""
    import faiss

    ask, answered = ort_outputs(written.file), 0
    faiss.cvar.hnsw_stats.reset()

    def queries(batch: Feeds) -> np.ndarray:
        found: np.ndarray = ask(batch)[0]
        return found

    def lists(batch: Feeds) -> Lists:
        nonlocal answered
        asked = queries(batch)
        answered += len(asked)
        return find_lists(index, asked, batch.get("seen"))

    held, gap = check_lists(
        lists, queries, found, context, artifact=written, requests=requests, stage=STAGE
    )
    return held, gap, faiss.cvar.hnsw_stats.ndis / answered


def _macs(spec: IndexSpec, visited: float) -> int:
    """Multiply-accumulates of a search: of ``pq4`` what its tables of a query take, its sums of
    codes multiply nothing.
    """
    looked_at = {"flat": spec.rows, "pq4": CODES, "hnsw": round(visited)}[spec.kind]
    return looked_at * spec.width + spec.candidates * spec.dim


def _asked_bytes(spec: IndexSpec) -> float | None:
    """Bytes of the codes alone: half of one each."""
    return spec.rows * spec.codes / 2 if spec.kind == "pq4" else None


def _notes(spec: IndexSpec, *, capped: bool) -> tuple[str, ...]:
    own = spec.stored_at[0] == VECTORS
    where = "in a file of their own" if own else "shared with the table histories are looked up in"
    notes = [f"the items' fp32 vectors, for exact scores, are {where}"]
    if spec.kind in ("flat", "hnsw"):
        notes.append(f"{spec.kind} holds the fp32 vectors in memory a second time")
    if capped:
        notes.append(
            f"candidates are capped at the catalogue's {spec.rows} items: all are scored exactly, "
            "the index saves nothing"
        )
    return tuple(notes)
