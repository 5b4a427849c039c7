"""The pictures: what is on the frontier, what names look like, and that PNGs come out."""

from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from harness.report import plots
from harness.report.labels import Label, place_labels
from harness.report.lookup import results
from harness.report.plots import Spot, frontier, pareto_plot, short_names, speedup_plot

PNG = b"\x89PNG\r\n\x1a\n"


def spot(name, latency, quality):
    return Spot(name, latency, quality, quality, quality, None, baseline=False)


def test_the_frontier_keeps_what_nothing_beats_in_both():
    spots = [spot("a", 1, 0.5), spot("b", 2, 0.4), spot("c", 3, 0.9), spot("d", 3, 0.8)]
    assert [one.recipe for one in frontier(spots)] == ["a", "c"]


def test_bars_are_the_paired_interval_around_the_quality(demo_rows):
    run = results(demo_rows)
    point = next(p for p in run.points(threads=1) if p.candidates == 256)
    spots = list(plots._spots(run, "torch-cpu", point))
    changes = {
        row.recipe: row
        for row in demo_rows
        if row.target == "torch-cpu" and row.metric == "auc_difference"
    }
    assert any(one.high > one.low for one in spots)
    for one in spots:
        change = changes.get(one.recipe)
        below, above = (
            (change.ci_low - change.value, change.ci_high - change.value) if change else (0, 0)
        )
        assert one.low == pytest.approx(one.quality + below)
        assert one.high == pytest.approx(one.quality + above)


def test_long_names_are_shortened_in_the_middle_and_stay_apart():
    names = ["x" * 70 + "1" + "y" * 70, "x" * 70 + "2" + "y" * 70, "short"]
    short = short_names(names)
    assert len(set(short.values())) == 3
    assert short["short"] == "short"
    assert short[names[0]] == "x" * 16 + "…" + "y" * 17
    assert short[names[1]].endswith("#2")


def test_what_the_font_lacks_becomes_a_box():
    assert short_names(["a\n\U0001f525b"]) == {"a\n\U0001f525b": "a □b"}


@pytest.mark.parametrize("draw", [pareto_plot, speedup_plot])
def test_a_run_is_drawn(draw, demo_rows):
    assert draw(results(demo_rows)).startswith(PNG)


@pytest.mark.parametrize("draw", [pareto_plot, speedup_plot])
def test_names_with_markup_are_drawn_as_they_are(draw, demo_rows):
    odd = {"demo-fp16": "$\\bad{math$ _x_ \U0001f525", "demo-prune50": "n" * 200}
    few = [r for r in demo_rows if r.target == "ort-cpu"]
    rows = [replace(r, recipe=odd.get(r.recipe, r.recipe)) for r in few]
    assert draw(results(rows)).startswith(PNG)


def test_nothing_is_drawn_without_figures(demo_rows):
    untimed = results([r for r in demo_rows if r.scenario not in ("sweep", "single")])
    assert pareto_plot(untimed) is None
    assert speedup_plot(untimed) is None


def test_labels_do_not_cover_each_other():
    figure = Figure(figsize=(5, 4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    spots = [(0.5 + 0.01 * i, 0.5 + 0.002 * i) for i in range(8)]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    place_labels(axes, [Label(at, f"variant-{i}", "k", 5) for i, at in enumerate(spots)])
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) == 8
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    inside = axes.get_window_extent()
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert not [pair for pair in pairs if pair[0].overlaps(pair[1])]
