"""The onnxruntime engine on a CUDA device: inputs bound on the device, never the CPU unasked."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from harness.artifact import Artifact
from harness.cuda import installed, require_portable
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, engine, host_form
from harness.engines.device import (
    check_ids,
    driver_fault,
    missing_package,
    require_device,
    row_counts,
)
from harness.engines.graph import executed_graph
from harness.engines.ort_cpu import check_provider, probe_addition
from harness.engines.placement import placement
from harness.engines.probing import tiny_onnx
from harness.errors import UnsupportedError

PROVIDER = "CUDAExecutionProvider"
_SETTINGS = {"device_id": "0", "use_tf32": "0"}


@engine(accepts="onnx", device="cuda")
class OrtCuda(Engine):
    """onnxruntime's CUDA provider, with IOBinding and without TF32."""

    PACKAGE: ClassVar[str] = "onnxruntime"
    NAME: ClassVar[str] = "ort-cuda"
    GRAPH: ClassVar[bool] = False
    DEVICE: ClassVar[str] = "cuda"
    """Where inputs and outputs are bound."""

    @classmethod
    def probe(cls) -> Probe:
        """Asks for the GPU build, then the driver, then runs one addition with no way back."""
        fault = probe_package()
        if fault:
            return fault
        versions = {"onnxruntime-gpu": str(installed("onnxruntime-gpu"))}
        session = open_cuda(tiny_onnx(), threads=1, fallback=False)
        return probe_addition(session, versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        require_portable(artifact.file, target=self.NAME)
        require_device()
        self._stream = torch_stream()
        handle = None if self._stream is None else int(self._stream.cuda_stream)
        self._session = open_cuda(
            str(artifact.file), threads=threads, fallback=True, graph=self.GRAPH, stream=handle
        )
        self._counts = row_counts(artifact)
        self._last: Any = None

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """A binding of inputs on the device and of outputs that stay there."""
        import onnxruntime as ort

        self._check(feeds)
        binding = self._session.io_binding()
        for name, array in feeds.items():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.DEVICE, 0)
            binding.bind_ortvalue_input(name, value)
        for spec in self.artifact.outputs:
            binding.bind_output(spec.name, self.DEVICE, 0)
        binding.synchronize_inputs()
        return binding

    def _check(self, feeds: Mapping[str, np.ndarray]) -> None:
        check_feeds(self.artifact, feeds)
        check_ids(self._counts, feeds)

    def run(self, prepared: Any) -> Any:
        """The binding, whose outputs are on the device."""
        self._session.run_with_iobinding(prepared)
        self._last = prepared
        return prepared

    def synchronize(self) -> None:
        """Wait until the last run's outputs are there."""
        if self._last is not None:
            self._last.synchronize_outputs()

    def device_seconds(self, prepared: Any, calls: int) -> float | None:
        """By events on the stream that onnxruntime was given; None without a CUDA build of torch,
        whose stream and events these are.
        """
        if self._stream is None:
            return None
        from harness.engines.cuda_calls import device_seconds

        return device_seconds(lambda: self.run(prepared), calls, stream=self._stream)

    def fetch(self, outputs: Any) -> np.ndarray:
        """Logits (rows,), or lists, in host memory; see ``host_form``."""
        return host_form(outputs.copy_outputs_to_cpu())

    def describe(self) -> EngineFacts:
        """Provider, the precision of the placed graph, and where its nodes are: the device of one
        that is on the CPU too is ``cuda+cpu``.
        """
        import onnxruntime as ort

        facts = executed_graph(self.artifact.file, _options(1), [(PROVIDER, _SETTINGS)])
        placed = placement(self._session, self.artifact.file)
        notes = {
            "nodes": placed.nodes,
            "placement": placed.sentence,
            "products": facts.products,
            "tf32": False,
            "cuda_graph": self.GRAPH,
        }
        if self._stream is None:
            notes["device_seconds"] = "torch isn't a CUDA build, so there are no events to time by"
        if facts.precision == "int8":
            notes["int8"] = "the CUDA provider has no fast int8 path"
        return EngineFacts(
            engine=self.NAME,
            version=ort.__version__,
            device="cuda+cpu" if placed.mixed else "cuda",
            precision=facts.precision,
            provider=self._session.get_providers()[0],
            threads=self._session.get_session_options().intra_op_num_threads,
            notes=notes | self._notes(),
        )

    def _notes(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Free the session and its device memory."""
        self._last = None
        del self._session


def probe_package() -> Probe | None:
    """None when the GPU build of onnxruntime is there, and a driver with a device."""
    if installed("onnxruntime-gpu") is None:
        plain = installed("onnxruntime")
        has = f" (onnxruntime {plain} is the CPU build)" if plain else ""
        advice = "install the 'ort-gpu' extra instead of 'ort': the two share a folder"
        return missing_package(f"onnxruntime-gpu isn't installed{has}", advice=advice)
    return driver_fault()


def torch_stream() -> Any:
    """A stream of torch's for a runtime to work on, or None where torch has no CUDA."""
    import torch

    if torch.version.cuda is None or not torch.cuda.is_available():
        return None
    kind: Any = torch.cuda.Stream
    return kind()


def open_cuda(
    model: str | bytes,
    *,
    threads: int,
    fallback: bool,
    graph: bool = False,
    stream: int | None = None,
) -> Any:
    """A CUDA session; without ``fallback`` a node that only the CPU has is an error. Shape nodes of
    real graphs belong on the CPU, so there the placement is read back instead.

    With ``graph`` runs are recorded as CUDA graphs; ``stream`` is the address of the stream to work
    on. Raises ``UnsupportedError``.
    """
    import torch  # noqa: F401  # its CUDA libraries come first, where it has any

    import onnxruntime as ort  # isort: skip

    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN of the pip packages, before the provider looks for them
    options = _options(threads)
    if not fallback:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = dict(_SETTINGS)
    if graph:
        settings["enable_cuda_graph"] = "1"
    if stream is not None:
        settings["user_compute_stream"] = str(stream)
    try:
        session = ort.InferenceSession(model, options, providers=[(PROVIDER, settings)])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise UnsupportedError(_unloaded(error), code=_code(error)) from error
    session.disable_fallback()  # else a first call that fails is run again, on the CPU
    check_provider(session, PROVIDER)
    return session


def _unloaded(error: Exception) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return f"onnxruntime can't load the graph on CUDA: {first}"


def _code(error: Exception) -> str:
    return "out_of_memory" if "memory" in str(error).lower() else "unsupported_model"


def _options(threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options
