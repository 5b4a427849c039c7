"""The onnxruntime engine on the CPU."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from harness.artifact import Artifact
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, engine, host_form
from harness.engines.graph import executed_graph
from harness.engines.probing import find_package, tiny_onnx
from harness.errors import UnsupportedError
from harness.native import add_operators

PROVIDER = "CPUExecutionProvider"


@engine(accepts="onnx", device="cpu")
class OrtCpu(Engine):
    """onnxruntime on the CPU, its threads asleep between calls."""

    PACKAGE: ClassVar[str] = "onnxruntime"

    @classmethod
    def probe(cls) -> Probe:
        """Runs a graph of one addition."""
        missing = find_package("onnxruntime", extra="ort")
        if missing:
            return missing
        import onnxruntime as ort

        versions = {"onnxruntime": ort.__version__}
        session = ort.InferenceSession(tiny_onnx(), session_options(1), providers=[PROVIDER])
        return probe_addition(session, versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        self._session = open_session(artifact, threads=threads)
        self._outputs = [spec.name for spec in artifact.outputs]

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Contiguous arrays by input name."""
        check_feeds(self.artifact, feeds)
        return {name: np.array(array, order="C") for name, array in feeds.items()}

    def run(self, prepared: dict[str, np.ndarray]) -> Any:
        """The session's outputs."""
        return self._session.run(self._outputs, prepared)

    def fetch(self, outputs: Any) -> np.ndarray:
        """Logits (rows,), or lists; see ``host_form``."""
        return host_form(outputs)

    def describe(self) -> EngineFacts:
        """Provider, threads and the precision of the optimised graph."""
        import onnxruntime as ort

        options = self._session.get_session_options()
        facts = executed_graph(self.artifact.file, session_options(1), [PROVIDER])
        return EngineFacts(
            engine="ort-cpu",
            version=ort.__version__,
            device="cpu",
            precision=facts.precision,
            provider=self._session.get_providers()[0],
            threads=options.intra_op_num_threads,
            notes={"products": facts.products, "operators": facts.operators},
        )


def probe_addition(session: Any, versions: Mapping[str, str]) -> Probe:
    """What a session of ``tiny_onnx`` makes of 1 + 1."""
    (out,) = session.run(None, {"x": np.ones((2, 3), np.float32)})
    if not np.array_equal(out, np.full((2, 3), 2, np.float32)):
        return Probe("build_failed", f"onnxruntime added 1 and 1 to {out.ravel()[0]}", versions)
    return Probe("ok", versions=versions)


def open_session(artifact: Artifact, *, threads: int) -> Any:
    """A session of an artifact's graph on the CPU; raises ``UnsupportedError``."""
    import onnxruntime as ort

    options = session_options(threads)
    add_operators(options, artifact.file)
    try:
        session = ort.InferenceSession(str(artifact.file), options, providers=[PROVIDER])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise UnsupportedError(
            f"{artifact.file}: onnxruntime can't load it ({_first_line(error)}); "
            "export or quantise it in another way",
            code="unsupported_model",
        ) from error
    check_provider(session, PROVIDER)
    return session


def session_options(threads: int) -> Any:
    """Options of every session here: so many threads, which sleep between calls."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def check_provider(session: Any, expected: str) -> None:
    """Raise ``UnsupportedError`` (silent_fallback) when a session doesn't run where it was asked
    to: onnxruntime itself only logs a warning and computes on the CPU.
    """
    first = session.get_providers()[0]
    if first != expected:
        raise UnsupportedError(
            f"onnxruntime was asked for {expected} and runs on {first}; nothing is measured, "
            "because the time would carry the wrong device's name",
            code="silent_fallback",
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
