"""What a TensorRT plan is: the types its layers use, read from the engine inspector, and the sizes
it is built for.

A plan is labelled by these, never by what it was asked to be: a plan named fp16 that runs in fp32
is a known fault.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from harness.errors import EffectError
from harness.profile import Load, Spread

Range = tuple[int, int, int]
"""(smallest, best tuned, largest) size of an axis."""

SCORED_ROWS = 16_384
"""Most rows of a call when a split is scored."""
SCORED_LISTS = 256
"""Most lists of such a call."""
_FORMATS = {
    "INT8": "int8",
    "FP8": "fp8",
    "HALF": "fp16",
    "FP16": "fp16",
    "BFLOAT16": "bf16",
    "BF16": "bf16",
    "FLOAT": "fp32",
    "FP32": "fp32",
}
NARROW = ("int8", "fp8", "fp16", "bf16")
"""Types below fp32, the narrowest first."""
UNTOLD = "unknown (plan without layer types)"


def layer_types(inspector_json: str) -> dict[str, int]:
    """How many layers take or give tensors of each type, from the engine inspector's JSON; empty
    when the plan was built without detailed profiling (then layers are names only).
    """
    counts: Counter[str] = Counter()
    for layer in json.loads(inspector_json).get("Layers", []):
        if isinstance(layer, dict):
            ends = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
            # "Half" in some versions, "Row major linear FP16 format" in others
            words = " ".join(str(end.get("Format/Datatype", "")) for end in ends).upper().split()
            counts.update({_FORMATS[word] for word in words if word in _FORMATS})
    return dict(counts)


def plan_precision(layers: Mapping[str, int]) -> str:
    """The types below fp32 that a plan's layers use, the narrowest first, joined by ``+``; fp32
    when there is none; says so when the plan doesn't tell.
    """
    narrow = [name for name in NARROW if layers.get(name)]
    if narrow:
        return "+".join(narrow)
    return "fp32" if layers.get("fp32") else UNTOLD


def read_precision(layers: Mapping[str, int], *, asked: str) -> str:
    """The plan's label (``plan_precision``); raises ``EffectError`` when no layer uses a type below
    fp32 that the graph has (``asked``, such as fp16 or int8+fp16), or the plan doesn't tell.
    """
    wanted = [name for name in NARROW if name in asked] or ["fp32"]
    missing = [name for name in wanted if not layers.get(name)]
    if missing:
        used = ", ".join(f"{name} in {count}" for name, count in sorted(layers.items()))
        raise EffectError(
            f"the plan was to be {asked}, but no layer uses {' and '.join(missing)} (layers by "
            f"type: {used or 'none'})"
        )
    return plan_precision(layers)


def plan_sizes(load: Load) -> dict[str, tuple[int, ...]]:
    """Sizes that a load asks of an engine, as ``build_tensorrt`` takes them: ``batches`` of rows,
    and the ``candidates`` of a request.
    """
    drawn = load.candidates
    candidates = (
        (drawn.low, round(drawn.mean), drawn.high) if isinstance(drawn, Spread) else (drawn,) * 3
    )
    return {"batches": tuple(sorted({*load.batches, load.offline_batch})), "candidates": candidates}


def plan_profiles(
    axes: Collection[str], *, batches: Sequence[int], candidates: Range, longest: int, seen: int
) -> list[dict[str, Range]]:
    """Sizes of each of a plan's profiles, by free axis: one for each batch of single rows or lists,
    from the batch before it on, tuned for it; one for a request's candidates; and a wide one for
    scoring a split whose ``longest`` request has so many rows (a past so many ``seen`` items).

    One profile of all would have to hold the most requests of the most candidates each.
    """
    past: dict[str, Range] = {"seen": (1, max(1, seen // 2), max(1, seen))}
    if "candidates" not in axes:
        axis, wide = ("rows", SCORED_ROWS) if "rows" in axes else ("requests", SCORED_LISTS)
        largest = max(*batches, wide, longest if axis == "rows" else 1)
        found = [{axis: each} for each in _steps(batches)]
        found.append({axis: (1, min(wide, largest), largest)})
        if axis == "rows":
            found.append({axis: candidates})
    else:
        found = [{"requests": each, "candidates": (1, 1, 1)} for each in _steps(batches)]
        found.append({"requests": (1, 1, 1), "candidates": candidates})
        most = max(longest, candidates[2])
        requests = max(1, SCORED_ROWS // most)
        tuned = min(most, max(1, candidates[1]))
        found.append({"requests": (1, requests, requests), "candidates": (1, tuned, most)})
    return [each | past if "seen" in axes else each for each in found]


def _steps(sizes: Sequence[int]) -> list[Range]:
    ordered = sorted(set(sizes))
    return [(low + 1, size, size) for low, size in zip([0, *ordered], ordered, strict=False)]
