"""ONNX -> ONNX: each product in fp32, dynamic or static int8, whichever is measured to be best."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.objectives import UNITS
from harness.params import Count, Flag, Names, NonNegative, Positive, Share
from harness.schema import TaskName
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import draw_rows, load_graph, row_batches
from harness.stages.int8_notes import product_notes, search_note, verdict
from harness.stages.int8_options import (
    FP32,
    Bench,
    best_start,
    damage_to,
    measure_options,
    timed_batches,
)
from harness.stages.int8_search import Found, Judged, Options, quickest, search
from harness.stages.left_alone import left_alone
from harness.stages.mixed_int8 import KINDS, Kind, Plan, Products, find_products, mixed
from harness.stages.pairing import Speedup, paired_times, speedup
from harness.stages.quantize_static import finish
from harness.stages.served import served_loss
from harness.tasks import TASKS

MAX_LOSS_INCREASE = 0.001
MIN_OVERLAP = 0.98
LARGEST = 1_500_000_000
"""Bytes of a graph: onnxruntime takes one that isn't in a file as a message of at most 2 GB."""
OTHER_COMPARISONS = 2
"""Timed besides each product alone: whole graphs to start from, and the one that is kept."""


@dataclass(frozen=True)
class _Asked:
    """What is asked of the graph: how much quicker, and how much quality may be lost (a share of
    the loss, and of the lists; None isn't asked), to be found within these bounds.
    """

    kinds: tuple[Kind, ...]
    least: float
    max_loss_increase: float | None
    min_overlap: float | None
    trials: int
    until: float

    def judged(self, before: float, loss: float, overlap: float | None) -> Judged:
        """A graph's quality; a loss that isn't a number is none."""
        grown = self.max_loss_increase
        passes = grown is None or loss <= before * (1 + grown)
        if self.min_overlap is not None and overlap is not None:
            passes = passes and overlap >= self.min_overlap
        return Judged(loss, overlap, passes)

    @property
    def words(self) -> str:
        """The limits of quality."""
        loss, held = self.max_loss_increase, self.min_overlap
        told = [] if loss is None else [f"the loss may grow by {loss:.2%}"]
        return ", ".join(told + ([] if held is None else [f"list overlap at least {held:g}"]))


@stage(accepts="onnx", produces="onnx", technique="closed_like")
def quantize_measured(
    artifact: Artifact,
    context: Context,
    *,
    kinds: Literal["both", "dynamic", "static"] = "both",
    rows: Count = 256,
    candidates: Count = 1,
    min_speedup: Positive = 1.0,
    max_loss_increase: NonNegative | None = None,
    min_overlap: Share | None = None,
    trials: Count = 40,
    minutes: Positive = 10.0,
    calibration_rows: Count = 4096,
    per_channel: Flag = True,
    reduce_range: Flag = True,
    keep_last: Flag = True,
    exclude: Names = (),
) -> Outcome:
    """Quantise those MatMul and Gemm with constant weights that int8 makes quicker here, each in
    the kind that gains most, as long as quality on validation rows stays.

    Each product alone is timed against fp32 in turns, in onnxruntime with the run's threads, on
    batches of ``rows`` training rows, ``candidates`` to a request; it counts when its speedup is
    above ``min_speedup`` beyond noise (below 1 lets slower but smaller ones through), and all in
    one kind are taken where that is quicker yet. The task's loss may grow by ``max_loss_increase``
    of itself (clicks and ratings: 0.001 unless given; next items: 1 - NDCG@10, not asked unless
    given), and lists must hold ``min_overlap`` of the exact ones (0.98). Until they do, the product
    that does most damage for the time it saves goes a step back, within ``trials`` judged graphs
    and ``minutes``. The other parameters are those of ``quantize_static``, ranges by lowest and
    highest value.

    Raises ``EffectError`` when nothing is quicker or no graph keeps quality, and as the other int8
    stages do; ``UnsupportedError`` for ``min_overlap`` without lists, sizes that don't divide, and
    graphs above 1.5 GB, of which three would be in memory.
    """
    began, model = time.monotonic(), load_graph(artifact)
    loss, overlap = _limits(context.data.schema.task, max_loss_increase, min_overlap)
    allowed = KINDS if kinds == "both" else (kinds,)
    asked = _Asked(allowed, min_speedup, loss, overlap, trials, began + minutes * 60)
    _check(model.ByteSize())
    batches = timed_batches(artifact, context, rows=rows, candidates=candidates)
    split = context.data.splits["train"]
    drawn = draw_rows(split, count=calibration_rows, seed=context.seed)
    context.progress(f"calibrating on {len(drawn)} rows", 0.0)
    products = find_products(
        model,
        row_batches(context.data, split, drawn, artifact.inputs),
        kinds=allowed,
        per_channel=per_channel,
        reduce_range=reduce_range,
        keep_last=keep_last,
        exclude=exclude,
    )
    seconds = minutes * 60 / 2 / (len(products.names) + OTHER_COMPARISONS)
    bench = Bench(batches, paired_times, seconds, context.threads)
    made = _choose(products, bench, asked, artifact, context)
    told = f"timed on {rows} rows, {candidates} to a request, {context.threads} threads"
    return _written(products, made, asked, artifact, context, note=told)


def _limits(
    task: TaskName, loss: float | None, overlap: float | None
) -> tuple[float | None, float | None]:
    """The limits of loss and overlap that hold for a task where these are given."""
    if TASKS[task].lists:
        return loss, MIN_OVERLAP if overlap is None else overlap
    if overlap is not None:
        raise UnsupportedError(
            f"min_overlap is for lists; the task is {task}, whose loss is bounded instead: use "
            "max_loss_increase"
        )
    return MAX_LOSS_INCREASE if loss is None else loss, None


def _check(size: int) -> None:
    if size > LARGEST:
        raise UnsupportedError(
            f"the graph has {size:,} bytes, of which several copies would be in memory; at most "
            f"{LARGEST:,} can be timed: use quantize_static, or quantize_tables first"
        )


@dataclass(frozen=True)
class _Made:
    """The plan that was found, what it was chosen from, and how the whole graph compares."""

    found: Found
    start: Plan
    """What the search began with."""
    uniform: bool
    """Whether that is all products in one kind, quicker than each in its own."""
    options: Options
    refused: Mapping[str, Mapping[Kind, str]]
    gain: Speedup
    loss: float
    """Of fp32."""
    damage: float


def _choose(
    products: Products, bench: Bench, asked: _Asked, artifact: Artifact, context: Context
) -> _Made:
    """Measure each product, choose, step back until quality is kept, measure the whole."""
    damage = damage_to(products.model, artifact, context)
    before = served_loss(products.model, artifact, context)
    options, refused = measure_options(
        products,
        asked.kinds,
        bench,
        damage,
        lambda label, share: context.progress(label, 0.05 + 0.45 * share),
    )
    context.progress("timing whole graphs", 0.5)
    plan = quickest(options, least=asked.least)
    start = best_start(products, plan, options, bench, least=asked.least)
    if not start:
        told = product_notes(options, {}, refused, unit=_damage_unit(context))
        raise EffectError(
            f"quantize_measured had no effect: nothing is quicker in int8 here; {told[0]}"
        )
    trial = count()

    def judge(plan: Plan) -> Judged:
        at = next(trial)
        context.progress(f"judging graph {at + 1}", 0.5 + 0.4 * at / asked.trials)
        graph = mixed(products, plan)
        overlap = None if asked.min_overlap is None else 1 - damage(graph)
        return asked.judged(before, served_loss(graph, artifact, context), overlap)

    found = search(start, options, judge, least=asked.least, trials=asked.trials, until=asked.until)
    graph = mixed(products, found.plan)
    context.progress("timing the graph that is kept", 0.9)
    times = bench.times({FP32: bench.call(products.model), "int8": bench.call(graph)})
    gain = speedup(times[FP32], times["int8"])
    if gain.value <= asked.least:
        raise EffectError(
            f"quantize_measured had no effect: {verdict(gain)}, {gain} of its speed with "
            f"{', '.join(found.plan)} in int8, where more than {asked.least:g}x was asked"
        )
    return _Made(found, start, start != plan, options, refused, gain, before, damage(graph))


def _written(
    products: Products,
    made: _Made,
    asked: _Asked,
    artifact: Artifact,
    context: Context,
    *,
    note: str,
) -> Outcome:
    plan, judged = made.found.plan, made.found.judged
    outcome = finish(mixed(products, plan), artifact, context, notes=())
    kinds = list(plan.values())
    unit = _damage_unit(context)
    effects = (
        Effect("quantised_ops", 0, len(kinds), asked=len(products.names)),
        *(Effect(f"{kind}_ops", 0, kinds.count(kind)) for kind in asked.kinds),
        Effect("speedup", 1.0, made.gain.value, unit="times as quick as fp32"),
        Effect("validation_loss", made.loss, judged.loss, unit=UNITS[context.data.schema.task]),
        Effect("damage", 0.0, made.damage, unit=unit),
        *outcome.effects[1:],
    )
    batch = "dynamic int8: the scores of a row depend on the batch it is in"
    together = (
        f"all in {next(iter(made.start.values()))} int8 was quicker than each in its best kind"
    )
    notes = (
        f"{verdict(made.gain)}: {made.gain}, {note}",
        f"{search_note(made.found, made.start)}; {asked.words}",
        *((together,) if made.uniform else ()),
        *((batch,) if "dynamic" in kinds else ()),
        *product_notes(made.options, plan, made.refused, unit=unit),
        *left_alone(products.model, kept=products.kept, chosen=list(plan)),
    )
    return Outcome(outcome.artifact, effects, notes)


def _damage_unit(context: Context) -> str:
    lists = TASKS[context.data.schema.task].lists
    return "share of the lists missed" if lists else "mean squared difference"
