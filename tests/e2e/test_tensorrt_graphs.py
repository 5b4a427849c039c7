"""TensorRT's recipes through the command line on a machine without a GPU."""

from pathlib import Path

import pytest
from made_runs import harness, one_core

from harness import tensorrt_check
from harness.results import Row, read_rows

QUICK = Path(__file__).parent / "profiles" / "quick.yaml"
BASELINE = """\
schema_version: 1
name: small
dataset:
  generated: {users: 100, items: 100, rows: 4000, candidates: 10, seed: 3}
model:
  dlrm: {dim: 8, bottom: [16], top: [32, 16]}
training: {epochs: 1, batch_size: 128, learning_rate: 5e-3}
seed: 7
"""
STAGES = {
    "small-half": "[convert_fp16]",
    "small-codes": "[{quantize_static: {dialect: tensorrt}}]",
    "small-both": "[{quantize_static: {dialect: tensorrt, tables: true}}, convert_fp16]",
    "small-dynamic": "[quantize_dynamic]",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorrt")
    (folder / "small.yaml").write_text(BASELINE)
    for name, stages in STAGES.items():
        targets = "[tensorrt, ort-cpu]" if name == "small-both" else "[tensorrt]"
        (folder / f"{name}.yaml").write_text(
            f"schema_version: 1\nname: {name}\nbaseline: small.yaml\n"
            f"stages: {stages}\ntargets: {targets}\n"
        )
    return folder


def run(folder: Path, *names: str, out: str) -> list[Row]:
    files = [folder / f"{name}.yaml" for name in names]
    cache = folder / "cache"
    command = ("run", *files, "--out", folder / out, "--profile", QUICK)
    done = harness(*command, cache=cache, preexec_fn=one_core)
    assert done.returncode == 0, done.stdout + done.stderr
    return read_rows(folder / out)


def found(rows: list[Row], scenario: str) -> dict[tuple[str, str], Row]:
    return {(r.recipe, r.metric): r for r in rows if r.scenario == scenario}


def test_what_cannot_run_is_skipped_and_its_graph_checked_where_that_can_be(folder: Path) -> None:
    rows = run(folder, "small-half", "small-codes", "small-dynamic", out="alone")
    stopped = found(rows, "run")
    assert {name for name, _ in stopped} == {"small-half", "small-codes", "small-dynamic"}
    assert {row.status for row in stopped.values()} == {"skipped"}
    checks = found(rows, "tensorrt_check")
    report = (folder / "alone" / "report.md").read_text().replace("\\", "")
    if tensorrt_check.installed() is None:
        assert not checks
        assert not found(rows, "training")  # nothing is trained for nothing
        for row in stopped.values():
            assert "tensorrt-rtx isn't installed (the 'tensorrt-rtx' extra)" in str(row.reason)
        return
    for name in ("small-half", "small-codes"):
        assert [checks[name, m].value for m in ("parsed", "typed", "built")] == [1.0] * 3
        assert checks[name, "build_seconds"].unit == "s"
    refused = checks["small-dynamic", "parsed"]
    assert refused.value == 0.0
    assert "DynamicQuantizeLinear" in str(refused.reason)
    assert "made by quantize_dynamic" in str(refused.reason)
    assert "## TensorRT, checked without a GPU: tensorrt-rtx" in report
    assert "small-codes on tensorrt: not timed beside its fp16 rival (small-half)" in report
    effects = found(rows, "effect")
    assert effects["small-codes", "2.quantize_static.quantised_ops:achieved"].value == 4.0


def test_the_dialect_is_scored_on_the_cpu_like_others(folder: Path) -> None:
    rows = run(folder, "small-both", out="scored")
    scored = {r.target for r in rows if r.recipe == "small-both" and r.metric == "auc"}
    assert scored == {"ort-cpu"}
    row = next(r for r in rows if r.recipe == "small-both" and r.metric == "auc_difference")
    assert row.value is not None
    assert abs(row.value) < 0.01
    if tensorrt_check.installed():
        values = {m: r.value for (_, m), r in found(rows, "tensorrt_check").items()}
        assert (values["parsed"], values["typed"], values["built"]) == (1.0, 1.0, 1.0)
        report = (folder / "scored" / "report.md").read_text().replace("\\", "")
        assert "small-both on tensorrt: its fp16 rival is missing in this run" in report
