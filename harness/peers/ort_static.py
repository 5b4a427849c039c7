"""onnxruntime's own static int8 in QDQ form, calibrated on training rows."""

from tempfile import TemporaryDirectory
from typing import Any

from harness.peers.material import Material, describe_graph

PRODUCTS = ["MatMul", "Gemm"]


def make_all(material: Material) -> None:
    """Quantise all operators that the tool takes by default."""
    _quantise(material, None)


def make_products(material: Material) -> None:
    """Quantise MatMul and Gemm alone."""
    _quantise(material, PRODUCTS)


def _quantise(material: Material, operators: list[str] | None) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = material.batches()

        def get_next(self) -> Any:
            return next(self.batches, None)

    with TemporaryDirectory() as folder:
        ready = f"{folder}/ready.onnx"
        quant_pre_process(str(material.start.file), ready)
        quantize_static(ready, material.file, Reader(), op_types_to_quantize=operators)
    describe_graph(material, precision="int8", made_of=("QuantizeLinear",))
