"""All arms of a session under open loops: a load each, and the most each takes within its SLA."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.profile import PROVES_P99, Load, Profile
from harness.results import Row
from harness.suites import openloop
from harness.suites.arms import Arm, Session
from harness.suites.paired import Measured, Progress
from harness.suites.plan import Plan
from harness.suites.points import request_point
from harness.suites.server import (
    Probe,
    Search,
    generator_rate,
    judge_load,
    search_rate,
    serve_arm,
    sla_load,
)
from harness.suites.server_rows import failed_row, generator_row, search_rows, server_rows
from harness.suites.timed_rows import Common, engine_columns, latency_lines, place

OPEN = ("server", "qps_at_sla")
GENERATOR_REQUESTS = 50_000


@dataclass
class Loads:
    """Rows and latency distributions (lines of ``latencies.parquet``) of all open loops."""

    rows: list[Row] = field(default_factory=list)
    latencies: list[dict[str, Any]] = field(default_factory=list)


def serve_arms(
    session: Session,
    feeds: Mapping[str, Path],
    measured: Sequence[Measured],
    *,
    plan: Plan,
    common: Common,
    progress: Progress,
) -> Loads:
    """Serve every arm that asks for it, one after the other, references first; ``measured`` holds
    the closed loops, whose rates say where a search starts.
    """
    asked = [arm for arm in session.arms if arm.role != "aa" and _asks(plan.load(arm))]
    asked.sort(key=lambda arm: arm.role != "reference")
    found = Loads()
    if not asked:
        return found
    rates: dict[str, float | None] = {}
    floors: dict[float, Probe] = {}
    session.prepare(
        {arm.name: feeds[arm.name] for arm in asked},
        plan.profile.protocol.warm,
        region="end_to_end",
    )
    found.rows += _generator(session, asked, common)
    for at, arm in enumerate(asked):
        one = _Served(session, arm, plan, common[arm.name], found, floors)
        reference = None if arm.role == "reference" else _reference(session, arm, plan)
        rates[arm.name] = one.all(_closed_rate(arm, measured), rates.get(reference or ""))
        progress(f"serving {arm.name}", (at + 1) / len(asked))
    return found


def _asks(load: Load) -> bool:
    return any(name in load.scenarios for name in OPEN)


def _generator(session: Session, arms: Sequence[Arm], common: Common) -> list[Row]:
    """What the generator sustains, beside the first arm that can tell it."""
    for arm in arms:
        rate = generator_rate(session, arm, GENERATOR_REQUESTS)
        if rate is not None:
            columns = {"baseline": common[arm.name]["baseline"], "threads": session.threads}
            return [generator_row(columns, rate, GENERATOR_REQUESTS)]
    return []


def _reference(session: Session, arm: Arm, plan: Plan) -> str | None:
    """The reference on the same engine, if it is asked for the same requests and service level."""
    load = plan.load(arm)
    for other in session.arms:
        theirs = plan.load(other)
        same = (load.candidates, load.sla) == (theirs.candidates, theirs.sla)
        if other.role == "reference" and other.engine == arm.judge and same:
            return other.name
    return None


def _closed_rate(arm: Arm, measured: Sequence[Measured]) -> float | None:
    """Requests/s of the arm's whole request in a closed loop; None where it wasn't measured."""
    for one in measured:
        series = one.series.get(arm.name)
        point = one.point
        if series and point.scenario == "single" and point.region == "end_to_end":
            return float(series.calls.sum() / series.wall.sum())
    return None


@dataclass
class _Served:
    """One arm under open loops."""

    session: Session
    arm: Arm
    plan: Plan
    columns: Mapping[str, Any]
    found: Loads
    floors: dict[float, Probe]
    served: dict[float, openloop.Served] = field(default_factory=dict)
    """Whole loads by rate; a search that comes by one needs not run it again."""

    @property
    def _load(self) -> Load:
        return self.plan.load(self.arm)

    @property
    def _profile(self) -> Profile:
        return self.plan.profile

    @property
    def _base(self) -> dict[str, Any]:
        return {**self.columns, **engine_columns(self.session.loaded, self.arm)}

    @property
    def _place(self) -> dict[str, Any]:
        point = request_point(self._load, threads=self.session.threads, region="end_to_end")
        return {**place(point), "scenario": "server"}

    def all(self, closed: float | None, reference_rate: float | None) -> float | None:
        """Both scenarios; the rate found within the service level, or None."""
        asked = self._load.scenarios
        half = self._half(closed)
        if "server" in asked:
            self._serve(self._load.rate or half)
        if "qps_at_sla" not in asked:
            return None
        search = None if half is None else self._search(half)
        if search is None or self.arm.name in self.session.failures:
            self._failed("qps_at_sla")
            return None
        winner = search.confirmed
        self.found.rows += search_rows(
            self._base,
            self._place,
            search,
            sla=self._load.sla,
            reference_rate=reference_rate,
            floor=self._floor(winner.rate) if winner else None,
        )
        return search.rate

    def _half(self, closed: float | None) -> float | None:
        """Half of what the arm sustains in a closed loop; without that, of its early calls."""
        if closed is not None:
            return closed / 2
        loaded = self.session.loaded.get(self.arm.name)
        if loaded is None or not loaded.calls:
            return None
        return 0.5e9 * len(loaded.calls) / sum(loaded.calls)

    def _serve(self, rate: float | None) -> None:
        load = None
        if rate is not None:
            load = openloop.PoissonLoad(rate, self._requests(rate), self.plan.seed)
        served = None if load is None else serve_arm(self.session, self.arm, load)
        if load is None or load.rate is None or served is None:
            self._failed("server")
            return
        self.served[load.rate] = served
        probe = judge_load(served, load.rate)
        self.found.rows += server_rows(self._base, self._place, probe, floor=self._floor(load.rate))
        self.found.latencies += latency_lines(
            {**self._base, **self._place}, served.latencies / 1e9, offered_rate=load.rate
        )

    def _requests(self, rate: float) -> int:
        """How many make up a load at a rate."""
        return max(self._profile.requests, math.ceil(rate * self._profile.load_seconds))

    def _search(self, start: float) -> Search:
        def probe(rate: float) -> Probe | None:
            known = self.served.pop(rate, None)
            if known is not None:
                return judge_load(known, rate, sla=self._load.sla)
            load = sla_load(
                rate,
                requests=self._requests(rate),
                seed=self.plan.seed,
                sla=self._load.sla,
            )
            served = serve_arm(self.session, self.arm, load)
            return None if served is None else judge_load(served, rate, sla=self._load.sla)

        return search_rate(probe, start, precision=self._profile.rate_precision)

    def _floor(self, rate: float) -> Probe | None:
        """A null model under the load, as long as proves its p99: at the power of two nearest to
        the rate, measured once for all arms, since it hardly depends on the rate.
        """
        step = 2.0 ** round(math.log2(rate))
        if step not in self.floors:
            load = openloop.PoissonLoad(step, PROVES_P99, self.plan.seed)
            served = serve_arm(self.session, self.arm, load, null=True)
            if served is None:
                return None
            self.floors[step] = judge_load(served, step)
        return self.floors[step]

    def _failed(self, scenario: str) -> None:
        reason = self.session.failures.get(self.arm.name, "its speed in a closed loop isn't known")
        self.found.rows.append(failed_row(self._base, self._place, scenario, reason=reason))
