"""Rows looked up by name: variant, target, metric, point and timed region, never by their place."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from harness.results import MACHINE, Row
from harness.tasks import TASKS, Task

REFERENCE = "reference:"
HEADLINE = ("sweep", "single")
TIMED = (*HEADLINE, "offline")
LATENCY = "latency_p50"
NON_INFERIORITY = "non_inferiority"
CATALOGUE, PLACES = "catalogue items", "list places"
"""Rows of the data: how many items lists are taken from, and how many a list has."""
PRIMARY = {"sweep": LATENCY, "single": LATENCY, "offline": "rows_per_second"}
"""The figure a timed scenario is about: its row has the speedup, the A/A ratio and the verdict."""
REGIONS = ("model_only", "end_to_end", "device_only", "")
"""Timed regions, the one of the headline first; rows that don't tell theirs come last."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One load: ``batch`` requests of ``candidates`` rows each in one call, on ``threads``; how
    they came (``scenario``) and what the clock saw of them (``region``).
    """

    candidates: int
    batch: int
    threads: int
    scenario: str = "sweep"
    region: str = "model_only"

    @property
    def rows(self) -> int:
        """Scored rows of one call."""
        return self.candidates * self.batch

    @property
    def label(self) -> str:
        """``b64`` for 64 single rows, ``1x256`` for one request of 256 candidates, ``one request``
        where it brings no candidates of its own, ``offline 4096`` for calls of 4096 rows that were
        all there at the start.
        """
        if self.scenario == "offline":
            return f"offline {self.rows}"
        if self.scenario == "single" and self.rows == 1:
            return "one request"
        if self.scenario != "single" and self.candidates == 1:
            return f"b{self.batch}"
        return f"{self.batch}x{self.candidates}"


@dataclass(frozen=True, slots=True)
class Variant:
    """What a row of the summary is about: a recipe on a target."""

    recipe: str
    target: str


def point_of(row: Row) -> Point | None:
    """The point a timed row was measured at (its ``batch`` counts rows); None for any other."""
    if row.scenario not in TIMED or row.batch is None:
        return None
    whole = row.batch if row.scenario == "single" else 1
    candidates = row.candidates or whole
    batch = max(1, row.batch // candidates)
    return Point(candidates, batch, row.threads or 1, row.scenario, row.region or "")


def in_order(points: Iterable[Point]) -> list[Point]:
    """Each point once: sweeps, then requests, then offline; of each the headline's region first."""

    def place(point: Point) -> tuple[int, int, Point]:
        known = point.region in REGIONS
        region = REGIONS.index(point.region) if known else len(REGIONS)
        return TIMED.index(point.scenario), region, point

    return sorted(set(points), key=place)


def is_primary(row: Row) -> bool:
    """Whether the row is of the figure that its timed scenario is about."""
    return PRIMARY.get(row.scenario) == row.metric


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
    def _index(self) -> dict[tuple[object, ...], dict[tuple[object, ...], Row]]:
        """Recipe, target, scenario, metric and point -> the rows, by what else tells them apart."""
        found: dict[tuple[object, ...], dict[tuple[object, ...], Row]] = {}
        for row in self.rows:
            name = (row.recipe, row.target, row.scenario, row.metric, point_of(row))
            own = (row.threads, row.batch, row.candidates, row.region, row.offered_rate)
            found.setdefault(name, {})[own] = row
        return found

    @cached_property
    def _points(self) -> dict[Point, set[Variant]]:
        """Every point that was timed, and the variants that were."""
        found: dict[Point, set[Variant]] = {}
        for row in self.rows:
            if (point := point_of(row)) and row.target is not None:
                found.setdefault(point, set()).add(Variant(row.recipe, row.target))
        return found

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
        """Recipe of each reference variant -> its baseline. One that was timed against a reference
        is a variant, whatever it is called: an unchanged model of another recipe.
        """
        loops = ("single", "sweep", "offline")
        timed = {r.recipe for r in self.rows if r.ratio is not None and r.scenario in loops}
        plain = [
            row
            for row in self.rows
            if row.technique == "reference" and row.target is not None and not is_reference(row)
        ]
        return {row.recipe: row.baseline for row in plain if row.recipe not in timed}

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
        """The row of that name, at a point (which tells its scenario and region) or of a scenario
        that isn't timed at points; one without a target serves every target. Of an untimed
        scenario's rows at several thread counts, the one at the fewest.
        """
        scenario = point.scenario if point else scenario
        for target in (variant.target, None):
            found = self._index.get((variant.recipe, target, scenario, metric, point), {})
            if found:
                return min(found.values(), key=lambda row: row.threads or 0)
        return None

    def paired(self, variant: Variant, point: Point) -> Row | None:
        """The row that holds the paired speedup of that point, in that point's region."""
        names = dict.fromkeys((PRIMARY[point.scenario], LATENCY, "rows_per_second"))
        found = [self.find(variant, name, point=point) for name in names]
        return next((row for row in found if row and row.ratio is not None), found[0])

    @cached_property
    def region(self) -> str:
        """The one timed region of all headline figures: the model alone, where it was timed."""
        timed = {point.region for point in self._points if point.scenario in HEADLINE}
        return next((name for name in REGIONS if name in timed), REGIONS[0])

    def points(self, *, threads: int) -> list[Point]:
        """The headline's points with that many threads, all of one region: single rows first,
        then requests.
        """
        return [
            point
            for point in self.every_point(threads=threads)
            if point.scenario in HEADLINE and point.region == self.region
        ]

    def every_point(self, *, threads: int) -> list[Point]:
        """Every point measured with that many threads, of every timed scenario and region."""
        return in_order(point for point in self._points if point.threads == threads)

    def measured(self, variant: Variant, point: Point) -> bool:
        """Whether the variant has rows at the point, failed ones included."""
        return variant in self._points.get(point, ())

    @cached_property
    def thread_counts(self) -> list[int]:
        """Thread counts that were measured, ascending."""
        return sorted({point.threads for point in self._points})

    def request_point(self, *, threads: int = 1) -> Point | None:
        """The headline's point nearest to serving: one request with the most candidates."""
        return max(
            self.points(threads=threads),
            key=lambda p: (p.batch == 1, p.candidates, p.scenario == "single"),
            default=None,
        )

    def summary_points(self, *, threads: int = 1) -> list[Point]:
        """At most four of the headline's points: of the sweep the smallest, b64 (or the middle
        one) and the largest, and the request.
        """
        request = self.request_point(threads=threads)
        sweep = [p for p in self.points(threads=threads) if p.scenario == "sweep" and p != request]
        middle = next((p for p in sweep if p.rows == 64), sweep[len(sweep) // 2] if sweep else None)
        kept = [p for p in (*sweep[:1], middle, *sweep[-1:], request) if p]
        return list(dict.fromkeys(kept))

    @cached_property
    def _tasks(self) -> dict[str, Task | None]:
        """Baseline -> its task, told by the main metric that it was judged by; None without."""
        found: dict[str, set[str]] = {}
        for row in self.rows:
            if row.recipe != MACHINE:
                metrics = found.setdefault(row.baseline, set())
                metrics |= {row.metric} if row.scenario in ("accuracy", "reference") else set()
        return {
            name: next((task for task in TASKS.values() if task.main_metric in metrics), None)
            for name, metrics in found.items()
        }

    @cached_property
    def task(self) -> Task:
        """The task of these baselines (of several tasks the first one's; see ``by_task``)."""
        return next(filter(None, self._tasks.values()), TASKS["click"])

    @property
    def main_metric(self) -> str:
        """The metric that decides the quality class."""
        return self.task.main_metric

    @cached_property
    def by_task(self) -> list["Results"]:
        """The run cut by task, in the rows' order; a baseline that was not judged stands with the
        first. The machine's own rows are in every part.
        """
        groups: dict[str, list[str]] = {}
        for name, task in self._tasks.items():
            groups.setdefault((task or self.task).name, []).append(name)
        return [self] if len(groups) < 2 else [self._part(names) for names in groups.values()]

    @cached_property
    def by_baseline(self) -> dict[str, "Results"]:
        """Baseline -> its part of the run."""
        return {name: self._part([name]) for name in self._tasks}

    def _part(self, names: Iterable[str]) -> "Results":
        kept = {*names}
        return results(r for r in self.rows if r.baseline in kept or r.recipe == MACHINE)

    @cached_property
    def list_words(self) -> str:
        """What a request for a list is given, as far as the data's rows tell: ``top-50 of 3,706
        items``.
        """
        rows = [row for row in self.rows if row.scenario == "data" and row.value is not None]
        known = {row.metric: f"{row.value:,.0f}" for row in rows}
        places = f"top-{known[PLACES]}" if PLACES in known else "the best"
        return f"{places} of {known.get(CATALOGUE, 'all')} items"

    def words(self, point: Point) -> str:
        """A point as a heading: its label, and what a request asks for where it brings no
        candidates: ``one request (top-50 of 3,706 items)``.
        """
        if not self.task.lists:
            return point.label
        requests = "one request" if point.rows == 1 else f"{point.rows} requests"
        return f"{requests} ({self.list_words})"

    @cached_property
    def _by_recipe(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.recipe, []).append(row)
        return found

    def status(self, variant: Variant) -> Row | None:
        """The row that says why this variant was skipped or failed; None when it ran."""
        return next((row for row in self.of(variant, "run") if row.status != "ok"), None)

    def of(self, variant: Variant, *scenarios: str) -> list[Row]:
        """All rows of a variant in those scenarios."""
        return [
            row
            for row in self._by_recipe.get(variant.recipe, ())
            if row.scenario in scenarios and row.target in (variant.target, None)
        ]


def results(rows: Iterable[Row]) -> Results:
    """Rows, indexed."""
    return Results(tuple(rows))
