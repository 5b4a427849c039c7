"""The onnxruntime engine on a CUDA device with its runs recorded as CUDA graphs by batch size."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.artifact import Artifact
from harness.cuda import installed
from harness.engines.base import Probe, engine
from harness.engines.device import missing_package
from harness.engines.ort_cpu import probe_addition
from harness.engines.ort_cuda import OrtCuda, open_cuda, probe_package, torch_stream
from harness.errors import UnsupportedError

MOST_GRAPHS = 1024
"""Recorded runs of one session; the distinct batches of a point of the suite."""


@dataclass(frozen=True)
class _Recorded:
    """A run recorded for batches of one layout: reads ``block``, writes the binding's outputs."""

    block: Any
    binding: Any
    options: Any


@dataclass(frozen=True)
class _Ready:
    """A batch on the device and the recorded run for its size."""

    batch: Any
    run: _Recorded


@engine(accepts="onnx", device="cuda")
class OrtCudaGraph(OrtCuda):
    """onnxruntime's own CUDA graphs: fixed addresses and a ``gpu_graph_id`` for each batch size,
    recorded when a batch of that size is prepared. Inputs are copied on the device into the fixed
    place, by torch. What ``run`` gives is overwritten by the next run.
    """

    NAME: ClassVar[str] = "ort-cuda-graph"
    GRAPH: ClassVar[bool] = True

    @classmethod
    def probe(cls) -> Probe:
        """As of ``ort-cuda``; torch must be a CUDA build too."""
        fault = probe_package()
        if fault:
            return fault
        import torch

        from harness.engines.probing import tiny_onnx

        versions = {
            "onnxruntime-gpu": str(installed("onnxruntime-gpu")),
            "torch": torch.__version__,
        }
        if torch_stream() is None:
            return missing_package(
                f"torch {torch.__version__} finds no CUDA device, and ort-cuda-graph copies its "
                "inputs with it",
                advice="install a CUDA build of torch",
            )
        session = open_cuda(tiny_onnx(), threads=1, fallback=False, graph=True)
        return probe_addition(session, versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        if self._stream is None:
            raise UnsupportedError(
                "ort-cuda-graph copies inputs on the device with torch, which isn't a CUDA build",
                code="no_package",
            )
        self._known: dict[Any, _Recorded] = {}
        self._seconds = 0.0

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """Inputs on the device, and a run recorded if no batch was of that size before: a warm-up,
        which is never timed with the calls. Raises ``UnsupportedError`` for one size too many.
        """
        import torch

        from harness.engines.cuda_calls import upload

        self._check(feeds)
        batch = upload(feeds)
        torch.cuda.synchronize()
        if batch.layout not in self._known:
            if len(self._known) >= MOST_GRAPHS:
                raise UnsupportedError(
                    f"ort-cuda-graph: runs of {MOST_GRAPHS} batch sizes are recorded, which is "
                    "the most; ask for fewer sizes, or take ort-cuda",
                    code="unsupported_model",
                )
            begun = time.perf_counter()
            self._known[batch.layout] = self._record(batch)
            self._seconds += time.perf_counter() - begun
        return _Ready(batch, self._known[batch.layout])

    def _record(self, batch: Any) -> _Recorded:
        import onnxruntime as ort
        import torch

        from harness.engines.cuda_calls import tensors_in

        block = batch.block.clone()
        torch.cuda.synchronize()
        binding = self._session.io_binding()
        tensors = tensors_in(block, batch.layout)
        for place in batch.layout:
            kind, address = np.dtype(place.dtype).type, tensors[place.name].data_ptr()
            binding.bind_input(place.name, self.DEVICE, 0, kind, list(place.shape), address)
        for spec in self.artifact.outputs:
            binding.bind_output(spec.name, self.DEVICE, 0)
        skipped, options = ort.RunOptions(), ort.RunOptions()
        skipped.add_run_config_entry("gpu_graph_id", "-1")
        self._session.run_with_iobinding(binding, skipped)  # makes outputs of the right shapes
        for spec, value in zip(self.artifact.outputs, binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(spec.name, value)
        options.add_run_config_entry("gpu_graph_id", str(len(self._known) + 1))
        for _ in range(2):  # onnxruntime records in the first and replays from the second on
            self._session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        return _Recorded(block, binding, options)

    def run(self, prepared: Any) -> Any:
        """The binding, whose outputs are on the device."""
        import torch

        ready: _Ready = prepared
        with torch.cuda.stream(self._stream):
            ready.run.block.copy_(ready.batch.block, non_blocking=True)
        self._session.run_with_iobinding(ready.run.binding, ready.run.options)
        self._last = ready.run.binding
        return self._last

    def _notes(self) -> dict[str, Any]:
        return {"graphs": len(self._known), "graph_seconds": self._seconds}

    def close(self) -> None:
        """Free the recorded runs before the session."""
        self._known.clear()
        super().close()
