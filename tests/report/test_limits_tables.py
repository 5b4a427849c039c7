"""Tables of the machine's peaks and of each variant's share of them."""

from dataclasses import replace

from report.read_tables import line, lines

from harness.report import limits
from harness.report.lookup import results


def test_peaks_have_a_column_for_each_thread_count(full_rows):
    table = limits.peaks_table(results(full_rows[::-1]))
    assert table.headers == ("limit", "working set (MiB)", "1 thread", "2 threads")
    assert [tuple(cell.text for cell in row) for row in table.rows] == [
        ("fp32 arithmetic (GFLOP/s)", "-", "81.0", "162"),
        ("int8 arithmetic (Gop/s)", "-", "290", "580"),
        ("streaming reads (GB/s)", "1.0", "40.0", "40.0"),
        ("streaming reads (GB/s)", "64.0", "12.0", "12.0"),
        ("reads of random rows (GB/s)", "1.0", "10.0", "10.0"),
        ("reads of random rows (GB/s)", "64.0", "3.00", "3.00"),
    ]


def test_how_the_peaks_were_had_stands_apart(full_rows):
    run = results(full_rows)
    assert not [cell for row in limits.peaks_table(run).rows for cell in row if cell.note]
    assert [tuple(cell.text for cell in row) for row in limits.how_table(run).rows] == [
        ("fp32 arithmetic (GFLOP/s)", "-", "1", "5", "best of 5 repeats: a library"),
        ("fp32 arithmetic (GFLOP/s)", "-", "2", "5", "best of 5 repeats: a library"),
    ]


def test_a_peak_that_could_not_be_measured_says_why(row):
    peak = {"recipe": "machine", "scenario": "roofline", "threads": 1}
    rows = [row(**peak, metric="peak_int8", value=None, reason="torch has no int8 GEMM here")]
    (cells,) = limits.peaks_table(results(rows)).rows
    assert (cells[2].text, cells[2].note) == ("n/a", "torch has no int8 GEMM here")


def test_the_share_stands_with_what_bounds_it_at_the_summarys_points(full_rows):
    table = limits.shares_table(results(full_rows), threads=1)
    assert len(table.rows) == 8 * 2
    assert line(table, variant="demo-student", target="ort-cpu") == {
        "variant": "demo-student",
        "target": "ort-cpu",
        "b1": "2.0 % random rows",
        "b64": "25 % compute",
        "b1024": "25 % compute",
        "1x256": "25 % compute",
    }
    assert limits.shares_table(results(full_rows), threads=2).rows == ()


def test_a_request_is_not_a_sweep_of_as_many_rows(row):
    timed = {"target": "ort-cpu", "threads": 1, "batch": 256, "region": "model_only"}
    p50 = {**timed, "metric": "latency_p50", "unit": "s"}
    share = {**timed, "scenario": "roofline", "metric": "share_of_limit", "verdict": "memory"}
    rows = [
        row(**p50, scenario="sweep", candidates=1, value=0.002),
        row(**p50, scenario="single", candidates=256, value=0.001),
        row(**share, candidates=1, value=0.1),
        row(**share, candidates=256, value=0.2),
    ]
    run = results(rows)
    (found,) = lines(limits.shares_table(run, threads=1))
    assert (found["b256"], found["1x256"]) == ("10 % memory", "20 % memory")
    table = lines(limits.roofline_table(run))
    assert [(one["point"], one["p50 (ms)"], one["share of limit"]) for one in table] == [
        ("b256", "2.00", "10 %"),
        ("1x256", "1.00", "20 %"),
    ]


def test_every_point_has_its_work_and_its_limit(full_rows):
    table = limits.roofline_table(results(full_rows))
    assert len(table.rows) == 8 * 2 * 4
    # 614.4 million operations; 1 MiB and 4 KiB a row moved; a quarter of the p50 of 0.225 ms.
    assert line(table, variant="demo-fp32", target="ort-cpu", point="1x256") == {
        "variant": "demo-fp32",
        "target": "ort-cpu",
        "threads": "1",
        "point": "1x256",
        "operations": "614,400,000",
        "MiB moved": "2.0",
        "limit (ms)": "0.0562",
        "p50 (ms)": "0.225",
        "share of limit": "25 %",
        "bound by": "compute",
    }


def test_a_share_that_is_unknown_says_why(full_rows):
    rows = [
        replace(r, value=None, verdict=None, reason="the file's operations can't be counted")
        if r.metric == "share_of_limit" and r.recipe == "demo-fp16"
        else r
        for r in full_rows
    ]
    table = limits.shares_table(results(rows), threads=1)
    cells = {row[0].text: row[2] for row in table.rows}
    assert cells["demo-fp16"].text == "n/a"
    assert cells["demo-fp16"].note == "the file's operations can't be counted"


def test_a_run_without_a_roofline_has_empty_tables(demo_rows):
    run = results(demo_rows)
    assert limits.peaks_table(run).rows == limits.roofline_table(run).rows == ()
    assert limits.shares_table(run, threads=1).rows == ()
