"""torch's eager dynamic int8 (``torch.ao.quantization.quantize_dynamic``) of the Linear layers."""

import warnings

import torch

from harness.artifact import Artifact
from harness.engines.base import EngineFacts
from harness.engines.torch_cpu import TorchCpu
from harness.peers.torch_modules import require_changed, told


class TorchDynamic(TorchCpu):
    """A module with its Linear layers in int8, run eagerly."""

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        from torch.ao.nn.quantized.dynamic import Linear

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and still what many reach for
            self._module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                self._module, {torch.nn.Linear}, dtype=torch.qint8
            )
        count = sum(isinstance(part, Linear) for part in self._module.modules())
        require_changed(self._module, "quantize_dynamic", count)

    def describe(self) -> EngineFacts:
        """As torch gives it back, int8."""
        return told(super().describe(), engine="torch-int8", module=self._module)
