"""Peak memory in a fresh process, and bytes of files by part."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from harness.artifact import Artifact
from harness.suites.arms import Arm, Loaded, Session
from harness.suites.memory import STEPS, memory_rows, size_rows, table_bytes
from harness.suites.points import Point, draw_rows, write_feeds
from harness.suites.worker import peak_bytes
from harness.tables import Prepared

COMMON = {"recipe": "r", "baseline": "b", "target": "t"}
TABLES = (41 + 31 + 7 + 8) * 8
"""Numbers in the tiny DLRM's embedding tables: rows of its four fields times dim 8."""


def test_memory_is_of_a_fresh_process(
    tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    ballast = np.ones(60_000_000)  # 480 MB here, which a child must not be charged for
    split, point = tiny.splits["test"], Point("single", 1, 16, 1)
    rows = draw_rows(split, point, seed=1)
    file = write_feeds(tmp_path / "f.npz", tiny.schema, split, rows, tiny_artifact.inputs)
    arm = Arm("plain", "torch-cpu", tiny_artifact.folder)

    with Session((arm,), 1) as session:
        session.load({"plain": file}, lambda label, share: None)
        peak = session.ask(arm, "memory", timeout=60)
    assert session.failures == {}
    assert peak is not None
    rows_ = memory_rows({"plain": COMMON}, session.loaded, {}, steady={"plain": peak["peak"]})
    assert [row.metric for row in rows_] == [*STEPS.values(), "peak_memory_steady"]
    assert all(row.unit == "bytes" and row.scenario == "memory" for row in rows_)
    values = [row.value for row in rows_]
    assert values == sorted(values)  # type: ignore[type-var]
    assert values[-1] + ballast.nbytes // 2 < peak_bytes()  # type: ignore[operator]


def test_an_arm_that_failed_has_a_failed_row() -> None:
    (row,) = memory_rows({"bad": COMMON}, {}, {"bad": "bad: load failed"}, steady={})
    assert (row.metric, row.value, row.status) == ("peak_memory", None, "failed")
    assert row.reason == "bad: load failed"


def test_facts_of_the_engine_are_in_the_rows() -> None:
    told = {"engine": "ort-cpu", "version": "1.2", "device": "cpu", "precision": "int8"}
    loaded = Loaded({**told, "threads": 1}, {"import": 1, "load": 2, "first_call": 3}, {}, 1)
    rows = memory_rows({"a": COMMON}, {"a": loaded}, {}, steady={})
    assert [(r.metric, r.value) for r in rows] == [
        ("peak_memory_at_import", 1),
        ("peak_memory_at_load", 2),
        ("peak_memory", 3),
        ("peak_memory_steady", None),
    ]
    assert rows[-1].reason == "the worker ended before all was timed"
    assert {(r.engine, r.engine_version, r.precision, r.threads) for r in rows} == {
        ("ort-cpu", "1.2", "int8", 1)
    }


def test_sizes_of_a_torch_artifact(tiny_artifact: Artifact) -> None:
    rows = {row.metric: row for row in size_rows(COMMON, tiny_artifact)}
    size = tiny_artifact.file.stat().st_size
    assert rows["bytes"].value == size
    assert rows["embedding_bytes"].value == TABLES * 4
    assert rows["dense_bytes"].value == size - TABLES * 4
    assert rows["parameters"].value == tiny_artifact.parameters
    assert rows["embedding_parameters"].value == TABLES
    assert rows["macs"].value == tiny_artifact.macs
    assert {row.scenario for row in rows.values()} == {"size"}


def test_a_plan_does_not_tell_its_tables(tiny_artifact: Artifact) -> None:
    (tiny_artifact.folder / "model.plan").write_bytes(b"plan")
    rows = {r.metric: r for r in size_rows(COMMON, replace(tiny_artifact, format="tensorrt"))}
    assert rows["embedding_bytes"].value is None
    assert rows["embedding_bytes"].reason == "not told by a tensorrt file"


def graph(path: Path, *, kind: str) -> None:
    """A table of 10 x 4, gathered in fp32, dequantised then gathered, or gathered then dequantised;
    and a dense weight of 4 x 3."""
    table = np.zeros((10, 4), np.float32 if kind == "fp32" else np.int8)
    weights = {
        "table": table,
        "scale": np.ones(4, np.float32),
        "zero": np.zeros(4, np.int8),
        "dense": np.zeros((4, 3), np.float32),
    }
    scaled = {"axis": 1} if kind == "before" else {"axis": -1}
    nodes = {
        "fp32": [helper.make_node("Gather", ["table", "ids"], ["rows"])],
        "before": [
            helper.make_node("DequantizeLinear", ["table", "scale", "zero"], ["wide"], **scaled),
            helper.make_node("Gather", ["wide", "ids"], ["rows"]),
        ],
        "after": [
            helper.make_node("Gather", ["table", "ids"], ["narrow"]),
            helper.make_node("DequantizeLinear", ["narrow", "scale", "zero"], ["rows"], **scaled),
        ],
    }[kind]
    used = {name for node in nodes for name in node.input} | {"dense"}
    made = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["rows", "dense"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(w, n) for n, w in weights.items() if n in used],
    )
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]), path)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("fp32", 40 * 4), ("before", 40 + 16 + 4), ("after", 40 + 16 + 4)],
)
def test_tables_of_a_graph_with_their_scales(
    tiny_artifact: Artifact, tmp_path: Path, kind: str, expected: int
) -> None:
    graph(tmp_path / "model.onnx", kind=kind)
    assert table_bytes(replace(tiny_artifact, folder=tmp_path, format="onnx")) == expected


def test_external_data_counts(
    tiny_artifact: Artifact,
) -> None:
    before = tiny_artifact.bytes
    (tiny_artifact.folder / "weights.data").write_bytes(b"x" * 100)
    assert tiny_artifact.bytes == before + 100
