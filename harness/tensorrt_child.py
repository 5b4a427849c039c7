"""The child that asks TensorRT-RTX about a graph: ``python -m harness.tensorrt_child REQUEST``.

The request is JSON: the ``folder`` of an ONNX artifact, the ``capability`` to build for, and the
sizes of its free ``axes`` (smallest, best tuned, largest). Each thing that is found out is a line
of JSON on stdout, so that what was known before a crash is not lost.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.artifact import Artifact, read_artifact
from harness.process import claim_stdout

_TYPES = re.compile(r"In (validate|check)Types? at")
"""TensorRT's own functions that refuse an operator for the types it gets."""
_NO_DRIVER = "Cuda Runtime"
"""What it logs of the driver that isn't there says nothing of the graph."""


def answers(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is found out, in order: the version, whether the graph is parsed, typed and built. A
    refusal has its ``reason``, and the ``operator`` and ``node`` where TensorRT names them; it is
    the last.
    """
    import tensorrt_rtx as trt

    yield {"version": trt.__version__}
    artifact, log = read_artifact(Path(request["folder"])), _collecting_logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(artifact.file)):
        yield _refusal(parser, log)
        return
    yield {"parsed": True}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, request["capability"]), 0)
    config.add_optimization_profile(_profile(builder, artifact, request["axes"]))
    log.clear()
    if not builder.is_network_supported(network, config):
        yield {"typed": False, "reason": log.told()}
        return
    if other := _other_types(trt, network, artifact):
        yield {"typed": False, "reason": other}
        return
    yield {"typed": True}
    yield _build(builder, network, config, log)


def _build(builder: Any, network: Any, config: Any, log: Any) -> dict[str, Any]:
    import time

    log.clear()
    start = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return {"built": False, "reason": log.told()}
    return {"built": True, "build_seconds": time.monotonic() - start}


def _refusal(parser: Any, log: Any) -> dict[str, Any]:
    """What the parser refused first: an operator, or the types that it gets."""
    if not parser.num_errors:
        return {"parsed": False, "reason": log.told()}
    error = parser.get_error(0)
    text = " ".join(error.desc().split())
    named = {"operator": error.node_operator(), "node": error.node_name()}
    if _TYPES.search(text):
        return {"parsed": True, "typed": False, "reason": text, **named}
    plain = text not in ("", "false")  # all that it says of an operator that it doesn't know
    return {"parsed": False, "reason": text if plain else "it isn't supported", **named}


def _other_types(trt: Any, network: Any, artifact: Artifact) -> str:
    """How inputs and outputs differ from the artifact's; empty when they don't."""
    ends = [network.get_input(at) for at in range(network.num_inputs)]
    ends += [network.get_output(at) for at in range(network.num_outputs)]
    found = {end.name: trt.nptype(end.dtype).__name__ for end in ends}
    wanted = {spec.name: spec.dtype for spec in (*artifact.inputs, *artifact.outputs)}
    other = [
        f"{name} is {found[name]}, expected {dtype}"
        for name, dtype in wanted.items()
        if name in found and found[name] != dtype
    ]
    return "; ".join(other)


def _profile(builder: Any, artifact: Artifact, axes: Mapping[str, list[int]]) -> Any:
    profile = builder.create_optimization_profile()
    for spec in artifact.inputs:
        shapes = (
            tuple(axes[axis][at] if isinstance(axis, str) else axis for axis in spec.shape)
            for at in range(3)
        )
        profile.set_shape(spec.name, *shapes)
    return profile


def _collecting_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the errors."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR and _NO_DRIVER not in message:
                self.errors.append(message)

        def clear(self) -> None:
            self.errors.clear()

        def told(self) -> str:
            return " ".join(self.errors[0].split()) if self.errors else "no reason was given"

    return Log()


def main(request: str) -> None:
    """Write the answers to the process's own stdout."""
    stream = claim_stdout()
    for answer in answers(json.loads(request)):
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


if __name__ == "__main__":
    main(sys.argv[1])
