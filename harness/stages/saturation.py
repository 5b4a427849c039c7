"""Whether this machine's int8 kernels overflow on a model: they do without VNNI and full range.

An unsigned times a signed byte, two of them added in 16 bits: the instruction of AVX2 and plain
AVX-512 saturates silently. The same file computed with exact sums tells.
"""

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError
from harness.stages.base import Context
from harness.stages.graphs import (
    NOTHING_LEFT,
    Feeds,
    draw_rows,
    load_graph,
    ort_scores,
    row_batches,
)
from harness.stages.reference import reference_scores

ROWS = 64
LIMIT = 0.05
"""Largest root mean square difference to exact sums, as a share of the scores' spread; one code
rounded the other way gives below 0.01, saturation well above 0.1."""


def exact_scores(artifact: Artifact, batch: Feeds) -> np.ndarray:
    """Scores (rows,) of an int8 file with exact sums.

    Q/DQ pairs that aren't fused are computed in fp32; MatMulInteger is an integer kernel in any
    case, so numpy's reference implementation of each operator takes onnxruntime's place.
    """
    model = load_graph(artifact)
    whole = any(node.op_type == "MatMulInteger" for node in model.graph.node)
    run = reference_scores(model) if whole else ort_scores(artifact.file, optimise=False)
    scores: np.ndarray = np.asarray(run(batch), dtype=np.float64).ravel()
    return scores


def relative_gap(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square difference divided by the standard deviation of ``expected``, without the
    places of lists that nothing was left for.
    """
    told = expected != NOTHING_LEFT
    if told.any():
        found, expected = found[told], expected[told]
    spread = float(np.std(expected)) or 1.0
    return float(np.sqrt(np.mean((found - expected) ** 2))) / spread


def saturation_gap(artifact: Artifact, context: Context) -> Effect:
    """The gap between this machine's kernels and exact sums on 64 training rows, as an effect."""
    split = context.data.splits["train"]
    rows = draw_rows(split, count=ROWS, seed=context.seed)
    batch = next(row_batches(context.data, split, rows, artifact.inputs))
    exact = exact_scores(artifact, batch)
    gap = relative_gap(ort_scores(artifact.file)(batch).ravel(), exact)
    return Effect("saturation_gap", 0.0, gap, unit="share of the scores' spread")


def check_saturation(artifact: Artifact, context: Context) -> Effect:
    """``saturation_gap``; raises ``EffectError`` above ``LIMIT``."""
    gap = saturation_gap(artifact, context)
    if not gap.after <= LIMIT:
        raise EffectError(
            f"int8 sums saturate on this machine: scores are {gap.after:.0%} of their spread away "
            f"from exact sums, at most {LIMIT:.0%} is rounding; set reduce_range: true"
        )
    return gap
