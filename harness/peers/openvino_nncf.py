"""OpenVINO with NNCF's post-training int8 at its defaults, and the engine that runs its files."""

from dataclasses import replace

from harness.artifact import Artifact, write_artifact
from harness.engines.base import Engine, EngineFacts
from harness.engines.openvino_cpu import OpenVinoCpu, _settings, _steady_lists
from harness.errors import UnsupportedError
from harness.modules import copy_description
from harness.peers.material import Material

FILE = "model.xml"


def make(material: Material) -> None:
    """Quantise with ``nncf.quantize`` on the training rows that our static int8 takes."""
    import nncf
    import openvino as ov

    model = ov.Core().read_model(str(material.start.file))
    found = nncf.quantize(model, nncf.Dataset(list(material.batches())))
    ov.save_model(found, material.folder / FILE, compress_to_fp16=False)
    copy_description(material.start, material.folder)
    write_artifact(replace(material.start, folder=material.folder, precision="int8"))


class OpenVinoIr(OpenVinoCpu):
    """OpenVINO on the CPU with a model in its own form, settings as the catalog's engine has."""

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        Engine.__init__(self, artifact, threads=threads)
        import openvino as ov

        self._core = ov.Core()
        try:
            model = _steady_lists(self._core.read_model(str(artifact.folder / FILE)))
            self._model = self._core.compile_model(model, "CPU", _settings(threads))
        except RuntimeError as error:
            raise UnsupportedError(f"{artifact.folder / FILE}: {error}") from error
        self._request = self._model.create_infer_request()

    def describe(self) -> EngineFacts:
        """As the model is called; threads as the compiled model tells."""
        import openvino as ov

        return EngineFacts(
            engine="openvino-ir",
            version=str(ov.__version__),
            device="cpu",
            precision="int8",
            provider=str(self._core.get_property("CPU", "FULL_DEVICE_NAME")),
            threads=int(self._model.get_property("INFERENCE_NUM_THREADS")),
        )
