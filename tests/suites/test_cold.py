"""Cold starts: fresh processes one at a time, in turns, and what is told of them."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.artifact import Artifact
from harness.results import Row
from harness.suites import cold
from harness.suites.arms import Arm
from harness.suites.cold import ColdStart, cold_rows, measure_cold
from harness.suites.points import Point, draw_rows, write_feeds
from harness.tables import Prepared

FAKE = """
import json, os, sys, time
log = sys.argv[1]
for line in sys.stdin:
    request = json.loads(line)
    name = os.path.basename(request.get("folder", ""))
    if request["command"] == "load":
        with open(log, "a") as file:
            file.write(json.dumps({**request, "name": name, "pid": os.getpid()}) + "\\n")
        turn = sum(json.loads(entry)["name"] == name for entry in open(log))
        answer = {
            "ok": True,
            "memory": {"import": 1, "load": 2, "first_call": 1000 + turn},
            "seconds": {"import": 0.1 * turn, "load": 0.2 * turn, "first_call": 0.3 * turn},
            "calls": [1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000 * turn],
            "os_threads": 1,
        }
        if name == "raises" or (name == "raises-later" and turn == 2):
            answer = {"ok": False, "error": "DataError: no weights"}
        if name == "dies":
            os._exit(3)
        if name == "hangs":
            time.sleep(60)
    else:
        answer = {"ok": True, "threads": 7 if loaded == "many" else 1}
    loaded = name
    print(json.dumps(answer), flush=True)
"""

PLACE = {"threads": 1, "batch": 256, "candidates": 256}


class Starts:
    """Arms whose artifacts' folder names say what their fake workers do."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.jsonl"
        self.shares: list[float] = []

    def measure(
        self, *names: str, processes: int = 3, seed: int = 1
    ) -> tuple[dict[str, tuple[ColdStart, ...]], dict[str, str]]:
        self.log.write_text("")
        return measure_cold(
            [Arm(name, "torch-cpu", Path(name)) for name in names],
            dict.fromkeys(names, Path("feeds.npz")),
            threads=1,
            processes=processes,
            seed=seed,
            progress=lambda label, share: self.shares.append(share),
            command=(sys.executable, "-S", "-c", FAKE, str(self.log)),
        )

    @property
    def loads(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def order(self) -> list[object]:
        return [load["name"] for load in self.loads]


@pytest.fixture
def starts(tmp_path: Path) -> Starts:
    return Starts(tmp_path)


def test_every_start_is_a_process_of_its_own_and_arms_take_turns(starts: Starts) -> None:
    found, failures = starts.measure("a", "b", "c")
    assert failures == {}
    assert {name: len(of_arm) for name, of_arm in found.items()} == {"a": 3, "b": 3, "c": 3}
    order = starts.order
    assert [sorted(map(str, order[at : at + 3])) for at in (0, 3, 6)] == [["a", "b", "c"]] * 3
    assert len({load["pid"] for load in starts.loads}) == 9
    assert starts.shares == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
    told = {key: starts.loads[0][key] for key in ("engine", "threads", "feeds", "slowdown")}
    assert told == {"engine": "torch-cpu", "threads": 1, "feeds": "feeds.npz", "slowdown": 1.0}


def test_the_seed_draws_the_order(starts: Starts) -> None:
    orders = []
    for seed in (1, 1, 2):
        starts.measure("a", "b", "c", seed=seed)
        orders.append(starts.order)
    assert orders[0] == orders[1] != orders[2]


def test_what_a_start_holds(starts: Starts) -> None:
    found, _ = starts.measure("a", processes=2)
    second = found["a"][1]
    assert (second.imported, second.load, second.first_call) == (0.2, 0.4, 0.6)
    assert second.calls_2_to_10 == pytest.approx([call * 1e-6 for call in (*range(1, 9), 18)])
    assert second.peak == 1002
    assert all(start.total > 0 for start in found["a"])


def test_calls_after_the_first_are_no_part_of_the_start(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([100.0, 105.0])
    monkeypatch.setattr(cold, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    found, _ = starts.measure("a", processes=1)
    assert found["a"][0].total == pytest.approx(5.0 - 45e-6)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("raises", "raises: load failed: DataError: no weights"),
        ("raises-later", "raises-later: load failed: DataError: no weights"),
        ("dies", "dies: the worker ended with status 3 during load"),
        ("many", "many: asked for 1 threads, torch-cpu has 7"),
    ],
)
def test_a_worker_that_fails_ends_its_arm_alone(starts: Starts, bad: str, reason: str) -> None:
    found, failures = starts.measure("a", bad, "b")
    assert failures == {bad: reason}
    assert {name: len(of_arm) for name, of_arm in found.items()} == {"a": 3, bad: 0, "b": 3}
    assert starts.order.count(bad) == (2 if bad == "raises-later" else 1)  # not tried again


def test_a_worker_that_hangs_is_ended(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "LONGEST", 0.5)
    found, failures = starts.measure("hangs", processes=2)
    assert (found, failures) == (
        {"hangs": ()},
        {"hangs": "hangs: load gave no answer within 0.5 s"},
    )
    assert len(starts.loads) <= 1


def test_a_real_worker_starts_cold(tiny: Prepared, tiny_artifact: Artifact, tmp_path: Path) -> None:
    split = tiny.splits["test"]
    rows = draw_rows(split, Point("single", 1, 16, 1), seed=1)[:10]
    feeds = write_feeds(tmp_path / "f.npz", tiny.schema, split, rows, tiny_artifact.inputs)
    found, failures = measure_cold(
        [Arm("plain", "torch-cpu", tiny_artifact.folder)],
        {"plain": feeds},
        threads=1,
        processes=1,
        seed=0,
        progress=lambda label, share: None,
    )
    assert failures == {}
    (start,) = found["plain"]
    assert len(start.calls_2_to_10) == 9
    assert start.total >= start.imported + start.load + start.first_call > 0
    assert start.peak > 10_000_000


# Rows, worked out by hand.


def start(total: float, *, calls: tuple[float, ...] = (0.001, 0.002, 0.009)) -> ColdStart:
    return ColdStart(total, total / 2, total / 4, total / 8, calls, 1 << 20)


def rows_of(starts: dict[str, tuple[ColdStart, ...]], failures: dict[str, str]) -> list[Row]:
    common = {name: {"recipe": name, "baseline": "b", "target": "t"} for name in ("a", "b")}
    return cold_rows(common, PLACE, starts, failures)


def test_rows_are_medians_over_processes() -> None:
    slow = start(9.0, calls=(0.004, 0.005, 0.006))
    rows = rows_of({"a": (start(1.0), start(3.0), slow), "copy": (start(5.0),)}, {"b": "b: broke"})
    assert {row.metric: row.value for row in rows if row.recipe == "a"} == {
        "cold_start": 3.0,
        "cold_import": 1.5,
        "cold_load": 0.75,
        "cold_first_call": 0.375,
        "cold_calls_2_to_10": 0.002,  # medians of the processes: 0.002, 0.002, 0.005
    }
    row = rows[0]
    assert (row.scenario, row.region, row.unit, row.direction) == (
        *("cold", "end_to_end"),
        *("s", "lower"),
    )
    assert (row.n, row.threads, row.batch, row.candidates) == (3, 1, 256, 256)
    assert (row.target, row.reason) == ("t", "files were in the page cache")
    assert {row.recipe for row in rows} == {"a", "b"}  # copies have no rows


def test_an_arm_without_a_start_has_one_failed_row() -> None:
    rows = rows_of({"a": (start(1.0),)}, {"b": "b: the worker was killed"})
    failed = [row for row in rows if row.status == "failed"]
    assert [(row.recipe, row.metric, row.value, row.reason) for row in failed] == [
        ("b", "cold_start", None, "b: the worker was killed")
    ]
    nothing = rows_of({}, {})
    assert {row.reason for row in nothing} == {"it was never started"}
