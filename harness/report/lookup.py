"""Rows looked up by name: variant, target, metric and point, never by their place."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from harness.results import Row

REFERENCE = "reference:"
TIMED = ("sweep", "single")
LATENCY = "latency_p50"
MAIN_METRICS = ("auc", "ndcg@10", "rmse")
REGIONS = ("end_to_end", "model_only", "device_only", None)


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One load: ``batch`` requests of ``candidates`` rows each in one call, on ``threads``."""

    candidates: int
    batch: int
    threads: int

    @property
    def label(self) -> str:
        """``b64`` for 64 single rows, ``1x256`` for one request of 256 candidates."""
        return f"b{self.batch}" if self.candidates == 1 else f"{self.batch}x{self.candidates}"


@dataclass(frozen=True, slots=True)
class Variant:
    """What a row of the summary is about: a recipe on a target."""

    recipe: str
    target: str


def point_of(row: Row) -> Point | None:
    """The point a timed row was measured at (its ``batch`` counts rows); None for any other."""
    if row.scenario not in TIMED or row.batch is None:
        return None
    candidates = row.candidates or 1
    return Point(candidates, max(1, row.batch // candidates), row.threads or 1)


def is_reference(row: Row) -> bool:
    """Whether the row is of a simple ranking (random, popularity, history), not of a variant."""
    return row.recipe.startswith(REFERENCE)


@dataclass(frozen=True)
class Results:
    """All rows of one run, indexed. Of two rows with the same name the later counts, which is
    the one of the run that went on.
    """

    rows: tuple[Row, ...]

    @cached_property
    def _index(self) -> dict[tuple[object, ...], Row]:
        return {
            (row.recipe, row.target, row.scenario, row.metric, point_of(row), row.region): row
            for row in self.rows
        }

    @cached_property
    def variants(self) -> list[Variant]:
        """Every recipe and target, baselines first, otherwise in the rows' order."""
        found = dict.fromkeys(
            Variant(row.recipe, row.target)
            for row in self.rows
            if row.target is not None and not is_reference(row)
        )
        recipes = list(dict.fromkeys(one.recipe for one in found))
        targets = list(dict.fromkeys(one.target for one in found))
        return sorted(
            found,
            key=lambda one: (
                one.recipe not in self._baselines,
                recipes.index(one.recipe),
                targets.index(one.target),
            ),
        )

    @cached_property
    def ran(self) -> list[Variant]:
        """The variants that were neither skipped nor failed."""
        return [one for one in self.variants if self.status(one) is None]

    @cached_property
    def targets(self) -> list[str]:
        """Targets in the order of the rows."""
        return list(dict.fromkeys(variant.target for variant in self.variants))

    @cached_property
    def _baselines(self) -> dict[str, str]:
        """Recipe of each reference variant -> its baseline."""
        return {
            row.recipe: row.baseline
            for row in self.rows
            if row.technique == "reference" and row.target is not None and not is_reference(row)
        }

    @cached_property
    def _baseline_of(self) -> dict[str, str]:
        return {row.recipe: row.baseline for row in self.rows}

    def is_baseline(self, variant: Variant) -> bool:
        """Whether the variant is the baseline itself, unchanged."""
        return variant.recipe in self._baselines

    def baseline_of(self, variant: Variant) -> Variant | None:
        """The baseline on the same target; None when it wasn't part of the run."""
        name = self._baseline_of.get(variant.recipe)
        recipes = [recipe for recipe, baseline in self._baselines.items() if baseline == name]
        return Variant(recipes[0], variant.target) if recipes else None

    def find(
        self,
        variant: Variant,
        metric: str,
        *,
        scenario: str | None = None,
        point: Point | None = None,
    ) -> Row | None:
        """The row of that name; one without a target serves every target. With several timed
        regions, the widest one.
        """
        scenarios = (scenario,) if scenario else TIMED
        for target in (variant.target, None):
            for name in scenarios:
                for region in REGIONS:
                    row = self._index.get((variant.recipe, target, name, metric, point, region))
                    if row is not None:
                        return row
        return None

    def paired(self, variant: Variant, point: Point) -> Row | None:
        """The row that holds the paired speedup of that point."""
        names = (LATENCY, "rows_per_second", "requests_per_second")
        found = [self.find(variant, name, point=point) for name in names]
        return next((row for row in found if row and row.ratio is not None), found[0])

    def points(self, *, threads: int) -> list[Point]:
        """Every point measured with that many threads: single rows first, then requests."""
        found = {point for row in self.rows if (point := point_of(row))}
        return sorted(point for point in found if point.threads == threads)

    @cached_property
    def thread_counts(self) -> list[int]:
        """Thread counts that were measured, ascending."""
        return sorted({point.threads for row in self.rows if (point := point_of(row))})

    def request_point(self, *, threads: int = 1) -> Point | None:
        """The point nearest to serving: one request with the most candidates."""
        return max(
            self.points(threads=threads), key=lambda p: (p.batch == 1, p.candidates), default=None
        )

    @cached_property
    def main_metric(self) -> str:
        """The metric that decides the quality class."""
        present = {row.metric for row in self.rows if row.scenario in ("accuracy", "reference")}
        return next((name for name in MAIN_METRICS if name in present), MAIN_METRICS[0])

    def status(self, variant: Variant) -> Row | None:
        """The row that says why this variant was skipped or failed; None when it ran."""
        return next(
            (
                row
                for row in self.rows
                if row.status != "ok"
                and row.scenario == "run"
                and row.recipe == variant.recipe
                and row.target in (variant.target, None)
            ),
            None,
        )

    def of(self, variant: Variant, *scenarios: str) -> list[Row]:
        """All rows of a variant in those scenarios."""
        return [
            row
            for row in self.rows
            if row.scenario in scenarios
            and row.recipe == variant.recipe
            and row.target in (variant.target, None)
        ]


def results(rows: Iterable[Row]) -> Results:
    """Rows, indexed."""
    return Results(tuple(rows))
