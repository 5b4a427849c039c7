"""The onnxruntime engines of a CUDA device, on the CPU: onnxruntime's own bindings, with the
provider and the place of inputs and outputs exchanged; torch's streams by a stand-in.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from engines.conftest import Batch, Batches
from fake_cuda import Event, FakeCuda, Stream, use_fake_cuda

from harness.artifact import Artifact
from harness.cuda import Device
from harness.engines import device as device_file
from harness.engines import ort_cuda, ort_cuda_graph
from harness.engines.ort_cpu import OrtCpu
from harness.engines.ort_cuda import OrtCuda
from harness.engines.ort_cuda_graph import OrtCudaGraph
from harness.errors import DataError, UnsupportedError
from harness.stages.base import Context
from harness.stages.export_onnx import export_onnx

KINDS = (OrtCuda, OrtCudaGraph)
SIZES = ((1, 1), (1, 9), (4, 1), (2, 20), (1, 1))


class Session:
    """A session of onnxruntime that keeps the ids of the graphs its runs were asked for."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.graph_ids: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self.graph_ids.append(options.get_run_config_entry("gpu_graph_id") if options else "")
        self._session.run_with_iobinding(binding, options)


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    """How sessions were asked for."""
    return []


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]) -> FakeCuda:
    fake = use_fake_cuda(monkeypatch)
    found = lambda library="": Device("Some Card 80GB", (9, 0), 13000)  # noqa: E731
    monkeypatch.setattr(device_file, "find_device", found)

    def open_here(model: str, *, threads: int, **how: Any) -> Session:
        asked.append(how)
        options = ort_cuda._options(threads)
        return Session(ort.InferenceSession(model, options, providers=[ort_cuda.PROVIDER]))

    monkeypatch.setattr(ort_cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(ort_cuda, "_SETTINGS", {})
    monkeypatch.setattr(ort_cuda, "open_cuda", open_here)
    monkeypatch.setattr(ort_cuda, "torch_stream", Stream)
    monkeypatch.setattr(OrtCuda, "DEVICE", "cpu")
    return fake


@pytest.fixture
def graph(tiny_artifact: Artifact, make_context: Callable[..., Context]) -> Artifact:
    return export_onnx(tiny_artifact, make_context("graph")).artifact


@pytest.fixture
def batch(batches: Batches, graph: Artifact) -> Batch:
    return batches(graph)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_cpu(
    kind: type[OrtCuda], cuda: FakeCuda, graph: Artifact, batch: Any
) -> None:
    with OrtCpu(graph, threads=1) as known, kind(graph, threads=1) as engine:
        for sizes in SIZES:
            given = batch(*sizes)
            expected = known.score(given)
            assert np.ptp(expected) > 0 or sizes == (1, 1)
            np.testing.assert_array_equal(engine.score(given), expected)
        kept = [engine.prepare(batch(*sizes)) for sizes in SIZES]
        for sizes, prepared in reversed(list(zip(SIZES, kept, strict=True))):
            answer = engine.fetch(engine.run(prepared))
            np.testing.assert_array_equal(answer, known.score(batch(*sizes)))


def test_every_size_is_recorded_once_under_a_number_of_its_own(
    cuda: FakeCuda, asked: list[dict[str, Any]], graph: Artifact, batch: Any
) -> None:
    """First a run that isn't recorded (-1), for the outputs' shapes; then two of the new graph."""
    with OrtCudaGraph(graph, threads=1) as engine:
        told = engine._session.graph_ids
        one = engine.prepare(batch(1, 9))
        assert told == ["-1", "1", "1"]
        other = engine.prepare(batch(2, 20))
        assert told[3:] == ["-1", "2", "2"]
        again = engine.prepare(batch(1, 9))
        assert told[6:] == []
        for prepared in (one, other, again):
            engine.run(prepared)
        assert told[6:] == ["1", "2", "1"]
        assert engine.describe().notes["graphs"] == 2
    assert asked == [{"fallback": True, "graph": True, "stream": Stream.cuda_stream}]


def test_a_run_overwrites_the_answer_of_the_one_before(
    cuda: FakeCuda, graph: Artifact, batch: Any
) -> None:
    """As the engine says of itself: outputs have one place, which is read before the next run."""
    with OrtCudaGraph(graph, threads=1) as engine:
        one, other = engine.prepare(batch(1, 9)), engine.prepare(batch(1, 9))
        other.batch.block.zero_()
        first = engine.run(one)
        before = engine.fetch(first).copy()
        engine.run(other)
        assert not np.array_equal(engine.fetch(first), before)


def test_one_size_too_many_is_refused(
    cuda: FakeCuda, graph: Artifact, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_cuda_graph, "MOST_GRAPHS", 2)
    with OrtCudaGraph(graph, threads=1) as engine:
        for candidates in (1, 2, 1):
            engine.prepare(batch(1, candidates))
        with pytest.raises(UnsupportedError, match="runs of 2 batch sizes are recorded, which is"):
            engine.prepare(batch(1, 3))


def test_without_torchs_stream_nothing_is_recorded_or_told_by_events(
    cuda: FakeCuda, graph: Artifact, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_cuda, "torch_stream", lambda: None)
    with OrtCuda(graph, threads=1) as engine:
        assert engine.device_seconds(engine.prepare(batch(1, 1)), 3) is None
        assert "no events to time by" in engine.describe().notes["device_seconds"]
    with pytest.raises(UnsupportedError, match="copies inputs on the device with torch") as told:
        OrtCudaGraph(graph, threads=1)
    assert told.value.code == "no_package"


@pytest.mark.parametrize("kind", KINDS)
def test_events_are_around_all_calls(
    kind: type[OrtCuda],
    cuda: FakeCuda,
    graph: Artifact,
    batch: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with kind(graph, threads=1) as engine:
        prepared = engine.prepare(batch(1, 4))
        monkeypatch.setattr(Event, "log", engine._session.graph_ids)
        assert engine.device_seconds(prepared, 5) == 5.0  # the stand-in's clock counts runs


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_checked_before_a_gather_may_read_them(
    kind: type[OrtCuda], cuda: FakeCuda, graph: Artifact, batch: Any
) -> None:
    with kind(graph, threads=1) as engine:
        given = batch(1, 1)
        given["candidates"][...] = 31
        with pytest.raises(DataError, match="input 'candidates': ids from 31"):
            engine.prepare(given)


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_on_the_cpu_are_a_verdict(
    kind: type[OrtCuda], cuda: FakeCuda, graph: Artifact
) -> None:
    """Here all are, so the row's device must not be ``cuda`` alone."""
    with kind(graph, threads=1) as engine:
        facts = engine.describe()
    assert facts.device == "cuda+cpu"
    assert facts.notes["placement"].startswith("mixed: ")
    assert facts.notes["cuda_graph"] is (kind is OrtCudaGraph)
    assert (facts.engine, facts.precision) == (kind.NAME, "fp32")
