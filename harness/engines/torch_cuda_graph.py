"""The torch engine on a CUDA device with its call recorded as a CUDA graph, once a batch size."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from harness.artifact import Artifact
from harness.engines.base import Probe, engine
from harness.engines.cuda_calls import Recorder, upload
from harness.engines.torch_cuda import TorchCuda, torch_versions


@engine(accepts="torch", device="cuda")
class TorchCudaGraph(TorchCuda):
    """A ``torch.cuda.CUDAGraph`` for each batch size, recorded when a batch of that size is
    prepared. What ``run`` gives is overwritten by the next run.
    """

    NAME: ClassVar[str] = "torch-cuda-graph"
    PROVIDER: ClassVar[str] = "CUDA graph"

    @classmethod
    def _probe_kind(cls) -> Probe:
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        recorder = Recorder(lambda given: given["x"] + given["x"], stream)
        batch = upload({"x": np.full((2, 3), 2, np.float32)})
        torch.cuda.synchronize()
        out = recorder.recorded(batch).replay(batch).cpu()  # (2, 3)
        if not bool((out == 4).all()):
            told = f"a CUDA graph of torch gave {float(out.min()):g} for 4"
            return Probe("build_failed", told, torch_versions())
        return Probe("ok", versions=torch_versions())

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._recorder = Recorder(self._call, stream)

    def _call(self, tensors: dict[str, torch.Tensor]) -> Any:
        with torch.inference_mode():
            return self._module(**tensors)

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """Inputs on the device, and the call recorded if no batch was of that size before: a
        warm-up, which is never timed with the calls.
        """
        batch = super().prepare(feeds)
        return partial(self._recorder.recorded(batch).replay, batch)

    def run(self, prepared: Any) -> Any:
        """The recorded outputs; ``synchronize`` waits for them."""
        return prepared()

    def _notes(self) -> dict[str, Any]:
        return self._recorder.notes

    def close(self) -> None:
        """Free the graphs before the module that they read from."""
        del self._recorder
        super().close()
