"""What the speed gates measure: recipes, points, the planted slowdown, and the expected count."""

import os
from dataclasses import dataclass
from pathlib import Path

from harness.artifact import Artifact
from harness.baseline import Trained
from harness.environment import usable_threads
from harness.loading import load_recipes
from harness.recipe import Recipe, TargetSpec
from harness.store import Store
from harness.suites.arms import Arm
from harness.suites.paired import Measured, Protocol, measure
from harness.suites.points import Point
from harness.suites.throughput import Plan, feed_files
from harness.variants import Variant, make_variant

RECIPES = load_recipes(sorted((Path(__file__).parent / "recipes").glob("*.yaml")))
POINTS = (Point("sweep", 64, 1, 1), Point("single", 1, 256, 1))
PROTOCOL = Protocol(pairs=40, min_pairs=40)
PLANTED = float(os.environ.get("HARNESS_PLANTED_SLOWDOWN", "1"))
"""Every candidate's calls take this many times as long: the gates must then fail."""

CASES = [(r, t.engine, p) for r in RECIPES for t in r.targets for p in POINTS]
SPEEDUPS = [(r, gate) for r in RECIPES for gate in r.gates if gate.min_speedup is not None]
measured_ids: set[str] = set()
inconclusive: list[str] = []
"""Comparisons that the machine's noise left undecided, also when repeated."""


def case_id(recipe: Recipe, engine: str, point: Point) -> str:
    """What a comparison is called in the count."""
    return f"{recipe.name}@{engine}:{point.requests}x{point.candidates}"


EXPECTED = {case_id(*case) for case in CASES} | {f"{r.name}:{g.metric}" for r, g in SPEEDUPS}
EXPECTED |= {"control:planted", "control:same"}


@dataclass(frozen=True)
class Bench:
    """A trained baseline, and artifacts by recipe and engine."""

    trained: Trained
    store: Store

    def artifact(self, recipe: Recipe, engine: str) -> Artifact:
        """The artifact of a recipe as an engine takes it."""
        variant = make_variant(
            Variant(recipe, TargetSpec(engine)),
            self.trained,
            self.store,
            threads=usable_threads(),
            progress=silent,
        )
        assert variant.artifact is not None
        return variant.artifact

    def time(self, arms: tuple[Arm, ...], point: Point, folder: Path) -> Measured:
        """Arms timed at one point in fresh processes."""
        plan = Plan(PROTOCOL, (point.threads,), seed=7)
        feeds = feed_files(arms, self.trained.data, point, plan, folder)
        return measure(arms, point, feeds, PROTOCOL, seed=7, progress=silent)


def silent(label: str, share: float) -> None:
    return
