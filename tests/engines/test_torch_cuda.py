"""The torch engines of a CUDA device, on the CPU by a stand-in for ``torch.cuda``."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engines.conftest import Batch, Batches
from fake_cuda import Event, FakeCuda, recording, use_fake_cuda

from harness import registry
from harness.artifact import Artifact
from harness.cuda import Device
from harness.engines import device as device_file
from harness.engines import torch_cuda_compiled
from harness.engines.compiling import forget
from harness.engines.torch_cpu import TorchCpu
from harness.engines.torch_cuda import TorchCuda
from harness.engines.torch_cuda_compiled import TorchCudaCompiled
from harness.engines.torch_cuda_graph import TorchCudaGraph
from harness.errors import DataError
from harness.stages.base import Context
from harness.stages.cast_weights import cast_weights

KINDS = (TorchCuda, TorchCudaCompiled, TorchCudaGraph)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    before = torch.get_float32_matmul_precision()
    fake = use_fake_cuda(monkeypatch)
    found = lambda library="": Device("Some Card 80GB", (9, 0), 13000)  # noqa: E731
    monkeypatch.setattr(device_file, "find_device", found)
    real = torch_cuda_compiled.CompiledCall

    def eager(module: Any, *, mode: str, **how: Any) -> Any:
        return real(module, backend="eager", **how)

    monkeypatch.setattr(torch_cuda_compiled, "CompiledCall", eager)
    yield fake
    torch.set_float32_matmul_precision(before)
    forget()


@pytest.fixture
def batch(batches: Batches, tiny_artifact: Artifact) -> Batch:
    return batches(tiny_artifact)


def opened(kind: type[TorchCuda], artifact: Artifact, cuda: FakeCuda) -> TorchCuda:
    engine = kind(artifact, threads=1)
    if isinstance(engine, TorchCudaGraph):
        engine._recorder.call = recording(cuda, engine._recorder.call)
    return engine


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", [None, "fp16", "bf16"])
def test_answers_are_those_of_the_cpu(
    kind: type[TorchCuda],
    to: Any,
    cuda: FakeCuda,
    tiny_artifact: Artifact,
    make_context: Callable[..., Context],
    batch: Any,
) -> None:
    artifact = tiny_artifact
    if to:
        artifact = cast_weights(tiny_artifact, make_context(), to=to).artifact
    with opened(kind, artifact, cuda) as engine, TorchCpu(artifact, threads=1) as right:
        for sizes in ((3, 5), (1, 1), (3, 5), (2, 7)):
            given = batch(*sizes)
            prepared = engine.prepare(given)
            found = engine.fetch(engine.run(prepared))
            np.testing.assert_allclose(found, right.score(given), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(engine.score(given), found, rtol=1e-5, atol=1e-6)
        facts = engine.describe()
    assert facts.engine == kind.NAME
    assert facts.precision == (to or "fp32")
    assert facts.notes["tf32"] is False
    assert facts.notes["cuda_graph"] is (kind is TorchCudaGraph)
    if kind is TorchCudaGraph:
        assert facts.notes["graphs"] == 3
    if kind is TorchCudaCompiled:
        assert (facts.notes["sizes"], facts.notes["graph_breaks"]) == (3, 0)
        assert facts.notes["compile_seconds"] > 0


def test_sizes_beyond_the_most_share_kernels_and_that_is_told(
    cuda: FakeCuda, tiny_artifact: Artifact, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_cuda_compiled, "MOST_SIZES", 2)
    with opened(TorchCudaCompiled, tiny_artifact, cuda) as engine:
        for requests in (2, 3, 4, 3):
            engine.prepare(batch(requests, 2))
        notes = engine.describe().notes
    assert (notes["sizes"], notes["sizes_with_shared_kernels"]) == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_checked_on_the_host(
    kind: type[TorchCuda], cuda: FakeCuda, tiny_artifact: Artifact, batch: Any
) -> None:
    given = batch(1, 1)
    given["user"][...] = 41
    with (
        opened(kind, tiny_artifact, cuda) as engine,
        pytest.raises(DataError, match="input 'user': ids from 41 to 41"),
    ):
        engine.prepare(given)


def test_device_seconds_have_all_calls_between_two_events(
    cuda: FakeCuda, tiny_artifact: Artifact, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Event.log = []
    with opened(TorchCuda, tiny_artifact, cuda) as engine:
        prepared = engine.prepare(batch(1, 1))
        monkeypatch.setattr(engine, "run", lambda given: Event.log.append("call"))
        assert engine.device_seconds(prepared, 7) == 7.0


def test_the_cpu_has_no_events(tiny_artifact: Artifact, batch: Any) -> None:
    with TorchCpu(tiny_artifact, threads=1) as engine:
        assert engine.device_seconds(engine.prepare(batch(1, 1)), 3) is None


def test_all_are_in_the_catalog() -> None:
    assert [registry.resolve("engines", kind.NAME) for kind in KINDS] == list(KINDS)
