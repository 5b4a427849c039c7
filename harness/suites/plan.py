"""What a throughput run is made of, and the inputs that each arm gets at each point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.artifact import read_artifact
from harness.profile import Load, Profile
from harness.store import key_of
from harness.suites.arms import Arm
from harness.suites.lists import past_lengths
from harness.suites.points import Point, closed_points, draw_rows, request_point, write_feeds
from harness.tables import Prepared

MAX_IDS = 1 << 24
"""Most ids of all histories of a point's batches together (as int64: 128 MiB)."""
MAX_VALUES = 1 << 25
"""Most ids and numbers of all batches of a point where rows are scored: 64 batches of 8192 rows of
some 40 fields fit; of 65,536 rows a dozen, which are beyond any cache by themselves.
"""
LEAST_BATCHES = 8


@dataclass(frozen=True)
class Plan:
    """What a throughput run is made of: profile, thread counts, seed, what is asked of each arm
    (by name; of others what the profile says), and the split that the inputs come from.
    """

    profile: Profile
    threads: tuple[int, ...]
    seed: int
    loads: Mapping[str, Load] = field(default_factory=dict)
    split: str = "test"

    def load(self, arm: Arm) -> Load:
        """What is asked of an arm."""
        return self.loads.get(arm.name, self.profile.load)

    def points(self, arms: Sequence[Arm], *, threads: int) -> dict[Point, tuple[Arm, ...]]:
        """The closed-loop points at one thread count and who is timed there: the arms that ask for
        it, beside all references and their copies.
        """
        asked = {arm.name: closed_points(self.load(arm), threads=threads) for arm in arms}
        every = dict.fromkeys(point for points in asked.values() for point in points)
        return {
            point: tuple(a for a in arms if a.role != "variant" or point in asked[a.name])
            for point in every
        }


def feed_files(
    arms: Sequence[Arm],
    data: Prepared,
    point: Point,
    plan: Plan,
    folder: Path,
    *,
    most: int | None = None,
) -> dict[str, Path]:
    """Each arm's input file at a point, of at most ``most`` batches, by arm name; arms that take
    the same inputs share one. So many batches are made as ``MAX_VALUES`` allow, and ``MAX_IDS``
    where all that users had is an input.
    """
    split = data.splits[plan.split]
    if split.histories is not None:
        longest = data.schema.length + int(past_lengths(split).max(initial=0))
        fit = MAX_IDS // (point.requests * longest)
    else:
        fit = MAX_VALUES // (point.rows * len(data.schema.fields))
    fit = max(LEAST_BATCHES, fit)
    most = min(most or fit, fit)
    inputs = {arm.name: read_artifact(arm.folder).inputs for arm in arms}
    files = {}
    for kind in dict.fromkeys(inputs.values()):
        name = f"{point.requests}x{point.candidates}-{key_of(inputs=kind, spread=point.spread)[:8]}"
        path = folder / f"{name}.npz"
        if not path.exists():
            rows = draw_rows(split, point, seed=plan.seed)[:most]
            write_feeds(path, data.schema, split, rows, kind)
        files[kind] = path
    return {name: files[kind] for name, kind in inputs.items()}


def request_files(
    arms: Sequence[Arm],
    data: Prepared,
    plan: Plan,
    folder: Path,
    *,
    threads: int,
    most: int | None = None,
) -> dict[str, Path]:
    """Each arm's own requests as its input file, by arm name; see ``feed_files``."""
    files: dict[str, Path] = {}
    for arm in arms:
        point = request_point(plan.load(arm), threads=threads)
        files |= feed_files([arm], data, point, plan, folder, most=most)
    return files
