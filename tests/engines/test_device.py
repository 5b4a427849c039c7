"""What the GPU engines rest on and can be shown without a GPU: no fallback, ids, plan labels."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper

from harness import registry
from harness.artifact import Artifact
from harness.cuda import Device, find_device, plan_machine, require_portable
from harness.engines.device import (
    check_ids,
    driver_fault,
    missing_package,
    require_device,
    row_counts,
)
from harness.engines.ort_cpu import check_provider
from harness.engines.probing import tiny_onnx
from harness.engines.tensorrt import choose_profile, most_requests
from harness.errors import DataError, UnsupportedError

GPU = tuple(
    name
    for name in registry.names("engines")
    if registry.entry("engines", name).marks["device"] == "cuda"
)


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

    def cuDeviceGetName(self, name: object, length: int, device: object) -> int:
        name.value = b"Some Card 80GB"  # type: ignore[attr-defined]
        return 0

    def cuDriverGetVersion(self, version: object) -> int:
        version._obj.value = 13000  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetAttribute(self, value: object, attribute: int, device: object) -> int:
        value._obj.value = self.capability[attribute - 75]  # type: ignore[attr-defined]
        return 0


@pytest.mark.parametrize(
    ("driver", "code"),
    [
        (FakeDriver(init=100), "no_device"),
        (FakeDriver(init=35), "driver_too_old"),
        (FakeDriver(init=803), "driver_too_old"),
        (FakeDriver(init=2), "out_of_memory"),
        (FakeDriver(init=999), "no_driver"),
        (FakeDriver(count=0), "no_device"),
        (FakeDriver(capability=(6, 1)), "capability_too_low"),
        (FakeDriver(), None),
    ],
)
def test_what_the_driver_says_becomes_a_code(
    monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, code: str | None
) -> None:
    monkeypatch.setattr("harness.cuda.ctypes.CDLL", lambda name: driver)
    fault = driver_fault()
    assert (fault.code if fault else None) == code


@pytest.mark.parametrize("name", GPU)
def test_gpu_engines_refuse_to_load_without_a_device(
    monkeypatch: pytest.MonkeyPatch, tiny_artifact: Artifact, name: str
) -> None:
    monkeypatch.setattr("harness.cuda.ctypes.CDLL", lambda name: FakeDriver(init=100))
    with pytest.raises(UnsupportedError, match="no CUDA device") as caught:
        registry.resolve("engines", name)(tiny_artifact, threads=1)
    assert caught.value.code == "no_device"
    with pytest.raises(UnsupportedError, match="finds none"):
        require_device()


def test_a_missing_package_is_only_advised_where_there_is_a_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.cuda.ctypes.CDLL", lambda name: FakeDriver())
    assert missing_package("x isn't installed", advice="get x").sentence == (
        "x isn't installed; get x"
    )
    monkeypatch.setattr("harness.cuda.ctypes.CDLL", lambda name: FakeDriver(count=0))
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


def test_the_device_is_named_for_what_is_built_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cuda.ctypes.CDLL", lambda name: FakeDriver(capability=(8, 9)))
    assert find_device() == Device("Some Card 80GB", (8, 9), 13000)
    machine = plan_machine()
    assert (machine["card"], machine["capability"]) == ("Some Card 80GB", "8.9")
    monkeypatch.setattr("harness.cuda.ctypes.CDLL", lambda name: FakeDriver(count=0))
    assert plan_machine()["card"] is None


def test_operators_of_our_own_are_refused_on_a_gpu(tmp_path: Path) -> None:
    node = helper.make_node("Anything", ["x"], ["y"], domain="recsys")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("recsys", 1)]
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", [], []), opset_imports=opsets),
        tmp_path / "own.onnx",
    )
    with pytest.raises(UnsupportedError, match=r"domain 'recsys'.*ort-cuda can't take it") as told:
        require_portable(tmp_path / "own.onnx", target="ort-cuda")
    assert told.value.code == "unsupported_model"
    (tmp_path / "plain.onnx").write_bytes(tiny_onnx())
    require_portable(tmp_path / "plain.onnx", target="ort-cuda")


ONE = {"user": ((1, 1), (1, 1)), "candidates": ((1, 1, 2), (1, 300, 2))}
MANY = {"user": ((1, 1), (64, 1)), "candidates": ((1, 1, 2), (64, 1, 2))}
WIDE = {"user": ((1, 1), (8, 1)), "candidates": ((1, 1, 2), (8, 500, 2))}


@pytest.mark.parametrize(
    ("requests", "candidates", "profile"), [(1, 1, 1), (64, 1, 1), (1, 300, 0), (1, 400, 2)]
)
def test_the_narrowest_profile_that_fits_is_used(
    requests: int, candidates: int, profile: int
) -> None:
    shapes = {"user": (requests, 1), "candidates": (requests, candidates, 2)}
    assert choose_profile([ONE, MANY, WIDE], shapes) == profile


def test_a_size_outside_of_every_profile_is_a_named_error() -> None:
    shapes = {"user": (9, 1), "candidates": (9, 300, 2)}
    with pytest.raises(
        UnsupportedError, match=r"no profile for inputs user \(9, 1\).*batches, candidates"
    ) as told:
        choose_profile([ONE, MANY, WIDE], shapes)
    assert told.value.code == "unsupported_model"
    assert most_requests([ONE, MANY, WIDE], shapes) == 8
    assert most_requests([ONE, MANY, WIDE], {"user": (99, 1), "candidates": (99, 1, 2)}) == 64
    assert most_requests([ONE], {"user": (9, 1), "candidates": (9, 301, 2)}) == 1
