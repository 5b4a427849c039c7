"""ONNX -> TensorRT plan, strongly typed: precision is the graph's, and is read back from the plan.

One code path for TensorRT 10 and 11. A plan fits one card, one version and some ranges of sizes.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifact import Artifact, Effect, write_artifact
from harness.cuda import Device, find_device, require_portable
from harness.errors import UnsupportedError
from harness.modules import copy_description
from harness.params import Count, Positive, Widths
from harness.plans import Range, layer_types, plan_profiles, plan_sizes, read_precision
from harness.profile import Load
from harness.stages.base import Context, Outcome, stage
from harness.store import write_bytes
from harness.tables import Prepared, Split


@stage(accepts="onnx", produces="tensorrt", technique="closed_like")
def build_tensorrt(
    artifact: Artifact,
    context: Context,
    *,
    batches: Widths | None = None,
    candidates: tuple[Count, Count, Count] | None = None,
    workspace_gib: Positive = 4.0,
) -> Outcome:
    """Build a TensorRT plan with a profile for each of the ``batches`` of rows (or lists), one for
    a request's ``candidates`` (smallest, best tuned, largest) and one to score whole splits with.
    In a run the sizes are those that its profile and recipe ask for, unless they are given.

    Raises ``UnsupportedError`` with what is missing (package, driver, device) or with the
    parser's and builder's reason, and ``EffectError`` when the plan's layers don't use the
    precision of the graph.
    """
    require_portable(artifact.file, target="TensorRT")
    trt, device = require_tensorrt()
    profiles = _profiles(artifact, context.data, batches, candidates)
    log = _collecting_logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, artifact.file)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace_gib * 2**30))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; off on the engines it is compared with
    for axes in profiles:
        config.add_optimization_profile(_profile(builder, artifact, axes))
    cache_file = context.store.root / "tensorrt" / _cache_name(trt.__version__, device)
    _use_timing_cache(config, cache_file)
    context.progress(f"building the TensorRT plan for {device.name}", 0.1)
    begun = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    seconds = time.monotonic() - begun
    if plan is None:
        raise _unbuilt(log.last)
    _keep_timing_cache(config, cache_file)
    (context.folder / "model.plan").write_bytes(bytes(plan))
    layers = _reloaded_layers(trt, log, context.folder / "model.plan")
    precision = read_precision(layers, asked=artifact.precision)
    copy_description(artifact, context.folder)
    made = write_artifact(
        replace(artifact, folder=context.folder, format="tensorrt", precision=precision)
    )
    effects = (
        *(Effect(f"{name}_layers", 0, layers[name]) for name in precision.split("+")),
        Effect("build_seconds", 0, seconds, unit="s"),
        Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes"),
    )
    card = f"{device.name}, compute capability {device.capability[0]}.{device.capability[1]}"
    return Outcome(
        made,
        effects,
        (
            f"TensorRT {trt.__version__} for {card}",
            f"layers by type: {layers}",
            f"profiles (smallest, best tuned, largest): {profiles}",
        ),
    )


def require_tensorrt() -> tuple[Any, Device]:
    """The tensorrt module and the device, when both are there; asks for the driver before TensorRT
    does, which may crash without one. Raises ``UnsupportedError``.
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
    return tensorrt, find_device()


def _profiles(
    artifact: Artifact,
    data: Prepared,
    batches: Sequence[int] | None,
    candidates: Range | None,
) -> list[dict[str, Range]]:
    """Sizes of each profile, by free axis of the artifact's inputs."""
    usual = plan_sizes(Load())
    if candidates is not None and not candidates[0] <= candidates[1] <= candidates[2]:
        raise UnsupportedError(
            f"build_tensorrt: candidates: {candidates!r} is not (smallest, best tuned, largest)"
        )
    low, tuned, high = candidates or usual["candidates"]
    return plan_profiles(
        {axis for spec in artifact.inputs for axis in spec.shape if isinstance(axis, str)},
        batches=batches or usual["batches"],
        candidates=(low, tuned, high),
        longest=max(int(np.diff(split.offsets).max(initial=1)) for split in data.splits.values()),
        seen=max(map(_longest_past, data.splits.values())),
    )


def _longest_past(split: Split) -> int:
    """Most items that a row of the split has before it; 1 where the task has no pasts."""
    if split.histories is None:
        return 1
    past = split.histories.end - split.histories.start[split.request_of_row]
    return int(past.max(initial=1))


def _parse(trt: Any, network: Any, log: Any, path: Path) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(path)):
        return
    reasons = [parser.get_error(at).desc() for at in range(parser.num_errors)]
    raise UnsupportedError(
        f"TensorRT doesn't accept the graph: {'; '.join(reasons) or log.last}",
        code="unsupported_model",
    )


def _collecting_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps its last error in ``last``."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.last = message

    return Log()


def _profile(builder: Any, artifact: Artifact, axes: Mapping[str, Range]) -> Any:
    profile = builder.create_optimization_profile()
    for spec in artifact.inputs:
        low, best, high = (_shape(spec.shape, axes, at) for at in range(3))
        profile.set_shape(spec.name, low, best, high)
    return profile


def _shape(shape: Sequence[str | int], axes: Mapping[str, Range], at: int) -> tuple[int, ...]:
    return tuple(axes[axis][at] if isinstance(axis, str) else axis for axis in shape)


def _unbuilt(reason: str) -> UnsupportedError:
    full = "memory" in reason.lower()
    return UnsupportedError(
        f"TensorRT can't build the graph: {reason}",
        code="out_of_memory" if full else "build_failed",
    )


def _cache_name(version: str, device: Device) -> str:
    card = re.sub(r"[^A-Za-z0-9]+", "-", device.name).strip("-")
    return f"timing-{version}-{card}-{device.capability[0]}.{device.capability[1]}.cache"


def _use_timing_cache(config: Any, path: Path) -> None:
    """Start from the kernel timings of earlier builds; anew where TensorRT doesn't take them."""
    stored = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _keep_timing_cache(config: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, bytes(config.get_timing_cache().serialize()))


def _reloaded_layers(trt: Any, log: Any, path: Path) -> dict[str, int]:
    """Types of the layers of the plan in a file, loaded as an engine will: from the file alone, its
    weights in it, nothing refitted.
    """
    engine = trt.Runtime(log).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise UnsupportedError(
            f"TensorRT can't load the plan it built: {log.last}", code="build_failed"
        )
    if engine.refittable:
        raise UnsupportedError(
            "TensorRT built a plan whose weights may be exchanged, which leaves them out of its "
            "optimisation; none was asked for",
            code="build_failed",
        )
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return layer_types(told)
