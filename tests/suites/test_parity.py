"""Batch invariance and parity with engines whose faults are known."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifact import Artifact, ModelSpec
from harness.engines.base import Engine, EngineFacts, Probe
from harness.suites.parity import invariance_rows, parity_rows
from harness.tables import Prepared, TensorSpec

COMMON = {"recipe": "r", "baseline": "b"}


class Priced(Engine):
    """The price as logit, plus what ``fault`` adds to a batch of prices (requests, candidates)."""

    def __init__(self, fault: Callable[[np.ndarray], Any] = lambda price: 0.0) -> None:
        spec = TensorSpec("candidate_values", "float32", ("requests", "candidates", 1), ("price",))
        super().__init__(Artifact(Path(), "torch", ModelSpec("x", {}), (spec,), ()), threads=1)
        self.fault = fault
        self.shapes: list[tuple[int, ...]] = []

    @classmethod
    def probe(cls) -> Probe:
        return Probe("ok")

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        return feeds["candidate_values"][..., 0]

    def run(self, prepared: Any) -> Any:
        self.shapes.append(prepared.shape)
        return prepared + self.fault(prepared)

    def fetch(self, outputs: Any) -> np.ndarray:
        return np.asarray(outputs, dtype=np.float32).ravel()

    def describe(self) -> EngineFacts:
        return EngineFacts("priced", "1", "cpu", "fp32", "numpy", 1)


def test_an_engine_that_looks_at_rows_alone_is_invariant(tiny: Prepared) -> None:
    engine = Priced()
    (row,) = invariance_rows(COMMON, engine, tiny, tiny.splits["test"])
    assert (row.scenario, row.metric, row.unit) == ("parity", "batch_invariance", "logit")
    assert (row.value, row.reason) == (0.0, None)
    assert (1, 1) in engine.shapes
    assert row.batch == max(a * b for a, b in engine.shapes)
    assert row.n is not None
    assert row.n >= 2


@pytest.mark.parametrize(
    "fault",
    [
        lambda price: 0.25 * (price.size > 1),
        lambda price: 0.25 * (price.shape[0] > 1),
        lambda price: np.where(np.arange(price.shape[1]) == 1, 0.25, 0.0),
    ],
)
def test_a_batch_that_changes_scores_is_found(
    tiny: Prepared, fault: Callable[[np.ndarray], Any]
) -> None:
    (row,) = invariance_rows(COMMON, Priced(fault), tiny, tiny.splits["test"])
    assert row.value == pytest.approx(0.25, abs=1e-6)


def test_parity_at_one_odd_and_large_batches(tiny: Prepared) -> None:
    reference = Priced()
    rows = parity_rows(COMMON, (Priced(), reference), tiny, tiny.splits["test"])
    assert [row.metric for row in rows] == ["parity_one", "parity_odd", "parity_large"]
    assert [row.value for row in rows] == [0.0, 0.0, 0.0]
    assert [row.batch for row in rows[:2]] == [1, 7]
    assert rows[2].batch == rows[2].n
    assert reference.shapes[:2] == [(1, 1), (7, 1)]
    assert reference.shapes[2][0] > 1
    assert reference.shapes[2][1] > 1


def test_a_fault_at_one_batch_size_shows_there(tiny: Prepared) -> None:
    odd = Priced(lambda price: 0.5 * (price.size == 7))
    rows = parity_rows(COMMON, (odd, Priced()), tiny, tiny.splits["test"])
    assert [row.value for row in rows] == [0.0, pytest.approx(0.5, abs=1e-6), 0.0]


def test_logits_that_are_not_finite_have_no_difference_but_a_reason(tiny: Prepared) -> None:
    broken = Priced(lambda price: np.nan)
    split = tiny.splits["test"]
    rows = parity_rows(COMMON, (broken, Priced()), tiny, split)
    rows += invariance_rows(COMMON, broken, tiny, split)
    assert {row.value for row in rows} == {None}
    assert {row.reason for row in rows} == {"a logit isn't finite"}
