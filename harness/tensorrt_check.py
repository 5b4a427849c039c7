"""Whether TensorRT takes a variant's graph, asked of TensorRT-RTX, which needs no GPU for it.

The optional package ``tensorrt-rtx`` has TensorRT's parser, its strong typing and an ahead-of-time
build for a named compute capability. What it says is of the graph: nothing is run, no time of it
is a benchmark. It may crash, so it is asked in a child process.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness import registry
from harness.artifact import Artifact
from harness.baseline import Trained
from harness.measuring import common
from harness.process import child_environment, ended_how
from harness.recipe import StageSpec
from harness.results import Row
from harness.stages.base import Progress
from harness.store import Store
from harness.variants import Build, Variant, attempt, run_stage

PACKAGE = "tensorrt-rtx"
SCENARIO = "tensorrt_check"
CAPABILITY = "SM89"
"""Built for: Ada, which the package knows; it has no 9.0 (Hopper)."""
PHASES = ("parsed", "typed", "built")
SECONDS = 300.0
"""How long one graph may take."""
AXES = {
    "requests": (1, 1, 1024),
    "candidates": (1, 256, 1024),
    "rows": (1, 256, 65536),
    "seen": (1, 64, 4096),
}
"""Sizes of free axes (smallest, best tuned, largest) that the build stage doesn't tell."""


@dataclass(frozen=True)
class Answer:
    """What TensorRT-RTX said of one graph: each phase passed or not, None where it wasn't reached
    or gave no answer; why not, and the operator and node where it named them.
    """

    version: str
    passed: Mapping[str, bool | None]
    build_seconds: float | None = None
    reason: str | None = None
    operator: str | None = None
    node: str | None = None
    answered: bool = True
    """False when the child crashed, hung or couldn't load the package."""

    @property
    def accepted(self) -> bool:
        """Whether the graph was parsed, typed and built."""
        return all(self.passed[phase] for phase in PHASES)

    @property
    def stopped_at(self) -> str | None:
        """The first phase that wasn't passed."""
        return next((phase for phase in PHASES if not self.passed[phase]), None)


@dataclass(frozen=True)
class Checked:
    """A variant after the check, the graph that was looked at, and the rows."""

    variant: Variant
    artifact: Artifact | None
    rows: tuple[Row, ...]


def installed() -> str | None:
    """The package's version; None without it. Nothing is imported."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return None


def takes_plan(variant: Variant) -> bool:
    """Whether the variant's engine takes what TensorRT builds."""
    engine = registry.entry("engines", variant.target.engine)
    return bool(engine.marks["accepts"] == "tensorrt")


def checkable(variants: Sequence[Variant]) -> bool:
    """Whether there is a graph to check and the package to check it with."""
    return installed() is not None and any(map(takes_plan, variants))


def unchecked(variant: Variant) -> Variant:
    """A skipped variant of a TensorRT engine whose reason also says why its graph wasn't checked,
    where the package is missing.
    """
    if variant.status != "skipped" or not takes_plan(variant) or installed():
        return variant
    told = f"its graph wasn't checked either: {PACKAGE} isn't installed (the {PACKAGE!r} extra)"
    return replace(variant, reason=f"{variant.reason}; {told}")


def check_variant(
    variant: Variant, trained: Trained, store: Store, how: tuple[int, Progress, Build]
) -> Checked:
    """The variant with its graph made and checked; ``how`` is as in ``variants.run_stage``. One
    whose graph can't be made has failed or is skipped for that reason.
    """
    graphs: list[tuple[str, Artifact]] = []

    def make(variant: Variant) -> Variant:
        graphs.extend(_graphs(variant, trained, store, how))
        return variant

    made = attempt(replace(variant, status="ok"), make)
    if made.status != "ok":
        return Checked(made, None, ())
    how[1]("asking TensorRT-RTX", 0.0)
    artifact, axes = graphs[-1][1], _axes(variant)
    answer = ask(artifact, axes=axes)
    stage = None if answer.accepted else _maker(graphs, answer, axes)
    rows = _rows(replace(variant, artifact=artifact), trained, answer, stage)
    how[1]("asked", 1.0)
    return Checked(_told(variant, answer), artifact, tuple(rows))


def _graphs(
    variant: Variant, trained: Trained, store: Store, how: tuple[int, Progress, Build]
) -> Iterator[tuple[str, Artifact]]:
    """Every graph on the way to the engine's build, with the stage that made it."""
    artifact = trained.artifact
    for stage in _before_build(variant):
        artifact = run_stage(artifact, stage, variant.recipe.seed, trained, store, how)
        if artifact.format == "onnx":
            yield stage.name, artifact


def _before_build(variant: Variant) -> tuple[StageSpec, ...]:
    return variant.recipe.chain(variant.target.engine)[:-1]


def _axes(variant: Variant) -> dict[str, list[int]]:
    """Sizes of each free axis, the build stage's own where it tells them."""
    told = variant.recipe.chain(variant.target.engine)[-1].parameters
    found = {axis: told.get(axis) or sizes for axis, sizes in AXES.items()}
    return {axis: list(sizes) for axis, sizes in found.items()}


def ask(
    artifact: Artifact,
    *,
    axes: Mapping[str, Sequence[int]],
    seconds: float = SECONDS,
    command: Sequence[str] = (sys.executable, "-m", "harness.tensorrt_child"),
) -> Answer:
    """What TensorRT-RTX says of an ONNX artifact; never raises for what becomes of the child."""
    request = {"folder": str(artifact.folder), "capability": CAPABILITY, "axes": axes}
    try:
        done = subprocess.run(
            (*command, json.dumps(request)),
            capture_output=True,
            timeout=seconds,
            env=child_environment(threads=1),
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return _answer(late.stdout or b"", f"gave no answer within {seconds:g} s")
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return _answer(done.stdout, ": ".join([ended_how(done.returncode), *(s[:300] for s in last)]))


def _answer(said: bytes, ended: str) -> Answer:
    """The child's lines put together; ``ended`` is why there are no more of them."""
    known: dict[str, Any] = {}
    for line in said.splitlines():
        if line.startswith(b"{") and line.endswith(b"}"):  # one that was cut is no answer
            known |= json.loads(line)
    passed = {phase: known.get(phase) for phase in PHASES}
    answered = "reason" in known or "built" in known
    missing = next(phase for phase in (*PHASES, "") if passed.get(phase) is None)
    return Answer(
        known.get("version") or installed() or "unknown",
        passed,
        known.get("build_seconds"),
        known.get("reason") if answered else f"{ended}, before the graph was {missing}",
        known.get("operator"),
        known.get("node"),
        answered,
    )


def _maker(
    graphs: Sequence[tuple[str, Artifact]], answer: Answer, axes: Mapping[str, Sequence[int]]
) -> str:
    """The stage from which on the graph is refused for what the last one is refused for."""
    stage = graphs[-1][0]
    for name, artifact in reversed(graphs[:-1]):
        earlier = ask(artifact, axes=axes)
        if (earlier.stopped_at, earlier.operator) != (answer.stopped_at, answer.operator):
            return stage
        stage = name
    return stage


def _rows(variant: Variant, trained: Trained, answer: Answer, stage: str | None) -> Iterator[Row]:
    """A row for each phase, 1 or 0, and the seconds of the build."""
    columns = common(trained, variant) | {
        "engine": PACKAGE,
        "engine_version": answer.version,
        "device": f"none ({CAPABILITY})",
        "scenario": SCENARIO,
    }
    why = _why(answer, stage)
    for phase in PHASES:
        passed = answer.passed[phase]
        at_fault = phase == answer.stopped_at
        yield Row(
            **columns,
            metric=phase,
            unit="share",
            value=None if passed is None else float(passed),
            status="ok" if passed is not None or answer.answered else "failed",
            reason=why if at_fault else f"not {answer.stopped_at}" if passed is None else None,
        )
    if answer.build_seconds is not None:
        told: dict[str, Any] = {"unit": "s", "value": answer.build_seconds}
        yield Row(**columns, metric="build_seconds", **told)


def _why(answer: Answer, stage: str | None) -> str | None:
    if answer.reason is None:
        return None
    if not answer.answered:
        return f"the child {answer.reason}"
    where = f"{answer.operator} {answer.node}".strip() if answer.operator else "the graph"
    return f"{where}, made by {stage}: {answer.reason}"


def _told(variant: Variant, answer: Answer) -> Variant:
    """A skipped variant whose reason also says how its graph fared."""
    if variant.status != "skipped":
        return variant
    found = "passed" if answer.accepted else f"was not {answer.stopped_at}"
    found = found if answer.answered else "got no answer"
    told = f"its graph {found} in {PACKAGE} {answer.version} for {CAPABILITY}"
    return replace(variant, reason=f"{variant.reason}; {told}")
