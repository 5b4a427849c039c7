"""TensorRT plans: refused with the reason where it is missing, and the build seen by a stand-in."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fake_tensorrt import FakeTensorRt

from harness.artifact import Artifact
from harness.cuda import Device
from harness.errors import EffectError, UnsupportedError
from harness.registry import ValidationError, bind
from harness.stages import build_tensorrt as stage_file
from harness.stages.base import Context
from harness.stages.build_tensorrt import build_tensorrt, require_tensorrt

CARD = Device("Some Card 80GB", (9, 0), 13000)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeTensorRt], FakeTensorRt]:
    def put(fake: FakeTensorRt) -> FakeTensorRt:
        monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
        monkeypatch.setattr(stage_file, "find_device", lambda: CARD)
        return fake

    return put


def test_a_missing_package_is_named_and_nothing_is_written(
    onnx_rec: Artifact, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    context = make_context("plan")
    with pytest.raises(UnsupportedError, match="install the 'tensorrt' extra") as caught:
        build_tensorrt(onnx_rec, context)
    assert caught.value.code == "no_package"
    assert list(context.folder.iterdir()) == []


def test_a_missing_driver_or_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setattr("harness.cuda.ctypes.CDLL", missing)
    with pytest.raises(UnsupportedError, match=r"libcuda.so.1, NVIDIA's driver, isn't") as caught:
        require_tensorrt()
    assert caught.value.code == "no_driver"
    driver = SimpleNamespace(cuInit=lambda flags: 100)
    monkeypatch.setattr("harness.cuda.ctypes.CDLL", lambda name: driver)
    with pytest.raises(UnsupportedError, match="the driver is there and finds none") as caught:
        require_tensorrt()
    assert caught.value.code == "no_device"


def test_a_plan_is_strongly_typed_with_profiles_for_each_input(
    onnx_artifact: Artifact, make_context: Callable[..., Context], use: Callable[..., FakeTensorRt]
) -> None:
    trt = use(FakeTensorRt("Row major linear FP32", "Float"))
    context = make_context("plan")
    outcome = build_tensorrt(onnx_artifact, context, batches=(8, 2), candidates=(1, 4, 8))
    assert trt.flags == 1 << 1
    assert trt.limit == ("WORKSPACE", 4 * 2**30)
    assert trt.cleared == ["TF32"]
    assert trt.config is not None
    assert trt.config.profiling_verbosity == "DETAILED"
    first, second, request, wide = trt.profiles
    assert first["candidates"] == ((1, 1, 2), (2, 1, 2), (2, 1, 2))
    assert second["user"] == ((3, 1), (8, 1), (8, 1))
    assert request["candidates"] == ((1, 1, 2), (1, 4, 2), (1, 8, 2))
    # The longest request of the data has 12 rows: 16,384 of them are 1,365 requests.
    assert wide["candidates"] == ((1, 1, 2), (1365, 4, 2), (1365, 12, 2))
    made = outcome.artifact
    assert (made.format, made.precision, made.bytes) == ("tensorrt", "fp32", 4)
    assert (made.folder / "schema.json").is_file()
    assert "TensorRT 11.0.0 for Some Card 80GB, compute capability 9.0" in outcome.notes
    (seconds,) = (e for e in outcome.effects if e.name == "build_seconds")
    assert seconds.after > 0
    assert seconds.unit == "s"


def test_kernel_timings_are_kept_by_version_and_card(
    onnx_rec: Artifact, make_context: Callable[..., Context], use: Callable[..., FakeTensorRt]
) -> None:
    trt = use(FakeTensorRt("Float"))
    context = make_context("a")
    build_tensorrt(onnx_rec, context)
    kept = context.store.root / "tensorrt" / "timing-11.0.0-Some-Card-80GB-9.0.cache"
    assert kept.read_bytes() == b"timings"
    build_tensorrt(onnx_rec, make_context("b", store=context.store))
    assert trt.caches == [b"", b"timings"]
    trt.foreign_caches = [b"timings"]  # refused: it starts anew
    build_tensorrt(onnx_rec, make_context("c", store=context.store))
    assert trt.caches == [b"", b"timings", b"timings", b""]


@pytest.mark.parametrize(
    ("fake", "said", "code"),
    [
        (
            FakeTensorRt("Float", unparsed="unsupported operator MatMulInteger"),
            "doesn't accept the graph: unsupported operator MatMulInteger",
            "unsupported_model",
        ),
        (
            FakeTensorRt("Float", unbuilt="no kernel for node top.0"),
            r"can't build the graph: no kernel for node top\.0",
            "build_failed",
        ),
        (FakeTensorRt("Float", unbuilt="OutOfMemory (no details)"), "OutOf", "out_of_memory"),
    ],
)
def test_refusals_carry_the_reason(
    onnx_rec: Artifact,
    make_context: Callable[..., Context],
    use: Callable[..., FakeTensorRt],
    fake: FakeTensorRt,
    said: str,
    code: str,
) -> None:
    use(fake)
    with pytest.raises(UnsupportedError, match=said) as caught:
        build_tensorrt(onnx_rec, make_context())
    assert caught.value.code == code


def test_a_plan_that_is_not_its_graphs_precision_fails(
    onnx_rec: Artifact, make_context: Callable[..., Context], use: Callable[..., FakeTensorRt]
) -> None:
    from dataclasses import replace

    use(FakeTensorRt("Float"))
    with pytest.raises(EffectError, match="was to be fp16, but no layer uses fp16"):
        build_tensorrt(replace(onnx_rec, precision="fp16"), make_context("a"))
    use(FakeTensorRt("Half", "Int8"))
    both = replace(onnx_rec, precision="int8+fp16")
    outcome = build_tensorrt(both, make_context("b"))
    assert outcome.artifact.precision == "int8+fp16"
    assert {e.name for e in outcome.effects} >= {"int8_layers", "fp16_layers"}


def test_a_plan_whose_weights_may_be_exchanged_is_refused(
    onnx_rec: Artifact, make_context: Callable[..., Context], use: Callable[..., FakeTensorRt]
) -> None:
    use(FakeTensorRt("Float")).refittable = True
    with pytest.raises(UnsupportedError, match="whose weights may be exchanged"):
        build_tensorrt(onnx_rec, make_context())


def test_sizes_are_checked(
    onnx_rec: Artifact, make_context: Callable[..., Context], use: Callable[..., FakeTensorRt]
) -> None:
    use(FakeTensorRt("Float"))
    with pytest.raises(UnsupportedError, match=r"candidates: \(4, 2, 8\) is not \(smallest"):
        build_tensorrt(onnx_rec, make_context("c"), candidates=(4, 2, 8))
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        bind("stages", "build_tensorrt", {"batches": [0, 1, 2]})
