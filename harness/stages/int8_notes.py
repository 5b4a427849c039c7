"""What was measured of each product, and what was chosen, in words for the notes of a stage."""

from collections.abc import Mapping

from harness.stages.int8_search import Found, Option, Options
from harness.stages.mixed_int8 import Kind, Plan
from harness.stages.pairing import Speedup

TOLD = 24
"""Products whose figures are told; the others are counted."""


def verdict(gain: Speedup) -> str:
    """Whether a speedup over fp32 is beyond noise, and which way."""
    if gain.low > 1:
        return "quicker than fp32"
    return "slower than fp32" if gain.high < 1 else "as quick as fp32 within noise"


def product_notes(
    options: Options, plan: Plan, refused: Mapping[str, Mapping[Kind, str]], *, unit: str
) -> tuple[str, ...]:
    """A note of each product, in order, of at most ``TOLD``: what each kind alone made of the whole
    graph's time and scores, or why it can't be had, and what is kept.
    """
    told = []
    for product in list(options)[:TOLD]:
        parts = [f"{k} {_figures(each, unit)}" for k, each in options[product].items()]
        parts += [f"{kind} can't be had ({why})" for kind, why in refused.get(product, {}).items()]
        told.append(f"{product}: {'; '.join(parts)}; {plan.get(product, 'fp32')} kept")
    more = len(options) - len(told)
    return (*told, f"and {more} products more") if more else tuple(told)


def _figures(option: Option, unit: str) -> str:
    gain = option.speedup
    return f"{gain}, {verdict(gain)}, {unit} {option.damage:.2g}"


def search_note(found: Found, start: Plan) -> str:
    """What the search for quality did, with the products that it changed."""
    back = [
        f"{name} {kind} -> {found.plan.get(name, 'fp32')}"
        for name, kind in start.items()
        if found.plan.get(name) != kind
    ]
    more = f" and {len(back) - TOLD} more" if len(back) > TOLD else ""
    told = f"; for quality {', '.join(back[:TOLD])}{more}" if back else ""
    return f"{found.trials} graphs judged, {found.ended}{told}"
