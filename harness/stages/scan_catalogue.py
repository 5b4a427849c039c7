"""ONNX -> ONNX: a next-item catalogue is scanned in int8, the best items are rescored in fp32."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.params import Count, Flag, Share
from harness.schema import UNKNOWN
from harness.stages.base import Context, Outcome, stage
from harness.stages.catalogue_graph import Scoring, find_scoring
from harness.stages.catalogue_scan import insert_scan, replace_nodes
from harness.stages.exact_lists import Lists, exact_lists, list_overlap
from harness.stages.graphs import (
    Feeds,
    draw_rows,
    graph_facts,
    load_graph,
    ort_outputs,
    row_batches,
    write_graph,
)
from harness.stages.qdq import integer_kernels

if TYPE_CHECKING:
    import onnx

SCORES = 16_000_000
"""Most scores, requests x items, that a batch of the check is made of."""
TOLERANCE = 1e-4
CLOSE = 1e-6
"""Scores this close, relative above 1, are one score summed in another order."""


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def scan_catalogue(
    artifact: Artifact,
    context: Context,
    *,
    oversample: Count = 4,
    overlap: Share = 0.999,
    reduce_range: Flag = True,
    requests: Count = 1024,
) -> Outcome:
    """Score all items in int8, then ``oversample`` x as many as a list holds exactly, in one graph.

    Vectors have a scale of their own, queries too. The fp32 vectors stay for the exact scores, so
    the file grows by a quarter of them. Lists of ``requests`` validation rows hold at least
    ``overlap`` of the exact lists' items. With ``reduce_range`` queries have 7 bits, without which
    sums overflow on processors that lack VNNI instructions; the best place is after int8 stages.
    Raises ``UnsupportedError`` for a model without a catalogue or with an unknown form of one, and
    ``EffectError`` for one that is scanned already, for a smaller overlap, for scores of items
    that aren't the exact ones, and where onnxruntime doesn't scan in integers.
    """
    if [spec.name for spec in artifact.outputs] != ["scores", "items"]:
        raise UnsupportedError(
            f"scan_catalogue: model {artifact.model.name!r} scores rows and has no catalogue to "
            "scan; leave the stage out, it is for next-item models"
        )
    model = load_graph(artifact)
    found = find_scoring(model)
    candidates = min(oversample * found.top, found.items)
    context.progress("scanning in int8", 0.1)
    insert_scan(model, found, candidates=candidates, reduce_range=reduce_range)
    parent = replace(artifact, macs=artifact.macs + candidates * found.dim)
    written = write_graph(model, parent, context, precision="int8")
    done = integer_kernels(str(written.file)) - integer_kernels(str(artifact.file))
    if done != len(found.chunks):
        raise EffectError(
            f"{len(found.chunks)} chunks of the catalogue are in int8, onnxruntime scans {done} "
            "of them in integers"
        )
    context.progress("comparing with exact lists", 0.4)
    held, gap = _check(written, model, found, context, requests=requests)
    _require(held, gap, overlap, f"oversample {oversample} ({candidates} candidates)")
    return Outcome(
        written,
        (
            Effect("scanned_chunks", 0, done, asked=len(found.chunks)),
            Effect("candidates", found.top, candidates, asked=oversample * found.top),
            Effect("list_overlap", 1.0, held, asked=overlap, unit="share"),
            Effect("nodes", _nodes(artifact), _nodes(written)),
            Effect("model_bytes", artifact.bytes, written.bytes, unit="bytes"),
        ),
        _notes(artifact, written, found, candidates < oversample * found.top),
    )


def _nodes(artifact: Artifact) -> int:
    return sum(graph_facts(load_graph(artifact)).operators.values())


def _notes(artifact: Artifact, written: Artifact, found: Scoring, capped: bool) -> tuple[str, ...]:
    growth = written.bytes - artifact.bytes
    size = f"the file is {growth:,} bytes larger" if growth > 0 else "the file isn't larger"
    size += ", it is speed that is asked for"
    notes = [f"item vectors are stored as int8 to scan and as fp32 to rescore: {size}"]
    if capped:
        notes.append(
            f"candidates are capped at the catalogue's {found.items} rows: all are scored exactly, "
            "the scan saves nothing"
        )
    return tuple(notes)


def _require(held: float, gap: float, overlap: float, told: str) -> None:
    if not gap <= TOLERANCE:
        raise EffectError(
            f"scan_catalogue: scores of items differ from the exact ones by {gap:.1e} (relative "
            f"above 1), at most {TOLERANCE:g} is rounding"
        )
    if not held >= overlap:
        raise EffectError(
            f"scan_catalogue: lists hold {held:.3%} of the exact lists' items with {told}, at "
            f"least {overlap:.3%} was asked for; raise oversample"
        )


def _check(
    written: Artifact, model: "onnx.ModelProto", found: Scoring, context: Context, *, requests: int
) -> tuple[float, float]:
    """Mean overlap of the file's lists with exact ones on validation rows, and the largest
    difference of scores of items that stand in both, relative where scores are above 1. ``model``,
    the file's graph, is cut down to what makes the queries.
    """
    scan, table = ort_outputs(written.file), found.table
    shares, gaps = list[np.ndarray](), [0.0]
    with TemporaryDirectory() as folder:
        ask = ort_outputs(_query_file(model, found.queries, Path(folder)))
        for batch in _batches(written, context, requests, max(1, SCORES // found.items)):
            (queries,), (scores, items) = ask(batch), scan(batch)
            hidden = batch.get("seen", np.zeros((len(queries), 1), np.int64))
            exact = exact_lists(queries, table, hidden, top=found.top, bias=found.bias)
            scale = max(1.0, float(np.abs(exact[0][exact[1] != UNKNOWN]).max(initial=0.0)))
            shares.append(list_overlap((scores, items), exact, tolerance=CLOSE * scale))
            gaps.append(_score_gap((scores, items), exact) / scale)
    known = np.concatenate(shares)
    known = known[~np.isnan(known)]
    if not len(known):
        raise EffectError("scan_catalogue: no validation row has anything left to recommend")
    return float(known.mean()), max(gaps)


def _query_file(model: "onnx.ModelProto", queries: str, folder: Path) -> Path:
    """A graph of what makes the queries, with its weights in a side file: of any size."""
    import onnx

    del model.graph.output[:]
    told = onnx.helper.make_tensor_value_info(queries, onnx.TensorProto.FLOAT, None)
    model.graph.output.append(told)
    replace_nodes(model.graph, set(), [])
    path = folder / "queries.onnx"
    onnx.save(model, path, save_as_external_data=True, location="queries.data")
    return path


def _batches(artifact: Artifact, context: Context, requests: int, most: int) -> Iterator[Feeds]:
    """Feeds of seeded validation rows, at most ``most`` at a time."""
    split = context.data.splits["validation"]
    rows = draw_rows(split, count=requests, seed=context.seed)
    for batch in row_batches(context.data, split, rows, artifact.inputs):
        size = len(next(iter(batch.values())))
        for first in range(0, size, most):
            yield {name: array[first : first + most] for name, array in batch.items()}


def _score_gap(found: Lists, exact: Lists) -> float:
    """Largest difference of the scores of items that stand in both lists."""
    same = found[1][:, :, None] == exact[1][:, None, :]  # (requests, top, top)
    same &= (found[1] != UNKNOWN)[:, :, None]
    gaps = np.abs(found[0][:, :, None] - exact[0][:, None, :])
    return float(gaps.max(where=same, initial=0.0))
