"""A graph computed with onnx's numpy reference of each operator: exact sums, true half precision.

Three of its operators are replaced, as of onnx 1.23: GatherElements takes one number of each row
where rows are longer than numpy's choose allows, ScatterElements takes a Python step for each, and
DequantizeLinear isn't there below opset 19, where it is the same.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.stages.graphs import Feeds

if TYPE_CHECKING:
    import onnx


def reference_scores(model: "onnx.ModelProto") -> Callable[[Feeds], np.ndarray]:
    """A function from feeds to the first output: logits, or the scores of lists."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_25
    from onnx.reference.ops.op_scatter_elements import ScatterElements as Slow

    class GatherElements(OpRun):
        def _run(self, data: Any, indices: Any, axis: int | None = None) -> tuple[Any]:
            return (np.take_along_axis(data, indices, axis=axis or 0),)

    class ScatterElements(Slow):
        def _run(
            self, data: Any, indices: Any, updates: Any, axis: int = 0, reduction: Any = None
        ) -> tuple[Any]:
            if reduction not in (None, "none"):
                whole: tuple[Any] = super()._run(  # type: ignore[no-untyped-call]
                    data, indices, updates, axis, reduction
                )
                return whole
            scattered = np.copy(data)
            np.put_along_axis(scattered, indices, updates, axis=axis or 0)
            return (scattered,)

    class DequantizeLinear(DequantizeLinear_25):
        pass

    replaced = [GatherElements, ScatterElements]
    if any(each.domain == "" and each.version < 19 for each in model.opset_import):
        replaced.append(DequantizeLinear)
    evaluator = ReferenceEvaluator(model, new_ops=replaced)
    return lambda batch: np.asarray(next(iter(evaluator.run(None, batch))))
