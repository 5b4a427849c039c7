"""What the speed gates measure: recipes, points, the planted slowdown, and the expected count."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.artifact import Artifact
from harness.baseline import Trained, train_baseline
from harness.environment import usable_threads
from harness.loading import load_recipes
from harness.recipe import Recipe, TargetSpec
from harness.store import Store
from harness.suites.arms import Arm, Session
from harness.suites.paired import Measured
from harness.suites.points import Point
from harness.suites.regression import POINTS, PROTOCOL, SEED, gate_feeds, time_arms
from harness.suites.server import generator_rate
from harness.variants import Variant, make_variant

RECIPES = load_recipes(sorted((Path(__file__).parent / "recipes").glob("*.yaml")))
PLANTED = float(os.environ.get("HARNESS_PLANTED_SLOWDOWN", "1"))
"""Every candidate's calls take this many times as long: the gates must then fail."""
SHADOW = os.environ.get("HARNESS_GATE_SHADOW", "") == "1"
"""Everything is measured, judged and told as usual, but the exit code is 0."""

CASES = [(r, t.engine, p) for r in RECIPES for t in r.targets for p in POINTS]
SPEEDUPS = [(r, gate) for r in RECIPES for gate in r.gates if gate.min_speedup is not None]
measured_ids: set[str] = set()
inconclusive: list[str] = []
"""Comparisons that the machine's noise left undecided, also when repeated."""


def case_id(recipe: Recipe, engine: str, point: Point) -> str:
    """What a comparison is called in the count."""
    return f"{recipe.name}@{engine}:{point.requests}x{point.candidates}"


EXPECTED = {case_id(*case) for case in CASES} | {f"{r.name}:{g.metric}" for r, g in SPEEDUPS}
EXPECTED |= {"control:planted", "control:same", "control:generator"}


@dataclass(frozen=True)
class Bench:
    """A baseline, trained when it is first asked for, and artifacts by recipe and engine."""

    store: Store

    @cached_property
    def trained(self) -> Trained:
        spec = RECIPES[0].baseline
        return train_baseline(spec, self.store, threads=usable_threads(), progress=silent)

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
        """Arms timed at one point in fresh processes, as ``gate`` times them."""
        feeds = {point: gate_feeds(arms, self.trained.data, folder)[point]}
        return time_arms(arms, feeds, seed=SEED, progress=silent)[point]

    def generator_rate(self, recipe: Recipe, engine: str, folder: Path) -> float:
        """Requests/s that the open loop's generator sustains with a null model."""
        arm = Arm("reference", engine, self.artifact(recipe, engine).folder, role="reference")
        feeds = {"reference": gate_feeds([arm], self.trained.data, folder)[POINTS[-1]][arm.name]}
        with Session((arm,), 1) as session:
            session.load(feeds, silent)
            session.prepare(feeds, PROTOCOL.warm, region="end_to_end")
            rate = generator_rate(session, arm, 50_000)
        assert rate is not None, session.failures
        return rate


def silent(label: str, share: float) -> None:
    return
