"""What half precision doesn't hold: masks, raw numbers, ids, scales; and the rows that show it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from made_lists import lists_context, save_lists
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from harness.artifact import Artifact, ModelSpec
from harness.errors import EffectError
from harness.stages.base import Outcome
from harness.stages.convert_fp16 import KEPT_OPS, _convert, _kept, convert_fp16
from harness.stages.export_onnx import export_onnx
from harness.stages.graphs import load_graph, ort_outputs
from harness.stages.half_check import _judge, edge_rows
from harness.stages.half_precision import beyond_half, check_ids, check_scales_held, name_nodes
from harness.stages.reference import reference_scores
from harness.tables import Prepared, TensorSpec

POOL = '''"""A user's own model: attention to a history, its padding masked."""

import torch
from torch import nn


class Pool(nn.Module):
    def __init__(self, n_items, dim=8):
        super().__init__()
        self.emb = nn.Embedding(n_items, dim)
        self.query = nn.Parameter(torch.ones(dim))
        self.out = nn.Linear(dim, n_items)

    def forward(self, history):
        x = self.emb(history)
        s = x @ self.query
        pad = history == 0
        MASK
        w = torch.softmax(s, -1).unsqueeze(-1)
        return self.out((w * x).sum(1))
'''
MASKS = {
    "sum": "s = s + pad.to(x.dtype) * -1e9",
    "kept": "s = s - (1.0 - (~pad).to(x.dtype)) * 1e9",
    "where": "s = torch.where(pad, -1e9, s)",
    "fill": "s = s.masked_fill(pad, -1e9)",
    "infinite": "s = s.masked_fill(pad & ~pad.all(1, keepdim=True), float('-inf'))",
}
SPEC = ModelSpec("file", {"path": "m.py", "attribute": "Pool", "parameters": {}, "top": 20}, "m.py")


def far_scores(module: nn.Module) -> None:
    """Padding scores -40 before its mask: half precision's -65504 - 40 is -inf."""
    inner = next(part for part in module.modules() if hasattr(part, "query"))
    torch.nn.init.constant_(inner.query, 1.0)  # type: ignore[arg-type]
    inner.emb.weight[0] = -5.0  # type: ignore[union-attr, index]


def pooled(data: Prepared, folder: Path, mask: str) -> Artifact:
    source = POOL.replace("MASK", MASKS[mask])
    artifact = save_lists(data, SPEC, folder / "torch", source=source, change=far_scores)
    return export_onnx(artifact, lists_context(data, artifact, folder / "onnx")).artifact


def half(graph: Artifact, data: Prepared, folder: Path, **options: Any) -> Outcome:
    return convert_fp16(graph, lists_context(data, graph, folder / "half"), **options)


PROBE = np.zeros((4, 12), np.int64)
PROBE[0, :2], PROBE[2], PROBE[3, -1] = (3, 4), np.arange(5, 17), 9


def feeds_of(graph: Artifact, history: np.ndarray) -> dict[str, np.ndarray]:
    seen = {"seen": history.copy()} if any(s.name == "seen" for s in graph.inputs) else {}
    return {"history": history, **seen}


@pytest.mark.parametrize("mask", MASKS)
def test_masks_survive_half_precision(tiny_sequences: Prepared, tmp_path: Path, mask: str) -> None:
    graph = pooled(tiny_sequences, tmp_path, mask)
    outcome = half(graph, tiny_sequences, tmp_path)
    batch = feeds_of(graph, PROBE)
    exact = ort_outputs(graph.file)(batch)[0]
    found = reference_scores(load_graph(outcome.artifact))(batch)
    assert np.isfinite(exact).all()
    assert np.isfinite(found).all()
    assert np.abs(found - exact).max() < 0.01
    assert "empty history, one-item history, full history" in " ".join(outcome.notes)
    told = [note for note in outcome.notes if "half precision doesn't hold" in note]
    assert len(told) == (0 if mask == "infinite" else 1)
    assert not told or "1e+09" in told[0]


def test_without_its_part_in_fp32_the_mask_is_no_number_for_an_empty_history(
    tiny_sequences: Prepared, tmp_path: Path
) -> None:
    graph = pooled(tiny_sequences, tmp_path, "sum")
    plain = _convert(load_graph(graph), set(), keep_ops=())
    with np.errstate(all="ignore"):
        found = reference_scores(plain)(feeds_of(graph, PROBE))
    assert np.isfinite(found).all(axis=1).tolist() == [True, False, True, True]


def test_only_the_masked_part_is_kept(tiny_sequences: Prepared, tmp_path: Path) -> None:
    model = load_graph(pooled(tiny_sequences, tmp_path, "sum"))
    name_nodes(model)
    found = beyond_half(model)
    types = {node.name: node.op_type for node in model.graph.node}
    assert [types[name] for name in found] == ["Mul", "Add", "Softmax"]
    assert set(found.values()) == {-1e9}


def made(
    nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], *, outputs: int = 1
) -> onnx.ModelProto:
    """A graph of x, (rows, 2) fp32, to y, (rows, outputs)."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["rows", 2])],
        [value("y", TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def normalised() -> onnx.ModelProto:
    model = made(
        [
            helper.make_node("Sub", ["x", "mean"], ["a"]),
            helper.make_node("Div", ["a", "scale"], ["b"]),
            helper.make_node("MatMul", ["b", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["y"]),
        ],
        {
            "mean": np.array([1e6, 0], np.float32),
            "scale": np.array([1e5, 1], np.float32),
            "w": np.array([[0.5], [0.25]], np.float32),
        },
    )
    name_nodes(model)
    return model


def test_numbers_are_normalised_before_they_are_halved() -> None:
    model, rows = normalised(), {"x": np.array([[1.2e6, 4.0], [1.0e6, 8.0]], np.float32)}
    kept, notes = _kept(model, keep_score=False)
    assert kept == {"Sub.0", "Div.1"}
    assert "numbers are normalised in fp32: Div.1, Sub.0" in notes
    converted, plain = (_convert(normalised(), keep, keep_ops=()) for keep in (kept, set()))
    onnx.checker.check_model(converted, full_check=True)
    weights = {t.name: t.data_type for t in converted.graph.initializer}
    assert (weights["w"], weights["mean"]) == (TensorProto.FLOAT16, TensorProto.FLOAT)
    with np.errstate(all="ignore"):
        found = reference_scores(converted)(rows)
        raw = reference_scores(plain)(rows)
    assert found.ravel().tolist() == [2.0, 2.0]  # (2 * 0.5 + 4 * 0.25, 0 + 8 * 0.25)
    assert not np.isfinite(raw).all()


def test_ids_that_go_through_half_precision_are_named() -> None:
    table = np.zeros((5000, 1), np.float32)
    model = made(
        [
            helper.make_node("Slice", ["x", "first", "second", "axis"], ["c"], name="column"),
            helper.make_node("Cast", ["c"], ["id"], to=TensorProto.INT64, name="cast"),
            helper.make_node("GatherND", ["table", "id"], ["y"], name="look"),
        ],
        {
            "first": np.array([0]),
            "second": np.array([1]),
            "axis": np.array([1]),
            "table": table,
        },
    )
    check_ids(model)
    with pytest.raises(EffectError, match=r"ids of GatherND look pass through half precision"):
        check_ids(_convert(model, set(), keep_ops=()))


def test_places_of_a_ranking_are_no_ids_in_half_precision() -> None:
    model = made(
        [
            helper.make_node("Relu", ["x"], ["s"], name="score"),
            helper.make_node("TopK", ["s", "k"], ["best", "at"], name="top"),
            helper.make_node("Gather", ["table", "at"], ["rows"], name="look"),
            helper.make_node("Squeeze", ["rows", "axis"], ["y"], name="flat"),
        ],
        {"k": np.array([1]), "table": np.ones((2, 1), np.float32), "axis": np.array([2])},
    )
    check_ids(_convert(model, set(), keep_ops=()))


def test_a_scale_that_half_precision_loses_is_named() -> None:
    def scaled(kind: type, value: float) -> onnx.ModelProto:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
        return made(nodes, {"s": np.array(value, kind), "z": np.array(0, np.int8)}, outputs=2)

    check_scales_held(scaled(np.float32, 1e-3), scaled(np.float16, 1e-3))
    with pytest.raises(EffectError, match=r"scale s is 1e-07 .* leave its layer out of int8"):
        check_scales_held(scaled(np.float32, 1e-7), scaled(np.float16, 1e-7))


def test_rows_that_a_sample_may_lack_are_looked_at() -> None:
    history = np.array([[0, 3, 4], [0, 0, 5]])
    specs = (
        TensorSpec("history", "int64", ("requests", 3)),
        TensorSpec("price", "float32", ("requests", 1)),
    )
    batch = {"history": history, "price": np.array([[2.0], [3.0]], np.float32)}
    rows = dict(edge_rows([batch], specs))
    assert {name: (r["history"].tolist(), r["price"].tolist()) for name, r in rows.items()} == {
        "unknown ids": ([[0, 0, 0]], [[2.0]]),
        "unknown ids and zeros": ([[0, 0, 0]], [[0.0]]),
        "empty history": ([[0, 0, 0]], [[2.0]]),
        "one-item history": ([[0, 0, 3]], [[2.0]]),
        "full history": ([[3, 4, 5]], [[2.0]]),
    }


def judged(scores: list[float], expected: list[float], kinds: list[str]) -> float:
    return _judge(np.array(scores), np.array(expected), np.array(kinds), tolerance=0.01)


def test_scores_that_are_lost_or_drift_are_counted_by_kind_of_row() -> None:
    exact = [float(at) for at in range(100)]
    kinds = ["training rows"] * 99 + ["empty history"]
    assert judged(exact, exact, kinds) == 0.0
    assert judged([*exact[:99], np.nan], [*exact[:99], np.nan], kinds) == 0.0  # as it was before
    with pytest.raises(EffectError, match=r"1 of 100 scores are not finite \(empty history: 1\)"):
        judged([*exact[:99], np.nan], exact, kinds)
    near = [*exact[:99], 99 + 3.0]  # 3 / sqrt(100) is 1 % of the spread of 28.9, but itself 10.4 %
    assert 0.3 / np.std(exact) > 0.01  # so the whole is told first
    with pytest.raises(EffectError, match=r"1\.04% of their spread away from fp32"):
        judged(near, exact, kinds)
    wide = [float(at) for at in range(400)]
    with pytest.raises(
        EffectError, match=r"1 of 400 are more than 10\.0% of their spread .*empty history: 1"
    ):
        judged([*wide[:399], 399 + 13.0], wide, ["training rows"] * 399 + ["empty history"])
    with pytest.raises(EffectError, match="no row that was checked has a finite score"):
        judged([0.0], [np.nan], ["x"])


def test_kept_operators_are_named(tiny_sequences: Prepared, tmp_path: Path) -> None:
    outcome = half(pooled(tiny_sequences, tmp_path, "where"), tiny_sequences, tmp_path)
    assert "Softmax" in KEPT_OPS
    assert any(n.startswith("operators kept in fp32: ") and "Softmax" in n for n in outcome.notes)
