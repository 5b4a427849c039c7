"""The product through its command line, on generated data: rows, reuse, kills, damage."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from made_runs import harness

from harness.results import COLUMNS, MACHINE, read_rows
from harness.run_folder import holds_whole_run

ROOT = Path(__file__).parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
QUICK, FULL = (str(ROOT / "profiles" / f"{name}.yaml") for name in ("quick", "full"))


def accuracy(folder: Path) -> dict[tuple, float | None]:
    return {
        (row.recipe, row.target, row.metric): row.value
        for row in read_rows(folder)
        if row.scenario in ("accuracy", "agreement", "reference")
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def out(tmp_path_factory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    done = harness("run", *RECIPES, "--out", folder, "--profile", FULL, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" in done.stdout
    return folder


def test_rows_have_exactly_the_agreed_columns(out: Path) -> None:
    frame = pd.read_parquet(out / "rows.parquet")
    assert tuple(frame.columns) == COLUMNS
    lines = (out / "rows.jsonl").read_text().splitlines()
    assert len(lines) == len(frame)
    for line in lines:
        record = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
        assert tuple(record) == COLUMNS
    assert frame["run_id"].nunique() == 1
    assert frame.loc[frame["value"].isna(), "reason"].notna().all()


def test_every_variant_is_ok_or_says_why(out: Path) -> None:
    rows = read_rows(out)
    stopped = {(r.recipe, r.target): r for r in rows if r.scenario == "run"}
    assert set(stopped) == {("made-fp16", "tensorrt")}
    row = stopped["made-fp16", "tensorrt"]
    assert row.status == "skipped"
    assert row.value is None
    assert row.reason.startswith(("no_package", "no_driver", "no_device"))
    scored = {(r.recipe, r.target) for r in rows if r.metric == "auc" and r.scenario == "accuracy"}
    assert scored == {
        ("made-fp32", "ort-cpu"),
        ("made-fp32", "torch-cpu"),
        ("made-half-int8", "ort-cpu"),
        ("made-fp16", "ort-cpu"),
    }


def test_what_really_ran_is_in_every_timed_row(out: Path) -> None:
    timed = [r for r in read_rows(out) if r.scenario in ("sweep", "single")]
    assert timed
    for row in timed:
        assert row.engine
        assert row.engine_version
        assert row.device == "cpu"
        assert row.precision
        assert row.batch
        assert row.candidates
        assert row.threads
    ratios = [r for r in timed if r.recipe == "made-half-int8" and r.metric == "latency_p50"]
    assert all(r.ratio_low <= r.ratio <= r.ratio_high and r.aa_ratio and r.verdict for r in ratios)


def test_asked_and_achieved_stand_side_by_side(out: Path) -> None:
    effects = {r.metric: r.value for r in read_rows(out) if r.scenario == "effect"}
    assert effects["1.prune_channels.width:top.0:before"] == 64
    assert effects["1.prune_channels.width:top.0:achieved"] == 32
    assert effects["1.prune_channels.width:top.0:asked"] == 32


def test_the_folder_holds_what_a_reader_needs(out: Path) -> None:
    report = (out / "report.md").read_text()
    for text in ("made-half-int8", "tensorrt", "popularity", "plots/pareto.png"):
        assert text in report.replace("\\", "")
    assert sorted(p.name for p in (out / "recipes").iterdir()) == [
        "made-fp16.yaml",
        "made-fp32.yaml",
        "made-half-int8.yaml",
    ]
    environment = json.loads((out / "environment.json").read_text())
    assert environment["key"]
    assert list((out / "plots").glob("*.png"))


def test_every_scenario_has_its_rows(out: Path) -> None:
    rows = [row for row in read_rows(out) if row.target == "ort-cpu" or row.recipe == MACHINE]
    found = {(row.scenario, row.metric) for row in rows if row.status == "ok"}
    assert {
        ("single", "latency_p50"),
        ("sweep", "latency_p50"),
        ("offline", "rows_per_second"),
        ("server", "latency_p99"),
        ("server", "generator_rate"),
        ("qps_at_sla", "qps_at_sla"),
        ("cold", "cold_start"),
        ("memory", "peak_memory_steady"),
        ("parity", "timed_max_abs_difference"),
        ("roofline", "peak_fp32"),
        ("roofline", "share_of_limit"),
        ("resources", "cost_per_million_requests"),
        ("health", "noisy_blocks"),
        ("accuracy", "non_inferiority"),
        ("beyond", "gini@10_difference"),
        ("fairness", "gap_difference[item_popularity]"),
        ("importance", "importance_rank_correlation"),
    } <= found
    regions = {row.scenario: set[str | None]() for row in rows}
    for row in rows:
        regions[row.scenario].add(row.region)
    assert regions["single"] == {"model_only", "end_to_end"}
    assert (regions["sweep"], regions["offline"]) == ({"model_only"}, {"end_to_end"})
    assert (out / "made-latencies.parquet").is_file()
    assert (out / "made-blocks.parquet").is_file()


def test_a_second_run_makes_nothing_and_says_the_same(out: Path, cache: Path, tmp_path) -> None:
    again = tmp_path / "again"
    before = sorted(p for p in cache.rglob("complete.json"))
    done = harness("run", *RECIPES, "--out", again, "--profile", FULL, cache=cache)
    assert done.returncode == 0, done.stderr
    assert sorted(p for p in cache.rglob("complete.json")) == before
    assert accuracy(again) == accuracy(out)


def test_a_cut_artifact_is_made_again_with_one_line(out: Path, cache: Path, tmp_path) -> None:
    broken = tmp_path / "cache"
    shutil.copytree(cache, broken)
    newest = max(broken.glob("artifacts/*/model.onnx"), key=lambda p: p.stat().st_mtime)
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    # The profile of which the times are known: it is about the artifact, the same to the byte.
    done = harness("run", *RECIPES, "--out", tmp_path / "o", "--profile", FULL, cache=broken)
    assert done.returncode == 0, done.stderr
    assert f"{newest.parent}: incomplete or altered, made again" in done.stderr
    assert newest.read_bytes() == whole
    assert accuracy(tmp_path / "o") == accuracy(out)


def test_a_pickle_in_place_of_an_artifact_is_not_run(cache: Path, tmp_path) -> None:
    import torch

    class Mark:
        def __reduce__(self):
            return (open, (str(tmp_path / "MARK.txt"), "w"))

    broken = tmp_path / "cache"
    shutil.copytree(cache, broken)
    weights = next(broken.glob("baselines/*/weights.safetensors"))
    torch.save({"state": Mark()}, weights)
    done = harness("run", RECIPES[0], "--out", tmp_path / "o", "--profile", QUICK, cache=broken)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "MARK.txt").exists()
    assert "made again" in done.stderr


def test_killed_at_random_moments_the_last_run_ends_the_same(out: Path, tmp_path) -> None:
    cache, folder = tmp_path / "cache", tmp_path / "out"
    chance = random.Random(1)
    command = [sys.executable, "-m", "harness", "run", *map(str, RECIPES), "--out", str(folder)]
    for _ in range(4):
        process = subprocess.Popen(
            [*command, "--profile", QUICK],
            env={**os.environ, "HARNESS_CACHE": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(1, 9))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = harness("run", *RECIPES, "--out", folder, "--profile", QUICK, cache=cache)
    assert done.returncode == 0, done.stderr
    assert accuracy(folder) == accuracy(out)
    assert not list(cache.rglob("*.partial"))
    assert not list(folder.rglob("*.partial"))


def interrupted(
    *arguments: object, cache: Path, at: str, number: signal.Signals = signal.SIGINT
) -> str:
    """What a run complained of that was sent a signal once it had said ``at``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", *map(str, arguments)],
        env={**os.environ, "HARNESS_CACHE": str(cache), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any(at in line for line in process.stdout), f"never said {at!r}"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    return said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_finished(number: signal.Signals, tmp_path) -> None:
    words = (RECIPES[0], "--profile", QUICK, "--out", tmp_path / "out")
    at = "scoring made-fp16@ort-cpu: loading"  # the reference is judged
    said = interrupted(*words, cache=tmp_path / "cache", at=at, number=number)
    report = tmp_path / "out" / "report.md"
    kept = f"rows so far: {report}; what was finished is kept, run again to go on"
    assert said.strip().endswith(f"interrupted; {kept}")
    assert list((tmp_path / "cache" / "baselines").glob("*/complete.json"))
    rows = read_rows(tmp_path / "out")
    assert {row.target for row in rows if row.metric == "auc" and row.target} >= {"ort-cpu"}
    assert "popularity" in report.read_text()


def test_an_interrupt_while_timing_says_that_times_are_missing(cache, out, tmp_path) -> None:
    """All variants are scored then; each of their rows is there once."""
    words = (*RECIPES, "--profile", QUICK, "--fresh", "--out", tmp_path / "out")
    interrupted(*words, cache=cache, at="timing ")
    rows = read_rows(tmp_path / "out")
    reasons = [row.reason for row in rows if row.scenario == "run" and row.recipe == "made"]
    assert reasons == ["interrupted: the run was stopped before all times were measured"]
    assert reasons[0] in (tmp_path / "out" / "report.md").read_text()
    sizes = [(row.recipe, row.target) for row in rows if row.metric == "bytes"]
    assert len(sizes) == len(set(sizes)) == 4
    assert not holds_whole_run(tmp_path / "out")


def test_an_interrupt_at_the_report_still_writes_all_of_it(cache, out, tmp_path) -> None:
    words = (*RECIPES, "--profile", FULL, "--out", tmp_path / "out")
    said = interrupted(*words, cache=cache, at="report: writing")
    assert f"rows so far: {tmp_path / 'out' / 'report.md'}" in said
    assert (tmp_path / "out" / "report.md").exists()
    kept, whole = (
        [
            (row.recipe, row.target, row.scenario, row.metric, row.value)
            for row in read_rows(folder)
            if row.metric != "build_seconds"  # graphs are checked by TensorRT-RTX in every run
        ]
        for folder in (tmp_path / "out", out)
    )
    assert kept == whole
    assert holds_whole_run(tmp_path / "out")


def test_an_interrupt_spares_a_whole_run(out: Path, cache: Path, tmp_path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    words = (*RECIPES, "--profile", QUICK, "--fresh", "--out", folder)
    said = interrupted(*words, cache=cache, at="scored")
    assert "interrupted; what was finished is kept" in said
    assert (folder / "rows.jsonl").read_bytes() == (out / "rows.jsonl").read_bytes()
    assert (folder / "report.md").read_bytes() == (out / "report.md").read_bytes()


def test_gate_compare_and_report_read_a_finished_run(out: Path, cache: Path) -> None:
    gate = harness("gate", out, cache=cache)
    assert gate.returncode == 0, gate.stdout + gate.stderr
    assert "comparisons" in gate.stdout
    again = harness("report", out, cache=cache)
    assert again.returncode == 0, again.stderr
    compared = harness("compare", out, out, cache=cache)
    assert compared.returncode == 0, compared.stderr
    assert "made-half-int8" in compared.stdout.replace("\\", "")


def test_a_required_target_that_is_missing_fails_the_run(cache: Path, tmp_path) -> None:
    shutil.copytree(ROOT / "baselines", tmp_path / "baselines")
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "r.yaml"
    text = (ROOT / "recipes" / "made-fp16.yaml").read_text()
    recipe.write_text(text.replace("tensorrt", "{tensorrt: {require: true}}"))
    done = harness("run", recipe, "--out", tmp_path / "o", "--profile", QUICK, cache=cache)
    assert done.returncode == 1
    assert "required but not run: made-fp16@tensorrt: no_" in done.stdout


def test_nothing_is_trained_when_no_engine_can_run(tmp_path) -> None:
    shutil.copytree(ROOT / "baselines", tmp_path / "baselines")
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "r.yaml"
    text = (ROOT / "recipes" / "made-fp16.yaml").read_text()
    recipe.write_text(text.replace("tensorrt]", "ort-cuda]"))
    out = ("--out", tmp_path / "o", "--profile", QUICK, "--targets", "ort-cuda")
    done = harness("run", recipe, *out, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    reference, row = read_rows(tmp_path / "o")
    assert (reference.target, reference.status) == ("ort-cuda", "skipped")
    assert (row.recipe, row.target, row.status) == ("made-fp16", "ort-cuda", "skipped")
    assert row.reason.startswith("no_")
    assert "skipped" in (tmp_path / "o" / "report.md").read_text()
    assert not (tmp_path / "cache" / "baselines").exists()


def test_a_failing_gate_is_exit_code_1(cache: Path, tmp_path) -> None:
    shutil.copytree(ROOT / "baselines", tmp_path / "baselines")
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "r.yaml"
    text = (ROOT / "recipes" / "made-fp32.yaml").read_text()
    recipe.write_text(text.replace("minimum: 0.52", "minimum: 0.999"))
    out = ("--out", tmp_path / "o", "--profile", QUICK, "--targets", "ort-cpu")
    done = harness("run", recipe, *out, cache=cache)
    assert done.returncode == 1
    assert "gate failed: made-fp32 on ort-cpu: auc minimum 0.999" in done.stdout
    assert harness("gate", tmp_path / "o", cache=cache).returncode == 1
