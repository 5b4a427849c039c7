"""torch -> ONNX: free batch axes, eval mode, parity to torch checked over sizes."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.modules import example_feeds, load_module
from harness.params import Positive
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import (
    NOTHING_LEFT,
    Feeds,
    constants,
    graph_facts,
    ort_outputs,
    random_feeds,
    write_graph,
)

if TYPE_CHECKING:
    import onnx
    from torch import nn

SIZES = ((1, 1), (1, 7), (3, 5), (2, 2), (64, 1), (5, 64))
"""(requests, candidates) at which a file is compared to torch: one, odd, and large ones."""


@stage(accepts="torch", produces="onnx", technique="reference")
def export_onnx(
    artifact: Artifact,
    context: Context,
    *,
    opset: Literal[18, 19, 20, 21] = 18,
    tolerance: Positive = 1e-4,
) -> Outcome:
    """Export to ONNX with requests and candidates free.

    The file is run at several sizes on random legal ids and histories; scores that differ from
    torch by more than ``tolerance`` (absolute, relative above 1), lists with other items where
    scores aren't tied, a frozen axis or another opset than asked raise ``EffectError``. Each
    Linear's node carries the Linear's name.
    """
    module = load_module(artifact)
    context.progress("exporting to ONNX", 0.1)
    graph = export_module(module, artifact, opset=opset)
    written = write_graph(graph, artifact, context)
    context.progress("comparing with torch", 0.7)
    worst = check_parity(written, module, context, tolerance=tolerance)
    facts = graph_facts(graph)
    effects = (
        Effect("free_axes", 0, _free(written), _free(written)),
        Effect("opset", 0, _opset(graph), opset, unit="version"),
        Effect("nodes", 0, sum(facts.operators.values())),
        Effect("parameters", artifact.parameters, written.parameters),
    )
    notes = [f"largest difference to torch over {len(SIZES)} sizes: {worst:.1e}"]
    notes += [f"{name} is stored twice: the module has it once" for name in stored_twice(graph)]
    return Outcome(written, effects, tuple(notes))


def stored_twice(graph: "onnx.ModelProto") -> list[str]:
    """Matrices of a graph whose numbers another of them has too, as they are or turned."""
    from onnx import numpy_helper

    by_shape: dict[tuple[int, ...], list[onnx.TensorProto]] = {}
    for tensor in constants(graph).values():
        if len(tensor.dims) == 2 and min(tensor.dims) > 1:  # equal biases say nothing
            by_shape.setdefault(tuple(sorted(tensor.dims)), []).append(tensor)
    twice = []
    for alike in by_shape.values():  # of a large table, the only one of its shape, nothing is read
        kept: list[np.ndarray] = []
        for tensor in alike if len(alike) > 1 else ():
            matrix = numpy_helper.to_array(tensor)
            if any(np.array_equal(m, other) for other in kept for m in (matrix, matrix.T)):
                twice.append(tensor.name)
            kept.append(matrix)
    return twice


def _free(artifact: Artifact) -> int:
    return sum(isinstance(axis, str) for spec in artifact.inputs for axis in spec.shape)


def _opset(graph: "onnx.ModelProto") -> int:
    return int(next(e.version for e in graph.opset_import if e.domain in ("", "ai.onnx")))


def export_module(module: "nn.Module", artifact: Artifact, *, opset: int) -> "onnx.ModelProto":
    """The module's graph as an in-memory model, inputs and free axes named as ``artifact`` says,
    outputs too. Bags of embeddings become look-ups and reductions. Raises ``UnsupportedError`` when
    torch can't export it.
    """
    import torch

    from harness.stages.embedding_bags import padded_bags, refuse_loops

    names = sorted(
        {axis for spec in artifact.inputs for axis in spec.shape if isinstance(axis, str)}
    )
    dims = {name: torch.export.Dim(name) for name in names}
    shapes = {
        spec.name: {at: dims[axis] for at, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for spec in artifact.inputs
    }
    # Sizes above 1: torch.export freezes an axis whose example has size 0 or 1.
    example = example_feeds(artifact.inputs, requests=2, candidates=3)
    try:
        # Without gradients: the exporter's own loop for a GRU warns of a tensor that has one.
        with padded_bags(module, model=artifact.model.name), _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                (),
                kwargs=example,
                dynamo=True,
                dynamic_shapes=shapes,
                opset_version=opset,
                output_names=[spec.name for spec in artifact.outputs],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UnsupportedError(f"torch can't export {artifact.model.name!r}: {reason}") from error
    if program is None:
        raise UnsupportedError(f"torch gave no graph for {artifact.model.name!r}")
    refuse_loops(program.exported_program, model=artifact.model.name)
    graph: onnx.ModelProto = program.model_proto
    if _opset(graph) != opset:
        raise EffectError(f"opset {opset} was asked for, the file has {_opset(graph)}")
    name_nodes(graph, {name for name, part in module.named_modules() if _is_linear(part)})
    return graph


def _is_linear(module: "nn.Module") -> bool:
    from torch import nn

    return isinstance(module, nn.Linear)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says about itself: deprecated calls of its own, the shared name
    of two axes (which is what named axes are for), the second list in which a GRU keeps its
    weights (they are registered too), and that torchvision isn't installed.
    """
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"_check_is_size will be removed", FutureWarning)
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            warnings.filterwarnings("ignore", r"The tensor attributes self.*_flat_w", UserWarning)
            warnings.filterwarnings("ignore", r"# The axis name: .* will not be used", UserWarning)
            yield
    finally:
        log.setLevel(level)


def name_nodes(graph: "onnx.ModelProto", linears: set[str]) -> None:
    """Call each node after the Linear it came from; a Linear used twice gets ``name:2``.

    One that a batch norm was folded into comes from the norm, by the exporter's word; the weight
    still has the Linear's name.
    """
    seen: dict[str, int] = {}
    for node in graph.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key.endswith("name_scopes")), "")
        owners = [name for name in linears if f"'{name}'" in scopes]
        owners = owners or [name for name in linears if f"{name}.weight" in node.input]
        if node.op_type in ("MatMul", "Gemm") and owners:
            owner = max(owners, key=len)
            seen[owner] = seen.get(owner, 0) + 1
            node.name = owner if seen[owner] == 1 else f"{owner}:{seen[owner]}"


def check_parity(
    written: Artifact, module: "nn.Module", context: Context, *, tolerance: float
) -> float:
    """Largest difference of scores between the file and the module over ``SIZES``, and for lists
    over requests that everything was seen of; raises ``EffectError`` above ``tolerance`` (relative
    where scores are above 1), where lists differ that aren't tied, and when two runs of the file
    differ.
    """
    run, worst = ort_outputs(written.file), 0.0
    for sizes, batch in _parity_batches(written, context):
        try:
            found, again = run(batch), run(batch)
        except Exception as error:  # onnxruntime has no common base class of its own
            raise EffectError(
                f"the ONNX file fails at {sizes} (requests, candidates): {error}"
            ) from error
        if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(found, again, strict=True)):
            raise EffectError("two runs of the ONNX file on one input differ: is dropout left on?")
        gap, allowed, fault = output_gap(found, module_outputs(module, batch), tolerance=tolerance)
        if fault or not gap <= allowed:
            what = f"lists {fault}" if fault else f"differs from torch by {gap:.1e}"
            raise EffectError(
                f"at {sizes[0]} requests x {sizes[1]} candidates the ONNX file "
                f"{what}, tolerance {tolerance:g}"
            )
        worst = max(worst, gap)
    return worst


def _parity_batches(written: Artifact, context: Context) -> Iterator[tuple[tuple[int, int], Feeds]]:
    for at, sizes in enumerate(SIZES):
        yield sizes, random_feeds(written, context.data, sizes=sizes, seed=context.seed + at)
    seen = next((spec for spec in written.inputs if spec.name == "seen"), None)
    if seen:
        items = context.data.schema.field(seen.fields[0]).cardinality
        batch = random_feeds(written, context.data, sizes=(3, 1), seed=context.seed)
        everything = np.arange(items)
        batch["seen"] = np.stack([everything, everything * (everything > 3), everything * 0])
        yield (3, 1), batch


def module_outputs(module: "nn.Module", batch: Feeds) -> list[np.ndarray]:
    """What a module gives for numpy inputs, in eval mode as it stands."""
    import torch

    with torch.inference_mode():
        found = module(**{name: torch.from_numpy(array) for name, array in batch.items()})
    return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]


def output_gap(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray], *, tolerance: float
) -> tuple[float, float, str]:
    """The largest difference of scores place by place, how large it may be, and what is wrong with
    the items of lists ("" where nothing is): they must be the same wherever the scores of two
    items are further apart than that.
    """
    scores, right = (np.ravel(side[0]) for side in (found, expected))
    real = right[right != NOTHING_LEFT] if len(expected) > 1 else right
    allowed = tolerance * max(1.0, float(np.abs(real).max(initial=0.0)))
    if scores.shape != right.shape or len(found) != len(expected):
        return np.inf, allowed, ""
    gap = float(np.abs(scores - right).max(initial=0.0))
    fault = ""
    if len(expected) > 1 and gap <= allowed:
        fault = _items_fault(found[1], *expected, allowed=2 * allowed)
    return gap, allowed, fault


def _items_fault(
    items: np.ndarray, scores: np.ndarray, right: np.ndarray, *, allowed: float
) -> str:
    """The first item that stands where torch has another of another score; "" for none.

    An item may stand where one of torch's list has as good a score; one that torch's list lacks
    only where the score is as good as the last one's, which it may have missed by a hair.
    """
    same = items[:, :, None] == right[:, None, :]  # (requests, places, places of torch)
    near = np.abs(scores[:, :, None] - scores[:, None, :]) <= allowed
    missed = ~same.any(axis=2) & near[:, :, -1] & (scores != NOTHING_LEFT)
    wrong = ~((same & near).any(axis=2) | missed)
    if not wrong.any():
        return ""
    row, place = (int(index) for index in np.argwhere(wrong)[0])
    return f"item {items[row, place]} at place {place + 1} where torch has {right[row, place]}"
