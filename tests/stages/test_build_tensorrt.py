"""TensorRT plans: refused with the reason where it is missing, and the build seen by a stand-in."""

import ctypes
import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from harness.artifact import Artifact
from harness.errors import EffectError, UnsupportedError
from harness.registry import ValidationError, bind
from harness.stages import build_tensorrt as stage_file
from harness.stages.base import Context
from harness.stages.build_tensorrt import (
    build_tensorrt,
    layer_types,
    read_precision,
    require_tensorrt,
)


def inspector(*types: str) -> str:
    layer = {"Name": "l", "Inputs": [], "Outputs": [{"Format/Datatype": t} for t in types]}
    return json.dumps({"Layers": [layer, "a name only"]})


class StandIn:
    """The part of TensorRT's Python interface that the stage calls, and a record of the calls."""

    __version__ = "11.0.0"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    class ILogger:
        ERROR = 1

    def __init__(self, layers: str, *, error: str = "", builds: bool = True) -> None:
        self.layers, self.error, self.builds = layers, error, builds
        self.shapes: dict[str, Any] = {}
        self.caches: list[bytes] = []
        self.flags = self.limit = None

    def Builder(self, log: Any) -> Any:
        self.log = log
        config = SimpleNamespace(
            set_memory_pool_limit=lambda kind, size: setattr(self, "limit", (kind, size)),
            add_optimization_profile=lambda profile: None,
            create_timing_cache=lambda data: self.caches.append(data),
            set_timing_cache=lambda cache, ignore_mismatch: None,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"timings"),
        )
        self.config = config
        shape = lambda name, low, best, high: self.shapes.update({name: (low, best, high)})  # noqa: E731
        return SimpleNamespace(
            create_network=lambda flags: setattr(self, "flags", flags),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=shape),
            build_serialized_network=self._build,
        )

    def _build(self, network: Any, config: Any) -> bytes | None:
        if not self.builds:
            self.log.log(1, "no kernel for node top.0")
        return b"plan" if self.builds else None

    def OnnxParser(self, network: Any, log: Any) -> Any:
        return SimpleNamespace(
            parse_from_file=lambda path: not self.error,
            num_errors=1,
            get_error=lambda at: SimpleNamespace(desc=lambda: self.error),
        )

    def Runtime(self, log: Any) -> Any:
        told = SimpleNamespace(get_engine_information=lambda kind: self.layers)
        engine = SimpleNamespace(create_engine_inspector=lambda: told)
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[StandIn], StandIn]:
    def put(stand_in: StandIn) -> StandIn:
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in)  # type: ignore[arg-type]
        monkeypatch.setattr(stage_file, "_require_device", lambda: None)
        return stand_in

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
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(UnsupportedError, match=r"driver isn't installed \(no libcuda") as caught:
        require_tensorrt()
    assert caught.value.code == "no_driver"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuInit=lambda flags: 100))
    with pytest.raises(UnsupportedError, match="cuInit gave 100") as caught:
        require_tensorrt()
    assert caught.value.code == "no_device"


def test_a_plan_is_strongly_typed_with_a_profile_for_each_input(
    onnx_artifact: Artifact, make_context: Callable[..., Context], use: Callable[..., StandIn]
) -> None:
    trt = use(StandIn(inspector("Row major linear FP32", "Float")))
    context = make_context("plan")
    outcome = build_tensorrt(onnx_artifact, context, requests=(1, 2, 3), candidates=(1, 4, 8))
    assert trt.flags == 1 << 1
    assert trt.limit == ("workspace", 4 * 2**30)
    assert trt.config.profiling_verbosity == "detailed"
    assert trt.shapes["candidates"] == ((1, 1, 2), (2, 4, 2), (3, 8, 2))
    assert trt.shapes["user"] == ((1, 1), (2, 1), (3, 1))
    made = outcome.artifact
    assert (made.format, made.precision, made.bytes) == ("tensorrt", "fp32", 4)
    assert (made.folder / "schema.json").is_file()
    assert "TensorRT 11.0.0" in outcome.notes
    build_tensorrt(onnx_artifact, make_context("again", store=context.store))
    assert trt.caches == [b"", b"timings"]


def test_refusals_carry_the_reason(
    onnx_rec: Artifact, make_context: Callable[..., Context], use: Callable[..., StandIn]
) -> None:
    use(StandIn(inspector("Float"), error="unsupported operator MatMulInteger"))
    with pytest.raises(
        UnsupportedError, match="doesn't accept the graph: unsupported operator"
    ) as caught:
        build_tensorrt(onnx_rec, make_context("a"))
    assert caught.value.code == "unsupported_model"
    use(StandIn(inspector("Float"), builds=False))
    with pytest.raises(UnsupportedError, match=r"can't build the graph: no kernel for node top\.0"):
        build_tensorrt(onnx_rec, make_context("b"))
    with pytest.raises(UnsupportedError, match=r"rows: \(4, 2, 8\) is not \(smallest"):
        build_tensorrt(onnx_rec, make_context("c"), rows=(4, 2, 8))


def test_precision_is_what_the_layers_say() -> None:
    layers = layer_types(inspector("Half", "Float", "Row major linear Half format"))
    assert layers == {"fp16": 1, "fp32": 1}
    assert read_precision(layers, asked="fp16") == "fp16"
    with pytest.raises(EffectError, match=r"was to be int8, but no layer uses it .*fp16 in 1"):
        read_precision(layers, asked="int8")


def test_sizes_are_checked_in_the_recipe() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        bind("stages", "build_tensorrt", {"requests": [0, 1, 2]})
