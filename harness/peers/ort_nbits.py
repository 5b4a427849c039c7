"""onnxruntime's blockwise weights of 8 bits (MatMulNBits), which multiplies in int8 too."""

from harness.peers.material import Material, describe_graph

BLOCK = 32
INT8_PRODUCTS = 4
"""The operator's ``accuracy_level`` that lets it quantise its input to int8."""


def make(material: Material) -> None:
    """Quantise every product of a constant, those of a Gemm included, in blocks of 32."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    graph = ONNXModel(onnx.load(material.start.file))
    graph.replace_gemm_with_matmul()  # the tool sees MatMul only
    tool = MatMulNBitsQuantizer(
        graph.model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_PRODUCTS
    )
    tool.process()
    onnx.save(tool.model.model, material.file)
    describe_graph(material, precision="int8", made_of=("MatMulNBits",))
