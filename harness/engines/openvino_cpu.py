"""The OpenVINO engine on the CPU, for ONNX artifacts."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from harness.artifact import Artifact
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, engine, host_form
from harness.engines.graph import precision_label, stored_type
from harness.engines.probing import find_package, tiny_onnx
from harness.errors import UnsupportedError

_PRODUCTS = {"FullyConnected", "MatMul", "Convolution"}
_SHORT = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


@engine(accepts="onnx", device="cpu")
class OpenVinoCpu(Engine):
    """OpenVINO on the CPU: one stream, latency hint, fp32 pinned where the graph is fp32."""

    PACKAGE: ClassVar[str] = "openvino"

    @classmethod
    def probe(cls) -> Probe:
        """Runs a graph of one addition."""
        missing = find_package("openvino", extra="openvino")
        if missing:
            return missing
        import openvino as ov

        versions = {"openvino": str(ov.__version__)}
        core = ov.Core()
        model = core.compile_model(core.read_model(tiny_onnx()), "CPU", _settings(1))
        out = model({"x": np.ones((2, 3), np.float32)})[0]
        if not np.array_equal(out, np.full((2, 3), 2, np.float32)):
            return Probe("build_failed", f"OpenVINO added 1 and 1 to {out.ravel()[0]}", versions)
        return Probe("ok", versions=versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        import openvino as ov

        self._core = ov.Core()
        try:
            model = _steady_lists(self._core.read_model(str(artifact.file)))
            self._model = self._core.compile_model(model, "CPU", _settings(threads))
        except RuntimeError as error:
            raise UnsupportedError(
                f"{artifact.file}: OpenVINO can't compile it ({_last_line(error)}); "
                "export or quantise it in another way",
                code="unsupported_model",
            ) from error
        self._request = self._model.create_infer_request()

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """OpenVINO tensors over arrays of their own, by input name."""
        import openvino as ov

        check_feeds(self.artifact, feeds)
        return {
            name: ov.Tensor(np.array(array, order="C"), shared_memory=True)
            for name, array in feeds.items()
        }

    def run(self, prepared: dict[str, Any]) -> Any:
        """The output tensors; the next run writes over them."""
        self._request.infer(prepared, share_inputs=True, share_outputs=True)
        return [self._request.get_tensor(spec.name) for spec in self.artifact.outputs]

    def fetch(self, outputs: Any) -> np.ndarray:
        """Logits (rows,), or lists, copied out of the request; see ``host_form``."""
        return host_form([np.array(output.data) for output in outputs])

    def describe(self) -> EngineFacts:
        """Device, threads and hints of the compiled model; precision of the layers it executes."""
        import openvino as ov

        layers = _executed_layers(self._model)
        products = {
            kind: sum(n for (layer, p), n in layers.items() if layer in _PRODUCTS and p == kind)
            for kind in {p for layer, p in layers if layer in _PRODUCTS}
        }
        hint = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return EngineFacts(
            engine="openvino-cpu",
            version=str(ov.__version__),
            device=",".join(self._model.get_property("EXECUTION_DEVICES")).lower(),
            precision=precision_label(products, stored=stored_type(self.artifact.file)),
            provider=str(self._core.get_property("CPU", "FULL_DEVICE_NAME")),
            threads=int(self._model.get_property("INFERENCE_NUM_THREADS")),
            notes={
                "products": products,
                "precision_hint": hint,
                "streams": int(self._model.get_property("NUM_STREAMS")),
                "performance_hint": str(self._model.get_property("PERFORMANCE_HINT")),
            },
        )

    def close(self) -> None:
        """Free the compiled model."""
        del self._request, self._model


def _settings(threads: int) -> dict[str, Any]:
    # Without the hint OpenVINO computes in bf16 on machines that have it, unasked.
    return {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }


def _steady_lists(model: Any) -> Any:
    """The model with ties settled as ONNX says, the lower index first: OpenVINO reads a TopK as one
    that may take any of equal values, so each is put in again as a stable one.
    """
    from openvino import opset11

    for node in list(model.get_ordered_ops()):
        if node.get_type_name() != "TopK":
            continue
        known = node.get_attributes()
        stable = opset11.topk(
            node.input_value(0),
            node.input_value(1),
            axis=known["axis"],
            mode=known["mode"],
            sort="value",
            index_element_type=known["index_element_type"],
            stable=True,
        )
        stable.set_friendly_name(node.get_friendly_name())
        for old, new in zip(node.outputs(), stable.outputs(), strict=True):
            new.set_names(old.get_names())
            old.replace(new)
    return model


def _executed_layers(model: Any) -> Counter[tuple[str, str]]:
    """How many executed layers there are of each (type, precision)."""
    found: Counter[tuple[str, str]] = Counter()
    for node in model.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        kind, precision = (str(facts[key].astype(str)) for key in ("layerType", "runtimePrecision"))
        found[kind, _SHORT.get(precision, precision)] += 1
    return found


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
