"""The TensorRT engines by stand-ins for its bindings and for ``torch.cuda``."""

import sys
from pathlib import Path

import numpy as np
import pytest
from engines.conftest import Batch, Batches
from fake_cuda import FakeCuda, recording, use_fake_cuda
from fake_tensorrt import CLASSES, ENUMERATIONS, FakeTensorRt

from harness import registry
from harness.artifact import Artifact
from harness.cuda import Device
from harness.engines import device as device_file
from harness.engines.tensorrt import TensorRt
from harness.engines.tensorrt_graph import TensorRtGraph
from harness.errors import DataError, UnsupportedError

INPUTS = ("user", "candidates", "context", "user_values", "candidate_values")
WIDTHS = {"user": 1, "candidates": 2, "context": 1, "user_values": 1, "candidate_values": 1}


def profile(
    requests: tuple[int, int], candidates: tuple[int, int]
) -> dict[str, tuple[object, ...]]:
    def shape(name: str, at: int) -> tuple[int, ...]:
        own = (candidates[at],) if name.startswith("candidate") else ()
        return (requests[at], *own, WIDTHS[name])

    return {name: (shape(name, 0), shape(name, 1), shape(name, 1)) for name in INPUTS}


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    fake = FakeTensorRt("Half", "Float")
    fake.profiles = [profile((1, 1), (1, 9)), profile((1, 4), (1, 1)), profile((1, 2), (1, 20))]
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
    found = lambda library="": Device("Some Card 80GB", (9, 0), 13000)  # noqa: E731
    monkeypatch.setattr(device_file, "find_device", found)
    return fake


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return use_fake_cuda(monkeypatch)


@pytest.fixture
def plan(tiny_artifact: Artifact, tmp_path: Path) -> Artifact:
    """The tiny DLRM's description beside a plan of the stand-in."""
    import shutil
    from dataclasses import replace

    shutil.copytree(tiny_artifact.folder, tmp_path / "plan")
    (tmp_path / "plan" / "model.plan").write_bytes(b"plan")
    return replace(tiny_artifact, folder=tmp_path / "plan", format="tensorrt", precision="fp16")


@pytest.fixture
def batch(batches: Batches, plan: Artifact) -> Batch:
    return batches(plan)


def first_ids(batch: dict[str, np.ndarray]) -> np.ndarray:
    return batch["candidates"][..., 0].ravel().astype(np.float32)


@pytest.mark.parametrize("kind", [TensorRt, TensorRtGraph])
def test_batches_of_all_sizes_are_answered(
    kind: type[TensorRt], trt: FakeTensorRt, cuda: FakeCuda, plan: Artifact, batch
) -> None:
    with kind(plan, threads=1) as engine:
        if isinstance(engine, TensorRtGraph):
            engine._recorder.call = recording(cuda, engine._recorder.call)
        for sizes in ((1, 1), (1, 9), (4, 1), (2, 20), (1, 1)):
            given = batch(*sizes)
            np.testing.assert_array_equal(engine.score(given), first_ids(given))
        prepared = [engine.prepare(given) for given in (batch(4, 1), batch(1, 7))]
        answers = [engine.fetch(engine.run(each)).shape for each in prepared]
        assert answers == [(4,), (7,)]
        facts = engine.describe()
    assert facts.engine == {TensorRt: "tensorrt", TensorRtGraph: "tensorrt-graph"}[kind]
    assert (facts.precision, facts.device) == ("fp16", "cuda")
    assert facts.notes["cuda_graph"] is (kind is TensorRtGraph)
    if kind is TensorRtGraph:
        assert facts.notes["graphs"] == 5


def test_a_split_is_scored_in_parts_that_fit(
    trt: FakeTensorRt, cuda: FakeCuda, plan: Artifact, batch
) -> None:
    """Five requests of twelve: the widest profile has two of twenty."""
    with TensorRt(plan, threads=1) as engine:
        given = batch(5, 12)
        np.testing.assert_array_equal(engine.score(given), first_ids(given))
        with pytest.raises(UnsupportedError, match="no profile for inputs user"):
            engine.prepare(given)


def test_ids_are_checked_before_a_gather_may_read_them(
    trt: FakeTensorRt, cuda: FakeCuda, plan: Artifact, batch
) -> None:
    with TensorRtGraph(plan, threads=1) as engine:
        given = batch(1, 1)
        given["candidates"][...] = 31
        with pytest.raises(DataError, match="input 'candidates': ids from 31"):
            engine.prepare(given)


def test_a_plan_of_another_card_or_version_is_named(
    trt: FakeTensorRt, cuda: FakeCuda, plan: Artifact
) -> None:
    plan.file.write_bytes(b"of another card")
    with pytest.raises(UnsupportedError, match=r"can't load this plan .*for another card") as told:
        TensorRt(plan, threads=1)
    assert told.value.code == "abi_mismatch"


def test_a_full_card_is_named(trt: FakeTensorRt, cuda: FakeCuda, plan: Artifact, batch) -> None:
    trt.full = True
    with (
        TensorRt(plan, threads=1) as engine,
        pytest.raises(UnsupportedError, match=r"no device memory for the plan \(1,024") as told,
    ):
        engine.prepare(batch(1, 1))
    assert told.value.code == "out_of_memory"


def test_the_stand_in_has_names_of_the_real_bindings_alone() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    for kind in CLASSES:
        own = {name for name in vars(kind) if not name.startswith("_")}
        assert own <= set(dir(getattr(real, kind.__name__))), kind.__name__
    for name in ENUMERATIONS:
        members = vars(getattr(FakeTensorRt, name))
        assert set(members) <= set(getattr(real, name).__members__), name
    for name in ("float32", "float16", "bfloat16", "int32", "int64"):
        assert hasattr(real, name)


def test_both_engines_are_in_the_catalog() -> None:
    assert registry.resolve("engines", "tensorrt-graph") is TensorRtGraph
