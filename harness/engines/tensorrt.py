"""The TensorRT engine: runs a built plan on a CUDA device, one code path for TensorRT 10 and 11.

Networks are strongly typed: precision is the graph's, no flag sets it, and the label of a plan is
what its layers say, not what it was asked to be.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.artifact import Artifact
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, engine, host_form
from harness.engines.device import (
    check_ids,
    driver_fault,
    installed,
    missing_package,
    require_device,
    row_counts,
)
from harness.errors import UnsupportedError

_FORMATS = {
    "INT8": "int8",
    "FP8": "fp8",
    "HALF": "fp16",
    "FP16": "fp16",
    "BFLOAT16": "bf16",
    "BF16": "bf16",
    "FLOAT": "fp32",
    "FP32": "fp32",
}


@dataclass(frozen=True, slots=True)
class _Bound:
    """Tensors on the device for one call, by name."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


@engine(accepts="tensorrt", device="cuda")
class TensorRt(Engine):
    """A TensorRT plan, run on torch's device memory and a stream of its own."""

    PACKAGE: ClassVar[str] = "tensorrt"

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
        return _run_tiny(versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        require_device()
        import tensorrt as trt

        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._plan = self._runtime.deserialize_cuda_engine(artifact.file.read_bytes())
        if self._plan is None:
            raise UnsupportedError(
                f"{artifact.file}: TensorRT {trt.__version__} can't load this plan (built by "
                "another version or for another card?); build it again on this machine",
                code="abi_mismatch",
            )
        self._context = self._plan.create_execution_context()
        if self._context is None:
            raise UnsupportedError(
                f"{artifact.file}: no device memory for the plan", code="out_of_memory"
            )
        self._stream = _stream()
        self._counts = row_counts(artifact)

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> _Bound:
        """Inputs and an output buffer on the device.

        Raises ``UnsupportedError`` for a shape outside the plan's profile.
        """
        import torch

        check_feeds(self.artifact, feeds)
        check_ids(self._counts, feeds)
        for name, array in feeds.items():
            self._check_profile(name, array.shape)
            self._context.set_input_shape(name, array.shape)
        inputs = {name: torch.from_numpy(np.array(a)).to("cuda") for name, a in feeds.items()}
        bound = _Bound(inputs, {spec.name: self._room(spec.name) for spec in self.artifact.outputs})
        torch.cuda.synchronize()
        return bound

    def _room(self, name: str) -> Any:
        """A device buffer for an output of the shape that the inputs set give it."""
        import torch

        shape = tuple(self._context.get_tensor_shape(name))
        kind = _torch_type(self._plan.get_tensor_dtype(name))
        return torch.empty(shape, dtype=kind, device="cuda")

    def _check_profile(self, name: str, shape: tuple[int, ...]) -> None:
        low, _, high = self._plan.get_tensor_profile_shape(name, 0)
        if any(not a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            raise UnsupportedError(
                f"input {name!r} has shape {shape}, the plan was built for {tuple(low)} to "
                f"{tuple(high)}; build it with these sizes in its profile",
                code="unsupported_model",
            )

    def run(self, prepared: _Bound) -> Any:
        """The output buffers; ``synchronize`` waits for them."""
        for name, tensor in prepared.inputs.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        for name, tensor in prepared.outputs.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise UnsupportedError("TensorRT couldn't start the plan", code="build_failed")
        return tuple(prepared.outputs.values())

    def synchronize(self) -> None:
        """Wait until the stream has finished."""
        self._stream.synchronize()

    def fetch(self, outputs: Any) -> np.ndarray:
        """Logits (rows,), or lists, in host memory; see ``host_form``."""
        from harness.engines.torch_cpu import host_arrays

        return host_form(host_arrays(outputs))

    def describe(self) -> EngineFacts:
        """Precision by the types of the plan's layers; device by name."""
        import tensorrt as trt
        import torch

        inspector = self._plan.create_engine_inspector()
        told = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        layers = layer_types(told)
        return EngineFacts(
            engine="tensorrt",
            version=trt.__version__,
            device="cuda",
            precision=plan_precision(layers),
            provider="TensorRT",
            threads=self.threads,
            notes={"layers": layers, "name": torch.cuda.get_device_name()},
        )

    def close(self) -> None:
        """Free the context before the plan, the plan before the runtime."""
        del self._context, self._plan, self._runtime


def layer_types(inspector_json: str) -> dict[str, int]:
    """How many layers take or give each type, from the inspector's JSON; empty when the plan was
    built without detailed profiling (then layers are names only).
    """
    counts: Counter[str] = Counter()
    for layer in json.loads(inspector_json).get("Layers", []):
        if isinstance(layer, dict):
            ends = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
            # "Half" in some versions, "Row major linear FP16 format" in others
            words = " ".join(str(end.get("Format/Datatype", "")) for end in ends).upper().split()
            counts.update({_FORMATS[word] for word in words if word in _FORMATS})
    return dict(counts)


def plan_precision(layers: Mapping[str, int]) -> str:
    """The narrowest type that a plan's layers use; says so when the plan doesn't tell."""
    for name in ("int8", "fp8", "fp16", "bf16", "fp32"):
        if layers.get(name):
            return name
    return "unknown (plan without layer types)"


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


def _stream() -> Any:
    """A stream of our own: TensorRT synchronises more than it must on the default one."""
    import torch

    kind: Any = torch.cuda.Stream
    return kind()


def _run_tiny(versions: Mapping[str, str]) -> Probe:
    """Build, load and run ``y = relu(x)``, strongly typed."""
    import tensorrt as trt
    import torch

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    entry = network.add_input("x", trt.float32, (1, 4))
    layer = network.add_activation(entry, trt.ActivationType.RELU)
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))
    blob = builder.build_serialized_network(network, builder.create_builder_config())
    if blob is None:
        return Probe("build_failed", "TensorRT couldn't build a network of one layer", versions)
    plan = trt.Runtime(logger).deserialize_cuda_engine(blob)
    context = plan.create_execution_context()
    given, got = torch.full((1, 4), 2.0, device="cuda"), torch.zeros(1, 4, device="cuda")
    context.set_tensor_address("x", given.data_ptr())
    context.set_tensor_address("y", got.data_ptr())
    stream = _stream()
    torch.cuda.synchronize()
    context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    if not bool((got == 2).all()):
        return Probe("build_failed", f"TensorRT gave {got[0, 0]:g} for relu(2)", versions)
    return Probe("ok", versions=versions)
