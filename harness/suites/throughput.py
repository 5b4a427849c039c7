"""The throughput suite: all arms against their baseline, closed loops and open ones, as rows."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harness.results import Row
from harness.suites.arms import Arm, Loaded, Session
from harness.suites.energy import EnergyMeter
from harness.suites.engine_rows import engine_rows
from harness.suites.gpu_health import gpu_health_rows
from harness.suites.health import health_rows
from harness.suites.lists import list_record
from harness.suites.paired import Measured, Progress, measure_point
from harness.suites.plan import Plan, feed_files, request_files
from harness.suites.points import Point, draw_rows
from harness.suites.resources import Used
from harness.suites.serving import serve_arms
from harness.suites.timed_parity import row_judge, timed_parity_rows
from harness.suites.timed_rows import (
    Common,
    engine_columns,
    left_rows,
    place,
    point_latencies,
    timed_rows,
)
from harness.tables import Prepared
from harness.tasks import TASKS

__all__ = ["Arm", "Plan", "Throughput", "feed_files", "run_throughput"]

ENERGY_SECONDS = 2.0
OUTPUT_BATCHES = 16
"""Batches whose scores the timed process gives back, to be held against the accuracy pass."""


@dataclass
class Throughput:
    """Rows, the raw points behind them, latency distributions (lines of ``latencies.parquet``), the
    energy of single requests by arm, and what workers said when loaded at the first thread count,
    with their peak at the end.
    """

    rows: list[Row] = field(default_factory=list)
    points: list[Measured] = field(default_factory=list)
    latencies: list[dict[str, Any]] = field(default_factory=list)
    loaded: dict[str, Loaded] = field(default_factory=dict)
    steady: dict[str, int] = field(default_factory=dict)
    energy: dict[str, list[Used]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def run_throughput(
    arms: Sequence[Arm],
    data: Prepared,
    *,
    common: Common,
    plan: Plan,
    answers: Mapping[str, np.ndarray],
    progress: Progress,
) -> Throughput:
    """Time all arms at every point of the plan; an arm that fails has failed rows, the rest go on.

    Each thread count has worker processes of its own, since counts are fixed before an import.
    ``answers`` (by arm name) are the accuracy pass's to the plan's split: logits (rows,), or lists.
    """
    arms, threads = tuple(arms), tuple(dict.fromkeys(plan.threads))
    found, most = Throughput(), plan.profile.most_seconds
    until = math.inf if most is None else time.monotonic() + most
    with TemporaryDirectory() as folder:
        for at, count in enumerate(threads):
            share = part(progress, at / len(threads), 1 / len(threads))
            with Session(arms, count) as session:
                run = _SessionRun(session, data, plan, common, answers, Path(folder), found, until)
                run.all(share, open_loop=count == threads[0] or _each(plan))
            found.failures = {**session.failures, **found.failures}
    return found


def _each(plan: Plan) -> bool:
    return plan.profile.open_loop_threads == "each"


def part(progress: Progress, start: float, size: float) -> Progress:
    """Progress of a part that begins at ``start`` and is ``size`` of the whole."""
    return lambda label, share: progress(label, start + size * share)


@dataclass
class _SessionRun:
    """One thread count: closed loops, scores of the timed processes, open loops, memory."""

    session: Session
    data: Prepared
    plan: Plan
    common: Common
    answers: Mapping[str, np.ndarray]
    folder: Path
    found: Throughput
    until: float

    def all(self, progress: Progress, *, open_loop: bool) -> None:
        session, plan = self.session, self.plan
        session.load(self._requests(), part(progress, 0.0, 0.1))
        cores = session.pin()
        self.found.loaded = {**session.loaded, **self.found.loaded}
        points = self._points()
        measured = []
        closed = part(progress, 0.1, 0.5 if open_loop else 0.9)
        for at, (point, arms) in enumerate(points.items()):
            if time.monotonic() >= self.until:
                self.found.rows += left_rows(self.common, point, arms, session.loaded)
                continue
            share = part(closed, at / len(points), 1 / len(points))
            measured.append(self._closed(point, arms, share))
        if open_loop:
            served = serve_arms(
                session,
                self._requests(),
                measured,
                plan=plan,
                common=self.common,
                progress=part(progress, 0.6, 0.4),
            )
            self.found.rows += served.rows
            self.found.latencies += served.latencies
        for arm in session.alive:
            told = session.ask(arm, "memory", timeout=session.limits.load)
            if told is not None:
                self.found.steady.setdefault(arm.name, told["peak"])
                self._told(arm, told)
        self.found.rows += self._health(measured, cores)

    def _points(self) -> dict[Point, tuple[Arm, ...]]:
        """The closed-loop points; the events of a device are for arms that run on one."""
        on_device = {n for n, told in self.session.loaded.items() if told.facts["device"] != "cpu"}
        points = self.plan.points(self.session.arms, threads=self.session.threads)
        kept = {
            point: tuple(a for a in arms if point.region != "device_only" or a.name in on_device)
            for point, arms in points.items()
        }
        return {point: arms for point, arms in kept.items() if arms}

    def _told(self, arm: Arm, memory: Mapping[str, Any]) -> None:
        """What an engine on a device says of itself at the end."""
        if arm.role == "aa" or self.session.loaded[arm.name].facts["device"] == "cpu":
            return
        facts = self.session.ask(arm, "facts", timeout=self.session.limits.load)
        if facts is not None:
            columns = {**self.common[arm.name], **engine_columns(self.session.loaded, arm)}
            self.found.rows += engine_rows(columns, facts, memory)

    def _requests(self) -> dict[str, Path]:
        session = self.session
        return request_files(
            session.arms, self.data, self.plan, self.folder, threads=session.threads
        )

    def _closed(self, point: Point, arms: tuple[Arm, ...], progress: Progress) -> Measured:
        feeds = feed_files(arms, self.data, point, self.plan, self.folder)
        measured = measure_point(
            self.session,
            point,
            feeds,
            self.plan.profile.protocol,
            seed=self.plan.seed,
            progress=progress,
        )
        self.found.points.append(measured)
        self.found.rows += timed_rows(self.common, measured)
        if point.scenario == "single" and point.region == "model_only":
            self.found.latencies += point_latencies(self.common, measured)
            self.found.rows += self._parity(point, measured)
            self._energy(measured)
        return measured

    def _energy(self, measured: Measured) -> None:
        """A longer block of every arm between two readings, where there is anything to read."""
        with EnergyMeter() as nothing:
            pass
        readable = nothing.energy.cpu is not None or nothing.energy.gpu is not None
        for arm in measured.arms:
            if arm.role == "aa" or arm.name not in measured.series:
                continue
            used = Used(nothing.energy, 1, self.session.threads)
            if readable:
                used = self._metered(arm) or used
            self.found.energy.setdefault(arm.name, []).append(used)

    def _metered(self, arm: Arm) -> Used | None:
        with EnergyMeter() as meter:
            block = self.session.block(arm, seconds=ENERGY_SECONDS, calls=3, cap=10.0)
        if block is None:
            return None
        return Used(meter.energy, len(block["latencies"]), self.session.threads)

    def _parity(self, point: Point, measured: Measured) -> list[Row]:
        """Answers of the timed processes against those of the accuracy pass to the same rows; rows
        that fill up a request are another household's there, and left out.
        """
        split, task = self.data.splits[self.plan.split], TASKS[self.data.schema.task]
        batches = draw_rows(split, point, seed=self.plan.seed)[:OUTPUT_BATCHES]
        request = split.request_of_row
        own = np.concatenate([(request[b] == request[b[:, :1]]).ravel() for b in batches])
        rows = np.concatenate([batch.ravel() for batch in batches])[own]
        judged, at = row_judge(np.asarray(split.label)[rows], task), rows
        if task.lists:
            at = request[rows]
            judged = partial(list_record, self.data, split, requests=at)
        found: list[Row] = []
        for arm in measured.arms:
            asked = arm.role != "aa" and "parity" in self.plan.load(arm).scenarios
            if not asked:
                continue
            path = self.folder / "outputs.npy"
            limit = self.session.limits.point
            answer = self.session.ask(
                *(arm, "outputs"), timeout=limit, path=str(path), batches=len(batches)
            )
            columns = {
                **self.common[arm.name],
                **place(point),
                **engine_columns(measured.loaded, arm),
            }
            found += timed_parity_rows(
                {**columns, "scenario": "parity"},
                timed=None if answer is None else np.load(path, allow_pickle=False)[own],
                scored=self.answers[arm.name][at],
                judged=judged,
                task=task,
                failure=self.session.failures.get(arm.name),
            )
        return found

    def _health(self, measured: Sequence[Measured], cores: tuple[int, ...] | None) -> list[Row]:
        healths = [h for one in measured for series in one.series.values() for h in series.health]
        clocks = [clock for one in measured for clock in one.mhz]
        baseline = next(iter(self.common.values()))["baseline"]
        machine, threads = {"baseline": baseline}, self.session.threads
        gpus = [gpu for one in measured for series in one.series.values() for gpu in series.gpu]
        rows = health_rows(machine, threads, healths=healths, mhzs=clocks)
        return [*rows, *gpu_health_rows(machine, threads, gpus)]
