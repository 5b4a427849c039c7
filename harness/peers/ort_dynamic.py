"""onnxruntime's own dynamic int8, of MatMul and Gemm alone: the usual advice on a CPU."""

from harness.peers.material import Material, describe_graph


def make(material: Material) -> None:
    """Quantise with ``onnxruntime.quantization.quantize_dynamic`` and its defaults, to int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        material.start.file,
        material.file,
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
    )
    describe_graph(material, precision="int8", made_of=("MatMulInteger", "QLinearMatMul"))
