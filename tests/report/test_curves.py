"""The pictures of speed: what each curve holds, and that PNGs come out whatever the names are."""

from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report import curves, drawing
from harness.report.curves import latency_plot, load_plot, throughput_plot
from harness.report.latencies import read_latencies
from harness.report.lookup import results

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def few(full_rows):
    """Three variants on two engines."""
    kept = ("demo-fp32", "demo-prune50", "demo-fp16", "machine")
    return [r for r in full_rows if r.recipe in kept and r.target in ("ort-cpu", None)]


def own(found, recipe, target="ort-cpu"):
    (one,) = [curve for curve in found if (curve.recipe, curve.target) == (recipe, target)]
    return one


def test_a_throughput_curve_is_the_one_thread_sweep(full_rows):
    found = curves.throughput_curves(results(full_rows[::-1]))
    assert len(found) == 23
    curve = own(found, "demo-fp32")
    assert curve.xs == (1.0, 64.0, 1024.0)
    # 20 us and 4 % of it for each row of the call.
    assert curve.ys == pytest.approx([b / (2e-5 * (1 + 0.04 * b)) for b in (1, 64, 1024)])


def test_a_sweep_of_one_point_is_no_curve(demo_rows):
    rows = [r for r in demo_rows if r.scenario != "sweep" or r.batch == 64]
    assert throughput_plot(results(rows)) is None


def test_a_latency_curve_is_of_the_request_point_at_one_thread(full_rows, latencies, tmp_path):
    latencies(tmp_path, full_rows)
    read = read_latencies(tmp_path)
    found = curves.latency_curves(results(full_rows), read)
    assert len(found) == 23
    curve = own(found, "demo-fp32")
    assert (len(curve.xs), curve.ys[0], curve.ys[50], curve.ys[100]) == (101, 0.0, 0.5, 1.0)
    # 2e-5 * (1 + 0.04 * 256) = 0.2248 ms in the middle, half at the least, three times at most.
    assert curve.xs[50] == pytest.approx(0.2248)
    assert (curve.xs[0], curve.xs[100]) == pytest.approx((0.1124, 0.6744))


def test_a_load_curve_holds_loads_and_probes_with_what_failed(full_rows):
    found = curves.load_curves(results(full_rows))
    assert len(found) == 16
    (load,) = [one for one in found if (one.curve.recipe, one.curve.target) == OWN]
    full = 1 / (2e-5 * (1 + 0.04 * 256))
    shares = (0.2, 0.3, 0.4, 0.4, 0.6, 0.8, 0.9, 1.0, 1.2, 1.6)
    # The rate that was found is one of the probes, and the confirming run's p99 is a point too.
    assert load.curve.xs == pytest.approx([share * full for share in shares])
    assert list(load.failed) == [5, 6, 7, 8, 9]
    assert load.sla == 2.0
    rate, p99 = load.found
    assert rate == pytest.approx(0.4 * full)
    assert p99 == load.curve.ys[2]


OWN = ("demo-fp32", "ort-cpu")


def test_loads_of_other_thread_counts_are_left_out(few):
    more = [replace(r, threads=2) for r in few if r.scenario in ("server", "qps_at_sla")]
    run = results([*few, *more])
    assert len(curves.load_curves(run)[0].curve.xs) == 10


def test_loads_without_a_search_are_drawn_without_an_sla(few):
    rows = [r for r in few if r.scenario != "qps_at_sla"]
    found = curves.load_curves(results(rows))
    assert [(load.found, load.failed, load.sla) for load in found] == [(None, (), None)] * 3
    assert load_plot(results(rows)).startswith(PNG)


def test_the_pictures_of_a_run_are_drawn(full_rows, latencies, tmp_path):
    latencies(tmp_path, full_rows)
    run = results(full_rows)
    assert latency_plot(run, read_latencies(tmp_path)).startswith(PNG)
    assert throughput_plot(run).startswith(PNG)
    assert load_plot(run).startswith(PNG)


def test_names_with_markup_are_drawn_as_they_are(few, latencies, tmp_path):
    odd = {"demo-fp16": "$\\bad{math$ _x_ \U0001f525", "demo-prune50": "_" + "n" * 200}
    rows = [replace(r, recipe=odd.get(r.recipe, r.recipe)) for r in few]
    latencies(tmp_path, rows)
    run = results(rows)
    assert latency_plot(run, read_latencies(tmp_path)).startswith(PNG)
    assert throughput_plot(run).startswith(PNG)
    assert load_plot(run).startswith(PNG)


def test_nothing_is_drawn_without_figures(row, demo_rows):
    run = results([row(target="ort-cpu", value=0.9)])
    assert latency_plot(run, []) is throughput_plot(run) is load_plot(run) is None
    assert latency_plot(results(demo_rows), []) is None


def test_variants_of_one_colour_differ_in_dashes_and_marker(row):
    rows = [row(recipe=f"demo-{n}", target="ort-cpu", value=0.9) for n in range(10)]
    rows.insert(0, row(technique="reference", target="ort-cpu", value=0.9))
    looks = drawing.looks_of(results(rows))
    dashes = drawing.dashes_of(looks)
    seen = [(colour, marker, str(dashes[name])) for name, (colour, marker) in looks.items()]
    assert looks["demo-0"][0] == looks["demo-8"][0]
    assert len(set(seen)) == 11
    assert (dashes["demo-0"], dashes["demo-8"]) == ("-", (0, (4, 2)))


def test_a_legend_under_the_panels_covers_none_and_stays_inside():
    figure, panels, spare = drawing.new_figure(2, height=3.0)
    assert spare is None
    for axes in panels:
        axes.set_xlabel("x")
    drawing.legend(figure, spare, [Line2D([], [], label="n" * 30) for _ in range(11)])
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert all(box.y1 <= axes.get_tightbbox().y0 for axes in panels)
    assert (box.x0 >= 0, box.y0 >= 0, box.x1 <= figure.bbox.x1) == (True, True, True)
    assert all(axes.get_window_extent().height > 250 for axes in panels)


def test_a_legend_in_an_empty_place_moves_under_the_panels_when_it_is_too_long():
    handles = [Line2D([], [], label=f"variant {n}") for n in range(40)]
    figure, _, spare = drawing.new_figure(3, height=3.0)
    drawing.legend(figure, spare, handles[:5])
    assert spare.get_legend() is not None
    figure, _, spare = drawing.new_figure(3, height=3.0)
    drawing.legend(figure, spare, handles)
    assert spare.get_legend() is None
    assert len(figure.legends) == 1


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_logarithmic_axis_has_ticks_that_read_plainly(name):
    figure = Figure(figsize=(4, 4))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for values, wanted in (
        ([20, 29], ["20"]),
        ([900, 40_000], ["1000", "10k"]),
        ([2e3, 4e6], ["10k", "100k", "1M"]),
        ([0.1, 0.9], ["0.1", "0.2", "0.5"]),
    ):
        drawing.log_axis(axes, values, room=1.1, name=name)
        figure.canvas.draw()
        axis = axes.xaxis if name == "x" else axes.yaxis
        low, high = sorted(axis.get_view_interval())
        ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
        texts = [label.get_text() for at, label in ticks if low <= at <= high]
        assert set(wanted) <= set(texts)
        assert 2 <= len(texts) <= 7
