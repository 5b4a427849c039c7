"""Rows by construction: a whole run with known figures, without running anything."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report.service_rows import loaded_rows, machine_rows, write_latencies

from harness.results import Row, write_rows

MIB = 2**20
POINTS = (
    (1, 1, "sweep", "model_only"),
    (64, 1, "sweep", "model_only"),
    (1024, 1, "sweep", "model_only"),
    (1, 256, "single", "model_only"),
)
WIDE_POINTS = ((1, 256, "single", "end_to_end"), (1024, 1, "offline", "end_to_end"))
"""Timed besides the headline's points, in the full run only."""
ENGINES = {
    "torch-cpu": ("2.13.0", 1.6),
    "ort-cpu": ("1.32.0", 1.0),
    "openvino-cpu": ("2026.4.0", 0.9),
}
# recipe -> technique, AUC, class, speedup, MiB, precision
VARIANTS: dict[str, tuple[str, float, str, float, float, str]] = {
    "demo-fp32": ("reference", 0.9331, "", 1.0, 12.4, "fp32"),
    "demo-prune50": ("open_like", 0.9325, "99.9 %", 1.62, 8.9, "fp32"),
    "demo-int8-dynamic": ("closed_like", 0.9329, "99.9 %", 1.41, 5.1, "int8"),
    "demo-int8-static": ("closed_like", 0.9311, "99 %", 1.58, 4.9, "int8"),
    "demo-int8-qat": ("open_like", 0.9328, "99.9 %", 1.55, 4.9, "int8"),
    "demo-student": ("open_like", 0.9302, "99 %", 3.1, 4.2, "fp32"),
    "demo-student-int8": ("open_like", 0.9187, "below 99 %", 3.9, 1.6, "int8"),
    "demo-fp16": ("closed_like", 0.9331, "99.9 %", 0.71, 6.2, "fp16"),
}


def make_row(**changes: Any) -> Row:
    """A row of the demo run; ``changes`` are its columns."""
    common: dict[str, Any] = {
        "run_id": "run-1",
        "recipe": "demo-fp32",
        "baseline": "demo",
        "scenario": "accuracy",
        "metric": "auc",
        "data_hash": "d" * 64,
        "split": "time: weeks 1-40, 41-45, 46-53",
        "seed": 7,
        "environment": "abc123abc123",
        "commit": "0123456789ab",
        "time": "2026-01-05T10:00:00+00:00",
    }
    return Row(**{**common, **changes})


def verdict_of(low: float, high: float) -> str:
    """The word for a ratio's interval."""
    return "faster" if low > 1 else "slower" if high < 1 else "no difference shown"


def variant_rows(recipe: str, target: str, *, jitter: float = 1.0) -> list[Row]:
    """All rows of one variant on one target."""
    technique, auc, quality, speedup, mib, precision = VARIANTS[recipe]
    version, slowness = ENGINES[target]
    base = make_row(
        recipe=recipe,
        technique=technique,
        target=target,
        engine=target,
        engine_version=version,
        device="cpu",
        precision=precision,
        metric="auc",
        unit="share",
        direction="higher",
        value=auc,
        n=409_600,
        ci_low=auc - 0.0021,
        ci_high=auc + 0.0021,
    )
    rows = [base, *_quality_rows(base, auc, quality)]
    for number, point in enumerate(POINTS):
        for threads in (1, 2):
            gain = 1.0 if not quality else speedup ** (0.55 + 0.15 * number) * jitter
            seconds = _seconds(slowness, point) / threads**0.6 / gain
            given = None if not quality else gain
            rows += _timed_rows(base, seconds=seconds, gain=given, point=(*point, threads))
    untimed = replace(base, ci_low=None, ci_high=None, n=None)
    rows += [
        replace(
            untimed,
            scenario="size",
            metric="bytes",
            unit="bytes",
            value=mib * MIB,
            direction="lower",
        ),
        replace(
            untimed,
            scenario="size",
            metric="macs",
            unit="count",
            value=1_200_000.0,
            direction="lower",
        ),
        replace(
            untimed,
            scenario="memory",
            metric="peak_memory",
            unit="bytes",
            value=(180 + mib) * MIB,
            direction="lower",
        ),
        replace(
            untimed,
            scenario="memory",
            metric="peak_memory_at_load",
            unit="bytes",
            value=(120 + mib) * MIB,
            direction="lower",
        ),
    ]
    return rows


def _seconds(slowness: float, point: tuple[int, int, str, str]) -> float:
    return 2e-5 * slowness * (1 + 0.04 * point[0] * point[1])


def full_variant_rows(recipe: str, target: str) -> list[Row]:
    """What ``variant_rows`` has not: the wider timed points and every other scenario."""
    base = variant_rows(recipe, target)[0]
    gain = VARIANTS[recipe][3] if VARIANTS[recipe][2] else None
    rows = []
    for point in WIDE_POINTS:
        seconds = 1.3 * _seconds(ENGINES[target][1], point) / (gain or 1.0)
        rows += _timed_rows(base, seconds=seconds, gain=gain, point=(*point, 1))
    alone = _seconds(ENGINES[target][1], WIDE_POINTS[0]) / (gain or 1.0)
    return [*rows, *loaded_rows(base, seconds=alone, gain=gain)]


def _quality_rows(base: Row, auc: float, quality: str) -> list[Row]:
    other = {"gauc": 0.871, "logloss": 0.1716, "ece": 0.0031, "ndcg@10": 0.402}
    rows = [
        replace(
            base,
            metric=name,
            value=value,
            ci_low=value - 0.003,
            ci_high=value + 0.003,
            direction="lower" if name in ("logloss", "ece") else "higher",
        )
        for name, value in other.items()
    ]
    if not quality:
        return rows
    change = auc - VARIANTS["demo-fp32"][1]
    return [
        *rows,
        replace(
            base,
            metric="auc_difference",
            value=change,
            ci_low=change - 0.0003,
            ci_high=change + 0.0003,
        ),
        replace(
            base,
            metric="quality_class",
            value=1 - abs(change),
            verdict=quality,
            ci_low=None,
            ci_high=None,
        ),
        replace(
            base,
            scenario="agreement",
            metric="score_rmse",
            value=abs(change) + 1e-4,
            ci_low=None,
            ci_high=None,
            direction="lower",
        ),
        replace(
            base,
            scenario="agreement",
            metric="top10_overlap",
            value=0.96,
            ci_low=None,
            ci_high=None,
        ),
        replace(
            base,
            scenario="parity",
            metric="max_abs_difference",
            unit="logit",
            value=3.1e-7,
            ci_low=None,
            ci_high=None,
            direction="lower",
        ),
    ]


def _timed_rows(
    base: Row, *, seconds: float, gain: float | None, point: tuple[int, int, str, str, int]
) -> list[Row]:
    batch, candidates, scenario, region, threads = point
    paired: dict[str, Any] = {}
    if gain is not None:
        low, high = gain * 0.975, gain * 1.025
        paired = {
            "ratio": gain,
            "ratio_low": low,
            "ratio_high": high,
            "aa_ratio": 1.004,
            "verdict": verdict_of(low, high),
        }
    timed = replace(
        base,
        scenario=scenario,
        region=region,
        batch=batch * candidates,
        candidates=candidates,
        threads=threads,
        metric="latency_p50",
        unit="seconds",
        direction="lower",
        value=seconds,
        n=40,
        ci_low=None,
        ci_high=None,
    )
    offline = scenario == "offline"
    calls = {"latency_p90": 1.1, "latency_p99": 1.6, "cpu_seconds_per_call": 1.02 * threads}
    return [
        replace(timed, **({} if offline else paired)),
        *(replace(timed, metric=name, value=seconds * share) for name, share in calls.items()),
        replace(
            timed,
            metric="rows_per_second",
            unit="rows/s",
            direction="higher",
            value=batch * candidates / seconds,
            **(paired if offline else {}),
        ),
        replace(
            timed,
            metric="requests_per_second",
            unit="requests/s",
            direction="higher",
            value=batch / seconds,
        ),
        replace(
            timed,
            metric="speedup_vs_best_fp32",
            unit="ratio",
            direction="higher",
            value=(gain or 1.0) * 0.93,
        ),
    ]


def run_rows(*, jitter: float = 1.0) -> list[Row]:
    """Eight variants on three engines, one target skipped, one variant failed."""
    rows = [
        row
        for recipe in VARIANTS
        for target in ENGINES
        if (recipe, target) not in (("demo-int8-qat", "torch-cpu"),)
        for row in variant_rows(recipe, target, jitter=jitter)
    ]
    for name, auc in (("random", 0.4998), ("popularity", 0.6012), ("history", 0.9139)):
        rows.append(
            make_row(
                recipe=f"reference:{name}",
                technique=None,
                value=auc,
                n=409_600,
                ci_low=auc - 0.002,
                ci_high=auc + 0.002,
                direction="higher",
                scenario="reference",
            )
        )
    for name, value in (("read", 1_000.0), ("kept", 990.0), ("dropped: no label", 10.0)):
        rows.append(
            make_row(
                recipe="demo", scenario="data", metric=f"rows {name}", unit="rows", value=value
            )
        )
    rows.append(
        make_row(recipe="demo", scenario="data", metric="licence", value=None, reason="CC0 | free")
    )
    rows.append(
        make_row(
            recipe="demo",
            technique="reference",
            scenario="training",
            metric="auc_seed_noise",
            value=0.0004,
            n=3,
        )
    )
    for part, value in (("before", 4_100_000.0), ("asked", 2_050_000.0), ("achieved", 2_063_000.0)):
        rows.append(
            make_row(
                recipe="demo-prune50",
                technique="open_like",
                scenario="effect",
                metric=f"1.prune_channels.parameters:{part}",
                unit="count",
                value=value,
            )
        )
    rows.append(
        make_row(
            recipe="demo-prune50",
            technique="open_like",
            scenario="effect",
            value=None,
            metric="1.prune_channels.note 1",
            reason="widths rounded to 16",
        )
    )
    for name, value in (("seconds", 61.2), ("cpu_seconds", 118.0)):
        rows.append(
            make_row(
                recipe="demo-prune50",
                technique="open_like",
                scenario="training",
                metric=f"1.prune_channels.{name}",
                unit="seconds",
                value=value,
            )
        )
    rows.append(
        make_row(
            recipe="demo-int8-qat",
            target="torch-cpu",
            technique="open_like",
            scenario="run",
            metric="status",
            value=None,
            status="failed",
            reason="torch-cpu can't load a QDQ graph",
        )
    )
    rows.append(
        make_row(
            recipe="demo-tensorrt-fp16",
            target="tensorrt",
            technique="closed_like",
            scenario="run",
            metric="status",
            value=None,
            status="skipped",
            reason="no NVIDIA GPU was found",
        )
    )
    return rows


ENVIRONMENT = {
    "cpu": "Example CPU 9000",
    "flags": ["avx2", "avx512_vnni"],
    "cores": 2,
    "threads": 2,
    "quota": None,
    "governor": "performance",
    "memory_bytes": 8 * 2**30,
    "system": "Linux",
    "kernel": "6.1.0",
    "machine": "x86_64",
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "onnxruntime": "1.32.0"},
    "gpu": None,
    "commit": "0123456789ab",
    "key": "abc123abc123",
}


@pytest.fixture
def row() -> Callable[..., Row]:
    """``row(**columns)``: one row of the demo run."""
    return make_row


@pytest.fixture
def demo_rows() -> list[Row]:
    """The rows of the demo run."""
    return run_rows()


@pytest.fixture
def full_rows() -> list[Row]:
    """The rows of the demo run with every scenario: all variants on two of its engines."""
    rows = run_rows()
    for recipe in VARIANTS:
        for target in ("ort-cpu", "openvino-cpu"):
            rows += full_variant_rows(recipe, target)
    return [*rows, *machine_rows(make_row(value=0.0))]


@pytest.fixture
def latencies() -> Callable[..., Path]:
    """``latencies(folder, rows)``: writes the latency distributions of the rows' p50s."""
    return write_latencies


@pytest.fixture
def demo_variant() -> Callable[..., list[Row]]:
    """``demo_variant(recipe, target, jitter=1.0)``: the rows of one variant."""
    return variant_rows


@pytest.fixture
def save_run(tmp_path: Path) -> Callable[..., Path]:
    """``save_run(rows, name="run", **facts)``: a run folder; facts change the environment."""

    def save(rows: Sequence[Row], name: str = "run", **facts: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_rows(folder, rows)
        (folder / "environment.json").write_text(json.dumps({**ENVIRONMENT, **facts}))
        return folder

    return save
