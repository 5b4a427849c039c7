"""Tables of what a service would see: the rate at the SLA, load, cold start, cost."""

from dataclasses import replace

import pytest
from report.read_tables import line, lines

from harness.report import service
from harness.report.lines import lines_of, missed
from harness.report.lookup import Variant, results


@pytest.fixture
def search(row):
    """``search(metric, value, **columns)``: a row of one variant's search."""

    def make(metric, value, **columns):
        common = {"recipe": "demo-a", "target": "ort-cpu", "scenario": "qps_at_sla", "threads": 1}
        return row(**{**common, "metric": metric, "value": value, **columns})

    return make


def test_a_rate_stands_beside_its_p99_and_the_rate_that_failed(full_rows):
    table = service.sla_table(results(full_rows))
    assert len(table.rows) == 8 * 2
    assert line(table, variant="demo-prune50", target="ort-cpu") == {
        "variant": "demo-prune50",
        "target": "ort-cpu",
        "threads": "1",
        "SLA p99 (ms)": "2",
        "requests/s at SLA": "5,765",
        "to reference [CI]": "1.62 [1.59, 1.65]",
        "p99 (ms)": "1.32",
        "utilisation": "80 %",
        "fails at (requests/s)": "6,486",
        "requests": "3,000",
    }
    baseline = line(table, variant="demo-fp32", target="ort-cpu")
    assert baseline["to reference [CI]"] == "baseline"
    assert not [cell for row in table.rows for cell in row if cell.note]


def test_no_rate_and_one_that_is_not_ranked_say_why(search):
    none = [search("qps_at_sla", None, reason="35 requests/s already fail"), search("sla", 0.06)]
    run = results(none)
    cell = service.sla_table(run).rows[0][4]
    assert (cell.text, cell.note) == ("n/a", "35 requests/s already fail")
    assert service.sla_cell(run, Variant("demo-a", "ort-cpu"), threads=1) == cell
    ranked = results([search("qps_at_sla", 812.4, verdict="not ranked", reason="p99 0.1 ms")])
    cell = service.sla_cell(ranked, Variant("demo-a", "ort-cpu"), threads=1)
    assert (cell.text, cell.note) == ("812", "not ranked: p99 0.1 ms")
    silent = results([search("qps_at_sla", 812.4, verdict="not ranked")])
    cell = service.sla_cell(silent, Variant("demo-a", "ort-cpu"), threads=1)
    assert (cell.text, cell.note) == ("812", service.FLOOR_NOTE)


def test_the_floor_has_a_column_where_the_search_has_one(search):
    rows = [search("qps_at_sla", 812.4), search("floor_p99", 0.00021)]
    (found,) = lines(service.sla_table(results(rows)))
    assert found["floor p99 (ms)"] == "0.210"
    (found,) = lines(service.sla_table(results(rows[:1])))
    assert "floor p99 (ms)" not in found


def test_rates_of_another_thread_count_are_not_shown_in_the_column(search):
    rows = [search("qps_at_sla", 100.0), search("qps_at_sla", 190.0, threads=2)]
    rows.append(search("qps_at_sla", 70.0, threads=2, recipe="demo-b"))
    run = results(rows)
    assert service.sla_threads(run) == 1
    assert service.sla_cell(run, Variant("demo-a", "ort-cpu"), threads=1).text == "100"
    assert service.sla_cell(run, Variant("demo-b", "ort-cpu"), threads=1).text == "n/a"
    assert [one["threads"] for one in lines(service.sla_table(run))] == ["1", "2", "2"]


def test_the_heading_has_the_sla_only_when_there_is_one(search):
    one = [search("qps_at_sla", 1.0), search("sla", 0.06)]
    assert service.sla_title(results(one)) == "requests/s at p99 60 ms"
    two = [*one, search("sla", 0.02, recipe="demo-b")]
    assert service.sla_title(results(two)) == "requests/s at SLA"
    assert service.sla_threads(results([])) is None


def test_each_offered_rate_has_its_line(full_rows):
    table = service.load_table(results(full_rows))
    assert len(table.rows) == 8 * 2 * 2
    assert line(table, variant="demo-fp32", target="ort-cpu", utilisation="60 %") == {
        "variant": "demo-fp32",
        "target": "ort-cpu",
        "threads": "1",
        "offered (requests/s)": "2,669",
        "achieved (requests/s)": "2,664",
        "achieved": "100 %",
        "utilisation": "60 %",
        "alone (ms)": "0.225",
        "p50 (ms)": "0.292",
        "p90 (ms)": "0.405",
        "p99 (ms)": "1.01",
        "floor p99 (ms)": "0.0400",
        "largest backlog": "7",
        "requests": "2,000",
    }


def test_a_tail_near_the_floor_is_marked_as_not_ranked(full_rows):
    rows = [
        replace(r, verdict="not ranked", reason="under 3x 0.4 ms")
        if r.scenario == "server" and r.metric == "latency_p99" and r.recipe == "demo-fp32"
        else r
        for r in full_rows
    ]
    table = service.load_table(results(rows))
    notes = {row[0].text: row[table.headers.index("p99 (ms)")].note for row in table.rows}
    assert notes["demo-fp32"] == "not ranked: under 3x 0.4 ms"
    assert notes["demo-prune50"] is None


def test_probes_stand_in_the_order_of_their_rates_with_outcome_and_reason(full_rows):
    table = service.probes_table(results(full_rows))
    own = [one for one in lines(table) if (one["variant"], one["target"]) == OWN]
    assert [one["offered (requests/s)"] for one in own] == [
        *("890", "1,779", "3,559", "4,004", "4,448", "5,338", "7,117"),
    ]
    assert [one["outcome"] for one in own] == ["passed"] * 2 + ["failed"] * 5
    assert own[2] == {
        "variant": "demo-fp32",
        "target": "ort-cpu",
        "threads": "1",
        "offered (requests/s)": "3,559",
        "p99 (ms)": "2.14",
        "requests": "1,000",
        "outcome": "failed",
        "why": "p99 is over the SLA",
    }


OWN = ("demo-fp32", "ort-cpu")


def test_a_cold_start_is_split_into_its_parts(full_rows):
    table = service.cold_table(results(full_rows))
    assert line(table, variant="demo-student", target="openvino-cpu") == {
        "variant": "demo-student",
        "target": "openvino-cpu",
        "threads": "1",
        "start to first scores (ms)": "900",
        "import (ms)": "600",
        "load (ms)": "200",
        "first call (ms)": "11.0",
        "calls 2 to 10 (ms)": "0.0653",
        "processes": "5",
    }
    assert {cell.note for row in table.rows for cell in row} == {None}
    assert service.told_lines(results(full_rows), "cold") == [
        "start to first scores (ms), import (ms), load (ms), first call (ms), "
        "calls 2 to 10 (ms): files were in the page cache."
    ]


def test_cost_stands_with_its_currency_and_price(full_rows):
    run = results(full_rows)
    table = service.resources_table(run)
    # 0.225 ms a request: 225 s a million, at 0.36 an hour that is 0.0225.
    assert line(table, variant="demo-fp32", target="ort-cpu") == {
        "variant": "demo-fp32",
        "target": "ort-cpu",
        "threads": "1",
        "CPU s per 1000 requests": "0.229",
        "J per 1000 requests": "n/a",
        "CPU s to make": "118",
        "cost per million requests (EUR)": "0.0225",
    }
    assert {cell.note for row in table.rows for cell in row} == {
        None,
        "counters of energy can't be read here",
    }
    assert service.price_lines(run) == [
        "Costs are at a price of 0.36 EUR for an hour of this machine."
    ]
    assert service.told_lines(run, "resources") == [
        "cost per million requests: at the rate of one request after the other."
    ]


def test_two_currencies_stand_in_the_cells(row):
    common = {"target": "ort-cpu", "scenario": "resources", "threads": 1}
    cost = {**common, "metric": "cost_per_million_requests"}
    rows = [row(**cost, value=0.5, unit="EUR"), row(**cost, recipe="b", value=0.6, unit="USD")]
    table = service.resources_table(results(rows))
    assert table.headers[-1] == "cost per million requests"
    assert [cells[-1].text for cells in table.rows] == ["0.500 EUR", "0.600 USD"]


def test_making_belongs_to_every_target_and_thread_count_of_a_recipe(row):
    common = {"scenario": "resources", "unit": "s"}
    cpu = {**common, "metric": "cpu_seconds_per_1000_requests"}
    rows = [
        *(row(**cpu, target="ort-cpu", threads=n, value=float(n)) for n in (2, 1)),
        row(**common, metric="making_cpu_seconds", value=60.0),
    ]
    table = lines(service.resources_table(results(rows)))
    columns = ("threads", "CPU s per 1000 requests", "CPU s to make")
    assert [[one[name] for name in columns] for one in table] == [
        ["1", "1.00", "60.0"],
        ["2", "2.00", "60.0"],
    ]


def test_what_failed_has_no_line_but_a_sentence(row):
    common = {"scenario": "cold", "metric": "cold_start", "threads": 1}
    bad = {**common, "value": None, "status": "failed", "reason": "the worker died"}
    rows = [row(**common, target="ort-cpu", value=0.5)]
    rows += [row(**bad, target="ort-cpu", recipe=f"demo-{n}") for n in range(2)]
    run = results(rows)
    assert [one["variant"] for one in lines(service.cold_table(run))] == ["demo-fp32"]
    assert missed(run, "cold") == [
        "cold failed (demo-0 on ort-cpu, demo-1 on ort-cpu): the worker died"
    ]
    many = [row(**bad, target="ort-cpu", recipe=f"demo-{n}") for n in range(9)]
    assert missed(results(many), "cold") == ["cold failed (9 variants): the worker died"]
    assert missed(run, "server") == []


def test_a_figure_that_lacks_beside_others_is_told_in_its_cell_only(row):
    common = {"scenario": "cold", "threads": 1, "target": "ort-cpu"}
    lacks = {**common, "metric": "cold_load", "value": None, "status": "skipped"}
    run = results([row(**common, metric="cold_start", value=0.5), row(**lacks, reason="untold")])
    cells = service.cold_table(run).rows[0]
    assert [(cell.text, cell.note) for cell in cells if cell.note] == [("n/a", "untold")]
    assert missed(run, "cold") == []
    elsewhere = row(**{**lacks, "threads": 2}, reason="the worker died")
    assert missed(results([*run.rows, elsewhere]), "cold") == [
        "cold skipped (demo-fp32 on ort-cpu): the worker died"
    ]


def test_of_two_rows_with_one_name_the_later_counts(search):
    run = results([search("qps_at_sla", 100.0), search("qps_at_sla", 110.0)])
    (found,) = lines_of(run, "qps_at_sla", "threads")
    assert found.rows["qps_at_sla"].value == 110.0


def test_noise_marks_rates_and_times(search):
    rows = [search("qps_at_sla", 812.4, unit="requests/s", noise="steal 4 %")]
    rows.append(search("latency_p99", 0.05, unit="s", noise="steal 4 %"))
    (found,) = lines(service.sla_table(results(rows)))
    assert (found["requests/s at SLA"], found["p99 (ms)"]) == ("812†", "50.0†")


def test_a_run_without_these_scenarios_has_empty_tables(demo_rows):
    run = results(demo_rows)
    tables = (service.sla_table, service.load_table, service.probes_table, service.cold_table)
    assert [make(run).rows for make in (*tables, service.resources_table)] == [()] * 5
    assert service.price_lines(run) == []
