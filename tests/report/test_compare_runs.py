"""Two runs side by side, and when they may not be."""

from dataclasses import replace

import pytest

from harness.errors import DataError, EnvironmentMismatch
from harness.report.tables import compare


def test_two_runs_of_one_machine_stand_side_by_side(save_run, demo_rows):
    changes = {"ratio": 1.5, "ratio_low": 1.4, "ratio_high": 1.6}
    other = [replace(r, **changes) if r.ratio else r for r in demo_rows]
    text = compare(save_run(demo_rows, "a"), save_run(other, "b"))
    line = next(x for x in text.splitlines() if x.startswith("| demo-prune50 | ort-cpu | 1.30"))
    assert line.startswith("| demo-prune50 | ort-cpu | 1.30 [1.27, 1.34] | 1.50 [1.40, 1.60] |")
    auc = "0.9325 [0.9304, 0.9346]"
    assert f"| demo-prune50 | ort-cpu | {auc} | {auc} | +0.0000 |" in text


def test_rates_at_the_sla_stand_side_by_side_and_noise_is_marked(save_run, full_rows):
    rows = [r for r in full_rows if r.recipe == "demo-fp32" and r.target == "ort-cpu"]
    faster = {"qps_at_sla": 2000.0, "sla": 0.004}
    other = [
        replace(r, value=faster.get(r.metric, r.value), noise="steal 4 %")
        if r.scenario in ("qps_at_sla", "single")
        else r
        for r in rows
    ]
    text = compare(save_run(rows, "a"), save_run(other, "b"))
    head, line = (next(x for x in text.splitlines() if s in x) for s in ("b1 A", "| 1,779 |"))
    found = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert found["requests/s at p99 2 ms A"] == "1,779"
    assert found["requests/s at p99 4 ms B"] == "2,000†"
    assert (found["p50 1x256 A (ms)"], found["p50 1x256 B (ms)"]) == ("0.225", "0.225†")
    assert "† measured while the host was noisy" in text


def test_without_a_search_there_is_no_column_of_rates(save_run, demo_rows):
    text = compare(save_run(demo_rows[:50], "a"), save_run(demo_rows[:50], "b"))
    assert "requests/s at" not in text
    assert "†" not in text


def test_a_variant_of_one_run_only_is_told(save_run, demo_rows):
    few = [r for r in demo_rows if r.recipe != "demo-fp16"]
    text = compare(save_run(demo_rows, "a"), save_run(few, "b"))
    assert "not in this run" in text
    assert "not in both runs" in text


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"cpu": "Other CPU"}, "cpu is 'Example CPU 9000' and 'Other CPU'"),
        ({"threads": 8}, "threads is 2 and 8"),
        (
            {"packages": {"torch": "2.13.0", "onnxruntime": "1.30.0"}},
            "packages.onnxruntime is '1.32.0' and '1.30.0'",
        ),
    ],
)
def test_times_of_different_machines_are_refused_by_name(save_run, demo_rows, facts, named):
    a, b = save_run(demo_rows[:9], "a"), save_run(demo_rows[:9], "b", **facts)
    with pytest.raises(EnvironmentMismatch) as caught:
        compare(a, b)
    assert named in str(caught.value)
    assert "kernel" not in str(caught.value)


def test_quality_alone_may_be_compared_across_machines(save_run, demo_rows):
    a, b = save_run(demo_rows[:9], "a"), save_run(demo_rows[:9], "b", cpu="Other CPU")
    text = compare(a, b, accuracy_only=True)
    assert "## Quality" in text
    assert "## Speed" not in text


def test_what_does_not_decide_speed_may_differ(save_run, demo_rows):
    a, b = save_run(demo_rows[:9], "a"), save_run(demo_rows[:9], "b", commit="f" * 12)
    assert "## Speed" in compare(a, b)


@pytest.mark.parametrize("change", [{"data_hash": "e" * 64}, {"split": "random"}])
def test_quality_on_different_data_is_refused(save_run, demo_rows, change):
    a = save_run(demo_rows[:9], "a")
    b = save_run([replace(r, **change) for r in demo_rows[:9]], "b")
    with pytest.raises(EnvironmentMismatch, match=f"{next(iter(change))} is .* run both on"):
        compare(a, b, accuracy_only=True)


def test_a_folder_without_a_run_is_refused(save_run, demo_rows, tmp_path):
    with pytest.raises(DataError, match="no rows here"):
        compare(save_run(demo_rows[:9], "a"), tmp_path / "none")
