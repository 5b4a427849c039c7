"""Lists of a stage's file beside the exact ones, on validation rows."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.artifact import Artifact
from harness.errors import EffectError, UnsupportedError
from harness.schema import UNKNOWN
from harness.stages.base import Context
from harness.stages.catalogue_graph import Scoring
from harness.stages.catalogue_scan import replace_nodes
from harness.stages.exact_lists import Lists, exact_lists, list_overlap
from harness.stages.graphs import Feeds, draw_rows, ort_outputs, row_batches

if TYPE_CHECKING:
    import onnx

SCORES = 16_000_000
"""Most scores, requests x items, that a batch of the check is made of."""
TOLERANCE = 1e-4
CLOSE = 1e-6
"""Scores this close, relative above 1, are one score summed in another order."""


def require_lists(artifact: Artifact, *, stage: str) -> None:
    """Raise ``UnsupportedError`` for a model that scores rows and has no catalogue, and for one
    whose items are in product codes.
    """
    if [spec.name for spec in artifact.outputs] != ["scores", "items"]:
        raise UnsupportedError(
            f"{stage}: model {artifact.model.name!r} scores rows and has no catalogue to search; "
            "leave the stage out, it is for next-item models"
        )
    if any(how["form"] == "product_codes" for how in artifact.model.layers.values()):
        raise UnsupportedError(
            f"{stage}: the items of model {artifact.model.name!r} are in product codes and have no "
            f"vectors to search; leave out {stage} or quantize_catalogue"
        )


def check_lists(
    lists: Callable[[Feeds], Sequence[np.ndarray]],
    queries: Callable[[Feeds], np.ndarray],
    found: Scoring,
    context: Context,
    *,
    artifact: Artifact,
    requests: int,
    stage: str,
) -> tuple[float, float]:
    """Mean overlap of ``lists`` with exact ones on seeded validation rows, and the largest
    difference of scores of items that stand in both, relative where scores are above 1.

    Exact are the lists of the same ``queries`` and the vectors of ``found``, so that nothing counts
    which earlier stages lost.
    """
    table = found.table
    shares, gaps = list[np.ndarray](), [0.0]
    for batch in _batches(artifact, context, requests, max(1, SCORES // found.items)):
        asked, (scores, items) = queries(batch), lists(batch)
        hidden = batch.get("seen", np.zeros((len(asked), 1), np.int64))
        exact = exact_lists(asked, table, hidden, top=found.top, bias=found.bias)
        scale = max(1.0, float(np.abs(exact[0][exact[1] != UNKNOWN]).max(initial=0.0)))
        shares.append(list_overlap((scores, items), exact, tolerance=CLOSE * scale))
        gaps.append(_score_gap((scores, items), exact) / scale)
    known = np.concatenate(shares)
    known = known[~np.isnan(known)]
    if not len(known):
        raise EffectError(f"{stage}: no validation row has anything left to recommend")
    return float(known.mean()), max(gaps)


def require_overlap(held: float, gap: float, overlap: float, *, told: str, stage: str) -> None:
    """Raise ``EffectError`` for scores that aren't the exact ones, and for too small an overlap."""
    if not gap <= TOLERANCE:
        raise EffectError(
            f"{stage}: scores of items differ from the exact ones by {gap:.1e} (relative above 1), "
            f"at most {TOLERANCE:g} is rounding"
        )
    if not held >= overlap:
        raise EffectError(
            f"{stage}: lists hold {held:.3%} of the exact lists' items with {told}, at least "
            f"{overlap:.3%} was asked for; raise oversample"
        )


def query_answers(
    model: "onnx.ModelProto", found: Scoring, folder: Path
) -> Callable[[Feeds], np.ndarray]:
    """A function from inputs to queries (requests, dim), of a graph that is cut for it."""
    import onnx

    cut_queries(model, found)
    path = folder / "queries.onnx"
    onnx.save(model, path, save_as_external_data=True, location="queries.data")
    ask = ort_outputs(path)
    return lambda batch: ask(batch)[0]


def cut_queries(model: "onnx.ModelProto", found: Scoring) -> None:
    """Cut a graph, in itself, down to what makes the queries, (requests, dim); its inputs stay."""
    import onnx

    axis = model.graph.output[0].type.tensor_type.shape.dim[0].dim_param or "requests"
    del model.graph.output[:]
    kind = onnx.TensorProto.FLOAT
    told = onnx.helper.make_tensor_value_info(found.queries, kind, [axis, found.dim])
    model.graph.output.append(told)
    replace_nodes(model.graph, set(), [])


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
