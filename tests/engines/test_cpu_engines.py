"""What the CPU engines read back: precision as computed, not as stored; threads; refusals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from harness.artifact import Artifact
from harness.engines.base import Engine
from harness.engines.graph import graph_facts, precision_label, stored_type
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.engines.probing import probe_engine
from harness.engines.torch_cpu import TorchCpu, module_precision
from harness.errors import UnsupportedError
from harness.tables import TensorSpec

X = TensorSpec("x", "float32", ("rows", 4))


@pytest.fixture(params=[OrtCpu, OpenVinoCpu], ids=["ort-cpu", "openvino-cpu"])
def kind(request: pytest.FixtureRequest) -> type[Engine]:
    """The engines of ONNX artifacts, where they can run."""
    name = {OrtCpu: "ort-cpu", OpenVinoCpu: "openvino-cpu"}[request.param]
    probe = probe_engine(name)
    if not probe.ok:
        pytest.skip(f"{name}: {probe.sentence}")
    found: type[Engine] = request.param
    return found


@pytest.fixture
def linear(tiny_artifact: Artifact, tmp_path: Path) -> Callable[[str], Artifact]:
    """``linear(kind)``: an artifact ``logits = x @ w`` with all w = 0.5, stored as fp32 or fp16."""

    def make(kind: str) -> Artifact:
        folder = tmp_path / kind
        folder.mkdir()
        half = kind == "fp16"
        weight = numpy_helper.from_array(
            np.full((4, 1), 0.5, np.float16 if half else np.float32), "w"
        )
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        if half:
            nodes = [
                helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
                helper.make_node("MatMul", ["x16", "w"], ["y16"]),
                helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
            ]
        graph = helper.make_graph(
            [*nodes, helper.make_node("Squeeze", ["y", "last"], ["logits"])],
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows"])],
            [weight, numpy_helper.from_array(np.array([1]), "last")],
        )
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / "model.onnx")
        outputs = (TensorSpec("logits", "float32", ("rows",)),)
        return replace(tiny_artifact, folder=folder, format="onnx", inputs=(X,), outputs=outputs)

    return make


def test_fp16_that_is_computed_in_fp32_is_not_called_fp16(
    kind: type[Engine], linear: Callable[[str], Artifact]
) -> None:
    with kind(linear("fp16"), threads=1) as engine:
        scores = engine.score({"x": np.ones((3, 4), np.float32)})
        facts = engine.describe()
    np.testing.assert_array_equal(scores, [2, 2, 2])
    assert facts.precision == "fp32 compute, fp16 weights"


def test_fp32_stays_fp32_where_the_machine_has_bf16(
    kind: type[Engine], linear: Callable[[str], Artifact]
) -> None:
    with kind(linear("fp32"), threads=2) as engine:
        facts = engine.describe()
    assert (facts.precision, facts.device, facts.threads) == ("fp32", "cpu", 2)
    assert facts.notes["products"] == {"fp32": 1}


def test_a_file_that_is_no_graph_is_refused_in_a_sentence(
    kind: type[Engine], linear: Callable[[str], Artifact]
) -> None:
    artifact = linear("fp32")
    artifact.file.write_bytes(b"not a graph")
    with pytest.raises(UnsupportedError, match=r"model\.onnx: .* can't .* it") as caught:
        kind(artifact, threads=1)
    assert caught.value.code == "unsupported_model"


def test_torch_gives_the_process_its_threads_back(tiny_artifact: Artifact) -> None:
    torch.set_num_threads(1)
    with TorchCpu(tiny_artifact, threads=2) as engine:
        assert engine.describe().threads == 2
    assert torch.get_num_threads() == 1


def test_the_precision_of_a_module_is_its_parameters() -> None:
    assert module_precision(torch.nn.Linear(2, 2)) == "fp32"
    mixed = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).half())
    assert module_precision(mixed) == "fp16+fp32"


@pytest.mark.parametrize(
    ("products", "stored", "label"),
    [
        ({"fp32": 3}, None, "fp32"),
        ({"fp32": 3}, "int8", "fp32 compute, int8 weights"),
        ({"fp32": 1, "int8": 4}, "int8", "int8"),
        ({"fp16": 4}, "fp16", "fp16"),
        ({}, None, "fp32"),
    ],
)
def test_labels(products: dict[str, int], stored: str | None, label: str) -> None:
    assert precision_label(products, stored=stored) == label


def test_products_are_counted_by_what_they_compute_in(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeMatMul", ["a", "w8", "s"], ["b"], domain="com.microsoft"),
        helper.make_node("MatMul", ["b", "w32"], ["c"]),
        helper.make_node("MatMul", ["c", "w16"], ["d"]),
        helper.make_node("MatMul", ["d", "d"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
    ]
    kinds = {"w8": np.int8, "w16": np.float16, "w32": np.float32, "s": np.float32}
    weights = [numpy_helper.from_array(np.zeros((2, 2), k), n) for n, k in kinds.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], weights))
    facts = graph_facts(model)
    assert facts.products == {"int8": 1, "fp32": 2, "fp16": 1}
    assert facts.operators == {"DynamicQuantizeMatMul": 1, "MatMul": 3, "Relu": 1}
    assert facts.precision == "int8"
    onnx.save(model, tmp_path / "m.onnx")
    assert stored_type(tmp_path / "m.onnx") == "int8"
