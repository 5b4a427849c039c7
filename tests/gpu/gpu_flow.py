"""The flow of ``make gpu``: probes, parity, the suite, rows and report, and the targets' lines."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gpu_cases
import gpu_parity

from harness import registry
from harness.accounts import data_rows, stage_rows, status_row, training_rows
from harness.baseline import Trained, train_baseline
from harness.engines.base import EngineFacts, Probe
from harness.engines.probing import probe_engine
from harness.environment import environment, usable_threads
from harness.loading import load_baseline
from harness.measuring import Scored, Session
from harness.profile import Profile
from harness.report.page import write_report
from harness.results import Row, write_rows
from harness.run_folder import MARK, claimed, renewed
from harness.store import default_store, write_bytes, write_text
from harness.suites.scoring import Scorer
from harness.timing import time_variants
from harness.variants import Variant, attempt, make_variant

TINY, SERVING = ("tiny-dlrm", "tiny-sasrec"), ("serving-dlrm", "serving-sasrec")
GRAPH, MOST_ROWS = "torch-cuda-graph", 1024
TARGETS = {"speedup_vs_eager": 2.0, "speedup_vs_compiled": 1.0}
"""The least paired speedup of CUDA graphs in fp16, at up to ``MOST_ROWS`` rows a call."""
SHARES = {"serving-dlrm": 0.65, "tiny-dlrm": 0.5}
"""Of the time that is left when a baseline's variants are made; the last one takes all of it."""
AFTER = 30.0
"""Seconds kept for what comes after the closed loops: counting, rows, the report."""


@dataclass
class Found:
    """Rows so far, the raw files beside them, and what went wrong, a line each."""

    rows: list[Row] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def run(out: Path, *, device: str, small: bool, minutes: float) -> int:
    """Everything, told as it goes; 1 when something failed, else 0."""
    began = time.monotonic()
    end = began + 60 * minutes
    for sentence in gpu_cases.lacking().values():
        _say(f"skipped: {sentence}")
    probes = _probes(gpu_cases.engines(device))
    names = TINY if small else SERVING
    found = Found()
    with claimed(out):
        for name in TINY:
            _parity(name, device, probes, found)
        for name in names:
            _suite(name, device, probes, found, end=end)
        report = _write(out, found, f"gpu-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}")
    for line in target_lines(found.rows):
        _say(line)
    for line in found.wrong:
        _say(f"FAILED: {line}")
    _say(f"{len(found.rows)} rows and {report} after {time.monotonic() - began:.0f} s")
    return 1 if found.wrong else 0


def _say(text: str) -> None:
    print(text, flush=True)


def _probes(engines: Sequence[str]) -> Mapping[str, Probe]:
    """The probe of every engine of the catalog, asked at once in processes of their own."""
    known = [engine for engine in engines if engine in registry.names("engines")]
    with ThreadPoolExecutor(max(1, len(known))) as pool:
        probes = dict(zip(known, pool.map(probe_engine, known), strict=True))
    for engine, probe in probes.items():
        versions = ", ".join(f"{name} {version}" for name, version in probe.versions.items())
        _say(f"{engine}: {f'ok ({versions})' if probe.ok else f'skipped, {_sentence(probe)}'}")
    return probes


def _sentence(probe: Probe) -> str:
    return f"{probe.code}: {probe.sentence}"


def _variants(name: str, device: str, probes: Mapping[str, Probe]) -> list[Variant]:
    found = []
    for recipe in gpu_cases.recipes(name, device):
        for target in recipe.targets:
            probe, variant = probes[target.engine], Variant(recipe, target)
            if not probe.ok:
                variant = replace(variant, status="skipped", reason=_sentence(probe))
            found.append(variant)
    return found


def _made(variants: Sequence[Variant], trained: Trained, profile: Profile) -> Iterator[Variant]:
    """The variants with their artifacts; one that can't be made is told of and has failed."""
    how: Any = {"threads": usable_threads(), "progress": lambda label, share: None}
    for variant in variants:
        if variant.status == "ok":
            variant = attempt(
                variant,
                lambda each: make_variant(each, trained, default_store(), load=profile.load, **how),
            )
            if variant.status != "ok":
                _say(f"{variant.name}: {variant.status}, {variant.reason}")
        yield variant


def _trained(name: str) -> Trained:
    spec = load_baseline(gpu_cases.HERE / f"{name}.yaml")
    began = time.monotonic()
    quiet: Any = lambda label, share: None  # noqa: E731 - a progress that says nothing
    trained = train_baseline(spec, default_store(), threads=usable_threads(), progress=quiet)
    steps, rows = trained.history["steps"], trained.artifact.embedding_parameters
    _say(
        f"{name}: {rows:,} numbers in tables, {trained.artifact.macs:,} multiply-accumulates a "
        f"row, {steps} steps of training (for the shapes, not for the score), "
        f"{time.monotonic() - began:.0f} s"
    )
    return trained


def _parity(name: str, device: str, probes: Mapping[str, Probe], found: Found) -> None:
    variants = _variants(name, device, probes)
    if all(variant.status != "ok" for variant in variants):
        return
    trained = _trained(name)
    made = list(_made(variants, trained, gpu_cases.SMALL))
    found.wrong += [f"{v.name}: {v.reason}" for v in made if v.status == "failed"]
    compared = gpu_parity.compare(trained, made)
    found.rows += compared.rows
    found.wrong += compared.wrong
    good = sum(row.status == "ok" for row in compared.rows)
    _say(f"{name}: {good} of {len(compared.rows)} variants score as torch on the CPU does")


def _suite(
    name: str, device: str, probes: Mapping[str, Probe], found: Found, *, end: float
) -> None:
    variants = _variants(name, device, probes)
    if all(variant.status != "ok" for variant in variants):
        found.rows += [status_row(variant) for variant in variants]
        return
    trained = _trained(name)
    made = list(_made(variants, trained, gpu_cases.profile_of(name, seconds=1.0)))
    left = SHARES.get(name, 1.0) * (end - AFTER - time.monotonic())
    profile = gpu_cases.profile_of(name, seconds=left)
    found.rows += [*data_rows(trained), *training_rows(trained, None)]
    found.rows += [status_row(variant) for variant in made if variant.status != "ok"]
    found.rows += [row for variant in made for row in stage_rows(variant, trained)]
    found.wrong += [f"{v.name}: {v.reason}" for v in made if v.status == "failed"]
    with Scorer(usable_threads()) as scorer:
        session = Session(
            default_store(), _task, usable_threads(), scorer, profile, nonce=str(time.time_ns())
        )
        ready = [_unscored(variant) for variant in made if variant.artifact is not None]
        timed = time_variants(ready, trained, session)
    found.rows += timed.rows
    found.files |= {f"{name}-{part}.parquet": path for part, path in timed.files.items()}
    found.wrong += [
        f"{row.recipe}@{row.target}: {row.reason}"
        for row in dict.fromkeys(
            replace(row, metric="", batch=None, scenario="", region=None, candidates=None)
            for row in timed.rows
            if row.status == "failed"
        )
    ]


def _task(name: str) -> Any:
    _say(name)
    return lambda label, share: None


def _unscored(variant: Variant) -> Scored:
    """A variant as the times take it: nothing here asks how well an untrained model scores."""
    assert variant.artifact is not None
    engine = variant.target.engine
    facts = EngineFacts(
        engine=engine,
        version="",
        device=registry.entry("engines", engine).marks["device"],
        precision=variant.artifact.precision,
        provider="",
        threads=1,
    )
    return Scored(variant, facts, variant.artifact.folder)


def _write(out: Path, found: Found, run_id: str) -> Path:
    """Rows, raw figures and the report, put into ``out``."""
    facts, now = environment(), datetime.now(UTC).isoformat(timespec="seconds")
    stamp: Any = {"run_id": run_id, "environment": facts["key"], "commit": facts["commit"]}
    with renewed(out) as folder:
        write_text(folder / MARK, json.dumps(facts, indent=1, allow_nan=False))
        for name, path in found.files.items():
            write_bytes(folder / name, path.read_bytes())
        write_rows(folder, [replace(row, **stamp, time=row.time or now) for row in found.rows])
        report = write_report(folder)
    return out / report.name


def target_lines(rows: Sequence[Row]) -> list[str]:
    """The targets of CUDA graphs in fp16 and what was measured, and the shares of the roofline."""
    graph = [
        row
        for row in rows
        if row.target == GRAPH and row.precision == "fp16" and (row.batch or 0) <= MOST_ROWS
    ]
    lines = [_target_line(row, TARGETS[row.metric]) for row in graph if row.metric in TARGETS]
    if not lines:
        lines = [f"targets: not measured, {GRAPH} in fp16 was not timed here"]
    shares = [row for row in rows if row.metric == "share_of_limit" and row.device == "cuda"]
    for row in shares:
        told = f"{100 * row.value:.1f} % ({row.verdict})" if row.value else f"none: {row.reason}"
        lines.append(f"share of the roofline, {_where(row)}: {told}")
    return lines


def _target_line(row: Row, least: float) -> str:
    """One paired speedup beside its target: met only when the whole interval is."""
    if row.value is None or row.ci_low is None or row.ci_high is None:
        return f"target {row.metric} >= {least:g}, {_where(row)}: not measured ({row.reason})"
    verdict = "met" if row.ci_low >= least else "missed" if row.ci_high < least else "not shown"
    return (
        f"target {row.metric} >= {least:g}, {_where(row)}: {row.value:.2f} "
        f"[{row.ci_low:.2f}, {row.ci_high:.2f}] {verdict}"
    )


def _where(row: Row) -> str:
    return f"{row.recipe} on {row.target}, {row.batch} rows, {row.region}"
