"""Times, once per schedule: all variants of a baseline against each other, and beside the machine.

Kept in the store under a key that holds the artifacts, the profile, the machine and the code that
measures; a schedule in which something failed isn't kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import registry
from harness.artifact import Artifact
from harness.baseline import Trained
from harness.environment import environment
from harness.measuring import Scored, Session, common, main_metric_hash, sources, with_facts
from harness.profile import Load
from harness.results import Row, read_rows, write_rows
from harness.store import key_of, source_hash, write_bytes
from harness.suites import (
    clock_check,
    cold,
    gpu_peaks,
    loadgen,
    memory,
    peaks,
    resources,
    roofline,
    throughput,
)
from harness.suites.arms import Arm
from harness.suites.plan import Plan, feed_files, request_files
from harness.suites.points import Point, request_point
from harness.suites.timed_rows import place, samples_frame
from harness.suites.work import Counts
from harness.suites.worker import EARLY_CALLS
from harness.tasks import TASKS, Task

PEAKS_TIMEOUT = 180.0
COPY = "#aa"
"""Ends the name of a reference's second copy."""
CODE = (
    *("suites/throughput", "suites/worker", "suites/memory", "suites/cold"),
    *("suites/peaks", "suites/roofline", "suites/loadgen", "suites/loadgen_worker"),
    *("suites/resources", "suites/gpu_peaks", "suites/clock_check"),
)


@dataclass(frozen=True)
class Timed:
    """Rows of all that the clock was used for, and the raw figures behind them: parquet files by
    what they hold (``blocks``, ``latencies``).
    """

    rows: list[Row] = field(default_factory=list)
    files: Mapping[str, Path] = field(default_factory=dict)


def time_variants(scored: Sequence[Scored], trained: Trained, session: Session) -> Timed:
    """Time all scored variants in one schedule, or find it timed; nothing to time gives no rows."""
    arms = arms_of(scored)
    if not arms:
        return Timed()
    task = TASKS[trained.data.schema.task]
    profile = session.profile
    copies = copies_of([arm for arm, _ in arms])
    plan = Plan(
        profile.model_copy(update={"load": asked(profile.load, task)}),
        threads_of(scored, session.threads),
        trained.spec.seed,
        loads_of(arms, profile.load, task),
    )
    schedule = [*(arm for arm, _ in arms), *copies]
    key = key_of(
        arms=[[arm.name, arm.engine, arm.folder.name, arm.role] for arm in schedule],
        profile=session.profile.model_dump(exclude={"scoring", "making"}),
        loads={name: load.model_dump() for name, load in plan.loads.items()},
        plan=[plan.threads, plan.seed],
        data=trained.data.hash,
        machine=environment()["key"],
        engines=[source_hash(registry.entry("engines", arm.engine).source) for arm in schedule],
        source=sources(*CODE),
        metric=main_metric_hash(trained),
        nonce=session.nonce,
    )
    store = session.store
    if not store.has("times", key):
        with store.lock("timing"):  # two runs of one cache would disturb each other's clock
            if not store.has("times", key):
                timing = _Timing(dict(arms), schedule, plan, trained, session)
                timing.all()
                if timing.failed:
                    return Timed(timing.rows)  # never kept: the next run tries again
                store.make("times", key, timing.keep)
    folder = store.path("times", key)
    files = {name: folder / f"{name}.parquet" for name in ("blocks", "latencies")}
    return Timed(read_rows(folder), {name: path for name, path in files.items() if path.exists()})


def threads_of(scored: Sequence[Scored], threads: int) -> tuple[int, ...]:
    """Thread counts that are timed: one where everything runs on a GPU, whose host thread only
    starts what the device does.
    """
    on_host = any(item.facts.device == "cpu" for item in scored)
    return tuple(dict.fromkeys((1, threads))) if on_host else (1,)


def asked(load: Load, task: Task) -> Load:
    """The load as a task can be asked it: a request for a list has no candidates, since all items
    are, so that it counts as one row.
    """
    return load.model_copy(update={"candidates": 1}) if task.lists else load


def arms_of(scored: Sequence[Scored]) -> list[tuple[Arm, Scored]]:
    """Arms with their variants; the first plain one of each engine is that engine's reference."""
    arms: list[tuple[Arm, Scored]] = []
    referred: set[str] = set()
    for item in scored:
        artifact, engine = item.variant.artifact, item.variant.target.engine
        assert artifact is not None
        reference = artifact.technique == "reference" and engine not in referred
        referred |= {engine} if reference else set()
        role: Any = "reference" if reference else "variant"
        beside = registry.entry("engines", engine).marks.get("reference", "")
        arms.append((Arm(item.variant.name, engine, artifact.folder, role, beside=beside), item))
    return arms


def loads_of(arms: Sequence[tuple[Arm, Scored]], load: Load, task: Task) -> dict[str, Load]:
    """What is asked of every arm, by name: the profile's ``load`` as its recipe changes it. A copy
    is asked what its original is, else it would bring points of its own.
    """
    own = {arm.name: asked(item.variant.recipe.bench.applied(load), task) for arm, item in arms}
    copies = copies_of([arm for arm, _ in arms])
    return own | {copy.name: own[copy.name.removesuffix(COPY)] for copy in copies}


def copies_of(arms: Sequence[Arm]) -> list[Arm]:
    """A second copy of each reference: the A/A arms."""
    references = (arm for arm in arms if arm.role == "reference")
    return [replace(arm, name=f"{arm.name}{COPY}", role="aa") for arm in references]


@dataclass
class _Timing:
    """One schedule: what is asked of which arm, and the rows so far."""

    arms: Mapping[Arm, Scored]
    schedule: list[Arm]
    plan: Plan
    trained: Trained
    session: Session
    rows: list[Row] = field(default_factory=list)
    found: throughput.Throughput = field(default_factory=throughput.Throughput)
    failed: bool = False
    counts: dict[tuple[Path, str], Counts | str] = field(default_factory=dict)

    def all(self) -> None:
        """Everything, alone on the machine one after the other; cold starts and peaks first, so
        that the tables of the throughput run aren't in their caches.
        """
        self._cold()
        peaks = self._peaks()
        self._throughput()
        self._loadgen()
        for arm, item in self.arms.items():
            self._accounts(arm, item, peaks)
        self.failed |= any(row.status == "failed" for row in self.rows)

    def keep(self, folder: Path) -> None:
        """Write rows and raw figures into an entry of the store."""
        import pandas as pd

        write_rows(folder, self.rows)
        write_bytes(folder / "blocks.parquet", samples_frame(self.found.points).to_parquet())
        if self.found.latencies:
            frame = pd.DataFrame(self.found.latencies)
            write_bytes(folder / "latencies.parquet", frame.to_parquet())

    def _columns(self, arm: Arm) -> dict[str, Any]:
        item = self.arms[arm]
        return with_facts(common(self.trained, item.variant), item.facts)

    def _asking(self, scenario: str) -> list[Arm]:
        return [arm for arm in self.arms if scenario in self.plan.load(arm).scenarios]

    @property
    def _machine(self) -> dict[str, Any]:
        return {"baseline": self.trained.spec.name}

    def _throughput(self) -> None:
        names = {arm.name: self._columns(arm) for arm in self.arms}
        self.found = throughput.run_throughput(
            self.schedule,
            self.trained.data,
            common=names,
            plan=self.plan,
            answers={arm.name: self.arms[arm].answer for arm in self._asking("parity")},
            progress=self.session.task("timing all variants"),
        )
        found = self.found
        self.rows += found.rows
        asked = {arm.name: names[arm.name] for arm in self._asking("memory")}
        self.rows += memory.memory_rows(asked, found.loaded, found.failures, steady=found.steady)
        self.failed |= bool(found.failures)

    def _cold(self) -> None:
        arms, threads = self._asking("cold"), self.session.threads
        if not arms:
            return
        with TemporaryDirectory() as folder:
            data, plan = self.trained.data, self.plan
            feeds = request_files(
                arms, data, plan, Path(folder), threads=threads, most=1 + EARLY_CALLS
            )
            starts, failures = cold.measure_cold(
                arms,
                feeds,
                threads=threads,
                processes=self.session.profile.processes,
                seed=self.plan.seed,
                progress=self.session.task("cold starts"),
            )
        for arm in arms:
            point = request_point(self.plan.load(arm), threads=threads)
            name = arm.name
            self.rows += cold.cold_rows(
                {name: self._columns(arm)},
                place(point),
                {name: starts[name]},
                {name: failures[name]} if name in failures else {},
            )

    def _peaks(self) -> list[peaks.Peaks | roofline.NoPeaks]:
        devices = {self.arms[arm].facts.device for arm in self._asking("roofline")}
        if not devices:
            return []
        progress = self.session.task("peaks of the machine")
        found: list[peaks.Peaks | roofline.NoPeaks] = []
        how: Any = {"seconds": self.session.profile.peak_seconds, "timeout": PEAKS_TIMEOUT}
        counts = self.plan.threads if "cpu" in devices else ()
        for at, threads in enumerate(counts, start=1):
            try:
                found.append(peaks.measure_peaks(threads, **how))
            except peaks.PeaksError as error:
                found.append(roofline.NoPeaks(threads, str(error)))
            progress(f"{threads} threads", at / len(counts))
        if devices - {"cpu"}:
            try:
                found.append(gpu_peaks.measure_gpu_peaks(**how))
            except peaks.PeaksError as error:
                found.append(roofline.NoPeaks(1, str(error), "cuda"))
            progress("the GPU", 1.0)
        for one in found:
            self.rows += roofline.peak_rows(self._machine, one)
        return found

    def _loadgen(self) -> None:
        """One arm's figures against an independent load generator: the first reference's."""
        asking = [arm for arm in self._asking("loadgen") if arm.role == "reference"]
        arm = next(iter(sorted(asking, key=lambda arm: arm.engine != "ort-cpu")), None)
        if arm is None:
            return
        load = self.plan.load(arm)
        points = {
            "single": request_point(load, threads=1),
            "offline": Point("offline", load.offline_batch, 1, 1),
        }
        progress = self.session.task("cross-check with LoadGen")
        with TemporaryDirectory() as folder:
            feeds = {
                name: feed_files([arm], self.trained.data, point, self.plan, Path(folder))[arm.name]
                for name, point in points.items()
            }
            settings = loadgen.Settings(seconds=self.session.profile.check_seconds)
            check = loadgen.cross_check(arm, feeds, threads=1, settings=settings)
        progress(arm.name, 1.0)
        self.rows += loadgen.loadgen_rows(self._columns(arm), points, check)

    def _accounts(
        self, arm: Arm, item: Scored, found: Sequence[peaks.Peaks | roofline.NoPeaks]
    ) -> None:
        """What follows from the times and the artifact: limits, resources, costs."""
        artifact, columns = item.variant.artifact, self._columns(arm)
        assert artifact is not None
        own = [one for one in found if one.device == item.facts.device]
        if own and "roofline" in self.plan.load(arm).scenarios:
            self._limits(columns, artifact, own)
        profile = self.session.profile
        price = resources.Price(profile.price_per_hour, profile.currency, self.session.threads)
        energy = self.found.energy.get(arm.name, [])
        self.rows += resources.resource_rows(
            columns, artifact, self.rows, price=price, energy=energy
        )

    def _limits(
        self,
        columns: Mapping[str, Any],
        artifact: Artifact,
        found: Sequence[peaks.Peaks | roofline.NoPeaks],
    ) -> None:
        """Shares of the limits; of a GPU also whether the clock waited for it."""
        key = (artifact.folder, artifact.key)
        if key not in self.counts:
            self.counts[key] = roofline.counted(artifact)
        counts = self.counts[key]
        for one in found:
            self.rows += roofline.roofline_rows(columns, artifact, one, self.rows, counts=counts)
            if isinstance(one, peaks.Peaks) and one.device != "cpu":
                verdicts = clock_check.clock_rows(columns, counts, one, self.rows)
                self.rows = [*clock_check.struck(self.rows, verdicts), *verdicts]
