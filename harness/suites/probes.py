"""Probes of a variant in its engine: int8 sums that overflow here, and extreme inputs."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import tables
from harness.artifact import Artifact
from harness.engines.base import Engine, host_form, scores_of
from harness.native import add_operators
from harness.results import Row
from harness.suites.accuracy import metric_row
from harness.suites.statistics import Interval
from harness.tasks import TASKS

if TYPE_CHECKING:
    import onnx

ROWS = 256
"""Most rows, or requests for lists, that saturation is looked for on."""
FEW = 7
"""Rows whose numbers are made extreme."""
HUGE = 1e6
"""Value of every number of a huge row, in the model's own units (about 1 is usual)."""

Feeds = dict[str, np.ndarray]


def probe_rows(
    common: Mapping[str, Any],
    engine: Engine,
    data: tables.Prepared,
    split: tables.Split,
    *,
    seed: int = 0,
) -> list[Row]:
    """What the probes found, one row each; one that doesn't apply gives none.

    ``probe_saturation``, of ONNX files in onnxruntime on the CPU: the largest difference of scores
    (of lists, place by place) on 256 seeded rows between the engine and the same file unoptimised,
    with every integer product summed exactly: on processors without VNNI instructions 8-bit sums
    overflow in the kernels that the optimised file gets. ``probe_extreme_inputs``: how many scores
    aren't finite, of 7 rows with id and number 0 everywhere, and, where the model takes numbers, of
    the rows with all numbers at 1,000,000 and at -1,000,000; ``n`` is the scores.
    """
    task = TASKS[data.schema.task]
    unit = "score" if task.lists else "logit"
    rows = [_extreme_row(common, engine, _feeds(engine, data, split, (FEW, seed)))]
    if common.get("engine") == "ort-cpu" and engine.artifact.format == "onnx":
        feeds = _feeds(engine, data, split, (ROWS, seed))
        rows.insert(0, _saturation_row(common, engine, feeds, unit))
    return rows


def _feeds(
    engine: Engine, data: tables.Prepared, split: tables.Split, draw: tuple[int, int]
) -> Feeds:
    """Inputs of so many seeded rows, each a request of one candidate; ``draw`` is (rows, seed)."""
    count, seed = draw
    chosen = np.random.default_rng(seed).choice(split.rows, min(count, split.rows), replace=False)
    inputs = engine.artifact.inputs
    return tables.feeds(data.schema, split, np.sort(chosen)[:, None], inputs)


def _saturation_row(common: Mapping[str, Any], engine: Engine, feeds: Feeds, unit: str) -> Row:
    found, exact = scores_of(engine.score(feeds)), scores_of(exact_answer(engine.artifact)(feeds))
    finite = np.isfinite(found).all() and np.isfinite(exact).all()
    gap = float(np.abs(found.astype(np.float64) - exact).max()) if finite else None
    return metric_row(
        common,
        "parity",
        "probe_saturation",
        Interval(gap, None, None, found.size),
        batch=len(found),
        unit=unit,
        direction="lower",
        reason=None if finite else f"a {unit} isn't finite",
    )


def _extreme_row(common: Mapping[str, Any], engine: Engine, feeds: Feeds) -> Row:
    numbers = {name for name, array in feeds.items() if array.dtype.kind == "f"}
    cases = [{name: np.zeros_like(array) for name, array in feeds.items()}]
    for value in (HUGE, -HUGE) if numbers else ():
        cases.append({n: np.full_like(a, value) if n in numbers else a for n, a in feeds.items()})
    scores = [scores_of(engine.score(case)) for case in cases]
    bad = sum(int(np.count_nonzero(~np.isfinite(part))) for part in scores)
    return metric_row(
        common,
        "parity",
        "probe_extreme_inputs",
        Interval(float(bad), None, None, sum(part.size for part in scores)),
        batch=len(scores[0]),
        unit="count",
        direction="lower",
    )


def exact_answer(artifact: Artifact) -> Callable[[Feeds], np.ndarray]:
    """A function from inputs to the answer of an ONNX file without optimisations, so that pairs of
    QuantizeLinear and DequantizeLinear are computed in floats, and with MatMulInteger, an integer
    kernel in any case, computed in fp64.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    add_operators(options, artifact.file)
    source: bytes | str = str(artifact.file)
    nodes = onnx.load(artifact.file, load_external_data=False).graph.node
    if any(node.op_type == "MatMulInteger" for node in nodes):
        model = onnx.load(artifact.file)
        _sum_exactly(model.graph)
        source = model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in artifact.outputs]
    return lambda feeds: host_form(session.run(names, feeds))


def _sum_exactly(graph: "onnx.GraphProto") -> None:
    """Put a product in fp64 in the place of every MatMulInteger: it holds all sums of codes."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        own = node.op_type == "MatMulInteger"
        nodes += _wide_product(node) if own else [type(node).FromString(node.SerializeToString())]
    del graph.node[:]
    graph.node.extend(nodes)


def _wide_product(node: "onnx.NodeProto") -> list["onnx.NodeProto"]:
    from onnx import TensorProto, helper

    out, nodes, sides = node.output[0], list[Any](), list[str]()
    for codes, zero in zip(node.input[:2], [*node.input[2:], "", ""], strict=False):
        wide = [f"{out}.{len(sides)}.{part}" for part in ("codes", "zero")[: 1 + bool(zero)]]
        for name, end in zip((codes, zero), wide, strict=False):
            nodes.append(helper.make_node("Cast", [name], [end], to=TensorProto.DOUBLE))
        sides.append(f"{out}.{len(sides)}")
        nodes.append(helper.make_node("Sub" if zero else "Identity", wide, sides[-1:]))
    nodes.append(helper.make_node("MatMul", sides, [f"{out}.sum"]))
    return [*nodes, helper.make_node("Cast", [f"{out}.sum"], [out], to=TensorProto.INT32)]
