"""The torch engine on a CUDA device: eager, TF32 off, so that it compares with other engines."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from harness.artifact import Artifact
from harness.engines import cuda_calls
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, engine, host_form
from harness.engines.cuda_calls import Batch, device_seconds, upload
from harness.engines.device import (
    check_ids,
    driver_fault,
    missing_package,
    require_device,
    row_counts,
)
from harness.engines.torch_cpu import host_arrays, module_precision
from harness.errors import UnsupportedError
from harness.modules import load_module


@engine(accepts="torch", device="cuda")
class TorchCuda(Engine):
    """Eager torch on the first CUDA device, in inference mode."""

    PACKAGE: ClassVar[str] = "torch"
    NAME: ClassVar[str] = "torch-cuda"
    PROVIDER: ClassVar[str] = "eager"

    @classmethod
    def probe(cls) -> Probe:
        """Asks for a CUDA build of torch, then the driver, then runs one small product."""
        return probe_torch() or cls._probe_kind()

    @classmethod
    def _probe_kind(cls) -> Probe:
        out = (torch.ones(3, 4, device="cuda") @ torch.ones(4, 2, device="cuda")).cpu()  # (3, 2)
        return _judged(out)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        require_device()
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")  # no TF32, for baseline and variant alike
        torch.backends.cudnn.allow_tf32 = False
        self._counts = row_counts(artifact)
        self._module = load_module(artifact).to(cuda_calls.DEVICE)
        placed = {tensor.device.type for tensor in self._module.state_dict().values()}
        if placed != {cuda_calls.DEVICE}:
            raise UnsupportedError(
                f"{artifact.file}: parameters are on {sorted(placed)}, asked for cuda",
                code="silent_fallback",
            )

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """Inputs on the device; ids are checked on the host before."""
        check_feeds(self.artifact, feeds)
        check_ids(self._counts, feeds)
        batch = upload(feeds)
        torch.cuda.synchronize()
        return batch

    def run(self, prepared: Any) -> Any:
        """The module's outputs on the device; ``synchronize`` waits for them."""
        batch: Batch = prepared
        with torch.inference_mode():
            return self._module(**batch.tensors)

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        torch.cuda.synchronize()

    def device_seconds(self, prepared: Any, calls: int) -> float | None:
        """By events on the stream that the calls are put on."""
        return device_seconds(lambda: self.run(prepared), calls)

    def fetch(self, outputs: Any) -> np.ndarray:
        """Logits (rows,), or lists, in host memory; see ``host_form``."""
        return host_form(host_arrays(outputs))

    def describe(self) -> EngineFacts:
        """Precision by the parameters' types; device by the parameters' place."""
        place = next(self._module.parameters()).device
        return EngineFacts(
            engine=self.NAME,
            version=torch.__version__,
            device=place.type,
            precision=module_precision(self._module),
            provider=self.PROVIDER,
            threads=torch.get_num_threads(),
            notes={
                "name": torch.cuda.get_device_name(place),
                "cuda": torch.version.cuda,
                "tf32": torch.get_float32_matmul_precision() != "highest",
                **self._notes(),
            },
        )

    def _notes(self) -> dict[str, Any]:
        return {"cuda_graph": False}

    def close(self) -> None:
        """Free the module and the allocator's cache."""
        del self._module
        torch.cuda.empty_cache()


def torch_versions() -> dict[str, str]:
    """Of torch and the CUDA it was built with."""
    return {"torch": torch.__version__, "cuda": str(torch.version.cuda)}


def probe_torch() -> Probe | None:
    """None when torch is a CUDA build and finds the device that the driver has."""
    if torch.version.cuda is None:
        return missing_package(
            f"torch {torch.__version__} is built without CUDA",
            advice="install a CUDA build of torch",
        )
    fault = driver_fault()
    if fault:
        return fault
    if not torch.cuda.is_available():
        return Probe(
            "abi_mismatch",
            f"torch {torch.__version__} for CUDA {torch.version.cuda} finds no CUDA device, the "
            "driver does; install a build of torch for this driver",
            torch_versions(),
        )
    return None


def _judged(out: torch.Tensor) -> Probe:
    """What a product of ones came to: 4 everywhere, or the engine can't be trusted."""
    if not bool((out == 4).all()):
        return Probe(
            "build_failed", f"torch on CUDA gave {float(out.min()):g} for 4", torch_versions()
        )
    return Probe("ok", versions=torch_versions())
