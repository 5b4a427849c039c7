"""The page of a run: whole, readable, and made from the rows alone."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from harness.errors import DataError
from harness.report.page import write_report


def tables(text):
    """Every table as a list of lines of cells, as a reader sees them."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            found.append([])
        if token.type == "tr_open":
            found[-1].append([])
        if token.type == "inline" and found and token.level >= 4:
            found[-1][-1].append("".join(child.content for child in token.children))
    return found


def test_a_report_holds_every_part(save_run, demo_rows):
    folder = save_run(demo_rows)
    page = write_report(folder)
    text = page.read_text()
    assert page == folder / "report.md"
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Compression report: demo",
        "## Summary",
        "## Simple rankings and the baseline",
        "## Gates",
        "## How sure are we",
        "## Asked and achieved",
        "## Skipped and failed",
        "## Speedups at 2 threads",
        "## Quality in full",
        "## Agreement with the baseline, and parity",
        "## Size and memory",
        "## Data",
        "## What ran",
        "## How it was measured",
        "## Environment",
        "## Columns",
    ]
    assert "9 recipes on 4 targets: 23 of 25 variants ran." in text
    assert "![Quality against latency, by engine](plots/pareto.png)" in text
    for name in ("pareto", "speedup"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 10_000
    assert not list(folder.rglob("*.partial"))


def test_a_run_with_every_scenario_has_every_section(save_run, full_rows, latencies):
    folder = save_run(full_rows)
    latencies(folder, full_rows)
    text = write_report(folder).read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Compression report: demo",
        "## Summary",
        "## Under load",
        "## Cold start",
        "## Cost and resources",
        "## Simple rankings and the baseline",
        "## Gates",
        "## How sure are we",
        "## Asked and achieved",
        "## Skipped and failed",
        "## Speedups at 2 threads",
        "## Against the machine's limits",
        "## Quality in full",
        "## Agreement with the baseline, and parity",
        "## Size and memory",
        "## Data",
        "## What ran",
        "## How it was measured",
        "## Environment",
        "## Columns",
    ]
    for name in ("pareto", "speedup", "throughput", "latency", "load"):
        assert f"(plots/{name}.png)" in text
        assert (folder / "plots" / f"{name}.png").stat().st_size > 10_000
    assert "- Costs are at a price of 0.36 EUR for an hour of this machine." in text
    assert "\n\n\n" not in text
    for lines in tables(text):
        assert {len(line) for line in lines} == {len(lines[0])}
    _told_by_the_rows(text)


def _told_by_the_rows(text):
    assert (
        "- Points: b1, b64, b1024, 1x256, offline 1024, at 1, 2 threads; timed region: "
        "model\\_only (sweep, single); end\\_to\\_end (single, offline)." in text
    )
    assert "was ready, 2,000 requests a load; latency counts from the scheduled arrival" in text
    assert "proven to be within 2 ms, searched with 112 probes of 1,000 requests" in text
    assert "- Cold start: medians over 5 fresh processes a variant." in text
    assert "- MLPerf LoadGen drove the same artifacts, 9 pairs of its runs and ours." in text


def test_a_run_without_the_new_scenarios_has_neither_headings_nor_pictures(save_run, demo_rows):
    rows = [replace(r, aa_ratio=None) for r in demo_rows if r.batch != 1024]
    text = write_report(save_run(rows)).read_text()
    for heading in ("Under load", "Cold start", "Cost", "How sure", "Against"):
        assert f"## {heading}" not in text
    assert "plots/load.png" not in text
    assert "plots/latency.png" not in text
    assert "- † measured" not in text


def test_a_scenario_that_was_asked_and_missed_shows_only_its_reason(save_run, row):
    scored = row(target="ort-cpu", value=0.9)
    bad = {"metric": "x", "value": None}
    why = "it's | not *there*"
    rows = [
        row(scenario=name, recipe=who, status=status, reason=f"{why} ({name})", **bad)
        for name, who, status in (
            ("server", "demo-a", "failed"),
            ("cold", "demo-a", "failed"),
            ("resources", "demo-a", "skipped"),
            ("roofline", "machine", "failed"),
            ("loadgen", "machine", "skipped"),
        )
    ]
    text = write_report(save_run([scored, *rows])).read_text()
    for heading, line in (
        ("Under load", "server failed (demo-a)"),
        ("Cold start", "cold failed (demo-a)"),
        ("Cost and resources", "resources skipped (demo-a)"),
        ("How sure are we", "loadgen skipped (machine)"),
        ("Against the machine's limits", "roofline failed (machine)"),
    ):
        part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
        assert f"- {line}: it's \\| not \\*there\\* (" in part
        assert "None." not in part
        assert "<details>" not in part


def test_texts_of_the_new_sections_show_as_they_are(save_run, full_rows):
    odd = "a|b *c* <i>"
    rows = [
        replace(r, recipe=odd) if r.recipe == "demo-prune50" else r
        for r in full_rows
        if r.recipe in ("demo-fp32", "demo-prune50", "machine") and r.target in ("ort-cpu", None)
    ]
    rows = [
        replace(r, unit=r.unit.replace("EUR", "E|*R*")) if r.unit and "EUR" in r.unit else r
        for r in rows
    ]
    rows = [replace(r, noise="steal | *9* %") if r.scenario == "sweep" else r for r in rows]
    rows = [replace(r, converged=True) if r.scenario == "sweep" else r for r in rows]
    text = write_report(save_run(rows)).read_text()
    found = tables(text)
    assert sum(any(line[0] == odd for line in lines) for lines in found) >= 9
    assert any(lines[0][-1] == "cost per million requests (E|*R*)" for lines in found)
    assert "at a price of 0.36 E\\|\\*R\\* for an hour" in text
    assert "noisy where marked: steal \\| \\*9\\* %." in text
    assert "- † measured while the host was noisy" in text


def test_a_damaged_file_of_latencies_is_refused_before_anything_is_written(save_run, demo_rows):
    folder = save_run(demo_rows[:5])
    (folder / "demo-latencies.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match="not a readable parquet file"):
        write_report(folder)
    assert not (folder / "report.md").exists()


def test_every_table_line_has_as_many_cells_as_its_heading(save_run, demo_rows):
    odd = "a|b\n**c** `d` <b>e</b> \U0001f525 \\"
    rows = [replace(r, recipe=odd) if r.recipe == "demo-prune50" else r for r in demo_rows]
    found = tables(write_report(save_run(rows)).read_text())
    assert len(found) >= 11
    for lines in found:
        assert {len(line) for line in lines} == {len(lines[0])}
    summary = found[0]
    shown = {line[0]: line[2] for line in summary[1:]}
    assert shown["a|b **c** `d` <b>e</b> \U0001f525 \\"] == "0.9325"


def test_how_it_was_measured_comes_from_the_rows(save_run, demo_rows):
    rows = [replace(r, n=12) if r.ratio is not None and r.batch == 64 else r for r in demo_rows]
    rows = [replace(r, aa_ratio=1.2) if r.recipe == "demo-fp16" and r.ratio else r for r in rows]
    text = write_report(save_run(rows)).read_text()
    assert "- Points: b1, b64, b1024, 1x256, at 1, 2 threads; timed region: model\\_only." in text
    assert "there were 12 to 40 pairs." in text
    assert "its ratio was 1.004 to 1.200, and 24 of 160 lay outside 0.95 to 1.05" in text
    assert "Noise floor of demo: AUC has a standard deviation of 0.00040 over 3 seeds." in text
    assert "on 409,600 rows of the test split; intervals (95 %)" in text


def test_a_run_without_times_still_has_a_report(save_run, demo_rows):
    rows = [r for r in demo_rows if r.scenario not in ("sweep", "single")]
    folder = save_run(rows)
    text = write_report(folder).read_text()
    assert "No speed was measured." in text
    assert "plots/" not in text
    assert list((folder / "plots").iterdir()) == []


def test_one_class_data_has_a_report_with_the_reason(save_run, demo_rows):
    rows = [
        replace(r, value=None, ci_low=None, ci_high=None, reason="only label 0 in the test split")
        if r.metric in ("auc", "auc_difference", "quality_class")
        else r
        for r in demo_rows
    ]
    text = write_report(save_run(rows)).read_text()
    assert "n/a (1)" in text
    assert "- (1) only label 0 in the test split" in text
    assert "nan" not in text.lower().replace("finan", "")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "rows.jsonl").unlink(), "rows.jsonl: no rows here"),
        (lambda folder: (folder / "rows.jsonl").write_text('{"recipe": "x'), "not rows of this"),
        (lambda folder: (folder / "rows.jsonl").write_text(""), "holds no rows"),
        (lambda folder: (folder / "environment.json").unlink(), "no environment here"),
        (lambda folder: (folder / "environment.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "environment.json").write_text("[]"), "list, expected an object"),
    ],
)
def test_a_damaged_run_is_refused_and_nothing_is_written(save_run, demo_rows, damage, message):
    folder = save_run(demo_rows[:5])
    damage(folder)
    with pytest.raises(DataError, match=message):
        write_report(folder)
    assert not (folder / "report.md").exists()
    assert not (folder / "plots").exists()


def test_names_stay_unchanged_in_the_rows_beside_the_report(save_run, demo_rows):
    odd = "a|b\n*c*"
    folder = save_run([replace(demo_rows[0], recipe=odd)])
    write_report(folder)
    assert json.loads((folder / "rows.jsonl").read_text())["recipe"] == odd


def test_reports_and_gates_load_no_model_library():
    code = (
        "import sys, harness.report.page, harness.report.tables, harness.gates.rules; "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'polars') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
