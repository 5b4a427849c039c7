"""The TensorRT engine: runs a built plan on a CUDA device, one code path for TensorRT 10 and 11.

Networks are strongly typed: precision is the graph's, no flag sets it, and the label of a plan is
what its layers say, not what it was asked to be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.artifact import Artifact
from harness.cuda import installed
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, engine, host_form
from harness.engines.device import (
    check_ids,
    driver_fault,
    missing_package,
    require_device,
    row_counts,
)
from harness.errors import UnsupportedError
from harness.plans import layer_types, plan_precision

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Ready:
    """A batch on the device, the profile that it fits and the outputs' room."""

    batch: Any
    profile: int
    outputs: Mapping[str, Any]


@engine(accepts="tensorrt", device="cuda")
class TensorRt(Engine):
    """A TensorRT plan, run on torch's device memory and a stream of its own; each of the plan's
    profiles that is used has a context of its own.
    """

    PACKAGE: ClassVar[str] = "tensorrt"
    NAME: ClassVar[str] = "tensorrt"
    GRAPH: ClassVar[bool] = False

    @classmethod
    def probe(cls) -> Probe:
        """Asks for the packages, then the driver, then builds and runs a network of one layer."""
        found = installed("tensorrt")
        if found is None:
            advice = "install the 'tensorrt' extra (its libraries come from NVIDIA's index)"
            return missing_package("tensorrt isn't installed", advice=advice)
        fault = driver_fault()
        if fault:
            return fault
        import torch

        versions = {"tensorrt": found, "torch": torch.__version__}
        if not torch.cuda.is_available():
            return Probe(
                "no_package",
                f"torch {torch.__version__} finds no CUDA device; TensorRT needs its CUDA build",
                versions,
            )
        from harness.engines.tensorrt_tiny import run_tiny

        return run_tiny(versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        require_device()
        import tensorrt as trt
        import torch

        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._plan = self._runtime.deserialize_cuda_engine(artifact.file.read_bytes())
        if self._plan is None:
            raise UnsupportedError(
                f"{artifact.file}: TensorRT {trt.__version__} can't load this plan (built by "
                "another version or for another card?); build it again on this machine",
                code="abi_mismatch",
            )
        self._profiles = plan_shapes(self._plan, [spec.name for spec in artifact.inputs])
        self._contexts: dict[int, Any] = {}
        stream: Any = torch.cuda.Stream
        self._stream = stream()  # TensorRT synchronises more than it must on the default one
        self._counts = row_counts(artifact)

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """Inputs and room for outputs on the device.

        Raises ``UnsupportedError`` for a shape that none of the plan's profiles has.
        """
        import torch

        from harness.engines.cuda_calls import upload

        check_feeds(self.artifact, feeds)
        check_ids(self._counts, feeds)
        profile = choose_profile(self._profiles, {n: a.shape for n, a in feeds.items()})
        context = self._context(profile)
        batch = upload(feeds)
        for name, tensor in batch.tensors.items():
            context.set_input_shape(name, tuple(tensor.shape))
        room = {spec.name: self._room(context, spec.name) for spec in self.artifact.outputs}
        torch.cuda.synchronize()
        return _Ready(batch, profile, room)

    def _context(self, profile: int) -> Any:
        """The context of a profile, made when it is first used."""
        if profile not in self._contexts:
            context = self._plan.create_execution_context()
            if context is None:
                raise UnsupportedError(
                    f"{self.artifact.file}: no device memory for the plan "
                    f"({self._plan.device_memory_size_v2:,} bytes)",
                    code="out_of_memory",
                )
            if not context.set_optimization_profile_async(profile, self._stream.cuda_stream):
                raise UnsupportedError(
                    f"{self.artifact.file}: TensorRT can't take profile {profile}",
                    code="build_failed",
                )
            self._stream.synchronize()
            self._contexts[profile] = context
        return self._contexts[profile]

    def _room(self, context: Any, name: str) -> Any:
        """A device buffer for an output of the shape that the inputs set give it."""
        import torch

        from harness.engines.cuda_calls import DEVICE

        shape = tuple(context.get_tensor_shape(name))
        kind = _torch_type(self._plan.get_tensor_dtype(name))
        return torch.empty(shape, dtype=kind, device=DEVICE)

    def run(self, prepared: Any) -> Any:
        """The output buffers; ``synchronize`` waits for them."""
        ready: _Ready = prepared
        self._enqueue(ready.profile, ready.batch.tensors, ready.outputs)
        return tuple(ready.outputs.values())

    def _enqueue(self, profile: int, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        context = self._contexts[profile]
        for name, tensor in inputs.items():
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        for name, tensor in outputs.items():
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(self._stream.cuda_stream):
            raise UnsupportedError("TensorRT couldn't start the plan", code="build_failed")

    def synchronize(self) -> None:
        """Wait until the stream has finished."""
        self._stream.synchronize()

    def device_seconds(self, prepared: Any, calls: int) -> float | None:
        """By events on the engine's stream."""
        from harness.engines.cuda_calls import device_seconds

        return device_seconds(lambda: self.run(prepared), calls, stream=self._stream)

    def fetch(self, outputs: Any) -> np.ndarray:
        """Logits (rows,), or lists, in host memory; see ``host_form``."""
        from harness.engines.torch_cpu import host_arrays

        return host_form(host_arrays(outputs))

    def score(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """The answer to one batch, see ``host_form``; one of more requests than any profile has is
        scored in parts, which changes no score: rows know nothing of each other.
        """
        count = len(next(iter(feeds.values())))
        step = most_requests(self._profiles, {n: a.shape for n, a in feeds.items()})
        parts = [
            super(TensorRt, self).score({n: a[at : at + step] for n, a in feeds.items()})
            for at in range(0, count, step)
        ]
        return np.concatenate(parts)

    def describe(self) -> EngineFacts:
        """Precision by the types of the plan's layers; device by name."""
        import tensorrt as trt
        import torch

        inspector = self._plan.create_engine_inspector()
        layers = layer_types(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        return EngineFacts(
            engine=self.NAME,
            version=trt.__version__,
            device="cuda",
            precision=plan_precision(layers),
            provider="TensorRT",
            threads=self.threads,
            notes={
                "layers": layers,
                "name": torch.cuda.get_device_name(),
                "profiles": len(self._profiles),
                "device_memory": self._plan.device_memory_size_v2,
                "tf32": False,
                "cuda_graph": self.GRAPH,
                **self._notes(),
            },
        )

    def _notes(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Free the contexts before the plan, the plan before the runtime."""
        self._contexts.clear()
        del self._plan, self._runtime


def plan_shapes(plan: Any, inputs: list[str]) -> list[dict[str, tuple[Any, Any]]]:
    """Smallest and largest shape of each input, of each of a plan's profiles."""
    found = []
    for profile in range(plan.num_optimization_profiles):
        shapes = {name: plan.get_tensor_profile_shape(name, profile) for name in inputs}
        found.append({name: (tuple(low), tuple(high)) for name, (low, _, high) in shapes.items()})
    return found


def choose_profile(profiles: list[dict[str, tuple[Any, Any]]], shapes: Shapes) -> int:
    """The profile with the smallest largest inputs among those that have these shapes; raises
    ``UnsupportedError`` when none has.
    """
    fitting = [
        at
        for at, profile in enumerate(profiles)
        if all(_inside(shapes[name], *ends) for name, ends in profile.items())
    ]
    if not fitting:
        told = "; ".join(_told(profile) for profile in profiles)
        came = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise UnsupportedError(
            f"the plan has no profile for inputs {came}; it was built for {told}: give these sizes "
            "to build_tensorrt (batches, candidates)",
            code="unsupported_model",
        )
    return min(fitting, key=lambda at: sum(np.prod(high) for _, high in profiles[at].values()))


def most_requests(profiles: list[dict[str, tuple[Any, Any]]], shapes: Shapes) -> int:
    """Most requests (or rows) of one call whose other sizes are these; at least 1."""
    most = 1
    for profile in profiles:
        ends = profile.items()
        if all(_inside(shapes[name][1:], low[1:], high[1:]) for name, (low, high) in ends):
            most = max(most, min(high[0] for _, high in profile.values()))
    return most


def _inside(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> bool:
    return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))


def _told(profile: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} {low} to {high}" for name, (low, high) in profile.items())


def _torch_type(kind: Any) -> Any:
    import tensorrt as trt
    import torch

    return {
        trt.float32: torch.float32,
        trt.float16: torch.float16,
        trt.bfloat16: torch.bfloat16,
        trt.int64: torch.int64,
        trt.int32: torch.int32,
    }[kind]
