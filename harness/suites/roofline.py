"""The roofline suite: how close each variant comes to what the machine's peaks allow.

The limit of a call is the longest of three times, each at its peak: its operations, its dense
bytes, its table rows (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785). The
share of the limit is that time over the measured median; a share above 1 is left as it is, since
it says that a peak or a count was too low.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.artifact import Artifact
from harness.errors import UnsupportedError
from harness.results import MACHINE, Row
from harness.suites.peaks import Peak, Peaks
from harness.suites.work import Counts, Work, call_work, count_work

Bound = Literal["compute", "memory", "random rows"]
SCENARIO = "roofline"
_METRICS: Mapping[str, Mapping[str, str]] = {
    "operations_per_call": {"unit": "count", "direction": "lower"},
    "bytes_per_call": {"unit": "bytes", "direction": "lower"},
    "limit_seconds": {"unit": "s", "direction": "lower"},
    "share_of_limit": {"unit": "share", "direction": "higher"},
}
_TIMED_COLUMNS = (
    *("engine", "engine_version", "device", "precision"),
    *("region", "batch", "candidates", "threads"),
)


@dataclass(frozen=True, slots=True)
class NoPeaks:
    """Peaks that couldn't be measured at a thread count, and why."""

    threads: int
    reason: str
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Limit:
    """The least seconds that a call can take, and what bounds it."""

    seconds: float
    bound: Bound


def limit(work: Work, peaks: Peaks, precision: str) -> Limit:
    """The limit of a call whose products compute in ``precision`` (a label of ``EngineFacts``).

    int8 takes the int8 peak for all products, the few left in fp32 too, and on a GPU fp16 and bf16
    take theirs in the same way; anything else the fp32 peak. Dense bytes stream at the bandwidth of
    an array of their size and rows are gathered at that of a table of their table's size, so that a
    model that fits into a cache isn't judged by the memory's. Raises ``UnsupportedError`` when the
    peak isn't known.
    """
    peak = compute_peak(peaks, precision)
    gathers = (size / _at(peaks.random_rows, table) for table, size in work.gathered)
    seconds: dict[Bound, float] = {
        "compute": work.operations / _value(peak),
        "memory": work.dense_bytes / _at(peaks.streams, work.dense_bytes),
        "random rows": sum(gathers),
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return Limit(seconds[bound], bound)


def compute_peak(peaks: Peaks, precision: str) -> Peak:
    """The peak of products in ``precision``; a CPU's half precision computes in fp32."""
    if computes_int8(precision):
        return peaks.int8
    halves = (peak for name, peak in peaks.halves.items() if name in precision.partition(",")[0])
    return next(halves, peaks.fp32)


def computes_int8(precision: str) -> bool:
    """Whether a precision label says that products compute in int8: not where it only stores."""
    return "int8" in precision.partition(",")[0]


def _at(bandwidths: Mapping[int, Peak], size: int) -> float:
    """The bandwidth at the nearest measured size that isn't smaller, else at the largest."""
    if not bandwidths:
        raise UnsupportedError("no limit: no bandwidth was measured")
    fitting = [measured for measured in bandwidths if measured >= size]
    return _value(bandwidths[min(fitting) if fitting else max(bandwidths)])


def _value(peak: Peak) -> float:
    if peak.value is None:
        raise UnsupportedError(f"no limit: the peak couldn't be measured ({peak.how})")
    return peak.value


def peak_rows(common: Mapping[str, Any], peaks: Peaks | NoPeaks) -> list[Row]:
    """Rows of the machine's peaks at one thread count, the bandwidths with their working set's
    bytes as ``batch``; one failed row where there are none. Metrics of a GPU begin with ``gpu_``.
    """
    prefix = "" if peaks.device == "cpu" else "gpu_"
    base = {
        **common,
        "recipe": MACHINE,
        "target": None,
        "scenario": SCENARIO,
        "device": peaks.device,
        "direction": "higher",
        "threads": peaks.threads,
    }
    if isinstance(peaks, NoPeaks):
        failed = {"metric": f"{prefix}peak_fp32", "unit": "FLOP/s", "status": "failed"}
        return [Row(**{**base, **failed, "reason": peaks.reason})]
    figures: list[tuple[str, str, int | None, Peak]] = [
        ("peak_fp32", "FLOP/s", None, peaks.fp32),
        *((f"peak_{name}", "FLOP/s", None, peak) for name, peak in peaks.halves.items()),
        ("peak_int8", "op/s", None, peaks.int8),
        *(("stream_bandwidth", "bytes/s", *item) for item in peaks.streams.items()),
        *(("random_row_bandwidth", "bytes/s", *item) for item in peaks.random_rows.items()),
        *((f"{name}_bandwidth", "bytes/s", None, peak) for name, peak in peaks.links.items()),
    ]
    return [
        Row(**{**base, "metric": prefix + metric, "unit": unit, "batch": size, **_told(peak)})
        for metric, unit, size, peak in figures
    ]


def _told(peak: Peak) -> dict[str, Any]:
    if peak.value is None:
        return {"status": "skipped", "reason": peak.how}
    return {"value": peak.value, "n": peak.n, "reason": f"best of {peak.n} repeats: {peak.how}"}


def roofline_rows(
    common: Mapping[str, Any],
    artifact: Artifact,
    peaks: Peaks | NoPeaks,
    timed_rows: Sequence[Row],
    *,
    counts: Counts | str | None = None,
) -> list[Row]:
    """Operations, bytes, limit and share of it at every closed-loop ``model_only`` point that the
    variant was timed at with the peaks' thread count; ``timed_rows`` may hold others' rows too.
    Where the device's own events were read (``device_only``) it is their time that counts.

    What can't be counted or has no limit is a row without a value and with the reason. ``counts``
    is what ``counted`` gave for the artifact, where it was counted before.
    """
    counts = counts or counted(artifact)
    timed: dict[tuple[int | None, int | None], Row] = {}
    for row in sorted(timed_rows, key=lambda row: row.region != "device_only"):
        if _fits(row, common, peaks.threads):
            timed.setdefault((row.batch, row.candidates), row)
    return [made for row in timed.values() for made in _point_rows(common, counts, peaks, row)]


def counted(artifact: Artifact) -> Counts | str:
    """What an artifact's calls are made of, or why it can't be counted."""
    try:
        return count_work(artifact)
    except UnsupportedError as error:
        return str(error)


def _fits(row: Row, common: Mapping[str, Any], threads: int) -> bool:
    mine = all(getattr(row, name) == common.get(name) for name in ("recipe", "target"))
    device = row.region == "device_only" and row.value is not None
    point = row.scenario in ("single", "sweep") and (device or row.region == "model_only")
    sized = row.batch is not None and row.candidates is not None
    return mine and point and sized and row.metric == "latency_p50" and row.threads == threads


def _point_rows(
    common: Mapping[str, Any], counts: Counts | str, peaks: Peaks | NoPeaks, timed: Row
) -> list[Row]:
    base = {**common, **{name: getattr(timed, name) for name in _TIMED_COLUMNS}}
    base |= {"scenario": SCENARIO, "noise": timed.noise}
    values = _figures(counts, peaks, timed)
    return [
        Row(**{**base, "metric": metric, **_METRICS[metric], **values[metric]})
        for metric in _METRICS
    ]


def _figures(counts: Counts | str, peaks: Peaks | NoPeaks, timed: Row) -> dict[str, dict[str, Any]]:
    """Value or reason of each metric at one timed point."""
    if isinstance(counts, str):
        return dict.fromkeys(_METRICS, _missing(counts))
    assert timed.batch is not None
    assert timed.candidates is not None
    requests = timed.batch // timed.candidates
    work = call_work(counts, requests=requests, candidates=timed.candidates)
    counted: dict[str, dict[str, Any]] = {
        "operations_per_call": {"value": float(work.operations)},
        "bytes_per_call": {"value": float(work.bytes)},
    }
    try:
        found = _limit(work, peaks, timed)
    except UnsupportedError as error:
        missing = _missing(str(error))
        return {**counted, "limit_seconds": missing, "share_of_limit": missing}
    counted["limit_seconds"] = {"value": found.seconds}
    return {**counted, "share_of_limit": _share(found, timed)}


def _limit(work: Work, peaks: Peaks | NoPeaks, timed: Row) -> Limit:
    if isinstance(peaks, NoPeaks):
        raise UnsupportedError(f"no limit: {peaks.reason}")
    if timed.device != peaks.device:
        of = "the CPU's" if peaks.device == "cpu" else f"of {peaks.device}"
        raise UnsupportedError(
            f"no limit: the peaks are {of}, the variant ran on {timed.device or 'no device'}"
        )
    if timed.precision is None:
        raise UnsupportedError("no limit: the engine tells no precision")
    return limit(work, peaks, timed.precision)


def _share(found: Limit, timed: Row) -> dict[str, Any]:
    if not timed.value:
        return _missing(timed.reason or "no latency was measured at this point")
    return {"value": found.seconds / timed.value, "n": timed.n, "verdict": found.bound}


def _missing(reason: str) -> dict[str, Any]:
    return {"status": "skipped", "reason": reason}
