"""ONNX -> ONNX: a next-item catalogue is scanned in int8, the best items are rescored in fp32."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.params import Count, Flag, Share
from harness.stages.base import Context, Outcome, stage
from harness.stages.catalogue_graph import Scoring, find_scoring
from harness.stages.catalogue_scan import insert_scan
from harness.stages.graphs import graph_facts, load_graph, ort_outputs, write_graph
from harness.stages.list_check import (
    check_lists,
    query_answers,
    require_lists,
    require_overlap,
)
from harness.stages.qdq import integer_kernels

STAGE = "scan_catalogue"


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
    require_lists(artifact, stage=STAGE)
    model = load_graph(artifact)
    found = find_scoring(model, stage=STAGE)
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
    scan = ort_outputs(written.file)
    with TemporaryDirectory() as folder:
        held, gap = check_lists(
            scan,
            query_answers(load_graph(artifact), found, Path(folder)),
            found,
            context,
            artifact=artifact,
            requests=requests,
            stage=STAGE,
        )
    told = f"oversample {oversample} ({candidates} candidates)"
    require_overlap(held, gap, overlap, told=told, stage=STAGE)
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
