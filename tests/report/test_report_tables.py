"""The report's tables: every number stands under its own heading and beside its own name."""

from dataclasses import replace

import pytest
from report.read_tables import line, lines

from harness.report import details
from harness.report.lookup import Point, Variant, results
from harness.report.tables import best_lines, summary_for_terminal, summary_table, verdict


def test_the_summary_has_one_line_for_each_variant_and_target(demo_rows):
    table = summary_table(results(demo_rows))
    names = [(one["variant"], one["target"]) for one in lines(table)]
    assert len(names) == len(set(names)) == 8 * 3 + 1
    assert names[0] == ("demo-fp32", "torch-cpu")


def test_the_summary_shows_the_figures_of_the_rows(demo_rows):
    table = summary_table(results(demo_rows))
    assert line(table, variant="demo-prune50", target="ort-cpu") == {
        "variant": "demo-prune50",
        "target": "ort-cpu",
        "AUC": "0.9325",
        "AUC difference [CI]": "-0.0006 [-0.0009, -0.0003]",
        "class": "99.9 %",
        "b1": "1.30 [1.27, 1.34]",
        "b64": "1.40 [1.37, 1.44]",
        "b1024": "1.51 [1.47, 1.54]",
        "1x256": "1.62 [1.58, 1.66]",
        "p50 1x256 (ms)": "0.139",
        "size (MiB)": "8.9",
        "peak memory (MiB)": "188.9",
        "verdict": "faster, 99.9 %",
    }


def test_figures_are_looked_up_by_name_whatever_the_order_of_the_rows(demo_rows):
    there, back = (summary_table(results(rows)) for rows in (demo_rows, demo_rows[::-1]))
    for one in lines(there):
        assert line(back, variant=one["variant"], target=one["target"]) == one


def test_skipped_and_failed_variants_keep_their_line_and_their_reason(demo_rows):
    run = results(demo_rows)
    table = summary_table(run)
    skipped = line(table, variant="demo-tensorrt-fp16", target="tensorrt")
    assert skipped["verdict"] == "skipped"
    assert set(skipped.values()) == {"demo-tensorrt-fp16", "tensorrt", "-", "skipped"}
    notes = {cell.note for row in table.rows for cell in row if cell.note}
    assert notes == {"no NVIDIA GPU was found", "torch-cpu can't load a QDQ graph"}
    assert line(details.not_run_table(run), variant="demo-int8-qat") == {
        "variant": "demo-int8-qat",
        "target": "torch-cpu",
        "status": "failed",
        "reason": "torch-cpu can't load a QDQ graph",
    }


def test_an_undefined_metric_is_not_available_with_its_reason(demo_rows):
    rows = [
        replace(r, value=None, ci_low=None, ci_high=None, reason="one class only", verdict=None)
        if r.scenario == "accuracy" and r.metric in ("auc", "auc_difference", "quality_class")
        else r
        for r in demo_rows
    ]
    table = summary_table(results(rows))
    found = line(table, variant="demo-prune50", target="ort-cpu")
    assert (found["AUC"], found["AUC difference [CI]"], found["class"]) == ("n/a",) * 3
    assert found["1x256"] == "1.62 [1.58, 1.66]"
    assert found["verdict"] == "faster, quality unknown"
    assert "one class only" in {cell.note for row in table.rows for cell in row}


def test_another_engine_than_the_one_asked_for_is_told(demo_rows):
    rows = [replace(r, target="ort-cuda") if r.target == "ort-cpu" else r for r in demo_rows]
    cells = {cell.text: cell.note for row in summary_table(results(rows)).rows for cell in row}
    assert cells["ort-cuda"] == "asked for ort-cuda, ran on ort-cpu"


def _with_verdicts(rows, words):
    """Verdicts of demo-prune50 on ort-cpu by batch and candidates."""
    return [
        replace(r, verdict=words[(r.batch, r.candidates)])
        if r.recipe == "demo-prune50" and r.target == "ort-cpu" and r.ratio is not None
        else r
        for r in rows
    ]


@pytest.mark.parametrize(
    ("others", "request_", "text"),
    [
        ("faster", "faster", "faster, 99.9 %"),
        ("slower", "slower", "smaller but slower, 99.9 %"),
        ("faster", "inconclusive", "inconclusive but smaller, 99.9 %"),
        ("faster", "no difference shown", "no difference shown but smaller, 99.9 %"),
        ("slower", "faster", "faster (slower at b1, b64, b1024), 99.9 %"),
        ("faster", "slower", "smaller but slower (faster at b1, b64, b1024), 99.9 %"),
    ],
)
def test_the_verdict_says_when_a_variant_is_worse(demo_rows, others, request_, text):
    words = dict.fromkeys([(1, 1), (64, 1), (1024, 1)], others) | {(256, 256): request_}
    run = results(_with_verdicts(demo_rows, words))
    assert verdict(run, Variant("demo-prune50", "ort-cpu")) == text


def test_a_slower_variant_that_saves_nothing_is_just_slower(demo_rows):
    rows = [replace(r, value=13.0 * 2**20) if r.metric == "bytes" else r for r in demo_rows]
    assert verdict(results(rows), Variant("demo-fp16", "ort-cpu")) == "slower, 99.9 %"


def test_the_headline_names_the_fastest_within_the_class_or_that_there_is_none(demo_rows):
    run = results(demo_rows)
    told = best_lines(run)
    assert told[1] == (
        "ort-cpu: demo-prune50 is the fastest within 99.9 % of the baseline: 1.62 [1.58, 1.66] "
        "times as fast at 1x256, 1 thread."
    )
    assert told[3] == "tensorrt: nothing ran."
    slow = [replace(r, verdict="slower") if r.ratio is not None else r for r in demo_rows]
    assert best_lines(results(slow))[0] == (
        "torch-cpu: nothing was proven faster at 1x256 within 99.9 % of the baseline."
    )


def test_the_rankings_stand_in_order_with_the_baseline_last(demo_rows):
    table = details.references_table(results(demo_rows))
    assert [one["ranking"] for one in lines(table)] == [
        "random",
        "popularity",
        "history",
        "demo-fp32",
    ]
    assert line(table, ranking="history")["AUC"] == "0.9139 [0.9119, 0.9159]"


def test_asked_and_achieved_and_the_notes_of_a_stage(demo_rows):
    table = details.effects_table(results(demo_rows))
    assert lines(table)[0] == {
        "variant": "demo-prune50",
        "stage": "1. prune_channels",
        "effect": "parameters",
        "before": "4,100,000",
        "asked": "2,050,000",
        "achieved": "2,063,000",
    }
    assert table.rows[1][2].text == "note: widths rounded to 16"


def test_the_training_table_gives_seconds(demo_rows):
    assert lines(details.training_table(results(demo_rows))) == [
        {
            "variant": "demo-prune50",
            "step": "1.prune_channels",
            "seconds": "61.2",
            "CPU seconds": "118.0",
        }
    ]


def test_every_point_has_its_line(demo_rows):
    table = details.points_table(results(demo_rows))
    assert len(table.rows) == 23 * 4 * 2
    found = line(table, variant="demo-fp16", target="ort-cpu", threads="1", point="1x256")
    assert found["p50 (ms)"] == "0.317"
    assert found["p99 (ms)"] == "0.507"
    assert found["A/A"] == "1.004"
    assert found["verdict"] == "slower"


def test_thread_counts_are_never_mixed(demo_rows):
    run = results(demo_rows)
    assert run.thread_counts == [1, 2]
    both = [details.threads_table(run, threads=n) for n in (1, 2)]
    one, two = (line(t, variant="demo-fp32", target="ort-cpu")["p50 1x256 (ms)"] for t in both)
    assert (one, two) == ("0.225", "0.148")


def test_wide_tables_hold_every_metric_of_their_scenarios(demo_rows):
    run = results(demo_rows)
    assert details.accuracy_table(run).headers[2:] == ("AUC", "GAUC", "logloss", "ECE", "NDCG@10")
    assert details.differences_table(run).headers[2:] == ("AUC difference",)
    agreement = line(details.agreement_table(run), variant="demo-prune50", target="ort-cpu")
    assert agreement["top10 overlap"] == "96.00 %"
    assert agreement["max abs difference"] == "3.100e-07"
    sizes = line(details.sizes_table(run), variant="demo-prune50", target="ort-cpu")
    assert (sizes["bytes"], sizes["MACs"]) == ("8.9 MiB", "1,200,000")


def test_what_ran_is_read_from_the_rows(demo_rows):
    table = details.engines_table(results(demo_rows))
    assert line(table, variant="demo-fp16", engine="ort-cpu") == {
        "variant": "demo-fp16",
        "target asked for": "ort-cpu",
        "engine": "ort-cpu",
        "version": "1.32.0",
        "device": "cpu",
        "precision": "fp16",
    }


def test_the_terminal_gets_the_summary_what_did_not_run_and_the_notes(demo_rows):
    summary, rivals, missed = summary_for_terminal(demo_rows)
    assert rivals[0][:2] == ["ranking", "AUC"]
    assert not any("[" in cell for line in summary[1] for cell in line)
    assert summary[0][0] == "variant"
    assert len(summary[1]) == 25
    assert missed[1][1][-1] == "no NVIDIA GPU was found"
    undefined = [
        replace(r, value=None, ci_low=None, ci_high=None, reason="one class only")
        if r.metric == "auc" and r.scenario == "accuracy"
        else r
        for r in demo_rows
    ]
    assert summary_for_terminal(undefined)[-1] == (["note"], [["one class only"]])


def test_points_are_named_and_ordered():
    assert Point(1, 64, 1).label == "b64"
    assert Point(256, 1, 1).label == "1x256"
    assert sorted([Point(256, 1, 1), Point(1, 64, 1)])[0] == Point(1, 64, 1)


def test_a_run_without_times_has_no_speed_columns(row):
    table = summary_table(results([row(target="ort-cpu", value=0.9, technique="reference")]))
    assert [h for h in table.headers if h.startswith(("b1", "p50"))] == []
    assert table.rows[0][-1].text == "baseline"


def test_two_regions_of_a_point_never_share_a_column(row):
    timed = {"scenario": "single", "metric": "latency_p50", "batch": 256, "candidates": 256}
    common = {**timed, "threads": 1, "target": "ort-cpu", "unit": "seconds"}
    rows = [
        row(region="end_to_end", value=0.004, **common),
        row(region="model_only", value=0.002, **common),
        row(region="end_to_end", value=0.005, **common, recipe="demo-wide"),
    ]
    for order in (rows, rows[::-1]):
        run = results(order)
        assert run.region == "model_only"
        assert line(summary_table(run), variant="demo-fp32")["p50 1x256 (ms)"] == "2.00"
        assert line(summary_table(run), variant="demo-wide")["p50 1x256 (ms)"] == "n/a"
        points = lines(details.points_table(run))
        assert {(one["variant"], one["region"], one["p50 (ms)"]) for one in points} == {
            ("demo-fp32", "model_only", "2.00"),
            ("demo-fp32", "end_to_end", "4.00"),
            ("demo-wide", "end_to_end", "5.00"),
        }


def test_without_the_headlines_region_the_next_one_is_shown(demo_rows):
    wide = [replace(r, region="end_to_end") if r.region else r for r in demo_rows]
    run = results(wide)
    assert run.region == "end_to_end"
    assert lines(summary_table(run)) == lines(summary_table(results(demo_rows)))


def test_offline_is_no_sweep_of_the_same_batch(full_rows):
    run = results(full_rows)
    assert [point.label for point in run.points(threads=1)] == ["b1", "b64", "b1024", "1x256"]
    assert [(p.label, p.region) for p in run.every_point(threads=1)][4:] == [
        ("1x256", "end_to_end"),
        ("offline 1024", "end_to_end"),
    ]
    table = details.points_table(run)
    common = {"variant": "demo-prune50", "target": "ort-cpu", "threads": "1"}
    sweep = line(table, **common, point="b1024")
    offline = line(table, **common, point="offline 1024")
    assert (sweep["p50 (ms)"], sweep["speedup [CI]"]) == ("0.557", "1.51 [1.47, 1.54]")
    assert (offline["p50 (ms)"], offline["speedup [CI]"]) == ("0.673", "1.62 [1.58, 1.66]")


def test_the_speedup_of_a_scenario_is_of_the_figure_it_is_about(row):
    place = {"target": "ort-cpu", "threads": 1, "batch": 64, "candidates": 1}
    for scenario, metric, wanted in (
        ("offline", "rows_per_second", 2.0),
        ("sweep", "latency_p50", 3.0),
    ):
        rows = [
            row(
                **place, scenario=scenario, region="x", metric="rows_per_second", ratio=2.0, value=9
            ),
            row(**place, scenario=scenario, region="x", metric="latency_p50", ratio=3.0, value=9),
        ]
        for order in (rows, rows[::-1]):
            run = results(order)
            found = run.paired(Variant("demo-fp32", "ort-cpu"), run.every_point(threads=1)[0])
            assert (found.metric, found.ratio) == (metric, wanted)


def test_the_summary_names_three_points_of_a_long_sweep_and_the_points_table_all(row):
    timed = {"scenario": "sweep", "metric": "latency_p50", "target": "ort-cpu", "threads": 1}
    place = {"region": "model_only", "candidates": 1, "unit": "s", "value": 1.0}
    for batches, shown in (
        ((1, 8, 64, 512, 4096), ["b1", "b64", "b4096"]),
        ((1, 8, 32, 512), ["b1", "b32", "b512"]),
        ((64,), ["b64"]),
    ):
        rows = [row(**timed, **place, batch=batch) for batch in batches]
        request = {**timed, "scenario": "single", **place, "batch": 256, "candidates": 256}
        run = results([*rows, row(**request)])
        headers = summary_table(run).headers
        assert list(headers[5:-4]) == [*shown, "1x256"]
        assert headers[-4] == "p50 1x256 (ms)"
        assert len(details.points_table(run).rows) == len(batches) + 1


def test_the_summary_has_the_rate_at_the_sla_beside_the_latency(full_rows):
    found = line(summary_table(results(full_rows)), variant="demo-prune50", target="ort-cpu")
    names = list(found)
    assert names[names.index("p50 1x256 (ms)") + 1] == "requests/s at p99 2 ms"
    assert found["requests/s at p99 2 ms"] == "5,765"
    skipped = line(summary_table(results(full_rows)), target="tensorrt")
    assert set(skipped.values()) == {"demo-tensorrt-fp16", "tensorrt", "-", "skipped"}


def test_noise_marks_figures_and_convergence_marks_both(demo_rows):
    timed = ("sweep", "single")
    rows = [
        replace(r, noise="pressure 9 %", converged=r.batch != 64) if r.scenario in timed else r
        for r in demo_rows
    ]
    run = results(rows)
    found = line(summary_table(run), variant="demo-prune50", target="ort-cpu")
    assert found["p50 1x256 (ms)"] == "0.139†"
    assert (found["b64"], found["1x256"]) == ("1.40 [1.37, 1.44]‡", "1.62 [1.58, 1.66]")
    assert (found["size (MiB)"], found["AUC"]) == ("8.9", "0.9325")
    point = line(
        details.points_table(run), variant="demo-fp16", target="ort-cpu", threads="1", point="b64"
    )
    assert point["p50 (ms)"].endswith("†‡")
    assert point["to best fp32"] == "0.73‡"
    told = summary_for_terminal(rows)[-1][1]
    assert [text[0][0] for text in told[-2:]] == ["†", "‡"]


def test_what_the_data_hold_is_told(demo_rows):
    assert lines(details.data_table(results(demo_rows))) == [
        {"baseline": "demo", "fact": "rows read", "value": "1,000"},
        {"baseline": "demo", "fact": "rows kept", "value": "990"},
        {"baseline": "demo", "fact": "rows dropped: no label", "value": "10"},
        {"baseline": "demo", "fact": "licence", "value": "CC0 | free"},
    ]


def test_the_training_of_the_baseline_is_not_taken_for_its_variant(demo_rows):
    assert results(demo_rows).baseline_of(Variant("demo-fp16", "ort-cpu")) == Variant(
        "demo-fp32", "ort-cpu"
    )


def test_each_gate_has_its_line(demo_rows):
    gate = replace(
        demo_rows[0],
        scenario="gate",
        metric="auc max_drop",
        value=None,
        ci_low=None,
        ci_high=None,
        verdict="failed",
        reason="demo-fp32 on torch-cpu: auc max_drop 0.001: lower bound is -0.002",
    )
    (line,) = lines(details.gates_table(results([*demo_rows, gate])))
    assert line["variant"] == "demo-fp32"
    assert line["gate"] == "auc max_drop"
    assert line["outcome"] == "failed"
    assert line["found"] == "lower bound is -0.002"


def test_each_baseline_has_its_own_simple_rankings(demo_rows):
    other = [
        replace(row, baseline="other", recipe=row.recipe.replace("demo", "other"))
        for row in demo_rows
    ]
    table = lines(details.references_table(results([*demo_rows, *other])))
    one = [line["ranking"] for line in table if line["baseline"] == "demo"]
    two = [line["ranking"] for line in table if line["baseline"] == "other"]
    assert one[:3] == two[:3] == ["random", "popularity", "history"]
    assert (one[3], two[3]) == ("demo-fp32", "other-fp32")
