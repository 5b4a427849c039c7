"""The torch engine on the CPU: eager, without autograd; the reference that others are held to."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from harness.artifact import Artifact
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, engine, host_form
from harness.modules import load_module

_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


@engine(accepts="torch", device="cpu")
class TorchCpu(Engine):
    """Eager torch on the CPU, in inference mode."""

    PACKAGE: ClassVar[str] = "torch"

    @classmethod
    def probe(cls) -> Probe:
        """Runs one small linear layer."""
        with torch.inference_mode():
            out = torch.nn.Linear(4, 2)(torch.ones(3, 4))  # (3, 2)
        versions = {"torch": torch.__version__}
        if not bool(torch.isfinite(out).all()):
            return Probe("build_failed", "torch gave values that aren't finite", versions)
        return Probe("ok", versions=versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        self._before = torch.get_num_threads()
        torch.set_num_threads(threads)
        self._module = load_module(artifact)

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Tensors that own their memory, by input name."""
        check_feeds(self.artifact, feeds)
        return {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}

    def run(self, prepared: dict[str, torch.Tensor]) -> Any:
        """What the module gives, as it shapes it."""
        with torch.inference_mode():
            return self._module(**prepared)

    def fetch(self, outputs: Any) -> np.ndarray:
        """Logits (rows,), or lists; see ``host_form``."""
        return host_form(host_arrays(outputs))

    def describe(self) -> EngineFacts:
        """Precision by the parameters' types, threads as torch gives them back."""
        return EngineFacts(
            engine="torch-cpu",
            version=torch.__version__,
            device="cpu",
            precision=module_precision(self._module),
            provider="eager",
            threads=torch.get_num_threads(),
            notes={"capability": torch.backends.cpu.get_cpu_capability()},
        )

    def close(self) -> None:
        """Give the process its thread count back."""
        torch.set_num_threads(self._before)


def host_arrays(outputs: Any) -> list[np.ndarray]:
    """Copies of a module's outputs in host memory; numbers as float32."""
    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    wide = [part.float() if part.is_floating_point() else part for part in parts]
    return [part.cpu().numpy().copy() for part in wide]


def module_precision(module: torch.nn.Module) -> str:
    """``fp32``, or all float types of a module's parameters joined by ``+``."""
    kinds = {str(p.dtype).removeprefix("torch.") for p in module.parameters()}
    return "+".join(sorted(_SHORT.get(kind, kind) for kind in kinds)) or "fp32"
