"""ONNX -> ONNX with our own operators in the place of several of ONNX's, for onnxruntime."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.native import DOMAIN, library
from harness.params import Count
from harness.stages.base import Context, Outcome, stage
from harness.stages.graph_timing import told_pair
from harness.stages.graphs import (
    Feeds,
    constants,
    graph_facts,
    load_graph,
    ort_session,
    write_graph,
)
from harness.stages.lookup_graphs import declare_domains
from harness.stages.lookups import tensor_reader
from harness.stages.native_patterns import Match, find_matches, replace_matches
from harness.stages.rewriting import compared_batches

if TYPE_CHECKING:
    import onnx

CLOSE = 1e-5


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def native_operators(artifact: Artifact, context: Context, *, rows: Count | None = None) -> Outcome:
    """The same numbers from fewer operators. Ours, in C++ for AVX2 and AVX-512: look-ups that are
    added up become one sum of bags, and the dot interaction of a model whose request side is shared
    and whose tables are fused (``share_user``, ``fuse_tables``) one operator with its look-up. And
    onnxruntime's integer product takes its bias in, which it is only given for plain matrices.

    What each gives is the same to 1e-5. The graph is timed against the one before, on batches of
    ``rows`` (256 candidates, or 8 histories), and what came of it is told; a graph that is no
    quicker is told to be slower. It runs in onnxruntime alone, and best comes last, as other stages
    don't know these operators. Raises ``EffectError`` when there is nothing to replace or when
    numbers change, ``UnsupportedError`` where our own are needed and there is no C++ compiler.
    """
    model = load_graph(artifact)
    matches = find_matches(model)
    if not matches:
        raise EffectError(
            "native_operators had no effect: the graph adds up no look-ups, has no dot interaction "
            "of one table's vectors with shared ones and no int8 product with a bias; put "
            "share_user and fuse_tables, or fold_tables, before the export"
        )
    if any(match.node.domain == DOMAIN for match in matches):
        library()
    context.progress(f"putting in {len(matches)} operators", 0.1)
    gap = _compare(model, artifact, matches, context)
    old = sum(graph_facts(model).operators.values())
    replace_matches(model, matches)
    new = sum(graph_facts(model).operators.values())
    written = write_graph(model, artifact, context)
    context.progress("timing the graphs", 0.6)
    kinds = Counter(match.kind for match in matches)
    return Outcome(
        written,
        (
            Effect("native_operators", 0, len(matches), asked=len(matches)),
            Effect("nodes", old, new),
            *(Effect(f"native_{kind}", 0, count) for kind, count in sorted(kinds.items())),
        ),
        (
            f"largest relative difference of tensors: {gap:.0e}",
            told_pair(artifact, written, context, rows=rows),
        ),
    )


def _compare(
    model: "onnx.ModelProto", artifact: Artifact, matches: list[Match], context: Context
) -> float:
    """The largest difference between what operators give for inputs read from a graph and what the
    graph gives in their places, relative to a tensor's largest value; raises ``EffectError`` above
    ``CLOSE``. Each gets the graph's own inputs: a rounding that differs may become another code.
    """
    fixed = constants(model)
    inputs = list(dict.fromkeys(i for m in matches for i in m.node.input if i and i not in fixed))
    results = [match.result for match in matches]
    read, _ = tensor_reader(model, [*inputs, *results], artifact.folder)
    run, worst = None, 0.0
    for batch in compared_batches(artifact, context):
        told = read(batch)
        given = dict(zip(inputs, told, strict=False))
        run = run or _alone(matches, given, fixed, artifact.folder)
        found = run(given)
        for name, new, right in zip(results, found, told[len(inputs) :], strict=True):
            largest = float(np.abs(right).max(initial=0.0)) or 1.0
            same = new.shape == right.shape
            gap = float(np.abs(new - right).max(initial=0.0)) / largest if same else np.inf
            if not gap <= CLOSE:
                raise EffectError(
                    f"native_operators: {name} differs by {gap:.1e} of its largest value, at most "
                    f"{CLOSE:g} is rounding"
                )
            worst = max(worst, gap)
    return worst


def _alone(
    matches: list[Match],
    given: Feeds,
    fixed: Mapping[str, "onnx.TensorProto"],
    folder: Path,
) -> Callable[[Feeds], list[np.ndarray]]:
    """A function from the operators' inputs to what each gives."""
    from onnx import ValueInfoProto, helper

    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
        )
        for name, array in given.items()
    ]
    read = {name for match in matches for name in match.node.input}
    graph = helper.make_graph(
        [match.node for match in matches],
        "operators",
        inputs,
        [ValueInfoProto(name=match.result) for match in matches],
        [tensor for name, tensor in fixed.items() if name in read],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    declare_domains(made)
    session = ort_session(made, folder=folder)
    return lambda feeds: list(session.run(None, feeds))
