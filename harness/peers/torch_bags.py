"""torch's sums of bags: fp32, and its FBGEMM kernels of rows in 8 and 4 bits with a scale each.

They take ids end to end and where each bag begins, without padding. (The package fbgemm-gpu-cpu has
the same kernels for many tables at once; its last release doesn't load beside torch 2.13.)
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from harness.artifact import Artifact, write_artifact
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, host_form
from harness.peers.material import Material


def make8(material: Material) -> None:
    """Rows in 8 bits as ``embedding_bag_byte_prepack`` packs them."""
    _pack(material, torch.ops.quantized.embedding_bag_byte_prepack, "int8")


def make4(material: Material) -> None:
    """Rows in 4 bits as ``embedding_bag_4bit_prepack`` packs them, with its range search."""

    def pack(table: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.quantized.embedding_bag_4bit_prepack(table, True)
        return packed

    _pack(material, pack, "int4")


def _pack(material: Material, pack: Any, precision: str) -> None:
    from safetensors.torch import save_file

    packed = pack(torch.from_numpy(material.table()))
    save_file({"table": packed}, material.folder / material.start.file.name)
    write_artifact(
        replace(
            material.start, folder=material.folder, precision=f"fp32 compute, {precision} weights"
        )
    )


class TorchBag(Engine):
    """``torch.nn.functional.embedding_bag`` of fp32 rows."""

    PACKAGE: ClassVar[str] = "torch"
    NAME: ClassVar[str] = "torch-bag"

    @classmethod
    def probe(cls) -> Probe:
        """It runs wherever torch does."""
        return Probe("ok", versions={"torch": torch.__version__})

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        from safetensors.torch import load_file

        self._before = torch.get_num_threads()
        torch.set_num_threads(threads)
        self._table = load_file(artifact.file)["table"]

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids end to end without padding, and where each bag begins."""
        check_feeds(self.artifact, feeds)
        ids = feeds["ids"]
        lengths = np.count_nonzero(ids, axis=1)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        return torch.from_numpy(ids[ids != 0]), torch.from_numpy(starts)

    def run(self, prepared: tuple[torch.Tensor, torch.Tensor]) -> Any:
        """The sums, (requests, dim)."""
        with torch.inference_mode():
            return self._sums(*prepared)

    def _sums(self, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding_bag(ids, self._table, starts, mode="sum")

    def fetch(self, outputs: Any) -> np.ndarray:
        """The sums end to end, (requests x dim,)."""
        return host_form([outputs.numpy()])

    def describe(self) -> EngineFacts:
        """Threads as torch gives them back."""
        return EngineFacts(
            engine=self.NAME,
            version=torch.__version__,
            device="cpu",
            precision=self.artifact.precision,
            provider="eager",
            threads=torch.get_num_threads(),
        )

    def close(self) -> None:
        """Give the process its thread count back."""
        torch.set_num_threads(self._before)


class TorchByteBag(TorchBag):
    """``embedding_bag_byte_rowwise_offsets`` of rows in 8 bits."""

    NAME = "torch-bag-int8"
    OPERATOR: ClassVar[str] = "embedding_bag_byte_rowwise_offsets"

    def _sums(self, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        operator = getattr(torch.ops.quantized, self.OPERATOR)
        sums: torch.Tensor = operator(self._table, ids, starts, mode=0)
        return sums


class TorchNibbleBag(TorchByteBag):
    """``embedding_bag_4bit_rowwise_offsets`` of rows in 4 bits."""

    NAME = "torch-bag-int4"
    OPERATOR = "embedding_bag_4bit_rowwise_offsets"
