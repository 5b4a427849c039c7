"""Rows as a run writes them, made by hand, for the tests of gates and of what compares runs."""

import json

from harness.results import Row, write_rows

REFERENCE = {"recipe": "fp32", "technique": "reference"}


def row(**changes):
    common = {
        "recipe": "int8",
        "baseline": "base",
        "technique": "closed_like",
        "target": "ort-cpu",
        "scenario": "accuracy",
        "metric": "auc",
        "direction": "higher",
        "value": 0.93,
        "data_hash": "d",
        "split": "time",
    }
    return Row(**{**common, **changes})


def timed(**changes):
    common = {
        "scenario": "sweep",
        "metric": "latency_p50",
        "direction": "lower",
        "value": 0.001,
        "batch": 64,
        "candidates": 1,
        "threads": 1,
        "n": 40,
        "ratio": 1.6,
        "ratio_low": 1.55,
        "ratio_high": 1.65,
        "aa_ratio": 1.0,
    }
    return row(**{**common, **changes})


def difference(**changes):
    common = {"metric": "auc_difference", "value": -0.001, "ci_low": -0.0015, "ci_high": -0.0005}
    return row(**{**common, **changes})


def save(folder, rows, **facts):
    """A run's folder with rows and an environment; gives it back."""
    folder.mkdir()
    write_rows(folder, rows)
    (folder / "environment.json").write_text(json.dumps({"cpu": "one", "threads": 2, **facts}))
    return folder
