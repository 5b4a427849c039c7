"""Numbers as text: by metric, by unit, with sign and interval."""

import pytest

from harness.report.cells import (
    count,
    formatter,
    interval_cell,
    mebibytes,
    milliseconds,
    ratio_text,
    significant,
    value_cell,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.04321, "0.0432"),
        (1.2345, "1.23"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (-0.5, "-0.500"),
        (3.1e-7, "3.10e-07"),
    ],
)
def test_three_significant_digits(value, text):
    assert significant(value) == text


def test_stored_units_become_the_shown_ones():
    assert milliseconds(0.00225) == "2.25"
    assert mebibytes(5 * 2**20) == "5.0"
    assert mebibytes(2**19) == "0.500"
    assert count(1_200_000.0) == "1,200,000"
    assert count(0.25) == "0.2500"


@pytest.mark.parametrize(
    ("metric", "unit", "value", "text"),
    [
        ("auc", "share", 0.93311, "0.9331"),
        ("auc_difference", "share", 0.0003, "+0.0003"),
        ("auc_difference", "share", -0.0003, "-0.0003"),
        ("ndcg@10", "share", 0.4, "0.4000"),
        ("top10_overlap", "share", 0.961, "96.10 %"),
        ("anything", "seconds", 0.5, "500 ms"),
        ("anything", "bytes", 2**20, "1.0 MiB"),
        ("anything", "new unit", 0.123456, "0.1235"),
    ],
)
def test_the_metric_decides_then_the_unit(metric, unit, value, text):
    assert formatter(metric, unit)(value) == text


def test_a_null_is_not_a_number_and_says_why(row):
    assert value_cell(row(value=None, reason="one class only")).text == "n/a"
    assert value_cell(row(value=None, reason="one class only")).note == "one class only"
    assert value_cell(None).note == "not measured"
    assert interval_cell(row(value=None, reason="one class only")).text == "n/a"


def test_what_a_row_says_about_its_value_becomes_a_note(row):
    cell = interval_cell(row(value=0.9, ci_low=0.8, ci_high=0.95, reason="look twice"))
    assert (cell.text, cell.note) == ("0.9000 [0.8000, 0.9500]", "look twice")


def test_a_ratio_with_and_without_interval(row):
    assert ratio_text(row(value=1.0, ratio=1.616, ratio_low=1.58, ratio_high=1.66)) == (
        "1.62 [1.58, 1.66]"
    )
    assert ratio_text(row(value=1.0, ratio=1.616)) == "1.62"
    assert ratio_text(row(value=1.0)) == ""
