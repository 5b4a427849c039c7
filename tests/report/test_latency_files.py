"""Latency distributions read from the files beside the rows."""

import pandas as pd
import pytest

from harness.errors import DataError
from harness.report.latencies import COLUMNS, read_latencies


def test_each_load_has_its_own_distribution(full_rows, latencies, tmp_path):
    rows = [r for r in full_rows if (r.recipe, r.target) == ("demo-fp32", "ort-cpu")]
    latencies(tmp_path, rows)
    found = read_latencies(tmp_path)
    assert [(one.scenario, one.region, one.threads) for one in found] == [
        *[("single", "model_only", n) for n in (1, 2)],
        ("single", "end_to_end", 1),
        *[("server", "end_to_end", 1)] * 2,
    ]
    assert [one.offered_rate is None for one in found] == [True, True, True, False, False]
    assert {(one.batch, one.n, len(one.seconds)) for one in found} == {(256, 2000, 101)}


def test_a_distribution_is_in_the_order_of_its_shares(full_rows, latencies, tmp_path):
    path = latencies(tmp_path, full_rows[:100])
    pd.read_parquet(path).iloc[::-1].to_parquet(path)
    for one in read_latencies(tmp_path):
        assert list(one.quantiles) == sorted(one.quantiles)
        assert list(one.seconds) == sorted(one.seconds)


def test_a_folder_without_such_a_file_has_no_distributions(tmp_path):
    assert read_latencies(tmp_path) == []


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "demo-latencies.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"demo-latencies.parquet: not a readable parquet file"):
        read_latencies(tmp_path)
    pd.DataFrame({name: [1.0] for name in COLUMNS[:-2]}).to_parquet(path)
    with pytest.raises(DataError, match=r"lacks the columns seconds, n; run again"):
        read_latencies(tmp_path)
