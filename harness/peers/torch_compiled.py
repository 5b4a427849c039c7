"""torch.compile with inductor on the CPU; weights frozen, as its documentation advises."""

from typing import Any

import torch

from harness.artifact import Artifact
from harness.engines.base import EngineFacts
from harness.engines.torch_cpu import TorchCpu


class TorchCompiled(TorchCpu):
    """A module compiled at its first call; sizes become free at the second one that is met."""

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        self._compiled = torch.compile(self._module, options={"freezing": True})

    def run(self, prepared: dict[str, torch.Tensor]) -> Any:
        """What the compiled module gives."""
        with torch.inference_mode():
            return self._compiled(**prepared)

    def describe(self) -> EngineFacts:
        """As torch gives it back, from the inductor."""
        from dataclasses import replace

        return replace(super().describe(), engine="torch-compiled", provider="inductor")
