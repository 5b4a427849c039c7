"""The tiny network that TensorRT's probe builds, loads and runs: ``y = relu(x)``."""

from collections.abc import Mapping
from typing import Any

from harness.engines.base import Probe


def run_tiny(versions: Mapping[str, str]) -> Probe:
    """Whether TensorRT builds, loads and runs a strongly typed network of one layer here."""
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
    runtime = trt.Runtime(logger)
    plan = runtime.deserialize_cuda_engine(blob)
    if plan is None:
        return Probe("abi_mismatch", "TensorRT can't load the plan it has just built", versions)
    context = plan.create_execution_context()
    if context is None:
        return Probe("out_of_memory", "TensorRT has no device memory for one layer", versions)
    given, got = torch.full((1, 4), 2.0, device="cuda"), torch.zeros(1, 4, device="cuda")
    context.set_tensor_address("x", given.data_ptr())
    context.set_tensor_address("y", got.data_ptr())
    kind: Any = torch.cuda.Stream
    stream = kind()
    torch.cuda.synchronize()
    context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    if not bool((got == 2).all()):
        return Probe("build_failed", f"TensorRT gave {got[0, 0]:g} for relu(2)", versions)
    return Probe("ok", versions=versions)
