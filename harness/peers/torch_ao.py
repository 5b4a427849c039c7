"""torchao's dynamic int8 (``quantize_``) of the Linear layers, run eagerly."""

import torch

from harness.artifact import Artifact
from harness.engines.base import EngineFacts
from harness.engines.torch_cpu import TorchCpu
from harness.peers.torch_modules import require_changed, told


class TorchAo(TorchCpu):
    """A module with int8 weights and activations quantised at each call."""

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(self._module, Int8DynamicActivationInt8WeightConfig())
        weights = (p for n, p in self._module.named_parameters() if n.endswith("weight"))
        count = sum(type(weight.data) is not torch.Tensor for weight in weights)
        require_changed(self._module, "torchao", count)

    def describe(self) -> EngineFacts:
        """As torch gives it back, int8."""
        return told(super().describe(), engine="torchao-int8", module=self._module)
