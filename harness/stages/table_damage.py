"""What tables in fewer bits do to the scores, measured on training rows, one table or more at once.

The graph behind the look-ups takes the rows as inputs: only rows that are read are coded, and no
table is copied.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.artifact import Artifact
from harness.schema import UNKNOWN
from harness.stages.base import Context
from harness.stages.exact_lists import list_overlap
from harness.stages.graphs import Feeds, draw_rows, ort_session, row_batches
from harness.stages.lookups import Lookup, Reader, tensor_reader

if TYPE_CHECKING:
    import onnx

Decode = Callable[[np.ndarray], np.ndarray]
"""From ids (...) to rows (..., dim)."""


@dataclass(frozen=True)
class Sampled:
    """Training rows that scores are compared on, and the two halves of the graph."""

    lookups: Sequence[Lookup]
    arrays: Mapping[str, np.ndarray]
    read: Reader  # ids of every look-up, one after the other
    rest: Any  # a session from ids and looked-up rows to the outputs
    batches: Callable[[], Iterator[Feeds]]

    def drifts(self, tried: Sequence[Mapping[Lookup, Decode]]) -> list[float]:
        """How far the scores drift with each of these replacements of tables (others stay): the
        mean squared difference as a share of the scores' variance; of lists the share of their
        items that give way to others.
        """
        apart, count, sums, lists = np.zeros(len(tried)), 0, np.zeros(2), False
        for batch in self.batches():
            ids = dict(zip(self._results(), self.read(batch), strict=True))
            owners = {result: each for each in self.lookups for result in each.results}
            exact = {name: self.arrays[owners[name].table][ids[name]] for name in ids}
            right = self.rest.run(None, batch | exact)
            for at, decoders in enumerate(tried):
                coded = {
                    name: decoders[owners[name]](ids[name])
                    for name in ids
                    if owners[name] in decoders
                }
                apart[at] += _apart(self.rest.run(None, batch | exact | coded), right)
            scores = np.asarray(right[0], np.float64)
            sums += (scores.sum(), np.square(scores).sum())
            lists = len(right) > 1
            count += int((right[1] != UNKNOWN).any(axis=1).sum()) if lists else scores.size
        of = max(count, 1)
        spread = 1.0 if lists else sums[1] / of - (sums[0] / of) ** 2
        return [float(each) / of / (spread or 1.0) for each in apart]

    def _results(self) -> list[str]:
        return [result for lookup in self.lookups for result in lookup.results]


def _apart(found: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    """Sum of squared differences of scores, or of the shares of lists that were missed."""
    if len(right) == 1:
        gaps = np.asarray(found[0], np.float64) - right[0]
        return float(np.square(gaps).sum())
    held = list_overlap((found[0], found[1]), (right[0], right[1]), tolerance=0.0)
    return float(np.nansum(1 - held))


def sample(
    model: "onnx.ModelProto",
    artifact: Artifact,
    context: Context,
    lookups: Sequence[Lookup],
    arrays: Mapping[str, np.ndarray],
    *,
    rows: int,
) -> Sampled:
    """At most ``rows`` training rows drawn by the context's seed, each a request of one candidate;
    ``arrays`` holds the tables of ``lookups`` by name. Raises ``DataError`` when there is none.
    """
    names = [name for lookup in lookups for name in lookup.ids]
    read, _ = tensor_reader(model, names, artifact.folder)
    rest = ort_session(_behind(model, lookups), folder=artifact.folder)
    split = context.data.splits["train"]
    drawn = draw_rows(split, count=rows, seed=context.seed)
    return Sampled(
        lookups,
        arrays,
        read,
        rest,
        lambda: row_batches(context.data, split, drawn, artifact.inputs),
    )


def _behind(model: "onnx.ModelProto", lookups: Sequence[Lookup]) -> "onnx.ModelProto":
    """The graph with the results of look-ups as inputs of their own, without the tables."""
    from onnx import TensorProto, helper

    results = [result for lookup in lookups for result in lookup.results]
    tables = {lookup.table for lookup in lookups}
    graph = helper.make_graph(
        [node for node in model.graph.node if node.output[0] not in results],
        "behind",
        [
            *model.graph.input,
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results),
        ],
        list(model.graph.output),
        [tensor for tensor in model.graph.initializer if tensor.name not in tables],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
