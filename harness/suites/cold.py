"""The cold scenario: arms started alone in fresh processes, from the start to the first scores."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.results import Row
from harness.suites.arms import COMMAND, Arm, ArmError, Limits, Process

Progress = Callable[[str, float], None]

LONGEST = Limits().load
"""Most seconds that a start may take."""
WARM = "files were in the page cache"
"""What a start here is not: the first one after the machine was switched on."""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One fresh process, seconds; ``peak`` is its most resident memory (bytes) at the first call.

    ``total`` runs from before the process is started until its first scores are there, the reading
    of its inputs and the answer to the parent included.
    """

    total: float
    imported: float
    load: float
    first_call: float
    calls_2_to_10: tuple[float, ...]
    peak: int


def measure_cold(
    arms: Sequence[Arm],
    feeds: Mapping[str, Path],
    *,
    threads: int,
    processes: int,
    seed: int,
    progress: Progress,
    command: Sequence[str] = COMMAND,
) -> tuple[dict[str, tuple[ColdStart, ...]], dict[str, str]]:
    """Every arm's starts in ``processes`` fresh processes, one at a time, and why arms failed.

    In every round each arm is started once, in an order drawn anew from ``seed``. An arm that
    fails isn't started again and has no starts (an empty tuple). ``feeds`` has each arm's file of
    inputs; give one of ten batches, as reading it is part of the start.
    """
    starts: dict[str, tuple[ColdStart, ...]] = {arm.name: () for arm in arms}
    failures: dict[str, str] = {}
    rng = np.random.default_rng(seed)
    for round_ in range(processes):
        for at in rng.permutation(len(arms)):
            arm = arms[at]
            if arm.name in failures:
                continue
            try:
                start = _start(arm, feeds[arm.name], threads, command)
                starts[arm.name] += (start,)
            except ArmError as error:
                failures[arm.name] = str(error)
        progress("starting fresh processes", (round_ + 1) / processes)
    return {name: () if name in failures else found for name, found in starts.items()}, failures


def _start(arm: Arm, feeds: Path, threads: int, command: Sequence[str]) -> ColdStart:
    begun = time.perf_counter()
    process = Process(arm, threads=threads, command=command)
    try:
        told = process.ask(
            "load",
            timeout=LONGEST,
            engine=arm.engine,
            folder=str(arm.folder),
            threads=threads,
            feeds=str(feeds),
            slowdown=arm.slowdown,
        )
        elapsed = time.perf_counter() - begun
        facts = process.ask("facts", timeout=LONGEST)
    finally:
        process.close()
    if facts["threads"] != threads:
        raise ArmError(
            f"{arm.name}: asked for {threads} threads, {arm.engine} has {facts['threads']}"
        )
    calls, seconds = tuple(call / 1e9 for call in told["calls"]), told["seconds"]
    return ColdStart(
        total=elapsed - sum(calls),  # the worker answers after its tenth call
        imported=seconds["import"],
        load=seconds["load"],
        first_call=seconds["first_call"],
        calls_2_to_10=calls,
        peak=told["memory"]["first_call"],
    )


def cold_rows(
    common: Mapping[str, Mapping[str, Any]],
    place: Mapping[str, Any],
    starts: Mapping[str, Sequence[ColdStart]],
    failures: Mapping[str, str],
) -> list[Row]:
    """Medians over the fresh processes (``n``) of every arm named in ``common``, in seconds; an arm
    without a start has a failed row. ``place`` holds threads, batch and candidates.
    """
    rows = []
    for name, shared in common.items():
        base = {**shared, **place, "scenario": "cold", "region": "end_to_end"}
        base |= {"unit": "s", "direction": "lower"}
        if starts.get(name):
            rows += [Row(**{**base, **figure}) for figure in _figures(starts[name])]
        else:
            failed = {"status": "failed", "reason": failures.get(name, "it was never started")}
            rows.append(Row(**{**base, "metric": "cold_start", **failed}))
    return rows


def _figures(starts: Sequence[ColdStart]) -> list[dict[str, Any]]:
    values = {
        "cold_start": [start.total for start in starts],
        "cold_import": [start.imported for start in starts],
        "cold_load": [start.load for start in starts],
        "cold_first_call": [start.first_call for start in starts],
        "cold_calls_2_to_10": [float(np.median(start.calls_2_to_10)) for start in starts],
    }
    return [
        {"metric": metric, "value": float(np.median(found)), "n": len(found), "reason": WARM}
        for metric, found in values.items()
    ]
