"""TensorRT in the report: what the check said, and int8 beside its rival fp16."""

from harness.report import tensorrt
from harness.report.lookup import results

CHECK = {
    "scenario": "tensorrt_check",
    "target": "tensorrt",
    "engine": "tensorrt-rtx",
    "engine_version": "1.7.1",
    "device": "none (SM89)",
}
TIMED = {
    "scenario": "sweep",
    "metric": "latency_p50",
    "unit": "s",
    "target": "tensorrt",
    "region": "model_only",
    "batch": 64,
    "candidates": 1,
    "threads": 1,
}


def test_each_phase_has_its_column_and_its_reason(row):
    good = {**CHECK, "recipe": "half", "precision": "fp16"}
    bad = {**CHECK, "recipe": "codes", "precision": "int8"}
    rows = [
        *(row(**good, metric=name, value=1.0) for name in ("parsed", "typed", "built")),
        row(**good, metric="build_seconds", unit="s", value=2.34),
        row(**bad, metric="parsed", value=0.0, reason="MatMulInteger m, made by x: no"),
        *(row(**bad, metric=n, value=None, reason="not parsed") for n in ("typed", "built")),
    ]
    run = results(rows)
    assert tensorrt.check_title(run) == (
        "TensorRT, checked without a GPU: tensorrt-rtx 1.7.1, SM89"
    )
    table = tensorrt.check_table(run)
    assert [[cell.text for cell in line] for line in table.rows] == [
        ["half", "tensorrt", "fp16", "yes", "yes", "yes", "2.3"],
        ["codes", "tensorrt", "int8", "no", "n/a", "n/a", "-"],
    ]
    assert table.rows[1][3].note == "MatMulInteger m, made by x: no"
    assert table.rows[1][4].note == "not parsed"


def timed(row, recipe: str, precision: str, value: float, spread: float = 0.01):
    ends = {"ci_low": value * (1 - spread), "ci_high": value * (1 + spread)}
    return row(**TIMED, recipe=recipe, precision=precision, value=value, **ends)


def test_int8_is_told_beside_the_quickest_half_precision(row):
    rows = [
        timed(row, "codes", "int8", 0.0012),
        timed(row, "half", "fp16", 0.001),
        timed(row, "slow-half", "fp16", 0.002),
        timed(row, "quick", "int8+fp16", 0.0005),
        timed(row, "near", "int8", 0.00101),
    ]
    assert tensorrt.rival_lines(results(rows)) == [
        "codes on tensorrt: int8 slower than fp16 at b64 (1.20 ms, half 1.00 ms)",
        "quick on tensorrt: int8 faster than fp16 at b64 (0.500 ms, half 1.00 ms)",
        "near on tensorrt: int8 not told apart from fp16 at b64 (1.01 ms, half 1.00 ms)",
    ]


def test_a_missing_rival_is_told_and_engines_of_the_cpu_need_none(row):
    rows = [
        timed(row, "codes", "int8", 0.001),
        row(**{**TIMED, "target": "ort-cpu"}, recipe="cpu", precision="int8", value=0.001),
        row(**{**TIMED, "target": "ort-cuda"}, recipe="half", precision="fp16", value=0.001),
    ]
    (line,) = tensorrt.rival_lines(results(rows))
    assert line.startswith("codes on tensorrt: its fp16 rival is missing in this run")
    other = row(
        **CHECK, recipe="half", baseline="other", metric="parsed", precision="fp16", value=1.0
    )
    assert tensorrt.rival_lines(results([*rows, other])) == [line]


def test_a_rival_that_was_only_checked_is_named(row):
    rows = [
        row(**CHECK, recipe=name, metric="parsed", precision=kind, value=1.0)
        for name, kind in (("codes", "int8"), ("half", "fp16"))
    ]
    assert tensorrt.rival_lines(results(rows)) == [
        "codes on tensorrt: not timed beside its fp16 rival (half)"
    ]
