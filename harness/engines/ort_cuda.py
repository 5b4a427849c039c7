"""The onnxruntime engine on a CUDA device: inputs bound on the device, never the CPU unasked."""

from collections import Counter
from collections.abc import Mapping
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
from harness.engines.graph import executed_graph
from harness.engines.ort_cpu import check_provider
from harness.engines.probing import tiny_onnx

PROVIDER = "CUDAExecutionProvider"
_PROVIDERS = [(PROVIDER, {"device_id": "0", "use_tf32": "0"})]


@engine(accepts="onnx", device="cuda")
class OrtCuda(Engine):
    """onnxruntime's CUDA provider, with IOBinding and without TF32."""

    PACKAGE: ClassVar[str] = "onnxruntime"

    @classmethod
    def probe(cls) -> Probe:
        """Asks for the GPU build, then the driver, then runs one addition with no way back."""
        found = installed("onnxruntime-gpu")
        if found is None:
            plain = installed("onnxruntime")
            has = f" (onnxruntime {plain} is the CPU build)" if plain else ""
            advice = "install the 'ort-gpu' extra instead of 'ort': the two share a folder"
            return missing_package(f"onnxruntime-gpu isn't installed{has}", advice=advice)
        fault = driver_fault()
        if fault:
            return fault
        versions = {"onnxruntime-gpu": found}
        session = _session(tiny_onnx(), threads=1, fallback=False)
        check_provider(session, PROVIDER)
        (out,) = session.run(None, {"x": np.ones((2, 3), np.float32)})
        if not np.array_equal(out, np.full((2, 3), 2, np.float32)):
            return Probe("build_failed", f"onnxruntime added 1 and 1 to {out.ravel()[0]}", versions)
        return Probe("ok", versions=versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        require_device()
        self._session = _session(str(artifact.file), threads=threads, fallback=True)
        check_provider(self._session, PROVIDER)
        self._counts = row_counts(artifact)
        self._last: Any = None

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """A binding of inputs on the device and of outputs that stay there."""
        import onnxruntime as ort

        check_feeds(self.artifact, feeds)
        check_ids(self._counts, feeds)
        binding = self._session.io_binding()
        for name, array in feeds.items():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
            binding.bind_ortvalue_input(name, value)
        for spec in self.artifact.outputs:
            binding.bind_output(spec.name, "cuda", 0)
        binding.synchronize_inputs()
        return binding

    def run(self, prepared: Any) -> Any:
        """The binding, whose outputs are on the device."""
        self._session.run_with_iobinding(prepared)
        self._last = prepared
        return prepared

    def synchronize(self) -> None:
        """Wait until the last run's outputs are there."""
        if self._last is not None:
            self._last.synchronize_outputs()

    def fetch(self, outputs: Any) -> np.ndarray:
        """Logits (rows,), or lists, in host memory; see ``host_form``."""
        return host_form(outputs.copy_outputs_to_cpu())

    def describe(self) -> EngineFacts:
        """Provider, nodes per provider and the precision of the placed graph."""
        import onnxruntime as ort

        facts = executed_graph(self.artifact.file, _options(1), list(_PROVIDERS))
        nodes = node_counts(self._session)
        slow = (
            {"int8": "the CUDA provider has no fast int8 path"} if facts.precision == "int8" else {}
        )
        return EngineFacts(
            engine="ort-cuda",
            version=ort.__version__,
            device="cuda",
            precision=facts.precision,
            provider=self._session.get_providers()[0],
            threads=self._session.get_session_options().intra_op_num_threads,
            notes={"nodes": nodes, "products": facts.products, "tf32": False, **slow},
        )

    def close(self) -> None:
        """Free the session and its device memory."""
        self._last = None
        del self._session


def node_counts(session: Any) -> dict[str, int]:
    """Nodes of a session's graph by the provider they were given to."""
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def _options(threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _session(model: str | bytes, *, threads: int, fallback: bool) -> Any:
    """A CUDA session; without ``fallback`` a node that only the CPU has is an error. Shape nodes of
    real graphs belong on the CPU, so there the provider is read back instead.
    """
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN of the pip packages, before the provider looks for them
    options = _options(threads)
    if not fallback:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(model, options, providers=list(_PROVIDERS))
