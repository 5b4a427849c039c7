"""Groups: the worst one, the gap, and when a variant's loss there is told."""

from dataclasses import replace

import pytest
from report.read_tables import lines
from report.task_rows import CLICK, RATING, task_rows

from harness.report import fairness
from harness.report.lookup import Variant, results

INT8 = Variant("clicks-int8", "ort-cpu")


def test_the_baselines_figures_and_the_variants_differences(row):
    found = lines(fairness.fairness_table(results(task_rows(row, CLICK))))
    assert [line["variant"] for line in found] == ["clicks-fp32", "clicks-int8", "clicks-pruned"]
    assert found[0]["age: worst group"] == "0.7700 in 18-24"
    assert found[0]["age: gap"] == "0.0200"
    assert found[1]["age: worst group"] == "-0.0012 [-0.0015, -0.0009] in 18-24"
    assert found[1]["age: gap"] == "+0.0010 [+0.0007, +0.0013]"
    assert "item_popularity: worst group" in found[0]


def test_of_an_error_the_worst_group_has_the_largest(row):
    run = results(task_rows(row, RATING))
    found = lines(fairness.fairness_table(run))
    assert found[0]["user_activity: worst group"] == "0.9300 in low"
    assert found[1]["user_activity: worst group"] == "+0.0030 [+0.0027, +0.0033] in low"


def test_a_grouping_without_a_value_has_its_reason(row):
    rows = [
        replace(r, value=None, ci_low=None, ci_high=None, reason="fewer than two groups")
        if r.metric.endswith("[age]") or "[age=" in r.metric
        else r
        for r in task_rows(row, CLICK)
    ]
    run = results(rows)
    cell = fairness.fairness_table(run).rows[1][2]
    assert (cell.text, cell.note) == ("n/a", "fewer than two groups")
    assert fairness.worst_group(run, INT8, "age") is None
    assert "by age" not in " ".join(fairness.warning_lines(run))


def test_every_group_has_its_line_with_users(row):
    found = lines(fairness.groups_table(results(task_rows(row, CLICK))))
    assert len(found) == 3 * 6
    assert found[0] == {
        "variant": "clicks-fp32",
        "target": "ort-cpu",
        "grouping": "age",
        "group": "18-24",
        "users": "300",
        "AUC [CI]": "0.7700 [0.7660, 0.7740]",
        "difference [CI]": "-",
    }
    assert found[6]["difference [CI]"] == "-0.0012 [-0.0015, -0.0009]"


def test_names_with_brackets_and_equal_signs_are_kept_whole(row):
    odd = "a=b[c]|d"
    rows = [replace(r, metric=r.metric.replace("[age", f"[{odd}")) for r in task_rows(row, CLICK)]
    run = results(rows)
    assert fairness.groupings(run)[0] == odd
    assert list(fairness.groups(run, INT8, odd)) == ["18-24", "25-44", "45+"]
    assert fairness.fairness_table(run).headers[2] == f"{odd}: worst group"


def change(rows, *, worst, low, high):
    """The difference of int8's worst group by age, and no other grouping."""
    found = [r for r in rows if "item_popularity" not in r.metric and r.recipe != "clicks-pruned"]
    return [
        replace(r, value=worst, ci_low=low, ci_high=high)
        if r.metric == "worst_difference[age]" and r.recipe == "clicks-int8"
        else r
        for r in found
    ]


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        # Over all rows int8 loses 0.0004.
        (-0.0030, -0.00081, True),
        (-0.0030, -0.00079, False),
        (-0.0030, 0.0001, False),
    ],
)
def test_a_worst_group_is_told_that_surely_loses_more_than_twice_as_much(row, low, high, told):
    rows = change(task_rows(row, CLICK), worst=-0.002, low=low, high=high)
    found = fairness.warning_lines(results(rows))
    assert bool(found) is told
    if told:
        assert found[0].startswith("clicks-int8 on ort-cpu: the worst group loses more than twice")
        assert "AUC -0.0004 over all rows, by age (18-24) -0.0020 [-0.0030, -0.0008]" in found[0]


def test_where_all_rows_gain_any_sure_loss_of_the_worst_group_is_told(row):
    def gain(rows):
        return [
            replace(r, value=0.01) if r.metric == "auc_difference" and r.value != 0 else r
            for r in rows
        ]

    sure = gain(change(task_rows(row, CLICK), worst=-0.001, low=-0.002, high=-0.0001))
    open_ = gain(change(task_rows(row, CLICK), worst=-0.001, low=-0.002, high=0.0))
    assert len(fairness.warning_lines(results(sure))) == 1
    assert fairness.warning_lines(results(open_)) == []


def test_of_an_error_a_rise_is_the_loss(row):
    rows = task_rows(row, RATING)
    told = fairness.warning_lines(results(rows))
    assert len(told) == 2
    better = [
        replace(r, value=-0.003, ci_low=-0.004, ci_high=-0.002)
        if r.metric == "worst_difference[user_activity]"
        else r
        for r in rows
    ]
    assert fairness.warning_lines(results(better)) == []


def test_without_an_interval_the_groups_own_difference_decides_or_nothing_is_told(row):
    rows = change(task_rows(row, CLICK), worst=-0.05, low=None, high=None)
    told = fairness.warning_lines(results(rows))
    assert "by age (18-24) -0.0012 [-0.0015, -0.0009]" in told[0]
    bare = [
        replace(r, ci_low=None, ci_high=None) if "_difference[age=" in r.metric else r for r in rows
    ]
    assert fairness.warning_lines(results(bare)) == []


def test_a_run_without_groups_has_no_table(demo_rows):
    run = results(demo_rows)
    assert fairness.fairness_table(run).rows == ()
    assert fairness.groups_table(run).rows == ()
    assert fairness.warning_lines(run) == []
