"""The resources suite: CPU time, energy and money for requests, and CPU time to make a variant.

Everything is from rows and readings that are there already; nothing is measured here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.artifact import Artifact
from harness.results import Row
from harness.suites.energy import Energy

SCENARIO = "resources"
_REGIONS = ("end_to_end", "model_only")
"""Regions of the single request, the one that says more about serving first."""


@dataclass(frozen=True, slots=True)
class Used:
    """The energy that a block of single requests took at a thread count."""

    energy: Energy
    requests: int
    threads: int


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour of the whole machine costs, and how many threads it has for that."""

    per_hour: float | None
    currency: str
    usable_threads: int


def resource_rows(
    common: Mapping[str, Any],
    artifact: Artifact,
    timed_rows: Sequence[Row],
    *,
    price: Price,
    energy: Sequence[Used] = (),
) -> list[Row]:
    """CPU time, energy and cost at every thread count that the variant's single requests were timed
    at, what it took to make, and the price. ``timed_rows`` may hold others' rows too.
    """
    mine = [
        row
        for row in timed_rows
        if all(getattr(row, name) == common.get(name) for name in ("recipe", "target"))
    ]
    base = {**common, "scenario": SCENARIO, "direction": "lower"}
    counts = sorted({r.threads for r in mine if r.scenario == "single" and r.threads})
    rows = [
        row
        for threads in counts
        for row in _thread_rows(base, _at(mine, threads), (threads, price), energy)
    ]
    return [*rows, _making_row(base, artifact), _price_row(base, price)]


def _at(rows: Sequence[Row], threads: int) -> list[Row]:
    return [row for row in rows if row.threads == threads]


def _thread_rows(
    base: Mapping[str, Any],
    timed: Sequence[Row],
    at: tuple[int, Price],
    energy: Sequence[Used],
) -> list[Row]:
    threads, price = at
    used = next((one for one in energy if one.threads == threads), None)
    cpu = _single(timed, "cpu_seconds_per_call")
    rate, told = _rate(timed)
    place = {**base, **_facts(timed), "threads": threads}
    return [
        _cpu_row(place, cpu),
        Row(
            **place,
            metric="joules_per_1000_requests",
            unit="J",
            **joules_per_1000(used, device=place["device"]),
        ),
        Row(
            **{**place, **_load(rate)},
            metric="cost_per_million_requests",
            unit=price.currency,
            **cost_per_million(price, threads, rate.value if rate else None, told=told),
        ),
    ]


def _facts(timed: Sequence[Row]) -> dict[str, Any]:
    """The engine's columns, from the first row that has them."""
    names = ("engine", "engine_version", "device", "precision")
    row = next((row for row in timed if row.device), timed[0])
    return {name: getattr(row, name) for name in names}


def _load(row: Row | None) -> dict[str, Any]:
    if row is None:
        return {}
    return {name: getattr(row, name) for name in ("region", "batch", "candidates", "noise")}


def _single(timed: Sequence[Row], metric: str) -> Row | None:
    """The single request's row of a metric, of the region that says more; None without a value."""
    found = {
        row.region: row
        for row in timed
        if row.scenario == "single" and row.metric == metric and row.value
    }
    return next((found[region] for region in _REGIONS if region in found), None)


def _cpu_row(place: Mapping[str, Any], cpu: Row | None) -> Row:
    named: dict[str, Any] = {"metric": "cpu_seconds_per_1000_requests", "unit": "s"}
    if cpu is None or cpu.value is None:
        return Row(**place, **named, reason="no CPU time of single requests was measured")
    # A call of the single point is one request.
    return Row(**{**place, **_load(cpu)}, **named, value=1000 * cpu.value, n=cpu.n)


def joules_per_1000(used: Used | None, *, device: str | None) -> dict[str, Any]:
    """Value or reason of the energy of 1000 requests: the whole machine's; where half of it can't
    be read, that of the kind of device that did the work, said so.
    """
    if used is None or used.requests <= 0:
        return {"reason": "energy wasn't measured"}
    energy, on_gpu = used.energy, (device or "cpu") != "cpu"
    joules, told = (energy.cpu or 0.0) + (energy.gpu or 0.0), "the whole machine's"
    if (energy.gpu if on_gpu else energy.cpu) is None:
        why = energy.no_gpu if on_gpu else energy.no_cpu
        return {"reason": why or "no counter of the device that did the work"}
    missing = energy.no_cpu if on_gpu else energy.no_gpu
    if missing:
        told = f"of the {'GPUs' if on_gpu else 'CPUs'} alone ({missing})"
    value = joules * 1000 / used.requests
    return {"value": value, "n": used.requests, "reason": f"{told}, its idle power included"}


def _rate(timed: Sequence[Row]) -> tuple[Row | None, str]:
    """The row of the requests a second that costs are counted with, and what it is."""
    for row in timed:
        if row.scenario == "qps_at_sla" and row.metric == "qps_at_sla" and row.value:
            return row, "at the largest rate within the service level"
    row_or_none = _single(timed, "requests_per_second")
    region = (row_or_none.region or "") if row_or_none else ""
    return row_or_none, f"at the rate of one request after the other, {region.replace('_', ' ')}"


def cost_per_million(
    price: Price, threads: int, rate: float | None, *, told: str
) -> dict[str, Any]:
    """Value or reason of the cost of a million requests at ``rate`` requests/s on ``threads`` of
    the machine's: an hour's price x their share / requests of an hour x 10^6.
    """
    if price.per_hour is None:
        return {"reason": "the profile gives no price_per_hour"}
    if not rate or rate < 0:
        return {"reason": "no rate of requests was measured"}
    share = threads / price.usable_threads
    return {"value": price.per_hour * share / (3600 * rate) * 1e6, "reason": told}


def _making_row(base: Mapping[str, Any], artifact: Artifact) -> Row:
    named: dict[str, Any] = {"metric": "making_cpu_seconds", "unit": "s"}
    if not artifact.lineage:
        return Row(**base, **named, reason="the artifact doesn't tell how it was made")
    steps = ", ".join(step.stage for step in artifact.lineage)
    spent = sum(step.cpu_seconds for step in artifact.lineage)
    return Row(**base, **named, value=float(spent), n=len(artifact.lineage), reason=steps)


def _price_row(base: Mapping[str, Any], price: Price) -> Row:
    told: dict[str, Any] = {"metric": "price_per_hour", "unit": f"{price.currency}/h"}
    if price.per_hour is None:
        return Row(**base, **told, reason="the profile gives no price_per_hour")
    return Row(**base, **told, value=float(price.per_hour))
