"""ONNX -> TensorRT plan, strongly typed: precision is the graph's, and is read back from the plan.

One code path for TensorRT 10 and 11. A plan fits one card, one version and one range of sizes.
"""

import ctypes
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.artifact import Artifact, Effect, write_artifact
from harness.errors import EffectError, UnsupportedError
from harness.modules import copy_description
from harness.params import Count, Positive
from harness.stages.base import Context, Outcome, stage

Range = tuple[int, int, int]
_WORDS = {"Int8": "int8", "FP8": "fp8", "Half": "fp16", "BFloat16": "bf16", "Float": "fp32"}


@stage(accepts="onnx", produces="tensorrt", technique="closed_like")
def build_tensorrt(
    artifact: Artifact,
    context: Context,
    *,
    requests: tuple[Count, Count, Count] = (1, 1, 1024),
    candidates: tuple[Count, Count, Count] = (1, 256, 1024),
    rows: tuple[Count, Count, Count] = (1, 256, 65536),
    workspace_gib: Positive = 4.0,
) -> Outcome:
    """Build a TensorRT plan for (smallest, best tuned, largest) sizes of each free axis.

    Raises ``UnsupportedError`` with what is missing (package, driver, device) or with the
    parser's and builder's reason, and ``EffectError`` when the plan's layers don't use the
    precision of the graph.
    """
    trt = require_tensorrt()
    axes = {"requests": requests, "candidates": candidates, "rows": rows}
    _check_ranges(axes)
    log = _collecting_logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, artifact.file)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace_gib * 2**30))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.add_optimization_profile(_profile(builder, artifact, axes))
    cache_file = context.store.root / "tensorrt" / f"timing-{trt.__version__}.cache"
    _use_timing_cache(config, cache_file)
    context.progress("building the TensorRT plan", 0.1)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnsupportedError(f"TensorRT can't build the graph: {log.last}", code="build_failed")
    _keep_timing_cache(config, cache_file)
    (context.folder / "model.plan").write_bytes(bytes(plan))
    layers = _layer_types(trt, log, bytes(plan))
    precision = read_precision(layers, asked=artifact.precision)
    copy_description(artifact, context.folder)
    made = write_artifact(
        replace(
            artifact,
            folder=context.folder,
            format="tensorrt",
            precision=precision,
        )
    )
    effects = (
        Effect(f"{precision}_layers", 0, layers[precision]),
        Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes"),
    )
    return Outcome(made, effects, (f"TensorRT {trt.__version__}", f"layers by type: {layers}"))


def require_tensorrt() -> Any:
    """The tensorrt module, when it is there and a driver and a device are; asks for the driver
    before TensorRT does, which may crash without one. Raises ``UnsupportedError``.
    """
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "tensorrt isn't installed; install the 'tensorrt' extra on a machine with a GPU",
            code="no_package",
        ) from error
    except ImportError as error:
        raise UnsupportedError(
            f"tensorrt is installed but its libraries don't load ({error}); reinstall the "
            "'tensorrt' extra",
            code="abi_mismatch",
        ) from error
    _require_device()
    return tensorrt


def _require_device() -> None:
    """Raise ``UnsupportedError`` when the CUDA driver is missing or finds no device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise UnsupportedError(
            "the NVIDIA driver isn't installed (no libcuda.so.1); install it to build plans",
            code="no_driver",
        ) from error
    status = int(driver.cuInit(0))
    if status:
        raise UnsupportedError(
            f"the NVIDIA driver finds no usable device (cuInit gave {status}); check nvidia-smi",
            code="no_device",
        )


def _check_ranges(axes: Mapping[str, Range]) -> None:
    for name, (low, best, high) in axes.items():
        if not low <= best <= high:
            raise UnsupportedError(
                f"{name}: {(low, best, high)!r} is not (smallest, best tuned, largest)"
            )


def _collecting_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps its last error in ``last``."""

    class Log(trt.ILogger):  # type: ignore[misc]
        last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.last = message

    return Log()


def _parse(trt: Any, network: Any, log: Any, path: Path) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(path)):
        return
    reasons = [parser.get_error(at).desc() for at in range(parser.num_errors)]
    raise UnsupportedError(
        f"TensorRT doesn't accept the graph: {'; '.join(reasons) or log.last}",
        code="unsupported_model",
    )


def _profile(builder: Any, artifact: Artifact, axes: Mapping[str, Range]) -> Any:
    profile = builder.create_optimization_profile()
    for spec in artifact.inputs:
        low, best, high = (_shape(spec.shape, axes, at) for at in range(3))
        profile.set_shape(spec.name, low, best, high)
    return profile


def _shape(shape: Sequence[str | int], axes: Mapping[str, Range], at: int) -> tuple[int, ...]:
    return tuple(axes[axis][at] if isinstance(axis, str) else axis for axis in shape)


def _use_timing_cache(config: Any, path: Path) -> None:
    """Start from the kernel timings of earlier builds; TensorRT refuses those of other cards."""
    stored = path.read_bytes() if path.is_file() else b""
    config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False)


def _keep_timing_cache(config: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    partial.rename(path)


def _layer_types(trt: Any, log: Any, plan: bytes) -> dict[str, int]:
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UnsupportedError(
            f"TensorRT can't load the plan it built: {log.last}", code="build_failed"
        )
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return layer_types(told)


def layer_types(inspector_json: str) -> dict[str, int]:
    """How many layers take or give tensors of each type, from the engine inspector's JSON."""
    counts: Counter[str] = Counter()
    for layer in json.loads(inspector_json).get("Layers", []):
        ends = (
            [*layer.get("Inputs", []), *layer.get("Outputs", [])] if isinstance(layer, dict) else []
        )
        words = {w for end in ends for w in str(end.get("Format/Datatype", "")).split()}
        counts.update({name for word, name in _WORDS.items() if word in words})
    return dict(counts)


def read_precision(layers: Mapping[str, int], *, asked: str) -> str:
    """The plan's precision, the one ``asked`` when its layers use it; raises ``EffectError``."""
    if not layers.get(asked):
        used = ", ".join(f"{name} in {count}" for name, count in sorted(layers.items()))
        raise EffectError(
            f"the plan was to be {asked}, but no layer uses it (layers by type: {used or 'none'})"
        )
    return asked
