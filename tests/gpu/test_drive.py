"""``make gpu`` without a GPU: the same flow on CPU engines, refusals, and the targets' lines."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import drive
import gpu_cases
import gpu_flow
import gpu_parity
import numpy as np
import pytest

from harness import registry
from harness.engines.base import Probe
from harness.engines.device import driver_fault
from harness.results import Row, read_rows
from harness.suites.points import closed_points


def test_the_whole_flow_on_cpu_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One engine and one baseline, so that it takes seconds; the command itself takes all."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    case = gpu_cases.Case("fp32", {}, (), ("torch-cpu",))
    monkeypatch.setattr(gpu_cases, "CASES", (case,))
    monkeypatch.setattr(gpu_flow, "TINY", ("tiny-dlrm",))
    out = tmp_path / "out"
    assert drive.main(["--device", "cpu", "--small", "--minutes", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "torch-cpu: ok (torch " in said
    assert "tiny-dlrm: 1 of 1 variants score as torch on the CPU does" in said
    assert "13 steps of training (for the shapes, not for the score)" in said
    assert "targets: not measured, torch-cuda-graph in fp16 was not timed here" in said
    rows = read_rows(out)
    assert {row.status for row in rows} <= {"ok", "skipped"}
    swept = {(r.batch, r.region) for r in rows if r.scenario == "sweep" and r.value is not None}
    assert swept == {(1, "model_only"), (8, "model_only")}  # no events on a CPU
    (parity,) = (row for row in rows if row.metric == "difference_to_torch")
    assert (parity.value, parity.target) == (0.0, "torch-cpu")
    assert len({row.run_id for row in rows}) == 1
    assert all(row.environment and row.time for row in rows)
    assert (out / "tiny-dlrm-blocks.parquet").is_file()
    assert "tiny-dlrm-fp32" in (out / "report.md").read_text()


@pytest.mark.skipif(driver_fault() is None, reason="a GPU is here: the real thing would run")
def test_without_a_gpu_every_engine_is_skipped_with_its_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, drive.__file__, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HARNESS_CACHE": str(tmp_path / "cache")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for engine in gpu_cases.engines("cuda"):
        assert f"{engine}: skipped, no_" in done.stdout  # no_package, no_driver, no_device
    rows = read_rows(tmp_path / "out")
    assert {row.status for row in rows} == {"skipped"}
    assert {row.target for row in rows} == set(gpu_cases.engines("cuda"))
    assert not (tmp_path / "cache").exists()  # nothing was trained for nobody


def test_missing_packages_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"no_such_module": "some-package", "no.such": "other", "sys": "never"}
    monkeypatch.setattr(drive, "NEEDED", names)
    assert drive.main(["--device", "cpu"]) == 2
    told = "missing packages: some-package, other; pip install some-package other\n"
    assert capsys.readouterr().out == told


def test_what_the_catalog_lacks_is_told_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    case = gpu_cases.Case("odd", {"no_stage": {}}, ("torch-cuda", "no-engine"), ("torch-cpu",))
    plain = gpu_cases.Case("plain", {}, ("torch-cuda", "no-engine"), ("torch-cpu",))
    monkeypatch.setattr(gpu_cases, "CASES", (case, plain))
    assert gpu_cases.lacking() == {
        "no-engine": "engine no-engine isn't in the catalog",
        "no_stage": "stage no_stage isn't in the catalog",
    }
    (recipe,) = gpu_cases.recipes("tiny-dlrm", "cuda")
    assert [target.engine for target in recipe.targets] == ["torch-cuda"]


def test_the_cases_cover_every_gpu_engine_and_precision() -> None:
    on_gpu = {n for n in registry.names("engines") if _device(n) == "cuda"}
    assert on_gpu <= set(gpu_cases.engines("cuda"))
    assert gpu_cases.lacking() == {}
    recipes = gpu_cases.recipes("serving-dlrm", "cuda")
    fp16 = next(recipe for recipe in recipes if recipe.name == "serving-dlrm-fp16")
    assert [t.engine for t in fp16.targets] == list(gpu_cases.TORCH)  # what the targets compare
    points = closed_points(gpu_cases.PROFILES["serving-dlrm"].load, threads=1)
    swept = {point.rows for point in points if point.scenario == "sweep"}
    assert {1, 65_536, 4096, 8192} <= swept  # the last two are what the clock is checked by
    assert {point.region for point in points if point.scenario == "single"} == {
        *("model_only", "end_to_end", "device_only"),
    }


def _device(engine: str) -> str:
    return str(registry.entry("engines", engine).marks["device"])


def test_the_serving_size_is_what_it_is_called() -> None:
    """26 tables; values that a field has in 576,000 training rows of 140,000 even ones: 1 - e^-4.1
    of them, times 22 fields are over 3 M before the users and the items."""
    baseline = gpu_cases.recipes("serving-dlrm", "cuda")[0].baseline
    given = baseline.dataset.parameters
    assert 4 + given["fields"] == 26
    rows = given["rows"] * (1 - given["validation_share"] - given["test_share"])
    seen = given["field_values"] * (1 - np.exp(-rows / given["field_values"]))
    assert given["fields"] * seen >= 3_000_000
    assert baseline.model.parameters["dim"] == 64


def row(**changes: Any) -> Row:
    columns: dict[str, Any] = {
        **{"recipe": "r-fp16", "baseline": "b", "target": "torch-cuda-graph", "device": "cuda"},
        **{"precision": "fp16", "scenario": "sweep", "region": "model_only", "batch": 1024},
        **{"metric": "speedup_vs_eager", "value": 2.5, "ci_low": 2.1, "ci_high": 2.9},
    }
    return Row(**{**columns, **changes})


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(2.1, 2.9, "met"), (1.2, 1.9, "missed"), (1.8, 2.9, "not shown")]
)
def test_a_target_is_met_only_by_its_whole_interval(low: float, high: float, verdict: str) -> None:
    (line,) = gpu_flow.target_lines([row(ci_low=low, ci_high=high)])
    assert line == (
        "target speedup_vs_eager >= 2, r-fp16 on torch-cuda-graph, 1024 rows, model_only: "
        f"2.50 [{low:.2f}, {high:.2f}] {verdict}"
    )


def test_lines_are_of_fp16_graphs_up_to_1024_rows_and_of_every_share() -> None:
    share = {"metric": "share_of_limit", "ci_low": None, "ci_high": None}
    lines = gpu_flow.target_lines(
        [
            row(batch=4096),
            row(precision="fp32"),
            row(target="torch-cuda"),
            row(metric="speedup_vs_compiled", value=1.1, ci_low=1.05, ci_high=1.2),
            row(**share, value=0.25, verdict="memory"),
            row(**share, value=None, status="skipped", reason="not counted: a plan"),
        ]
    )
    where = "r-fp16 on torch-cuda-graph, 1024 rows, model_only"
    assert lines == [
        f"target speedup_vs_compiled >= 1, {where}: 1.10 [1.05, 1.20] met",
        f"share of the roofline, {where}: 25.0 % (memory)",
        f"share of the roofline, {where}: none: not counted: a plan",
    ]


def test_scores_are_judged_by_the_precision_that_ran() -> None:
    expected = np.array([0.0, 1.0], np.float32)

    def judged(gap: float, precision: str) -> dict[str, Any]:
        answer = expected + np.float32(gap)
        return gpu_parity._judged(answer, expected, {"precision": precision}, "")

    assert judged(0.01, "fp16")["value"] == pytest.approx(0.01)
    assert judged(0.01, "fp32")["status"] == "failed"
    assert judged(0.01, "fp32")["reason"] == "0.01 from torch, at most 0.001 (fp32)"
    assert judged(0.05, "fp16")["status"] == "failed"
    assert judged(0.05, "bf16")["value"] == pytest.approx(0.05)
    assert judged(float("nan"), "fp16")["reason"] == "scores that aren't finite"
    assert gpu_parity._judged(None, expected, {}, "it hung")["reason"] == "it hung"
    assert gpu_parity._judged(expected[:1], expected, {}, "")["status"] == "failed"


def test_a_probe_says_why() -> None:
    probe = Probe("no_driver", "no CUDA device")
    assert gpu_flow._sentence(probe) == "no_driver: no CUDA device"
