"""Which products become int8: the quickest that keeps quality, by greedy steps back."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.errors import EffectError
from harness.stages.mixed_int8 import Kind, Plan
from harness.stages.pairing import Speedup


@dataclass(frozen=True, slots=True)
class Option:
    """One product in one kind of int8, all else in fp32: the whole graph's speedup, and the damage
    done to its scores (0 or more, any unit).
    """

    speedup: Speedup
    damage: float

    @property
    def saved(self) -> float:
        """The share of the whole graph's time."""
        return 1 - 1 / self.speedup.value


Options = Mapping[str, Mapping[Kind, Option]]
"""By product and kind."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan's quality: the task's loss, the share of the exact lists that its lists hold (None
    where there are no lists), and whether that is good enough.
    """

    loss: float
    overlap: float | None
    passes: bool

    def __str__(self) -> str:
        held = "" if self.overlap is None else f", list overlap {self.overlap:.4f}"
        return f"loss {self.loss:.6g}{held}"


@dataclass(frozen=True)
class Found:
    """The plan kept, its quality, how many were tried and why it ended there."""

    plan: Plan
    judged: Judged
    trials: int
    ended: str


def quickest(options: Options, *, least: float) -> dict[str, Kind]:
    """For each product the kind that saves most time, of those whose speedup is above ``least``
    beyond noise (by the low end of its interval).
    """
    plan = dict[str, Kind]()
    for product in options:
        if gaining := _gaining(options, product, least=least):
            plan[product] = max(gaining, key=lambda kind: gaining[kind].saved)
    return plan


def _gaining(options: Options, product: str, *, least: float) -> dict[Kind, Option]:
    return {k: o for k, o in options[product].items() if o.speedup.low > least}


@dataclass(frozen=True, slots=True)
class _Step:
    """A product's way to its next gentler kind (None: fp32)."""

    product: str
    kind: Kind | None
    damage: float
    """Taken back."""
    time: float
    """Given up."""

    @property
    def order(self) -> tuple[float, float]:
        """Damage for each share of time, and of equals what costs least."""
        return self.damage / max(self.time, 1e-9), -self.time


def step_back(plan: Plan, options: Options, *, least: float) -> dict[str, Kind]:
    """The plan with the product that does most damage for the time it saves one step gentler: in
    its other kind where that gains time with less damage, else in fp32.
    """
    step = max((_gentler(p, plan[p], options, least) for p in plan), key=lambda s: s.order)
    rest = {name: kind for name, kind in plan.items() if name != step.product}
    return rest if step.kind is None else {**rest, step.product: step.kind}


def _gentler(product: str, kind: Kind, options: Options, least: float) -> _Step:
    own, gaining = options[product][kind], _gaining(options, product, least=least)
    less = {k: option for k, option in gaining.items() if option.damage < own.damage}
    if not less:
        return _Step(product, None, own.damage, own.saved)
    best = max(less, key=lambda k: less[k].saved)
    return _Step(product, best, own.damage - less[best].damage, own.saved - less[best].saved)


def search(
    start: Plan,
    options: Options,
    judge: Callable[[Plan], Judged],
    *,
    least: float,
    trials: int,
    until: float,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The plan that keeps quality: ``start``, stepped back until ``judge`` passes it; then each
    product that lost time is put back if the rest allows it, those that save most first.

    At most ``trials`` plans are judged, none after ``until`` by the clock; the best one so far is
    kept. Raises ``EffectError`` when none passes.
    """
    plan, done, judged = dict(start), 1, judge(start)
    failed = list[Plan]()

    def ended() -> str:
        if done >= trials:
            return f"the {trials} trials were used up"
        return "the time was used up" if clock() >= until else ""

    while not judged.passes:
        failed.append(plan)
        plan = step_back(plan, options, least=least)
        if not plan:
            raise EffectError(
                f"no product may be int8: with one alone left, {judged}; allow more, or train "
                "for it with quantize_aware"
            )
        if why := ended():
            raise EffectError(
                f"{why}, and no graph of {done} kept quality; the last had {judged}, "
                f"{len(plan)} of {len(start)} products left; raise trials or minutes, or allow more"
            )
        judged, done = judge(plan), done + 1
    for product in _lost(plan, start, options):
        again = {**plan, product: start[product]}
        if again in failed:
            continue
        if why := ended():
            return Found(plan, judged, done, why)
        found, done = judge(again), done + 1
        if found.passes:
            plan, judged = again, found
        else:
            failed.append(again)
    return Found(plan, judged, done, "nothing more could be put back" if failed else "at once")


def _lost(plan: Plan, start: Plan, options: Options) -> list[str]:
    """Products that save less time than at the start, the largest difference first."""

    def saved(product: str, of: Plan) -> float:
        return options[product][of[product]].saved if product in of else 0.0

    lost = {product: saved(product, start) - saved(product, plan) for product in start}
    return sorted((p for p in lost if lost[p] > 0), key=lambda p: -lost[p])
