"""Lists beyond accuracy, their picture, and the importance of fields."""

from dataclasses import replace

import pytest
from report.read_tables import lines
from report.task_rows import CLICK, NEXT, task_rows

from harness.report import beyond, coverage, importance
from harness.report.cells import formatter
from harness.report.lookup import results

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("metric", "unit", "value", "text"),
    [
        ("coverage@10", "share", 0.42, "0.4200"),
        ("coverage@10_difference", "share", 0.01, "+0.0100"),
        ("novelty@10", "bits", 9.5, "9.500"),
        ("popularity@10_difference", "share", -0.00031, "-0.00031"),
        ("gini@20", "share", 0.5, "0.5000"),
        ("mrr@10", "share", 0.25, "0.2500"),
    ],
)
def test_figures_of_lists_are_written_with_the_digits_that_tell_them_apart(
    metric, unit, value, text
):
    assert formatter(metric, unit)(value) == text


def test_values_of_the_baseline_and_the_rankings_and_differences_of_the_variants(row):
    table = beyond.beyond_table(results(task_rows(row, NEXT)))
    assert table.headers == (
        *("variant", "target", "coverage@10", "diversity@10"),
        *("novelty@10 (bits)", "popularity@10", "gini@10"),
    )
    found = {line["variant"]: line for line in lines(table)}
    assert list(found) == [
        "next-fp32",
        "reference:random",
        "reference:popularity",
        "next-int8",
        "next-pruned",
    ]
    assert found["next-fp32"]["coverage@10"] == "0.4200"
    assert found["reference:popularity"]["coverage@10"] == "0.0100"
    assert found["reference:popularity"]["target"] == "-"
    assert found["next-pruned"]["coverage@10"] == "-0.0600 [-0.0660, -0.0540]"


def test_a_missing_figure_has_its_reason(row):
    rows = [
        replace(r, value=None, reason="no list holds two items")
        if r.metric == "diversity@10" and r.recipe == "next-int8"
        else r
        for r in task_rows(row, NEXT)
        if not (r.metric == "diversity@10_difference" and r.recipe == "next-int8")
    ]
    line = next(
        cells for cells in beyond.beyond_table(results(rows)).rows if cells[0].text == "next-int8"
    )
    assert (line[3].text, line[3].note) == ("n/a", "no list holds two items")


def test_a_run_without_lists_has_neither_table_nor_picture(demo_rows):
    run = results(demo_rows)
    assert beyond.beyond_table(run).rows == ()
    assert coverage.coverage_plot(run) is None


def test_the_picture_has_a_spot_for_each_variant_and_ranking(row):
    run = results(task_rows(row, NEXT, ("ort-cpu", "openvino-cpu")))
    panels = list(coverage.coverage_panels(run))
    assert [panel.title for panel in panels] == ["ort-cpu", "openvino-cpu"]
    assert panels[0].baseline == "next-fp32"
    spots = {spot.recipe: spot for spot in panels[0].spots}
    assert list(spots) == [
        "next-fp32",
        "next-int8",
        "next-pruned",
        "reference:random",
        "reference:popularity",
    ]
    assert spots["next-pruned"].coverage == pytest.approx(36)
    assert spots["next-pruned"].quality == pytest.approx(0.164)
    assert spots["next-pruned"].low == pytest.approx(0.1639)
    assert spots["reference:random"].quality == pytest.approx(0.0034)
    assert coverage.coverage_plot(run).startswith(PNG)


def test_panels_of_several_baselines_are_named_by_both(row):
    other = [
        replace(r, baseline="next2", recipe=r.recipe.replace("next", "next2"))
        for r in task_rows(row, NEXT)
    ]
    panels = coverage.coverage_panels(results([*task_rows(row, NEXT), *other]))
    assert [panel.title for panel in panels] == ["next, ort-cpu", "next2, ort-cpu"]


def test_far_rankings_are_drawn_at_the_edge_and_near_ones_where_they_are():
    assert coverage._span([36, 42], [1, 100]) == pytest.approx((34.8, 43.2))
    assert coverage._span([36, 42], [30, 44]) == pytest.approx((27.2, 46.8))
    assert coverage._span([40], [30]) == pytest.approx((28, 42))
    spans = ((34.8, 43.2), (0.16, 0.18))
    far = coverage.Spot("reference:random", 100, 0.003, 0.003, 0.003)
    near = coverage.Spot("a", 36, 0.17, 0.17, 0.17)
    x, y = coverage._inside(far, spans)
    assert 42.5 < x < 43.2
    assert 0.16 < y < 0.161
    assert coverage._inside(near, spans) == (36, 0.17)


def test_variants_on_one_spot_are_drawn(row):
    rows = [replace(r, value=0.5) if r.metric == "coverage@10" else r for r in task_rows(row, NEXT)]
    alone = [r for r in rows if r.recipe == "next-fp32"]
    assert coverage.coverage_plot(results(rows)).startswith(PNG)
    assert coverage.coverage_plot(results(alone)).startswith(PNG)


def test_names_with_markup_are_drawn_as_they_are(row):
    rows = [
        replace(r, recipe="$\\bad{math$ _x_") if r.recipe == "next-int8" else r
        for r in task_rows(row, NEXT)
    ]
    assert coverage.coverage_plot(results(rows)).startswith(PNG)


def test_importance_is_compared_with_the_baselines(row):
    found = lines(importance.importance_table(results(task_rows(row, CLICK))))
    assert found[0] == {
        "variant": "clicks-int8",
        "target": "ort-cpu",
        "rank correlation": "0.8000",
        "top 3 kept": "66.67 %",
    }
    assert len(found) == 2


def test_fields_stand_in_the_baselines_order(row):
    table = importance.fields_table(results(task_rows(row, CLICK)))
    assert table.headers == ("variant", "target", "device|type", "hour", "item", "user")
    assert [cell.text for cell in table.rows[0]][2:] == ["0.0400", "0.0300", "0.0200", "0.0100"]


def test_next_items_have_no_importance_of_fields(row):
    run = results(task_rows(row, NEXT))
    assert importance.importance_table(run).rows == ()
    assert importance.fields_table(run).rows == ()
