"""The part of TensorRT's Python interface that the harness calls, typed after the real bindings.

``tests/engines/test_tensorrt.py`` compares its names with those of ``tensorrt_rtx``. A plan of it
gives, for each candidate, the candidate's first id as its logit.
"""

import ctypes
import json
from typing import Any

import numpy as np


class IntFlag(int):
    """A member of an enumeration."""


class Logger:
    ERROR = IntFlag(1)

    def __init__(self, min_severity: Any = None) -> None:
        pass


class ILogger:
    class Severity:
        ERROR = IntFlag(1)

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class IBuilderConfig:
    def __init__(self, fake: "FakeTensorRt") -> None:
        self._fake = fake
        self.profiling_verbosity: Any = None

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._fake.limit = (pool, pool_size)

    def clear_flag(self, flag: Any) -> None:
        self._fake.cleared.append(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self._fake.profiles.append(profile._shapes)
        return len(self._fake.profiles) - 1

    def create_timing_cache(self, serialized: bytes) -> Any:
        self._fake.caches.append(serialized)
        return ITimingCache(serialized)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return cache._content not in self._fake.foreign_caches

    def get_timing_cache(self) -> Any:
        return ITimingCache(b"timings")


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self._shapes[input] = (min, opt, max)


class Builder:
    def __init__(self, fake: "FakeTensorRt", logger: Any) -> None:
        self._fake, self._logger = fake, logger

    def create_network(self, flags: int = 0) -> object:
        self._fake.flags = flags
        return object()

    def create_builder_config(self) -> IBuilderConfig:
        self._fake.config = IBuilderConfig(self._fake)
        return self._fake.config

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: object, config: object) -> bytes | None:
        if self._fake.unbuilt:
            self._logger.log(ILogger.Severity.ERROR, self._fake.unbuilt)
            return None
        return b"plan"


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class OnnxParser:
    num_errors = 1

    def __init__(self, fake: "FakeTensorRt", network: object, logger: object) -> None:
        self._fake = fake

    def parse_from_file(self, model: str) -> bool:
        return not self._fake.unparsed

    def get_error(self, index: int) -> ParserError:
        return ParserError(self._fake.unparsed)


class EngineInspector:
    def __init__(self, fake: "FakeTensorRt") -> None:
        self._fake = fake

    def get_engine_information(self, format: Any) -> str:  # noqa: A002
        layer = {
            "Name": "l",
            "Inputs": [],
            "Outputs": [{"Format/Datatype": kind} for kind in self._fake.layers],
        }
        return json.dumps({"Layers": [layer, "a name only"]})


class IExecutionContext:
    def __init__(self, fake: "FakeTensorRt") -> None:
        self._fake = fake
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, int] = {}
        self._profile = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle == 7
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._fake.profiles[self._profile][name]
        assert all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        self._shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "logits"
        return self._shapes["candidates"][:2]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._places[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 7
        shape = self._shapes["candidates"]
        ids = _memory(self._places["candidates"], shape, np.int64)
        _memory(self._places["logits"], shape[:2], np.float32)[...] = ids[..., 0]
        return not self._fake.unstarted


def _memory(address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), kind).reshape(shape)


class ICudaEngine:
    device_memory_size_v2 = 1024

    def __init__(self, fake: "FakeTensorRt") -> None:
        self._fake = fake
        self.refittable = fake.refittable

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._fake.profiles)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._fake)

    def create_execution_context(self) -> IExecutionContext | None:
        return None if self._fake.full else IExecutionContext(self._fake)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        return list(self._fake.profiles[profile_index][name])

    def get_tensor_dtype(self, name: str) -> str:
        assert name == "logits"
        return "float32"


class Runtime:
    def __init__(self, fake: "FakeTensorRt", logger: object) -> None:
        self._fake = fake

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        return ICudaEngine(self._fake) if serialized_engine == b"plan" else None


class _Names:
    """An enumeration: its members' values are their names."""

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


class FakeTensorRt:
    """The module; what it is asked is kept, what it does can be set."""

    __version__ = "11.0.0"
    NetworkDefinitionCreationFlag = _Names(STRONGLY_TYPED=1)
    BuilderFlag = _Names(TF32="TF32")
    MemoryPoolType = _Names(WORKSPACE="WORKSPACE")
    ProfilingVerbosity = _Names(DETAILED="DETAILED")
    LayerInformationFormat = _Names(JSON="JSON")
    float32, float16, bfloat16, int32, int64 = "float32", "float16", "bfloat16", "int32", "int64"
    Logger, ILogger = Logger, ILogger

    def __init__(self, *layers: str, unparsed: str = "", unbuilt: str = "") -> None:
        self.layers, self.unparsed, self.unbuilt = layers, unparsed, unbuilt
        self.refittable = self.full = self.unstarted = False
        self.profiles: list[dict[str, Any]] = []
        self.caches: list[bytes] = []
        self.foreign_caches: list[bytes] = []
        self.cleared: list[Any] = []
        self.flags, self.limit, self.config = 0, None, None

    def Builder(self, logger: Any) -> Builder:
        self.profiles = []
        return Builder(self, logger)

    def OnnxParser(self, network: object, logger: object) -> OnnxParser:
        return OnnxParser(self, network, logger)

    def Runtime(self, logger: object) -> Runtime:
        return Runtime(self, logger)


CLASSES = (
    *(IBuilderConfig, ITimingCache, IOptimizationProfile, Builder, OnnxParser, ParserError),
    *(EngineInspector, IExecutionContext, ICudaEngine, Runtime, Logger, ILogger),
)
"""Stand-ins for classes of the same name."""
ENUMERATIONS = (
    *("NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "ProfilingVerbosity"),
    "LayerInformationFormat",
)
