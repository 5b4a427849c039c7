"""The torch engine on a CUDA device through torch.compile, without CUDA graphs."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from harness.artifact import Artifact
from harness.engines.base import Probe, engine
from harness.engines.compiling import CompiledCall, compile_notes, forget
from harness.engines.torch_cuda import TorchCuda, torch_versions

MODE = "default"
"""Without CUDA graphs, which are an engine of their own here, and without hours of trials."""
MOST_SIZES = 16
"""Batch sizes that get kernels of their own; those met later share kernels for any size."""


@engine(accepts="torch", device="cuda")
class TorchCudaCompiled(TorchCuda):
    """A module compiled for each batch size when a batch of that size is prepared. Splits are
    scored, in batches of many sizes, with kernels for any size.
    """

    NAME: ClassVar[str] = "torch-cuda-compiled"
    PROVIDER: ClassVar[str] = f"torch.compile, mode {MODE}"

    @classmethod
    def _probe_kind(cls) -> Probe:
        """Compiles one small layer: that takes triton and a C compiler."""
        layer = torch.nn.Linear(4, 2, bias=False, device="cuda")
        torch.nn.init.ones_(layer.weight)
        call = CompiledCall(layer, free=False, most=1, mode=MODE)
        given = {"input": torch.ones(3, 4, device="cuda")}
        call.compile_for(given, synchronize=torch.cuda.synchronize)
        out = call(given).cpu()  # (3, 2)
        if not bool((out == 4).all()):
            told = f"torch.compile on CUDA gave {float(out.min()):g} for 4"
            return Probe("build_failed", told, torch_versions())
        return Probe("ok", versions=torch_versions())

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        forget()
        self._sized = CompiledCall(self._module, free=False, most=MOST_SIZES, mode=MODE)
        self._any = CompiledCall(self._module, free=True, most=1, mode=MODE)

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """Inputs on the device, and the module compiled if no batch was of that size before: a
        warm-up, which is never timed with the calls.
        """
        return self._ready(feeds, self._sized)

    def _ready(self, feeds: Mapping[str, np.ndarray], call: CompiledCall) -> Any:
        batch = super().prepare(feeds)
        sizes = tuple((place.name, place.shape) for place in batch.layout)
        if call.full and sizes not in call.known:
            call = self._any
        call.compile_for(batch.tensors, synchronize=torch.cuda.synchronize)
        return partial(call, batch.tensors)

    def run(self, prepared: Any) -> Any:
        """The compiled module's outputs on the device; ``synchronize`` waits for them."""
        return prepared()

    def score(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """The answer to one batch, see ``host_form``, with kernels for any size."""
        outputs = self.run(self._ready(feeds, self._any))
        self.synchronize()
        return self.fetch(outputs)

    def _notes(self) -> dict[str, Any]:
        shared = len(self._any.known)
        return {
            "cuda_graph": False,
            "mode": MODE,
            **compile_notes(self._sized, self._any),
            **({"sizes_with_shared_kernels": shared} if shared else {}),
        }

    def close(self) -> None:
        """Drop the compiled code before the module."""
        del self._sized, self._any
        forget()
        super().close()
