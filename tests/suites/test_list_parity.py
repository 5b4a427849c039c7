"""Parity and timing of lists: place by place, requests in place of rows, so many ids as fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_events import made_data

from harness.artifact import Artifact, ModelSpec, write_artifact
from harness.engines.base import Engine, EngineFacts, Probe, host_form
from harness.profile import Load, Profile, Spread
from harness.suites import plan as plan_module
from harness.suites.arms import Arm
from harness.suites.parity import invariance_rows, parity_rows
from harness.suites.plan import Plan, feed_files
from harness.suites.points import Point, read_feeds
from harness.tables import Prepared, TensorSpec
from harness.tasks import TASKS
from harness.timing import asked

COMMON = {"recipe": "r", "baseline": "b"}
INPUTS = (
    TensorSpec("history", "int64", ("requests", 4), ("item",)),
    TensorSpec("seen", "int64", ("requests", "seen"), ("item",)),
)


class Listing(Engine):
    """Two places a request; the second score grows by ``fault`` in batches of some sizes."""

    def __init__(self, sizes: tuple[int, ...] = (), fault: float = 0.25) -> None:
        super().__init__(Artifact(Path(), "torch", ModelSpec("x", {}), INPUTS, ()), threads=1)
        self.sizes, self.fault, self.asked = sizes, fault, list[int]()

    @classmethod
    def probe(cls) -> Probe:
        return Probe("ok")

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Any:
        return feeds["history"]

    def run(self, prepared: Any) -> Any:
        last = prepared[:, -1:].astype(np.float32)
        self.asked.append(len(last))
        added = self.fault if len(last) in self.sizes else 0.0
        return np.hstack([last + 1, last - 1 + added]), np.hstack(
            [prepared[:, -1:], prepared[:, :1]]
        )

    def fetch(self, outputs: Any) -> np.ndarray:
        return host_form(outputs)

    def describe(self) -> EngineFacts:
        return EngineFacts("listing", "1", "cpu", "fp32", "numpy", 1)


@pytest.fixture(scope="module")
def data() -> Prepared:
    random = np.random.default_rng(0)
    train = [random.integers(1, 31, random.integers(1, 20)).tolist() for _ in range(300)]
    return made_data(train, [[1, 2]] * 300, items=30)


def test_requests_alone_and_in_a_large_batch_get_the_same_list(data: Prepared) -> None:
    engine = Listing()
    (row,) = invariance_rows(COMMON, engine, data, data.splits["test"])
    assert (row.metric, row.value, row.unit) == ("batch_invariance", 0.0, "score")
    assert (row.n, row.batch) == (64, 256)
    assert set(engine.asked) == {1, 256}


def test_a_place_that_changes_with_the_batch_is_found(data: Prepared) -> None:
    (row,) = invariance_rows(COMMON, Listing((256,)), data, data.splits["test"])
    assert row.value == 0.25
    rows = parity_rows(COMMON, (Listing((7,), -0.5), Listing()), data, data.splits["test"])
    assert {row.metric: (row.value, row.n) for row in rows} == {
        "parity_one": (0.0, 1),
        "parity_odd": (0.5, 7),
        "parity_large": (0.0, 256),
    }
    assert {row.unit for row in rows} == {"score"}


def test_a_score_that_is_not_finite_is_a_reason(data: Prepared) -> None:
    rows = parity_rows(COMMON, (Listing((7,), np.nan), Listing()), data, data.splits["test"])
    assert [row.reason for row in rows] == [None, "a score isn't finite", None]


def test_a_request_for_a_list_is_timed_without_candidates() -> None:
    load = Load(candidates=Spread(low=10, high=100, mean=30), batches=(1, 4))
    assert asked(load, TASKS["next_item"]) == Load(candidates=1, batches=(1, 4))
    assert asked(load, TASKS["click"]) == load
    assert asked(Load(candidates=64), TASKS["rating"]).candidates == 64


def test_so_many_batches_are_written_as_ids_allow(
    data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "arm").mkdir()
    write_artifact(Artifact(tmp_path / "arm", "torch", ModelSpec("x", {}), INPUTS, ()))
    arm, point = Arm("arm", "torch-cpu", tmp_path / "arm"), Point("sweep", 4, 1, 1)
    plan = Plan(Profile(), (1,), seed=1)

    def batches(folder: str, **most: int) -> list[dict[str, np.ndarray]]:
        (tmp_path / folder).mkdir()
        return read_feeds(feed_files([arm], data, point, plan, tmp_path / folder, **most)["arm"])

    assert len(batches("all")) == point.batches
    assert len(batches("few", most=10)) == 10
    longest = 4 + max(np.diff(data.splits["train"].offsets))
    monkeypatch.setattr(plan_module, "MAX_IDS", 20 * 4 * int(longest))
    found = batches("bounded")
    assert len(found) == 20
    assert {batch["history"].shape for batch in found} == {(4, 4)}
    monkeypatch.setattr(plan_module, "MAX_IDS", 1)
    assert len(batches("least")) == 8
