"""The torch engine on a CUDA device: eager, TF32 off, so that it compares with other engines."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from harness.artifact import Artifact
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, engine, host_form
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

    @classmethod
    def probe(cls) -> Probe:
        """Asks for a CUDA build of torch, then the driver, then runs one small product."""
        versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
        if torch.version.cuda is None:
            return missing_package(
                f"torch {torch.__version__} is built without CUDA",
                advice="install a CUDA build of torch",
            )
        fault = driver_fault()
        if fault:
            return fault
        if not torch.cuda.is_available():
            return Probe("abi_mismatch", "torch finds no CUDA device, the driver does", versions)
        out = (torch.ones(3, 4, device="cuda") @ torch.ones(4, 2, device="cuda")).cpu()  # (3, 2)
        if not bool((out == 4).all()):
            return Probe("build_failed", f"torch on CUDA gave {out[0, 0]:g} for 4", versions)
        return Probe("ok", versions=versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        require_device()
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")  # no TF32, for baseline and variant alike
        torch.backends.cudnn.allow_tf32 = False
        self._counts = row_counts(artifact)
        self._module = load_module(artifact).to("cuda")
        placed = {p.device.type for p in self._module.parameters()}
        if placed != {"cuda"}:
            raise UnsupportedError(
                f"{artifact.file}: parameters are on {sorted(placed)}, asked for cuda",
                code="silent_fallback",
            )

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Tensors on the device, by input name; ids are checked on the host before."""
        check_feeds(self.artifact, feeds)
        check_ids(self._counts, feeds)
        tensors = {name: torch.from_numpy(np.array(a)).to("cuda") for name, a in feeds.items()}
        torch.cuda.synchronize()
        return tensors

    def run(self, prepared: dict[str, torch.Tensor]) -> Any:
        """The module's outputs on the device; ``synchronize`` waits for them."""
        with torch.inference_mode():
            return self._module(**prepared)

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        torch.cuda.synchronize()

    def fetch(self, outputs: Any) -> np.ndarray:
        """Logits (rows,), or lists, in host memory; see ``host_form``."""
        return host_form(host_arrays(outputs))

    def describe(self) -> EngineFacts:
        """Precision by the parameters' types; device by the parameters' place."""
        place = next(self._module.parameters()).device
        return EngineFacts(
            engine="torch-cuda",
            version=torch.__version__,
            device=place.type,
            precision=module_precision(self._module),
            provider="eager",
            threads=torch.get_num_threads(),
            notes={
                "name": torch.cuda.get_device_name(place),
                "cuda": torch.version.cuda,
                "tf32": torch.get_float32_matmul_precision() != "highest",
            },
        )

    def close(self) -> None:
        """Free the module and the allocator's cache."""
        del self._module
        torch.cuda.empty_cache()
