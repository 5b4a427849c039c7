"""Rows: what they refuse, and that they come back from disk as they were."""

import json
from dataclasses import asdict, replace

import pandas as pd
import pytest

from harness.errors import DataError
from harness.results import COLUMNS, SCHEMA_VERSION, Row, read_rows, to_frame, write_rows

EXACT = (
    "schema_version run_id recipe baseline technique target engine engine_version device "
    "precision scenario region batch candidates threads offered_rate metric unit direction value "
    "n ci_low ci_high ratio ratio_low ratio_high aa_ratio verdict converged noise status reason "
    "data_hash split seed environment commit time"
)


def row(**changes):
    common = {"recipe": "r", "baseline": "b", "scenario": "accuracy", "metric": "auc"}
    return Row(**{**common, "value": 0.5, **changes})


ROWS = [
    row(recipe="a|b\n*ü* \U0001f525", value=0.1 + 0.2, n=7, ci_low=-1e-300, seed=2**40),
    row(value=None, reason="one class only", status="ok"),
    row(scenario="single", batch=1, candidates=256, threads=2, ratio=1.5, verdict="faster"),
    row(scenario="server", offered_rate=61.5, converged=False, noise="others waited"),
]


def test_columns_are_exactly_these_in_this_order():
    assert " ".join(COLUMNS) == EXACT


@pytest.mark.parametrize("name", ["value", "ci_low", "ratio", "ratio_high", "offered_rate"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused(name, number):
    with pytest.raises(ValueError, match=f"row r/auc: {name} is {number}; use None"):
        row(**{name: number})


def test_a_null_needs_a_reason():
    with pytest.raises(ValueError, match="row r/auc: no value and no reason"):
        row(value=None)


def test_rows_come_back_from_jsonl_as_they_were(tmp_path):
    write_rows(tmp_path, ROWS)
    assert read_rows(tmp_path) == ROWS


def test_jsonl_is_strict_and_has_exactly_the_columns(tmp_path):
    write_rows(tmp_path, ROWS)

    def refuse(word):
        raise AssertionError(word)

    for line in (tmp_path / "rows.jsonl").read_text().splitlines():
        assert list(json.loads(line, parse_constant=refuse)) == EXACT.split()


def test_parquet_has_exactly_the_columns_and_the_same_values(tmp_path):
    write_rows(tmp_path, ROWS)
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    assert list(frame.columns) == EXACT.split()
    records = [
        {name: None if pd.isna(value) else value for name, value in record.items()}
        for record in frame.to_dict("records")
    ]
    assert records == [asdict(one) for one in ROWS]


def test_a_column_without_any_value_keeps_its_type():
    frame = to_frame([row()])
    assert str(frame["batch"].dtype) == "Int64"
    assert str(frame["ratio"].dtype) == "Float64"
    assert frame["ratio"].isna().all()
    assert list(to_frame([]).columns) == EXACT.split()


def test_rows_of_another_version_are_refused(tmp_path):
    write_rows(tmp_path, [replace(ROWS[0], schema_version=SCHEMA_VERSION + 1)])
    with pytest.raises(DataError, match=r"rows.jsonl: schema version 3, expected 2; run again"):
        read_rows(tmp_path)


@pytest.mark.parametrize("cut", [3, 200])
def test_a_cut_file_is_refused(tmp_path, cut):
    write_rows(tmp_path, ROWS)
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text()[:-cut])
    with pytest.raises(DataError, match=r"rows\.jsonl:\d+: not rows of this version"):
        read_rows(tmp_path)


def test_an_unknown_column_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({**asdict(ROWS[0]), "latency": 1}) + "\n")
    with pytest.raises(DataError, match="unexpected keyword argument 'latency'"):
        read_rows(tmp_path)


def test_a_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no rows here .* give the folder of a run"):
        read_rows(tmp_path)


def test_a_failed_write_leaves_the_rows_that_were_there(tmp_path, monkeypatch):
    write_rows(tmp_path, ROWS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.store.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_rows(tmp_path, ROWS[:1])
    assert read_rows(tmp_path) == ROWS
