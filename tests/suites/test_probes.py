"""Probes with planted faults: sums that overflow, and inputs that give no number."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from made_events import made_data
from onnx import TensorProto, helper, numpy_helper

from harness.artifact import Artifact, ModelSpec
from harness.engines.base import Engine, EngineFacts, Probe, host_form
from harness.engines.ort_cpu import OrtCpu
from harness.suites import probes
from harness.suites.probes import exact_answer, probe_rows
from harness.tables import Prepared, TensorSpec

COMMON = {"recipe": "r", "baseline": "b", "engine": "ort-cpu"}
PRICE = TensorSpec("candidate_values", "float32", ("requests", "candidates", 1), ("price",))
LOGITS = TensorSpec("logits", "float32", ("requests", "candidates"))


def overflowing(folder: Path, *, signed_zero: bool = True) -> Artifact:
    """Prices x (1, 1) in codes of 200 and weights of 127, twice: 2 x 200 x 127 is more than 16 bits
    hold. The exact score is 50800 for every row.
    """
    stored = {
        "none": np.zeros((1, 2), np.float32),
        "full": np.full((1, 2), 200, np.float32),
        "scale": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "weight": np.full((2, 1), 127, np.int8),
        "weight_zero": np.array(0, np.int8),
        "last": np.array([2]),
    }
    zeros = ["zero", "weight_zero"] if signed_zero else []
    node = helper.make_node
    nodes = [
        node("Mul", ["candidate_values", "none"], ["nothing"]),
        node("Add", ["nothing", "full"], ["x"]),
        node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        node("MatMulInteger", ["codes", "weight", *zeros], ["sums"]),
        node("Cast", ["sums"], ["wide"], to=TensorProto.FLOAT),
        node("Squeeze", ["wide", "last"], ["logits"]),
    ]
    return written(folder, nodes, stored)


def written(
    folder: Path, nodes: list[onnx.NodeProto], stored: Mapping[str, np.ndarray]
) -> Artifact:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "planted",
        [value("candidate_values", TensorProto.FLOAT, ["requests", "candidates", 1])],
        [value("logits", TensorProto.FLOAT, ["requests", "candidates"])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")
    return Artifact(folder, "onnx", ModelSpec("x", {}), (PRICE,), (LOGITS,))


class Answering(Engine):
    """An engine whose logits are a function of the prices (rows, 1)."""

    def __init__(self, artifact: Artifact, answer: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(artifact, threads=1)
        self.answer, self.asked = answer, list[np.ndarray]()

    @classmethod
    def probe(cls) -> Probe:
        return Probe("ok")

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        return feeds["candidate_values"]

    def run(self, prepared: Any) -> Any:
        self.asked.append(prepared)
        with np.errstate(all="ignore"):
            return self.answer(prepared.reshape(-1, 1))

    def fetch(self, outputs: Any) -> np.ndarray:
        return host_form([np.asarray(outputs)])

    def describe(self) -> EngineFacts:
        return EngineFacts("answering", "1", "cpu", "int8", "numpy", 1)


def by_pairs(prices: np.ndarray) -> np.ndarray:
    """What AVX2 makes of ``overflowing``: pairs of products are added in 16 bits and cut there."""
    pair = np.clip(200 * 127 + 200 * 127, -(2**15), 2**15 - 1)
    return np.full(len(prices), pair, np.float32)


@pytest.mark.parametrize("zeros", [True, False])
def test_sums_that_overflow_are_found(tiny: Prepared, tmp_path: Path, zeros: bool) -> None:
    engine = Answering(overflowing(tmp_path, signed_zero=zeros), by_pairs)
    row, _ = probe_rows(COMMON, engine, tiny, tiny.splits["test"])
    assert (row.scenario, row.metric, row.unit) == ("parity", "probe_saturation", "logit")
    assert row.value == 2 * 200 * 127 - 32767
    assert row.n == row.batch == min(256, tiny.splits["test"].rows)


def test_a_sum_in_other_units_counts_too(tmp_path: Path) -> None:
    """Codes from 100 in place of 0: (200 - 100) x 127 x 2."""
    artifact = overflowing(tmp_path)
    model = onnx.load(artifact.file)
    shifted = numpy_helper.from_array(np.array(100, np.uint8), "shift")
    model.graph.initializer.append(shifted)
    product = next(node for node in model.graph.node if node.op_type == "MatMulInteger")
    product.input[2] = "shift"
    onnx.save(model, artifact.file)
    found = exact_answer(artifact)({"candidate_values": np.ones((2, 1, 1), np.float32)})
    assert found.tolist() == [25400, 25400]


def test_this_machine_and_exact_sums_are_compared(tiny: Prepared, tmp_path: Path) -> None:
    """A graph that stays in 16 bits has no gap on any machine."""
    artifact = overflowing(tmp_path)
    model = onnx.load(artifact.file)
    for tensor in model.graph.initializer:
        if tensor.name == "weight":
            tensor.CopyFrom(numpy_helper.from_array(np.full((2, 1), 63, np.int8), "weight"))
    onnx.save(model, artifact.file)
    with OrtCpu(artifact, threads=1) as engine:
        saturation, extreme = probe_rows(COMMON, engine, tiny, tiny.splits["test"])
    assert saturation.value == 0
    assert (extreme.metric, extreme.value) == ("probe_extreme_inputs", 0)


def test_pairs_of_scales_are_computed_in_floats(tiny: Prepared, tmp_path: Path) -> None:
    """0.4 has code 0 at scale 1, so the exact logit is 0 and not the price."""
    nodes = [
        helper.make_node("QuantizeLinear", ["candidate_values", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["x"]),
        helper.make_node("Squeeze", ["x", "last"], ["logits"]),
    ]
    stored = {
        "scale": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "last": np.array([2]),
    }
    artifact = written(tmp_path, nodes, stored)
    found = exact_answer(artifact)({"candidate_values": np.full((1, 3, 1), 0.4, np.float32)})
    assert found.tolist() == [0, 0, 0]
    engine = Answering(artifact, lambda prices: np.clip(np.rint(prices[:, 0]), 0, 255) + 0.25)
    row, _ = probe_rows(COMMON, engine, tiny, tiny.splits["test"])
    assert row.value == 0.25


@pytest.mark.parametrize("change", [{"engine": "openvino-cpu"}, {"format": "torch"}])
def test_other_engines_and_formats_have_no_such_kernels(
    tiny: Prepared, change: dict[str, str]
) -> None:
    kind: Any = change.get("format", "onnx")
    artifact = Artifact(Path(), kind, ModelSpec("x", {}), (PRICE,), (LOGITS,))
    engine = Answering(artifact, lambda prices: prices[:, 0])
    common = {**COMMON, **change}
    common.pop("format", None)
    rows = probe_rows(common, engine, tiny, tiny.splits["test"])
    assert [row.metric for row in rows] == ["probe_extreme_inputs"]


def extreme(data: Prepared, answer: Callable[[np.ndarray], np.ndarray]) -> tuple[Any, Answering]:
    artifact = Artifact(Path(), "torch", ModelSpec("x", {}), (PRICE,), (LOGITS,))
    engine = Answering(artifact, answer)
    (row,) = probe_rows({**COMMON, "engine": "torch-cpu"}, engine, data, data.splits["test"])
    return row, engine


@pytest.mark.parametrize(
    ("answer", "bad"),
    [
        (lambda x: x[:, 0], 0),
        (lambda x: np.exp(x[:, 0] ** 2) * 0, 14),  # inf x 0 where numbers are huge
        (lambda x: np.log(x[:, 0]), 14),  # of 0 and of what is below
        (lambda x: (x[:, 0] * np.float32(1e35)).astype(np.float32), 14),
        (lambda x: 1 / x[:, 0], 7),
    ],
)
def test_extreme_inputs_must_give_numbers(
    tiny: Prepared, answer: Callable[[np.ndarray], np.ndarray], bad: int
) -> None:
    row, engine = extreme(tiny, answer)
    assert (row.scenario, row.metric, row.unit) == ("parity", "probe_extreme_inputs", "count")
    assert (row.value, row.n, row.batch) == (bad, 21, 7)
    assert [set(np.unique(prices).tolist()) for prices in engine.asked] == [{0.0}, {1e6}, {-1e6}]


def test_a_graph_that_gives_no_number_on_huge_input(tiny: Prepared, tmp_path: Path) -> None:
    """exp(x) / exp(x) is 1, and inf / inf far above."""
    nodes = [
        helper.make_node("Exp", ["candidate_values"], ["e"]),
        helper.make_node("Div", ["e", "e"], ["one"]),
        helper.make_node("Squeeze", ["one", "last"], ["logits"]),
    ]
    artifact = written(tmp_path, nodes, {"last": np.array([2])})
    with OrtCpu(artifact, threads=1) as engine:
        saturation, row = probe_rows(COMMON, engine, tiny, tiny.splits["test"])
    assert saturation.value == 0
    assert row.value == 14  # 0 / 0 at the lowest numbers too


def test_scores_that_are_no_numbers_have_no_gap_but_a_reason(
    tiny: Prepared, tmp_path: Path
) -> None:
    engine = Answering(overflowing(tmp_path), lambda prices: np.full(len(prices), np.nan))
    row, _ = probe_rows(COMMON, engine, tiny, tiny.splits["test"])
    assert (row.value, row.reason) == (None, "a logit isn't finite")


def test_a_model_of_pasts_is_asked_for_the_empty_one() -> None:
    history = TensorSpec("history", "int64", ("requests", 4), ("item",))
    data = made_data([[1, 2, 3], [2]], [[4], [5]], items=9)

    class Listing(Answering):
        def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
            return feeds["history"]

        def run(self, prepared: Any) -> Any:
            self.asked.append(prepared)
            return [np.full((len(prepared), 2), np.inf, np.float32), prepared[:, :2]]

        def fetch(self, outputs: Any) -> np.ndarray:
            return host_form(outputs)

    artifact = Artifact(Path(), "torch", ModelSpec("x", {}), (history,), ())
    engine = Listing(artifact, lambda past: past)
    (row,) = probe_rows({**COMMON, "engine": "torch-cpu"}, engine, data, data.splits["test"])
    assert (row.value, row.n) == (4, 4)
    assert [past.tolist() for past in engine.asked] == [[[0] * 4] * 2]


def test_few_rows_are_drawn_by_the_seed(
    tiny: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "ROWS", 5)

    def looked_at(seed: int) -> list[float]:
        engine = Answering(overflowing(tmp_path), by_pairs)
        probe_rows(COMMON, engine, tiny, tiny.splits["test"], seed=seed)
        prices: list[float] = engine.asked[-1].ravel().tolist()
        return prices

    assert len(looked_at(1)) == 5
    assert looked_at(1) == looked_at(1) != looked_at(2)
