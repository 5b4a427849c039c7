"""A run of several tasks: each baseline is judged by its own task's main metric, its own way up."""

from dataclasses import replace

import pytest
from report.read_tables import lines
from report.task_rows import CLICK, NEXT, RATING, TASKS, task_rows

from harness.report import details, sureness
from harness.report.compare import compare
from harness.report.lookup import Point, Variant, results
from harness.report.page import write_report
from harness.report.plots import Spot, frontier
from harness.report.protocol import protocol_lines
from harness.report.tables import best_lines, summary_for_terminal, summary_table


@pytest.fixture
def mixed(row):
    """The rows of three baselines, one a task."""
    return [one for made in TASKS for one in task_rows(row, made)]


def test_a_run_is_cut_by_task_in_the_order_of_its_rows(mixed):
    run = results(mixed)
    assert [part.task.name for part in run.by_task] == ["click", "rating", "next_item"]
    assert [part.main_metric for part in run.by_task] == ["auc", "rmse", "ndcg@10"]
    assert {name: len(part.variants) for name, part in run.by_baseline.items()} == {
        "clicks": 3,
        "ratings": 3,
        "next": 3,
    }
    assert sum(len(part.rows) for part in run.by_task) == len(mixed)


def test_a_run_of_one_task_is_not_cut(row):
    run = results(task_rows(row, RATING))
    assert run.by_task == [run]


def test_ranking_metrics_beside_a_rating_do_not_make_it_a_task_of_lists(row):
    one = {"recipe": "ratings-fp32", "baseline": "ratings", "target": "ort-cpu"}
    run = results([row(**one, metric="ndcg@10", value=0.4), *task_rows(row, RATING)])
    assert run.main_metric == "rmse"


def test_a_baseline_that_was_not_judged_stands_with_the_first_task(row, mixed):
    why = {"metric": "status", "value": None, "status": "failed", "reason": "no memory"}
    lost = row(recipe="lost", baseline="lost", target="ort-cpu", scenario="run", **why)
    parts = results([lost, *mixed]).by_task
    assert Variant("lost", "ort-cpu") in parts[0].variants
    assert [part.task.name for part in parts] == ["click", "rating", "next_item"]


def test_rows_of_the_machine_are_in_every_part(row, mixed):
    one = {"recipe": "machine", "baseline": "clicks", "scenario": "roofline"}
    parts = results([*mixed, row(**one, metric="peak_fp32", value=1e9)]).by_task
    assert all(any(one.recipe == "machine" for one in part.rows) for part in parts)


def test_each_task_has_its_own_summary(mixed):
    tables = [summary_table(part) for part in results(mixed).by_task]
    assert [table.headers[2] for table in tables] == ["AUC", "RMSE", "NDCG@10"]
    found = [line for table in tables for line in lines(table)]
    assert [line["variant"] for line in found][:4] == [
        "clicks-fp32",
        "clicks-int8",
        "clicks-pruned",
        "ratings-fp32",
    ]
    rating = next(line for line in found if line["variant"] == "ratings-pruned")
    assert rating["RMSE difference [CI]"] == "+0.0200 [+0.0199, +0.0201]"


def test_the_verdict_on_non_inferiority_stands_beside_the_class(row):
    table = summary_table(results(task_rows(row, CLICK)))
    at = table.headers.index("non-inferior")
    assert table.headers[at - 1] == "class"
    cells = {cells[0].text: cells[at] for cells in table.rows}
    assert cells["clicks-fp32"].text == "baseline"
    assert cells["clicks-int8"].text == "non-inferior, p 0.0020"
    assert cells["clicks-pruned"].text == "not shown, p 0.80"
    assert cells["clicks-pruned"].note == "the margin is 0.1 % of the baseline's, 2 variants"
    run = results(task_rows(row, CLICK))
    assert not [name for name in details.accuracy_table(run).headers if "inferior" in name]


def test_a_test_of_inferiority_that_failed_has_its_reason(row):
    rows = [
        replace(r, value=None, verdict=None, reason="too few users for resamples")
        if r.metric == "non_inferiority"
        else r
        for r in task_rows(row, CLICK)
    ]
    cells = [cell for line in summary_table(results(rows)).rows for cell in line]
    assert [cell.text for cell in cells if cell.note == "too few users for resamples"] == [
        "n/a",
        "n/a",
    ]


def test_without_such_tests_there_is_no_column_and_skipped_lines_are_as_long(row, demo_rows):
    assert "non-inferior" not in summary_table(results(demo_rows)).headers
    why = {"metric": "status", "value": None, "status": "skipped", "reason": "no GPU"}
    lost = row(recipe="clicks-fp16", baseline="clicks", target="cuda", scenario="run", **why)
    table = summary_table(results([*task_rows(row, CLICK), lost]))
    assert lines(table)[-1]["non-inferior"] == "-"


def test_a_request_for_a_list_is_told_in_words(row):
    run = results(task_rows(row, NEXT))
    heading = "p50 one request (top-50 of 3,706 items) (ms)"
    table = summary_table(run)
    assert heading in table.headers
    assert "one request" in table.headers
    assert lines(table)[0][heading] == "0.101"
    assert run.words(Point(1, 64, 1)) == "64 requests (top-50 of 3,706 items)"
    uncounted = results([r for r in run.rows if r.scenario != "data"])
    assert uncounted.words(Point(1, 1, 1)) == "one request (the best of all items)"
    assert best_lines(run)[0].endswith(
        "nothing was proven faster at one request (top-50 of 3,706 items) within 99.9 % of the "
        "baseline."
    )


def test_rates_of_lists_count_requests(row):
    headers = details.points_table(results(task_rows(row, NEXT))).headers
    assert "rows/s" not in headers
    assert "requests/s" in headers
    found = lines(details.points_table(results(task_rows(row, NEXT))))
    assert found[1]["requests/s"] == "390,244"  # 64 / (0.1 ms x 1.64)


def test_simple_rankings_stand_with_their_own_task(mixed):
    tables = [details.references_table(part) for part in results(mixed).by_task]
    assert [table.headers for table in tables] == [
        ("ranking", "AUC"),
        ("ranking", "RMSE"),
        ("ranking", "NDCG@10"),
    ]
    assert lines(tables[2])[1] == {"ranking": "popularity", "NDCG@10": "0.0680"}


def test_the_frontier_of_an_error_is_its_lower_end():
    spots = [
        Spot(name, latency, quality, quality, quality, None, baseline=False)
        for name, latency, quality in (("a", 1, 0.9), ("b", 2, 0.95), ("c", 3, 0.8))
    ]
    assert [one.recipe for one in frontier(spots, lower=True)] == ["a", "c"]
    assert [one.recipe for one in frontier(spots)] == ["a", "b"]


def test_outputs_are_compared_by_the_tasks_main_metric(row):
    one = {"recipe": "ratings-int8", "baseline": "ratings", "target": "ort-cpu"}
    rows = task_rows(row, RATING)
    for name in ("timed_max_abs_difference", "timed_rmse_difference"):
        rows.append(row(**one, scenario="parity", metric=name, value=1e-7, batch=1))
    table = sureness.outputs_table(results(rows))
    assert table.headers[-1] == "RMSE difference"
    assert lines(table)[0]["RMSE difference"] == "1.00e-07"


def test_the_protocol_says_what_each_task_was_judged_on(mixed):
    told = [line for line in protocol_lines(results(mixed)) if line.startswith("Quality")]
    assert [line.split(" is of")[0] for line in told] == [
        "Quality (AUC)",
        "Quality (RMSE)",
        "Quality (NDCG@10)",
    ]
    assert "5,000 requests of the test split, each ranked over the full catalogue" in told[2]
    assert "5,000 rows of the test split;" in told[0]


def test_the_terminal_shows_a_summary_for_each_task(mixed):
    headings = [heading[2] for heading, _ in summary_for_terminal(mixed) if len(heading) > 5]
    assert headings == ["AUC", "RMSE", "NDCG@10"]


def test_two_runs_are_compared_task_by_task(save_run, mixed):
    text = compare(save_run(mixed, "a"), save_run(mixed, "b"))
    assert "| variant | target | auc A | auc B | B - A |" in text
    assert "| variant | target | rmse A | rmse B | B - A, lower is better |" in text
    assert "| variant | target | ndcg@10 A | ndcg@10 B | B - A |" in text
    assert "p50 one request (top-50 of 3,706 items) A (ms)" in text


def test_a_task_of_one_run_only_is_told(save_run, row, mixed):
    few = [one for one in mixed if one.baseline != "next"]
    rows = [replace(one, data_hash="d") for one in mixed]
    text = compare(save_run(rows, "a"), save_run([replace(r, data_hash="d") for r in few], "b"))
    at = text.index("ndcg@10 A")
    assert "not in this run" in text[at:]


def test_the_page_has_a_part_for_each_task(save_run, mixed):
    folder = save_run(mixed)
    text = write_report(folder).read_text()
    for title in (
        "**Clicks (AUC decides): clicks**",
        "**Ratings (RMSE decides): ratings**",
        "**Next items (NDCG@10 decides): next**",
    ):
        # Summary, rankings, quality, differences, agreement, points.
        assert text.count(title) == 6
    assert "a list, top-50 of 3,706 items: the full catalogue, no sampled negatives." in text
    assert "- clicks, ort-cpu: clicks-int8 is the fastest within 99.9 % of the baseline" in text
    for name in ("pareto", "coverage", "speedup", "throughput"):
        for task in ("click", "rating", "next_item"):
            assert f"(plots/{name}-{task}.png)" in text
            assert (folder / "plots" / f"{name}-{task}.png").stat().st_size > 10_000
    assert "![Requests a second against the requests of a call, by engine: next]" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    at = headings.index("## Simple rankings and the baseline")
    assert headings[at + 1 : at + 5] == [
        "## Beyond accuracy",
        "## Fairness",
        "## Importance of the fields",
        "## Gates",
    ]
    assert text.count("**next**") == 2  # next items have no importance of fields
    assert "- **Warning**: clicks-int8 on ort-cpu: the worst group loses more than twice" in text
    assert "device\\|type" in text
    assert "RMSE is an error: lower is better, and a positive difference is a loss." in text
    assert "\n\n\n" not in text
