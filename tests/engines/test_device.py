"""What the GPU engines rest on and can be shown without a GPU: no fallback, ids, plan labels."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from harness import registry
from harness.artifact import Artifact
from harness.engines.device import (
    check_ids,
    driver_fault,
    missing_package,
    require_device,
    row_counts,
)
from harness.engines.ort_cpu import check_provider
from harness.engines.ort_cuda import node_counts
from harness.engines.tensorrt import layer_types, plan_precision
from harness.errors import DataError, UnsupportedError

GPU = ("torch-cuda", "ort-cuda", "tensorrt")


def session(*providers: str) -> SimpleNamespace:
    return SimpleNamespace(get_providers=lambda: list(providers))


def test_a_session_that_fell_back_to_the_cpu_is_refused() -> None:
    check_provider(
        session("CUDAExecutionProvider", "CPUExecutionProvider"), "CUDAExecutionProvider"
    )
    with pytest.raises(UnsupportedError, match=r"asked for CUDA.* and runs on CPU") as caught:
        check_provider(session("CPUExecutionProvider"), "CUDAExecutionProvider")
    assert caught.value.code == "silent_fallback"


def test_without_a_driver_no_library_is_asked() -> None:
    fault = driver_fault("libno-such-driver.so.1")
    assert fault is not None
    assert fault.code == "no_driver"
    assert fault.sentence.startswith("no CUDA device: libno-such-driver.so.1")


class FakeDriver:
    """A driver that gives fixed statuses and a device of a fixed capability."""

    def __init__(self, *, init: int = 0, count: int = 1, capability: tuple[int, int] = (9, 0)):
        self.init, self.count, self.capability = init, count, capability

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDeviceGetCount(self, count: object) -> int:
        count._obj.value = self.count  # type: ignore[attr-defined]
        return 0

    def cuDeviceGet(self, device: object, index: int) -> int:
        return 0

    def cuDeviceGetAttribute(self, value: object, attribute: int, device: object) -> int:
        value._obj.value = self.capability[attribute - 75]  # type: ignore[attr-defined]
        return 0


@pytest.mark.parametrize(
    ("driver", "code"),
    [
        (FakeDriver(init=100), "no_device"),
        (FakeDriver(init=35), "driver_too_old"),
        (FakeDriver(init=999), "no_driver"),
        (FakeDriver(count=0), "no_device"),
        (FakeDriver(capability=(6, 1)), "capability_too_low"),
        (FakeDriver(), None),
    ],
)
def test_what_the_driver_says_becomes_a_code(
    monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, code: str | None
) -> None:
    monkeypatch.setattr("harness.engines.device.ctypes.CDLL", lambda name: driver)
    fault = driver_fault()
    assert (fault.code if fault else None) == code


@pytest.mark.parametrize("name", GPU)
def test_gpu_engines_refuse_to_load_without_a_device(
    monkeypatch: pytest.MonkeyPatch, tiny_artifact: Artifact, name: str
) -> None:
    monkeypatch.setattr("harness.engines.device.ctypes.CDLL", lambda name: FakeDriver(init=100))
    with pytest.raises(UnsupportedError, match="no CUDA device") as caught:
        registry.resolve("engines", name)(tiny_artifact, threads=1)
    assert caught.value.code == "no_device"
    with pytest.raises(UnsupportedError, match="finds none"):
        require_device()


def test_a_missing_package_is_only_advised_where_there_is_a_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.engines.device.ctypes.CDLL", lambda name: FakeDriver())
    assert missing_package("x isn't installed", advice="get x").sentence == (
        "x isn't installed; get x"
    )
    monkeypatch.setattr("harness.engines.device.ctypes.CDLL", lambda name: FakeDriver(count=0))
    sentence = missing_package("x isn't installed", advice="get x").sentence
    assert sentence.startswith("x isn't installed; no CUDA device")


def test_ids_outside_their_tables_are_refused_on_the_host(
    tiny_artifact: Artifact, file_hashes: Callable[..., object]
) -> None:
    counts = row_counts(tiny_artifact)
    assert {name: rows.tolist() for name, rows in counts.items()} == {
        "user": [41],
        "candidates": [31, 7],
        "context": [8],
    }
    good = {
        "user": np.array([[40]]),
        "candidates": np.array([[[30, 6]]]),
        "context": np.array([[0]]),
    }
    check_ids(counts, good)
    with pytest.raises(DataError, match=r"input 'candidates': ids from 7 to 30, expected 0"):
        check_ids(counts, {**good, "candidates": np.array([[[30, 7]]])})
    with pytest.raises(DataError, match=r"input 'user': ids from -1 to -1"):
        check_ids(counts, {**good, "user": np.array([[-1]])})


def test_nodes_are_counted_by_provider() -> None:
    def part(provider: str, nodes: int) -> SimpleNamespace:
        return SimpleNamespace(ep_name=provider, get_nodes=lambda: [None] * nodes)

    parts = [part("CUDA", 3), part("CPU", 1), part("CUDA", 2)]
    fake = SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)
    assert node_counts(fake) == {"CUDA": 5, "CPU": 1}


def layer(*formats: str) -> dict[str, object]:
    return {"Name": "l", "Inputs": [], "Outputs": [{"Format/Datatype": f} for f in formats]}


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        ([layer("Row major linear FP32 format"), layer("Row major linear FP16 format")], "fp16"),
        ([layer("Float"), layer("Half")], "fp16"),
        ([layer("Float")], "fp32"),  # a plan that was asked to be fp16 and isn't
        ([layer("Half"), layer("Int8")], "int8"),
        ([layer("Row major Int8 format")], "int8"),
        ([layer("Row major linear FP8 format")], "fp8"),
        ([layer("BFloat16")], "bf16"),
        (["only a name"], "unknown (plan without layer types)"),
        ([], "unknown (plan without layer types)"),
    ],
)
def test_a_plan_is_labelled_by_its_layers(layers: list[object], precision: str) -> None:
    assert plan_precision(layer_types(json.dumps({"Layers": layers}))) == precision
