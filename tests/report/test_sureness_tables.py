"""Tables and sentences on how sure the figures are."""

from dataclasses import replace

import pytest
from report.read_tables import line, lines

from harness.report import sureness
from harness.report.details import agreement_table
from harness.report.lookup import results


@pytest.fixture
def timed(row):
    """``timed(batch, **columns)``: a p50 of a 1-thread sweep."""

    def make(batch, **columns):
        place = {"target": "ort-cpu", "scenario": "sweep", "region": "model_only", "threads": 1}
        common = {**place, "candidates": 1, "metric": "latency_p50", "unit": "s", "value": 0.001}
        return row(**{**common, "batch": batch, **columns})

    return make


def test_aa_ratios_are_counted_once_a_comparison(timed):
    ratios = ((1, 0.99), (8, 1.0), (64, 1.01), (512, 1.04), (4096, 0.94))
    rows = [
        timed(batch, recipe=recipe, aa_ratio=ratio)
        for batch, ratio in ratios
        for recipe in ("demo-a", "demo-b")
    ]
    # Of other figures than the scenario's own, the copy's ratio is not counted again.
    rows += [replace(one, metric="rows_per_second", aa_ratio=0.5) for one in rows]
    rows.append(timed(1, threads=2, aa_ratio=1.2))
    assert lines(sureness.aa_table(results(rows))) == [
        {
            "target": "ort-cpu",
            "threads": "1",
            "comparisons": "5",
            "smallest": "0.940",
            "median": "1.000",
            "largest": "1.040",
            "within 1 %": "3 of 5",
            "within 5 %": "4 of 5",
        },
        {
            "target": "ort-cpu",
            "threads": "2",
            "comparisons": "1",
            "smallest": "1.200",
            "median": "1.200",
            "largest": "1.200",
            "within 1 %": "0 of 1",
            "within 5 %": "0 of 1",
        },
    ]


def test_what_did_not_converge_is_named_and_noise_is_counted(timed):
    rows = [timed(batch, converged=batch != 64) for batch in (1, 64, 4096)]
    rows[0] = replace(rows[0], noise="steal 4 %")
    rows.append(replace(rows[0], metric="latency_p90", converged=True))
    rows.append(timed(256, scenario="single", candidates=256, converged=True))
    wide = {"scenario": "single", "candidates": 256, "region": "end_to_end", "converged": False}
    rows.append(timed(256, **wide))
    assert lines(sureness.convergence_table(results(rows))) == [
        {
            "target": "ort-cpu",
            "threads": "1",
            "timed points": "5",
            "converged": "3",
            "on a noisy host": "1",
            "not converged": "demo-fp32 b64, demo-fp32 1x256 end to end",
        }
    ]


def test_of_many_that_did_not_converge_the_rest_is_counted(timed):
    rows = [timed(batch, converged=False) for batch in range(1, 10)]
    (found,) = lines(sureness.convergence_table(results(rows)))
    assert found["not converged"].endswith("demo-fp32 b6, and 3 more")


def test_the_hosts_health_stands_by_thread_count(full_rows):
    table = sureness.health_table(results(full_rows))
    assert [one["threads"] for one in lines(table)] == ["1", "2"]
    assert line(table, threads="2") == {
        "threads": "2",
        "blocks": "640",
        "noisy blocks": "3.1 %",
        "pressure": "1.2 %",
        "steal": "0 %",
        "throttled (s)": "0",
        "load": "1.25",
        "MHz": "2,495",
    }


def test_loadgens_figures_stand_beside_the_ratio_of_ours(full_rows):
    table = sureness.loadgen_table(results(full_rows))
    assert len(table.rows) == 8 * 2 * 3
    assert line(table, variant="demo-fp32", target="ort-cpu", figure="single: p50 (ms)") == {
        "variant": "demo-fp32",
        "target": "ort-cpu",
        "threads": "1",
        "figure": "single: p50 (ms)",
        "LoadGen's": "0.225",
        "ours / LoadGen's [CI]": "1.004 [0.991, 1.017]",
        "pairs": "9",
        "verdict": "agrees",
        "besides": "512 calls",
    }
    server = line(table, variant="demo-fp32", target="ort-cpu", figure="server: p50 (ms)")
    assert (server["LoadGen's"], server["verdict"]) == ("0.270", "inconclusive")


def test_outputs_of_timed_processes_show_the_worst_of_all_points(full_rows):
    run = results(full_rows)
    found = line(sureness.outputs_table(run), variant="demo-fp16", target="ort-cpu")
    assert found == {
        "variant": "demo-fp16",
        "target": "ort-cpu",
        "points": "2",
        "largest score difference": "2.40e-07",
        "AUC difference": "-2.40e-07",
    }
    assert not [name for name in agreement_table(run).headers if name.startswith("timed")]


def test_the_generator_its_floor_and_the_noise_are_told(full_rows, timed):
    rows = [
        replace(r, verdict="not ranked")
        if r.scenario == "server" and r.metric == "latency_p99" and r.recipe == "demo-fp32"
        else r
        for r in full_rows
    ]
    rows += [timed(1, converged=True, noise=f"steal {n} %", recipe=f"r{n}") for n in range(5)]
    assert sureness.trust_lines(results(rows)) == [
        "The load generator sustains 61,234 requests/s with a null model, a model that does "
        "nothing.",
        "The floor: with the null model at about the same rates p99 was 0.0400 ms; 4 of 32 loads "
        "stayed "
        "under 3 times their floor and are not ranked.",
        "The host counts as noisy where marked: steal 0 %; steal 1 %; steal 2 %; and 2 more.",
    ]


def test_a_generator_that_was_not_measured_says_why(row):
    generator = {"recipe": "machine", "scenario": "server", "metric": "generator_rate"}
    told = sureness.trust_lines(results([row(**generator, value=None, reason="no time left")]))
    assert told == ["What the load generator sustains was not measured: no time left."]


def test_marks_are_explained_only_when_a_figure_bears_them(timed):
    assert sureness.mark_lines(results([timed(1, converged=True)])) == []
    noisy = sureness.mark_lines(results([timed(1, noise="steal 4 %")]))
    assert [text[0] for text in noisy] == ["†"]
    both = sureness.mark_lines(results([timed(1, noise="steal 4 %", converged=False)]))
    assert [text[0] for text in both] == ["†", "‡"]
    nothing = timed(1, noise="steal 4 %", value=None, reason="the worker died")
    assert sureness.mark_lines(results([nothing])) == []


def test_a_run_without_checks_has_empty_tables(row):
    run = results([row(target="ort-cpu", value=0.9)])
    makers = (sureness.aa_table, sureness.convergence_table, sureness.health_table)
    makers += (sureness.loadgen_table, sureness.outputs_table)
    assert [make(run).rows for make in makers] == [()] * 5
    assert sureness.trust_lines(run) == []
