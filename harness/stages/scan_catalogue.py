"""ONNX -> ONNX: a next-item catalogue is scanned in codes, the best items are rescored in fp32."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.native import library
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
from harness.stages.native_scan import Bits, insert_native_scan
from harness.stages.qdq import integer_kernels

if TYPE_CHECKING:
    import onnx

STAGE = "scan_catalogue"


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def scan_catalogue(
    artifact: Artifact,
    context: Context,
    *,
    oversample: Count = 4,
    overlap: Share = 0.999,
    form: Literal["plain", "native"] = "plain",
    bits: Literal[8, 4] = 8,
    reduce_range: Flag | None = None,
    requests: Count = 1024,
) -> Outcome:
    """Score all items in int8, then ``oversample`` x as many as a list holds exactly, in one graph.

    Vectors have a scale of their own, queries too. The fp32 vectors stay for the exact scores, so
    the file grows by a quarter of them (an eighth with ``bits`` 4). Lists of ``requests``
    validation rows hold at least ``overlap`` of the exact lists' items. The best place is after
    int8 stages.

    In the ``plain`` form, for any runtime, queries have 7 bits unless ``reduce_range`` is false:
    without it sums overflow on processors that lack VNNI instructions. The ``native`` one is one
    operator of ours, for onnxruntime, that also scans in 4 bits.

    Raises ``UnsupportedError`` for a model without a catalogue or with an unknown form of one, for
    options that the form hasn't and where our operator can't be built, and ``EffectError`` for a
    catalogue that is scanned already, for a smaller overlap, for scores of items that aren't the
    exact ones, and where onnxruntime doesn't scan the plain form in integers.
    """
    require_lists(artifact, stage=STAGE)
    model = load_graph(artifact)
    found = find_scoring(model, stage=STAGE)
    candidates = min(oversample * found.top, found.items)
    context.progress(f"scanning in int{bits}", 0.1)
    parent = replace(artifact, macs=artifact.macs + candidates * found.dim)
    if form == "native":
        if reduce_range is not None:
            raise UnsupportedError(
                f"{STAGE}: reduce_range is of the plain form, not the native one"
            )
        written = _native(model, found, parent, context, candidates=candidates, bits=bits)
        done = len(found.chunks)
    else:
        if bits != 8:
            raise UnsupportedError(
                f"{STAGE}: the plain form has 8 bits, not {bits}; ask for native"
            )
        insert_scan(model, found, candidates=candidates, reduce_range=reduce_range is not False)
        written = write_graph(model, parent, context, precision="int8")
        done = _integer_chunks(artifact, written, found)
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


def _native(
    model: "onnx.ModelProto",
    found: Scoring,
    parent: Artifact,
    context: Context,
    *,
    candidates: int,
    bits: Bits,
) -> Artifact:
    library()
    insert_native_scan(model, found, candidates=candidates, bits=bits)
    return write_graph(model, parent, context, precision=f"int{bits}")


def _integer_chunks(before: Artifact, after: Artifact, found: Scoring) -> int:
    """Chunks that onnxruntime scans in integers; raises ``EffectError`` when that isn't all."""
    done = integer_kernels(str(after.file)) - integer_kernels(str(before.file))
    if done != len(found.chunks):
        raise EffectError(
            f"{len(found.chunks)} chunks of the catalogue are in int8, onnxruntime scans {done} "
            "of them in integers"
        )
    return done


def _nodes(artifact: Artifact) -> int:
    return sum(graph_facts(load_graph(artifact)).operators.values())


def _notes(artifact: Artifact, written: Artifact, found: Scoring, capped: bool) -> tuple[str, ...]:
    growth = written.bytes - artifact.bytes
    size = f"the file is {growth:,} bytes larger" if growth > 0 else "the file isn't larger"
    size += ", it is speed that is asked for"
    notes = [f"item vectors are stored in codes to scan and as fp32 to rescore: {size}"]
    if capped:
        notes.append(
            f"candidates are capped at the catalogue's {found.items} rows: all are scored exactly, "
            "the scan saves nothing"
        )
    return tuple(notes)
