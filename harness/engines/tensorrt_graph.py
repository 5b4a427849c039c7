"""The TensorRT engine with its call recorded as a CUDA graph, once a batch size."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from harness.artifact import Artifact
from harness.engines.base import check_feeds, engine
from harness.engines.device import check_ids
from harness.engines.tensorrt import TensorRt, choose_profile


@engine(accepts="tensorrt", device="cuda")
class TensorRtGraph(TensorRt):
    """A plan whose call is a CUDA graph for each batch size, recorded when a batch of that size is
    prepared. What ``run`` gives is overwritten by the next run.
    """

    NAME: ClassVar[str] = "tensorrt-graph"
    GRAPH: ClassVar[bool] = True

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        from harness.engines.cuda_calls import Recorder

        self._recorder = Recorder(self._call, self._stream)

    def _call(self, tensors: Mapping[str, Any]) -> tuple[Any, ...]:
        profile = choose_profile(self._profiles, {n: tuple(t.shape) for n, t in tensors.items()})
        context = self._context(profile)
        for name, tensor in tensors.items():
            context.set_input_shape(name, tuple(tensor.shape))
        room = {spec.name: self._room(context, spec.name) for spec in self.artifact.outputs}
        self._enqueue(profile, tensors, room)
        return tuple(room.values())

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """Inputs on the device, and the call recorded if no batch was of that size before: a
        warm-up, which is never timed with the calls. Raises as of ``tensorrt``.
        """
        import torch

        from harness.engines.cuda_calls import upload

        check_feeds(self.artifact, feeds)
        check_ids(self._counts, feeds)
        choose_profile(self._profiles, {name: array.shape for name, array in feeds.items()})
        batch = upload(feeds)
        torch.cuda.synchronize()
        return partial(self._recorder.recorded(batch).replay, batch)

    def run(self, prepared: Any) -> Any:
        """The recorded outputs; ``synchronize`` waits for them."""
        import torch

        with torch.cuda.stream(self._stream):
            return prepared()

    def _notes(self) -> dict[str, Any]:
        notes: dict[str, Any] = self._recorder.notes
        return notes

    def close(self) -> None:
        """Free the graphs before the contexts whose memory they use."""
        del self._recorder
        super().close()
