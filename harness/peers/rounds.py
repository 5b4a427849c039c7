"""The clock: all contestants of a workload in workers of their own, in turns on one core."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.peers.contest import Contest, Contestant
from harness.peers.lines import Line, ratio
from harness.peers.registry import REFERENCE
from harness.peers.synthetic import write_calls
from harness.peers.worker import COMMAND
from harness.profile import PROFILES, Protocol
from harness.suites.arms import Arm, Limits, Session
from harness.suites.paired import Measured, Series, measure_point
from harness.suites.plan import Plan, feed_files
from harness.suites.points import Point

LIMITS = Limits(load=900.0, point=600.0, block=300.0)
"""torch.compile builds with a C++ compiler at the first call of each size."""
Progress = Callable[[str, float], None]


def protocol(rounds: int, seconds: float) -> Protocol:
    """``rounds`` rounds, none left out; blocks of at least ``seconds`` and three calls."""
    return Protocol(
        min_pairs=rounds,
        max_pairs=rounds,
        min_seconds=1e-9,
        max_seconds=1e9,
        block_seconds=seconds,
        block_calls=3,
        block_cap=20 * seconds,
        warm_seconds=seconds / 2,
        warm_cap=10 * seconds,
        level=0.95,
    )


def time_contest(contest: Contest, how: Protocol, scratch: Path, progress: Progress) -> list[Line]:
    """Lines of all contestants at all calls, those that couldn't run included."""
    running = [one for one in contest.contestants if one.folder is not None]
    arms = tuple(_arm(one) for one in running)
    points = [Point("sweep", *call, 1) for call in contest.workload.calls]
    files = {point: _feeds(contest, arms, point, scratch) for point in points}
    lines: list[Line] = []
    with Session(arms, 1, LIMITS, COMMAND) as session:
        session.load(files[points[0]], progress)
        session.pin()
        for point in points:
            measured = measure_point(
                session, point, files[point], how, seed=contest.seed, progress=progress
            )
            lines += [_line(contest, one, point, measured) for one in contest.contestants]
    return lines


def _arm(one: Contestant) -> Arm:
    assert one.folder is not None
    return Arm(
        one.name, one.engine, one.folder, "reference" if one.name == REFERENCE else "variant"
    )


def _feeds(contest: Contest, arms: Sequence[Arm], point: Point, scratch: Path) -> dict[str, Path]:
    if contest.data is not None:
        plan = Plan(PROFILES["default"], (1,), contest.seed)
        return feed_files(arms, contest.data, point, plan, scratch)
    asked = contest.workload.entry.bags or contest.workload.entry.search
    assert asked is not None
    name = f"{contest.workload.entry.name}-{point.requests}.npz"
    path = write_calls(asked, point.requests, scratch / name)
    return {arm.name: path for arm in arms}


def _line(contest: Contest, one: Contestant, point: Point, measured: Measured) -> Line:
    line = Line(
        contest.workload.entry.name,
        f"{point.requests}x{point.candidates}",
        one.name,
        one.side,
        status=one.status,
        reason=one.reason,
        engine=one.engine,
        quality=one.quality,
        note=measured.noise,
    )
    if one.folder is None:
        return line
    loaded = measured.loaded.get(one.name)
    stored = loaded.facts["notes"].get("bytes") if loaded else None
    line = replace(line, bytes=stored or one.artifact.bytes)
    if one.name in measured.failures:
        return replace(line, status="failed", reason=measured.failures[one.name])
    times = _times(measured.series[one.name])
    if REFERENCE in measured.failures:
        return replace(line, times=times)
    against = ratio(times, _times(measured.series[REFERENCE]))
    return replace(line, times=times, ratio=against, eligible=one.eligible)


def _times(series: Series) -> dict[int, float]:
    """Seconds of a call by round: the median of the round's block."""
    rounds = [int(one) for one in series.round]
    values = [float(one) for one in series.block_values("median")]
    return dict(zip(rounds, values, strict=True))
