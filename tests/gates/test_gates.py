"""Gates: each rule passes what keeps it, fails what breaks it, and fails closed."""

import pytest
from made_rows import REFERENCE, difference, row, save, timed

from harness.errors import RecipeError
from harness.gates.against import check_against
from harness.gates.rules import (
    GateResult,
    check_gates,
    count_line,
    exit_code,
    gate_folder,
    shadowed,
)
from harness.recipe import GateSpec


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


def test_ratios_of_sizes_in_different_units_are_refused():
    size = {"scenario": "size", "metric": "bytes", "direction": "lower"}
    rows = [
        row(**size, unit="bytes", value=50.0),
        row(**{**size, **REFERENCE}, unit="MiB", value=100.0),
    ]
    outcome, sentence = one({"metric": "bytes", "max_ratio": 2.0}, *rows)
    assert (outcome, "unit is 'bytes' and 'MiB'" in sentence) == ("failed", True)


@pytest.mark.parametrize("metric", ["latency_p50", "rows_per_second"])
def test_a_speedup_below_one_fails_whatever_the_metrics_direction(metric):
    slow = timed(metric=metric, ratio=0.5, ratio_low=0.49, ratio_high=0.51, direction="higher")
    outcome, sentence = one({"metric": metric, "min_speedup": 1.0}, slow)
    assert outcome == "failed"
    assert "0.500 times the baseline's speed" in sentence


@pytest.mark.parametrize("low", [1.7, 0.0, -1.0])
def test_a_ratio_outside_its_own_interval_is_not_believed(low):
    outcome, sentence = one({"metric": "latency_p50", "min_speedup": 1.0}, timed(ratio_low=low))
    assert outcome == "inconclusive"
    assert "isn't in its interval" in sentence


def test_open_loads_tails_and_end_to_end_are_not_what_a_gate_means():
    other = timed(scenario="single", region="end_to_end", ratio=0.1, ratio_low=0.1, ratio_high=0.1)
    load = timed(scenario="server", ratio=None, ratio_low=None, ratio_high=None, offered_rate=9.0)
    gate = {"metric": "latency_p50", "min_speedup": 1.0}
    assert one(gate, timed(), other, load)[0] == "passed"
    assert one(gate, other, load)[0] == "not measured"


SHADOW = GateSpec(metric="auc", minimum=0.99, shadow=True)


@pytest.mark.parametrize(
    ("rows", "label"),
    [
        ([row()], "shadow failed"),
        ([row(value=None, reason="only label 0")], "shadow failed"),
        ([row(metric="logloss")], "shadow not measured"),
        ([row(value=0.995)], "passed"),
    ],
)
def test_a_gate_in_shadow_is_told_and_decides_nothing(rows, label):
    (result,) = check_gates({"int8": [SHADOW]}, rows)
    assert result.label == label
    assert exit_code([result]) == 0
    assert exit_code([result, GateResult("r", None, "failed", "")]) == 1


def test_in_shadow_all_results_keep_their_outcome_and_decide_nothing():
    bad = [GateResult("r", None, o, "") for o in ("passed", "failed", "inconclusive", "new")]
    told = shadowed(bad)
    assert [r.label for r in told] == ["passed", "shadow failed", "shadow inconclusive", "new"]
    assert [r.outcome for r in told] == [r.outcome for r in bad]
    assert (exit_code(bad), exit_code(told)) == (1, 0)
    assert count_line(told) == (
        "3 comparisons made: 1 passed, 1 new, 1 failed in shadow, 1 inconclusive in shadow"
    )


def test_the_number_of_comparisons_is_told():
    results = [GateResult("r", None, o, "") for o in ("passed", "passed", "failed", "new")]
    assert count_line(results) == "3 comparisons made: 2 passed, 1 failed, 1 new"
    assert count_line([]) == "0 comparisons made"


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


def test_a_finished_run_is_held_against_the_recipes_stored_in_it(tmp_path):
    folder = save(
        tmp_path / "run", [difference(), timed(scenario="single", batch=256, candidates=256)]
    )
    for name, text in (("recipes/int8", RECIPE), ("baselines/base", BASELINE)):
        (folder / name).parent.mkdir()
        (folder / f"{name}.yaml").write_text(text)
    assert [result.outcome for result in gate_folder(folder)] == ["passed", "failed"]
    assert exit_code(check_against(folder, folder)) == 0


def test_a_recipe_may_put_one_gate_in_shadow(tmp_path):
    slow = timed(scenario="single", batch=256, candidates=256)
    folder = save(tmp_path / "run", [difference(), slow])
    shadow = RECIPE.replace("min_speedup: 3.0", "min_speedup: 3.0, shadow: true")
    for name, text in (("recipes/int8", shadow), ("baselines/base", BASELINE)):
        (folder / name).parent.mkdir()
        (folder / f"{name}.yaml").write_text(text)
    results = gate_folder(folder)
    assert [result.label for result in results] == ["passed", "shadow failed"]
    assert exit_code(results) == 0
    (folder / "recipes/int8.yaml").write_text(shadow.replace("shadow: true", "shadow: 1"))
    with pytest.raises(RecipeError, match="shadow"):
        gate_folder(folder)


def test_a_run_without_recipes_is_not_a_pass(tmp_path):
    results = gate_folder(save(tmp_path / "run", [row()]))
    assert exit_code(results) == 4
    assert results[0].sentence.endswith("holds no recipe, so there is no gate: run again")
