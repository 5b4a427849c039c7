"""Gates: each rule passes what keeps it, fails what breaks it, and fails closed."""

import json
from dataclasses import replace

import pytest

from harness.errors import DataError, EnvironmentMismatch
from harness.gates import (
    GateResult,
    check_against,
    check_gates,
    compare_rows,
    count_line,
    exit_code,
    gate_folder,
)
from harness.recipe import GateSpec
from harness.results import Row, write_rows

REFERENCE = {"recipe": "fp32", "technique": "reference"}


def row(**changes):
    common = {
        "recipe": "int8",
        "baseline": "base",
        "technique": "closed_like",
        "target": "ort-cpu",
        "scenario": "accuracy",
        "metric": "auc",
        "direction": "higher",
        "value": 0.93,
        "data_hash": "d",
        "split": "time",
    }
    return Row(**{**common, **changes})


def timed(**changes):
    common = {
        "scenario": "sweep",
        "metric": "latency_p50",
        "direction": "lower",
        "value": 0.001,
        "batch": 64,
        "candidates": 1,
        "threads": 1,
        "n": 40,
        "ratio": 1.6,
        "ratio_low": 1.55,
        "ratio_high": 1.65,
        "aa_ratio": 1.0,
    }
    return row(**{**common, **changes})


def difference(**changes):
    common = {"metric": "auc_difference", "value": -0.001, "ci_low": -0.0015, "ci_high": -0.0005}
    return row(**{**common, **changes})


def one(gate, *rows):
    """Outcome and sentence of the only result."""
    (result,) = check_gates({"int8": [GateSpec(**gate)]}, rows)
    return result.outcome, result.sentence


@pytest.mark.parametrize(
    ("limit", "outcome"), [(0.002, "passed"), (0.0015, "passed"), (0.0014, "failed")]
)
def test_max_drop_is_held_against_the_lower_bound(limit, outcome):
    found, sentence = one({"metric": "auc", "max_drop": limit}, difference())
    assert found == outcome
    assert "the difference's lower bound is -0.00150" in sentence


@pytest.mark.parametrize(("limit", "outcome"), [(0.003, "passed"), (0.001, "failed")])
def test_max_rise_is_held_against_the_upper_bound(limit, outcome):
    rise = difference(metric="logloss_difference", direction="lower", ci_high=0.002)
    assert one({"metric": "logloss", "max_rise": limit}, rise)[0] == outcome


def test_a_bound_of_the_wrong_side_fails_and_says_which_to_use():
    rise = difference(metric="logloss_difference", direction="lower")
    assert one({"metric": "logloss", "max_drop": 1.0}, rise) == (
        "failed",
        "int8 on ort-cpu: logloss max_drop 1: logloss_difference is better when it is lower: "
        "use max_rise",
    )
    assert one({"metric": "auc", "max_rise": 1.0}, difference())[0] == "failed"


@pytest.mark.parametrize("bound", ["max_drop", "max_rise"])
def test_a_difference_without_an_interval_fails(bound):
    bare = difference(ci_low=None, ci_high=None, direction="none")
    outcome, sentence = one({"metric": "auc", bound: 1.0}, bare)
    assert outcome == "failed"
    assert "no interval" in sentence


@pytest.mark.parametrize(
    "undefined",
    [
        difference(value=None, ci_low=None, ci_high=None, reason="only label 0"),
        row(value=None, reason="only label 0"),
    ],
)
def test_an_undefined_metric_fails(undefined):
    outcome, sentence = one({"metric": "auc", "max_drop": 1.0}, undefined)
    assert outcome == "failed"
    assert "auc is undefined: only label 0" in sentence


@pytest.mark.parametrize("gate", [{"minimum": 0.0}, {"maximum": 1.0}, {"max_ratio": 9.0}])
def test_an_undefined_value_fails_every_bound(gate):
    outcome, sentence = one({"metric": "auc", **gate}, row(value=None, reason="only label 0"))
    assert (outcome, "undefined" in sentence) == ("failed", True)


@pytest.mark.parametrize(
    ("limit", "outcome"), [(1.55, "passed"), (1.6, "inconclusive"), (1.7, "failed")]
)
def test_min_speedup_is_held_against_the_whole_interval(limit, outcome):
    assert one({"metric": "latency_p50", "min_speedup": limit}, timed())[0] == outcome


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"aa_ratio": 1.06}, "the A/A ratio is 1.060, outside 0.95-1.05"),
        ({"aa_ratio": 0.94}, "the A/A ratio is 0.940, outside"),
        ({"aa_ratio": None}, "no A/A ratio was measured"),
        ({"n": 4}, "4 pairs, at least 5 are needed"),
        ({"n": None}, "an unknown number of pairs"),
        ({"ratio_low": None}, "the ratio has no interval"),
    ],
)
@pytest.mark.parametrize("limit", [1.0, 3.0])
def test_a_speedup_whose_controls_failed_is_inconclusive(change, why, limit):
    found = one({"metric": "latency_p50", "min_speedup": limit}, timed(**change))
    assert found[0] == "inconclusive"
    assert why in found[1]


def test_a_time_without_a_paired_ratio_is_not_measured():
    bare = timed(ratio=None, ratio_low=None, ratio_high=None)
    assert one({"metric": "latency_p50", "min_speedup": 1.0}, bare)[0] == "not measured"


def test_a_gate_is_for_its_own_point_target_and_threads():
    rows = [timed(), timed(batch=1), timed(threads=2), timed(target="openvino-cpu")]
    gate = {"metric": "latency_p50", "target": "ort-cpu", "batch": 64, "min_speedup": 1.0}
    assert one(gate, *rows)[0] == "passed"
    assert one({**gate, "batch": 4096}, *rows) == (
        "not measured",
        "int8 on ort-cpu: latency_p50 (batch 4096) min_speedup 1: not measured: the run has no "
        "such row",
    )
    assert one({**gate, "candidates": 256}, *rows)[0] == "not measured"
    request = timed(scenario="single", batch=256, candidates=256)
    for place in ({"candidates": 256, "batch": None}, {"candidates": 256, "batch": 1}):
        assert one({**gate, **place}, request, *rows)[0] == "passed"
    assert one({**gate, "threads": 4}, *rows)[0] == "not measured"


def test_a_gate_without_a_target_is_for_all_of_them():
    rows = [difference(), difference(target="openvino-cpu", ci_low=-0.5)]
    rows += [timed(target="torch-cpu")]
    results = check_gates({"int8": [GateSpec(metric="auc", max_drop=0.01)]}, rows)
    assert {result.target: result.outcome for result in results} == {
        "ort-cpu": "passed",
        "openvino-cpu": "failed",
        "torch-cpu": "not measured",
    }
    assert exit_code(results) == 1


@pytest.mark.parametrize(("value", "outcome"), [(50.0, "passed"), (51.0, "failed")])
def test_max_ratio_is_exact_against_the_baseline_on_the_same_target(value, outcome):
    size = {"scenario": "size", "metric": "bytes", "direction": "lower"}
    rows = [
        row(**size, value=value),
        row(**{**size, **REFERENCE}, value=100.0),
        row(**{**size, **REFERENCE, "target": "torch-cpu"}, value=900.0),
        row(**{**size, **REFERENCE, "baseline": "another"}, value=900.0),
    ]
    assert one({"metric": "bytes", "max_ratio": 0.5, "target": "ort-cpu"}, *rows)[0] == outcome


def test_without_a_baseline_nothing_was_compared():
    size = row(scenario="size", metric="bytes", value=1.0)
    outcome, sentence = one({"metric": "bytes", "max_ratio": 2.0}, size)
    assert outcome == "not measured"
    assert "no baseline bytes, nothing compared" in sentence


def test_a_baseline_of_nothing_has_no_ratio():
    size = {"scenario": "size", "metric": "bytes"}
    rows = [row(**size, value=1.0), row(**{**size, **REFERENCE}, value=0.0)]
    outcome, sentence = one({"metric": "bytes", "max_ratio": 2.0}, *rows)
    assert (outcome, "undefined ratio" in sentence) == ("failed", True)


def test_times_have_no_ratio_of_stored_seconds():
    rows = [timed(), timed(**REFERENCE)]
    outcome, sentence = one({"metric": "latency_p50", "max_ratio": 2.0}, *rows)
    assert (outcome, "use min_speedup" in sentence) == ("failed", True)


@pytest.mark.parametrize(
    ("gate", "outcome"),
    [
        ({"minimum": 0.93}, "passed"),
        ({"minimum": 0.931}, "failed"),
        ({"maximum": 0.93}, "passed"),
        ({"maximum": 0.929}, "failed"),
    ],
)
def test_minimum_and_maximum_hold_the_value(gate, outcome):
    assert one({"metric": "auc", **gate}, row())[0] == outcome


def status(word):
    return row(
        scenario="run", metric="status", target="tensorrt", value=None, status=word, reason="no GPU"
    )


def test_a_skipped_target_is_told_and_does_not_fail_the_run():
    gates = {"int8": [GateSpec(metric="auc", max_drop=0.01)]}
    results = check_gates(gates, [difference(), status("skipped")])
    told = next(result for result in results if result.target == "tensorrt")
    assert (told.outcome, told.skipped) == ("not measured", True)
    assert told.sentence.endswith("not measured, skipped: no GPU")
    assert exit_code(results) == 0


def test_when_everything_was_skipped_nothing_was_measured():
    gates = {"int8": [GateSpec(metric="auc", max_drop=0.01, target="tensorrt")]}
    assert exit_code(check_gates(gates, [status("skipped")])) == 4


def test_a_failed_variant_fails_its_gates():
    gates = {"int8": [GateSpec(metric="auc", max_drop=0.01)]}
    (result,) = check_gates(gates, [status("failed")])
    assert (result.outcome, exit_code([result])) == ("failed", 1)


def test_a_recipe_without_any_rows_is_not_measured():
    results = check_gates({"int8": [GateSpec(metric="auc", max_drop=0.01)]}, [])
    assert [result.outcome for result in results] == ["not measured"]
    assert exit_code(results) == 4


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ((), 4),
        (("passed",), 0),
        (("passed", "warning"), 0),
        (("new",), 4),
        (("passed", "inconclusive"), 3),
        (("passed", "not measured"), 4),
        (("inconclusive", "not measured"), 4),
        (("inconclusive", "not measured", "failed"), 1),
    ],
)
def test_exit_codes(outcomes, code):
    assert exit_code([GateResult("r", None, outcome, "") for outcome in outcomes]) == code


def test_the_number_of_comparisons_is_told():
    results = [GateResult("r", None, o, "") for o in ("passed", "passed", "failed", "new")]
    assert count_line(results) == "3 comparisons made: 2 passed, 1 failed, 1 new"
    assert count_line([]) == "0 comparisons made"


def between(new, old):
    """Outcome of comparing one row with an earlier one."""
    (result,) = compare_rows([new], [old])
    return result.outcome


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [(1.6, "passed"), (1.55, "passed"), (1.51, "warning"), (1.3, "failed"), (0.16, "failed")],
)
def test_a_speedup_that_was_lost(ratio, outcome):
    new = timed(ratio=ratio, ratio_low=ratio * 0.97, ratio_high=ratio * 1.03)
    assert between(new, timed()) == outcome


def test_a_loss_inside_the_intervals_is_a_warning():
    new = timed(ratio=1.4, ratio_low=1.2, ratio_high=1.6)
    assert between(new, timed()) == "warning"


def test_many_threads_and_tails_are_not_judged():
    lost = {"ratio": 0.5, "ratio_low": 0.49, "ratio_high": 0.51}
    assert between(timed(threads=2, **lost), timed(threads=2)) == "warning"
    tail = timed(metric="latency_p99")
    assert compare_rows([replace(tail, **lost)], [tail]) == []


@pytest.mark.parametrize("change", [{"aa_ratio": 1.2}, {"n": 1}, {"ratio_high": None}])
def test_a_lost_speedup_whose_controls_failed_is_inconclusive(change):
    lost = {"ratio": 0.5, "ratio_low": 0.5, "ratio_high": 0.5}
    assert between(timed(**{**lost, **change}), timed()) == "inconclusive"


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "passed"),
        ({"value": 0.929, "ci_low": 0.928, "ci_high": 0.9305}, "passed"),
        ({"value": 0.92, "ci_low": 0.919, "ci_high": 0.921}, "failed"),
        ({"value": 0.95, "ci_low": 0.949, "ci_high": 0.951}, "warning"),
        ({"value": None, "ci_low": None, "ci_high": None, "reason": "only label 0"}, "failed"),
    ],
)
def test_quality_that_was_lost(change, outcome):
    old = row(ci_low=0.929, ci_high=0.931)
    assert between(replace(old, **change), old) == outcome


def test_a_lower_is_better_metric_is_lost_upwards():
    old = row(metric="logloss", direction="lower", value=0.17, ci_low=0.169, ci_high=0.171)
    assert between(replace(old, value=0.19, ci_low=0.189, ci_high=0.191), old) == "failed"
    assert between(replace(old, value=0.15, ci_low=0.149, ci_high=0.151), old) == "warning"


def test_without_intervals_any_worse_value_fails():
    assert between(row(value=0.93), row(value=0.93)) == "passed"
    assert between(row(value=0.929), row(value=0.93)) == "failed"


@pytest.mark.parametrize(("value", "outcome"), [(102.0, "passed"), (102.1, "failed")])
@pytest.mark.parametrize(
    "what",
    [{"scenario": "size", "metric": "bytes"}, {"scenario": "memory", "metric": "peak_memory"}],
)
def test_size_and_memory_may_grow_two_percent(what, value, outcome):
    assert between(row(**what, value=value), row(**what, value=100.0)) == outcome


def test_what_is_gone_fails_by_name_and_what_is_new_is_listed():
    results = compare_rows([timed(batch=1)], [timed(batch=64)])
    assert [(result.outcome, result.sentence) for result in results] == [
        (
            "failed",
            "int8 on ort-cpu: sweep latency_p50 at 64 x 1, 1 threads: is in the earlier run, "
            "not here",
        ),
        (
            "new",
            "int8 on ort-cpu: sweep latency_p50 at 1 x 1, 1 threads: is not in the earlier run",
        ),
    ]
    assert exit_code(results) == 1


@pytest.fixture
def save(tmp_path):
    def write(name, rows, **facts):
        folder = tmp_path / name
        folder.mkdir()
        write_rows(folder, rows)
        (folder / "environment.json").write_text(json.dumps({"cpu": "one", "threads": 2, **facts}))
        return folder

    return write


def test_two_run_folders_are_compared(save):
    slow = timed(ratio=0.16, ratio_low=0.15, ratio_high=0.17)
    results = check_against(save("new", [slow, row()]), save("old", [timed(), row()]))
    assert exit_code(results) == 1
    assert count_line(results) == "2 comparisons made: 1 passed, 1 failed"
    assert "paired median 0.160 times the baseline's speed, was 1.600: 90.0% slower" in next(
        result.sentence for result in results if result.outcome == "failed"
    )


def test_no_earlier_run_is_not_a_pass(save, tmp_path):
    results = check_against(save("new", [row()]), tmp_path / "none")
    assert exit_code(results) == 4
    assert results[0].sentence.startswith("no baseline, nothing compared: ")
    assert "python -m harness run" in results[0].sentence


def test_an_earlier_run_of_another_machine_is_refused(save):
    new, old = save("new", [timed()]), save("old", [timed()], threads=8)
    with pytest.raises(EnvironmentMismatch, match="threads is 2 and 8"):
        check_against(new, old)


def test_an_earlier_run_on_other_data_is_refused(save):
    new, old = save("new", [row()]), save("old", [row(data_hash="e")])
    with pytest.raises(EnvironmentMismatch, match="data_hash is"):
        check_against(new, old)


def test_a_damaged_earlier_run_is_refused(save):
    new, old = save("new", [row()]), save("old", [row()])
    (old / "rows.jsonl").write_text("{")
    with pytest.raises(DataError, match="not rows of this version"):
        check_against(new, old)


RECIPE = """schema_version: 1
name: int8
baseline: base
stages: [export_onnx]
targets: [ort-cpu]
gates:
  - {metric: auc, max_drop: 0.002}
  - {metric: latency_p50, candidates: 256, min_speedup: 3.0}
"""
BASELINE = """schema_version: 1
name: base
dataset: generated
model: dlrm
"""


def test_a_finished_run_is_held_against_the_recipes_stored_in_it(save):
    folder = save("run", [difference(), timed(scenario="single", batch=256, candidates=256)])
    for name, text in (("recipes/int8", RECIPE), ("baselines/base", BASELINE)):
        (folder / name).parent.mkdir()
        (folder / f"{name}.yaml").write_text(text)
    assert [result.outcome for result in gate_folder(folder)] == ["passed", "failed"]
    assert exit_code(gate_folder(folder, folder)) == 0


def test_a_run_without_recipes_is_not_a_pass(save):
    results = gate_folder(save("run", [row()]))
    assert exit_code(results) == 4
    assert results[0].sentence.endswith("holds no recipe, so there is no gate: run again")
