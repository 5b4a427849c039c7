"""Rows of the open-loop loads: what each showed, and the largest rate within the service level."""

from collections.abc import Mapping
from typing import Any

from harness.results import MACHINE, Row
from harness.suites.server import QUANTILE, Probe, Search, rate_text
from harness.suites.statistics import queries_needed

FLOOR_TIMES = 3.0
"""A p99 under this many times the null model's says more about the generator than the model."""

_UNITS: Mapping[str, tuple[str, str]] = {
    "latency_p50": ("s", "lower"),
    "latency_p90": ("s", "lower"),
    "latency_p99": ("s", "lower"),
    "service_p50": ("s", "lower"),
    "achieved_rate": ("requests/s", "higher"),
    "achieved_share": ("share", "higher"),
    "utilisation": ("share", "lower"),
    "backlog_max": ("requests", "lower"),
    "floor_p99": ("s", "lower"),
    "qps_at_sla": ("requests/s", "higher"),
    "sla": ("s", "lower"),
    "failing_rate": ("requests/s", "higher"),
    "probe_p99": ("s", "lower"),
    "generator_rate": ("requests/s", "higher"),
}


def _row(base: Mapping[str, Any], metric: str, value: float | None, **more: Any) -> Row:
    unit, direction = _UNITS[metric]
    number = None if value is None else float(value)
    figure = {"metric": metric, "unit": unit, "direction": direction, "value": number}
    return Row(**{**base, **figure, **more})


def _base(common: Mapping[str, Any], place: Mapping[str, Any], scenario: str) -> dict[str, Any]:
    return {**common, **place, "scenario": scenario, "region": "end_to_end"}


def _few(probe: Probe, q: float, value: float | None) -> dict[str, str]:
    """Why a percentile isn't known; nothing when it is."""
    if value is not None:
        return {}
    return {"reason": f"{probe.n} requests; p{100 * q:g} needs {queries_needed(q)}"}


def not_ranked(p99: float | None, floor: Probe | None) -> str | None:
    """Why a p99 must not be ranked, given the null model's load at the same rate; None if it may.

    A p99 that isn't known can't be ranked either way and gives None.
    """
    if p99 is None:
        return None
    if floor is None or floor.p99 is None:
        return "the null model's p99 isn't known"
    if p99 < FLOOR_TIMES * floor.p99:
        return f"under {FLOOR_TIMES:g}x the null model's p99 of {1e3 * floor.p99:.3g} ms"
    return None


def server_rows(
    common: Mapping[str, Any], place: Mapping[str, Any], probe: Probe, *, floor: Probe | None
) -> list[Row]:
    """Rows of one load of one arm; ``common`` and ``place`` (batch, candidates, threads) are the
    row columns that say whose, ``floor`` the same load with a null model.
    """
    base = {**_base(common, place, "server"), "offered_rate": probe.rate, "n": probe.n}
    unranked = not_ranked(probe.p99, floor)
    told = "; ".join(reason for reason in (unranked, probe.why) if reason)
    p99 = {"verdict": "not ranked" if unranked else None, "reason": told or None}
    return [
        _row(base, "latency_p50", probe.p50, **_few(probe, 0.5, probe.p50)),
        _row(base, "latency_p90", probe.p90, **_few(probe, 0.9, probe.p90)),
        _row(base, "latency_p99", probe.p99, **(_few(probe, QUANTILE, probe.p99) or p99)),
        _row(base, "service_p50", probe.service_p50, **_few(probe, 0.5, probe.service_p50)),
        _row(base, "achieved_rate", probe.achieved),
        _row(base, "achieved_share", probe.share),
        _row(base, "utilisation", probe.utilisation),
        _row(base, "backlog_max", probe.backlog_max),
        _floor_row(base, floor),
    ]


def _floor_row(base: Mapping[str, Any], floor: Probe | None) -> Row:
    if floor is None:
        return _row(base, "floor_p99", None, reason="the null model wasn't measured")
    few = _few(floor, QUANTILE, floor.p99)
    return _row(base, "floor_p99", floor.p99, **few)


def search_rows(
    common: Mapping[str, Any],
    place: Mapping[str, Any],
    search: Search,
    *,
    sla: float,
    reference_rate: float | None,
    floor: Probe | None,
) -> list[Row]:
    """Rows of a search by one arm; ``reference_rate`` is what its engine's reference can take (None
    for the reference itself), ``floor`` the confirmed load with a null model.
    """
    base = _base(common, place, "qps_at_sla")
    confirmed, failing, rate = search.confirmed, search.failing, search.rate
    ratio = rate / reference_rate if rate is not None and reference_rate is not None else None
    if confirmed is None:
        p99, used = None, None
        of: dict[str, Any] = {"reason": search.reason}
        found = of
    else:
        p99, used = confirmed.p99, confirmed.utilisation
        of = {"offered_rate": confirmed.rate, "n": confirmed.n}
        found = {"n": confirmed.n, **_found(confirmed, failing, sla=sla, floor=floor)}
    return [
        _row(base, "qps_at_sla", rate, ratio=ratio, **found),
        _row(base, "sla", sla),
        _row(base, "latency_p99", p99, **of),
        _row(base, "utilisation", used, **of),
        _failing_row(base, failing),
        *(_probe_row(base, probe) for probe in search.probes),
    ]


def _found(
    confirmed: Probe, failing: Probe | None, *, sla: float, floor: Probe | None
) -> dict[str, str | None]:
    """What is told beside the largest rate: its p99, its neighbour, whether it may be ranked."""
    assert confirmed.p99 is not None  # no load without one is passed
    assert failing is not None  # no rate is settled on without one
    unranked = not_ranked(confirmed.p99, floor)
    told = (
        f"p99 {1e3 * confirmed.p99:.3g} ms within {1e3 * sla:g} ms; "
        f"{rate_text(failing.rate)} failed: {failing.why}"
    )
    if unranked is None:
        return {"reason": told}
    return {"reason": f"{told}; {unranked}", "verdict": "not ranked"}


def _failing_row(base: Mapping[str, Any], failing: Probe | None) -> Row:
    if failing is None:
        return _row(base, "failing_rate", None, reason="no load failed")
    return _row(base, "failing_rate", failing.rate)


def _probe_row(base: Mapping[str, Any], probe: Probe) -> Row:
    few = _few(probe, QUANTILE, probe.p99).get("reason")
    return _row(
        base,
        "probe_p99",
        probe.p99,
        offered_rate=probe.rate,
        n=probe.n,
        verdict="passed" if probe.passed else "failed",
        reason="; ".join(reason for reason in (probe.why, few) if reason) or None,
    )


def failed_row(
    common: Mapping[str, Any], place: Mapping[str, Any], scenario: str, *, reason: str
) -> Row:
    """The one row of an arm that ended during ``scenario`` (server or qps_at_sla)."""
    metric = "qps_at_sla" if scenario == "qps_at_sla" else "latency_p99"
    base = _base(common, place, scenario)
    return _row(base, metric, None, status="failed", reason=reason)


def generator_row(common: Mapping[str, Any], rate: float, requests: int) -> Row:
    """What the load generator sustains on this machine; ``common`` says which baseline."""
    base = {**common, "recipe": MACHINE, "scenario": "server"}
    return _row(base, "generator_rate", rate, n=requests)
