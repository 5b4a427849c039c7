"""A run against an earlier one: worse fails, gone fails by name, nothing compared is no pass."""

from dataclasses import replace

import made_rows
import pytest
from made_rows import row, timed

from harness.errors import DataError, EnvironmentMismatch
from harness.gates.against import check_against, compare_rows
from harness.gates.rules import count_line, exit_code


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
    return lambda name, rows, **facts: made_rows.save(tmp_path / name, rows, **facts)


def test_two_run_folders_are_compared(save):
    slow = timed(ratio=0.16, ratio_low=0.15, ratio_high=0.17)
    results = check_against(save("new", [slow, row()]), save("old", [timed(), row()]))
    assert exit_code(results) == 1
    assert count_line(results) == "2 comparisons made: 1 passed, 1 failed"
    assert "paired median 0.160 times the baseline's speed, was 1.600: 90.0% slower" in next(
        result.sentence for result in results if result.outcome == "failed"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [({"unit": "ms"}, "unit is 'ms' and 's'"), ({"direction": "higher"}, "direction is 'higher'")],
)
@pytest.mark.parametrize(
    "what",
    [
        timed(unit="s"),
        row(scenario="memory", metric="peak_memory", unit="s", direction="lower", value=1.0),
    ],
)
def test_rows_of_another_unit_or_direction_are_refused(what, change, told):
    with pytest.raises(EnvironmentMismatch, match=told):
        compare_rows([replace(what, **change)], [what])
    assert [r.outcome for r in compare_rows([what], [what])] == ["passed"]


def test_an_earlier_figure_of_nothing_is_never_divided_by():
    size = row(scenario="size", metric="bytes", direction="lower", value=1.0)
    assert between(size, replace(size, value=None, reason="no file")) == "new"
    assert between(size, replace(size, value=0.0)) == "failed"
    zero = timed(ratio=0.0, ratio_low=0.0, ratio_high=0.0)
    assert between(timed(), zero) == "inconclusive"
    assert between(timed(), replace(zero, ratio_low=None)) == "inconclusive"


def test_a_slower_variant_never_reads_as_faster():
    """1.6 times the baseline's speed before, 0.8 now: upside down it would be a gain of 2."""
    now = timed(ratio=0.8, ratio_low=0.78, ratio_high=0.82)
    (result,) = compare_rows([now], [timed()])
    assert result.outcome == "failed"
    assert result.sentence.endswith("was 1.600: 50.0% slower")
    (back,) = compare_rows([timed()], [now])
    assert back.outcome == "passed"


def test_a_skipped_or_failed_variant_fails_by_name():
    """Its rows are gone, or are there without a ratio: either way it was compared with nothing."""
    lost = timed(value=None, ratio=None, ratio_low=None, ratio_high=None, reason="crashed")
    for rows in ([], [lost]):
        (result,) = compare_rows(rows, [timed()])
        assert result.outcome == "failed"
        assert "int8 on ort-cpu: sweep latency_p50 at 64 x 1" in result.sentence


def test_times_beyond_one_thread_never_fail_nor_leave_it_open():
    noisy = timed(threads=2, aa_ratio=1.3)
    (result,) = compare_rows([noisy], [timed(threads=2)])
    assert result.outcome == "warning"
    assert "report only" in result.sentence


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
