"""What each kind of int8 of each product gains and does damage to, measured on this machine."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from harness.artifact import Artifact
from harness.errors import DataError, UnsupportedError
from harness.stages.base import Context
from harness.stages.exact_lists import list_overlap
from harness.stages.graphs import Feeds, draw_rows, ort_outputs, ort_session, row_batches
from harness.stages.int8_search import Option, Options
from harness.stages.mixed_int8 import KINDS, Kind, Plan, Products, mixed
from harness.stages.pairing import Call, speedup
from harness.stages.qdq import integer_kernels
from harness.tables import feeds
from harness.tasks import TASKS

if TYPE_CHECKING:
    import onnx

BATCHES = 8
"""Batches that are timed in turns."""
DAMAGE_ROWS = 2048
FP32 = "fp32"


class Timer(Protocol):
    """Seconds of calls that take turns, (rounds,) by name; see ``paired_times``."""

    def __call__(
        self, calls: Mapping[str, Call], *, batches: int, seconds: float
    ) -> Mapping[str, np.ndarray]:
        """The seconds."""
        ...


@dataclass(frozen=True)
class Bench:
    """How graphs are timed: on these batches, by this timer, for at most ``seconds`` a
    comparison, with the stage's ``threads``.
    """

    batches: Sequence[Feeds]
    timer: Timer
    seconds: float
    threads: int

    def call(self, model: "onnx.ModelProto") -> Call:
        """A call that runs a graph on one of the batches."""
        session = ort_session(model, threads=self.threads)
        return lambda at: session.run(None, self.batches[at])

    def times(self, calls: Mapping[str, Call]) -> Mapping[str, np.ndarray]:
        """Seconds of the calls, (rounds,) by name."""
        return self.timer(calls, batches=len(self.batches), seconds=self.seconds)


def timed_batches(
    artifact: Artifact, context: Context, *, rows: int, candidates: int
) -> list[Feeds]:
    """Batches of ``rows`` seeded training rows, ``candidates`` of them to a request, which takes
    its user from the first. Raises ``UnsupportedError`` for sizes that don't divide and for more
    than one candidate where lists are asked for, ``DataError`` without training rows.
    """
    split, lists = context.data.splits["train"], TASKS[context.data.schema.task].lists
    if rows % candidates or (lists and candidates > 1):
        wanted = "candidates: 1, since requests are answered with lists" if lists else "a divisor"
        raise UnsupportedError(
            f"candidates: {candidates} of rows: {rows} to a request; expected {wanted}"
        )
    if split.rows == 0:
        raise DataError("the train split is empty; there are no rows to time on")
    random = np.random.default_rng(context.seed)
    drawn = random.integers(0, split.rows, (BATCHES, rows // candidates, candidates))
    return [feeds(context.data.schema, split, part, artifact.inputs) for part in drawn]


def damage_to(
    model: "onnx.ModelProto", artifact: Artifact, context: Context
) -> Callable[["onnx.ModelProto"], float]:
    """A function from a graph to how far its outputs are from those of ``model`` on at most
    ``DAMAGE_ROWS`` seeded validation rows: the mean squared difference of scores, or the share of
    the exact lists that is missed. Raises ``DataError`` when there is nothing to compare.
    """
    split = context.data.splits["validation"]
    rows = draw_rows(split, count=DAMAGE_ROWS, seed=context.seed)
    each = _missed if TASKS[context.data.schema.task].lists else _squares

    def outputs(graph: "onnx.ModelProto") -> Iterator[list[np.ndarray]]:
        run = ort_outputs(graph)
        for batch in row_batches(context.data, split, rows, artifact.inputs):
            yield run(batch)

    exact = list(outputs(model))

    def damage(graph: "onnx.ModelProto") -> float:
        pairs = zip(outputs(graph), exact, strict=True)
        parts = np.concatenate([each(found, right) for found, right in pairs])
        told = parts[~np.isnan(parts)]
        if not len(told):
            raise DataError("no validation request is answered with a list; nothing to compare")
        return float(told.mean())

    return damage


def _squares(found: list[np.ndarray], exact: list[np.ndarray]) -> np.ndarray:
    gap = found[0].astype(np.float64).ravel() - exact[0].ravel()
    # A score that isn't a number is no small damage.
    return np.asarray(np.nan_to_num(gap**2, nan=np.inf))


def _missed(found: list[np.ndarray], exact: list[np.ndarray]) -> np.ndarray:
    """The share of each exact list, (requests,); NaN where that is empty."""
    return 1 - list_overlap((found[0], found[1]), (exact[0], exact[1]), tolerance=0.0)


def measure_options(
    products: Products,
    kinds: Collection[Kind],
    bench: Bench,
    damage: Callable[["onnx.ModelProto"], float],
    progress: Callable[[str, float], None],
) -> tuple[dict[str, dict[Kind, Option]], dict[str, dict[Kind, str]]]:
    """What each kind of each product alone gains and does damage to, and why others can't be had.
    Three graphs are in memory at a time.
    """
    fp32 = bench.call(products.model)
    integers = integer_kernels(products.model.SerializeToString())
    options = dict[str, dict[Kind, Option]]()
    refused: dict[str, dict[Kind, str]] = {
        p: {"static": products.refused[p]} for p in products.refused
    }
    for at, product in enumerate(products.names):
        progress(f"timing {product}", at / len(products.names))
        calls, harm = {FP32: fp32}, dict[Kind, float]()
        for kind in kinds:
            if kind == "static" and product not in products.scales:
                continue
            graph = mixed(products, {product: kind})
            if integer_kernels(graph.SerializeToString()) != integers + 1:
                refused.setdefault(product, {})[kind] = "onnxruntime doesn't run it in integers"
                continue
            calls[f"{product}: {kind}"], harm[kind] = bench.call(graph), damage(graph)
        options[product] = {}
        if harm:
            times = bench.times(calls)
            for kind, harmed in harm.items():
                gain = speedup(times[FP32], times[f"{product}: {kind}"])
                options[product][kind] = Option(gain, harmed)
    return options, refused


def best_start(
    products: Products, plan: Plan, options: Options, bench: Bench, *, least: float
) -> Plan:
    """``plan``, or all products in one kind where that is quicker beyond noise: neighbours in one
    kind share the rounding of an input, which none of them alone shows. Where the plan is empty,
    the other must be ``least`` times as quick as fp32.
    """
    plans: dict[str, Plan] = {"measured": plan}
    for kind in KINDS:
        whole: Plan = {p: kind for p, each in options.items() if kind in each}
        if whole and whole not in plans.values():
            plans[kind] = whole
    if len(plans) == 1:
        return plan
    times = bench.times({name: bench.call(mixed(products, each)) for name, each in plans.items()})
    kept, bar = "measured", 1.0 if plan else least
    for name in plans:
        if name != kept and speedup(times[kept], times[name]).low > bar:
            kept, bar = name, 1.0
    return plans[kept]
