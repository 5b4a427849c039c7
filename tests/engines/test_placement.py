"""Where onnxruntime's nodes are: read from a real session, told in a sentence."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from harness.engines.placement import CPU, placement, shape_nodes


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """``Reshape(x, [Shape(x)[0], -1])`` with names: shape, first, joined, reshaped, sum."""
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["s"], name="shape"),
        make("Gather", ["s", "zero"], ["n"], name="first"),
        make("Concat", ["n", "rest"], ["to"], name="joined", axis=0),
        make("Reshape", ["x", "to"], ["flat"], name="reshaped"),
        make("TopK", ["flat", "one"], ["y", "at"], name="best"),
    ]
    numbers = {"zero": [0], "rest": [-1], "one": [1]}
    constants = [helper.make_tensor(n, TensorProto.INT64, [1], v) for n, v in numbers.items()]
    ends = [
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    ]
    made = helper.make_graph(nodes, "g", *ends, constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


def assigned(**nodes: list[tuple[str, str]]) -> Any:
    """A session that has put (name, type) nodes to providers."""
    parts = [
        SimpleNamespace(
            ep_name=f"{provider}ExecutionProvider",
            get_nodes=lambda each=each: [SimpleNamespace(name=n, op_type=t) for n, t in each],
        )
        for provider, each in nodes.items()
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)


def test_shape_only_nodes_are_those_told_by_forms(graph: Path) -> None:
    assert shape_nodes(graph) == {"shape", "first", "joined"}


@pytest.mark.parametrize(
    ("cpu", "sentence", "mixed"),
    [
        ([], "all 2 on the GPU", False),
        (
            [("shape", "Shape"), ("first", "Gather")],
            "all numbers on the GPU; 2 of 4 nodes on the CPU only work out shapes (Gather, Shape)",
            False,
        ),
        ([("best", "TopK")], "mixed: 1 of 3 nodes on the CPU (TopK)", True),
        (
            [("best", "TopK"), ("", "Gather"), ("other", "Gather"), ("shape", "Shape")],
            "mixed: 3 of 6 nodes on the CPU (2 Gather, TopK); another 1 of 6 nodes on the CPU only "
            "work out shapes (Shape)",
            True,
        ),
    ],
)
def test_a_mixed_placement_is_a_named_verdict(
    graph: Path, cpu: list[tuple[str, str]], sentence: str, mixed: bool
) -> None:
    session = assigned(CUDA=[("reshaped", "Reshape"), ("sum", "Add")], CPU=cpu)
    found = placement(session, graph)
    assert found.sentence == sentence
    assert found.mixed is mixed
    assert sum(found.nodes.values()) == 2 + len(cpu)


def test_a_real_session_tells_its_nodes(graph: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(graph), options, providers=[CPU])
    found = placement(session, graph)
    assert found.nodes == {CPU: 5}
    assert found.shapes == {"Shape": 1, "Gather": 1, "Concat": 1}
    assert found.computing == {"Reshape": 1, "TopK": 1}
    assert found.mixed
