"""Rows of what an engine told of itself after all that was asked of it, and of device memory."""

from collections.abc import Mapping
from typing import Any

from harness.results import Row

SCENARIO = "engine"
_FACTS: Mapping[str, str] = {
    "compile_seconds": "s",
    "graph_seconds": "s",
    "recompiles": "count",
    "graph_breaks": "count",
}
"""Figures that ``EngineFacts.notes`` may have, and their units; less is better of all."""


def engine_rows(
    columns: Mapping[str, Any], facts: Mapping[str, Any], memory: Mapping[str, Any]
) -> list[Row]:
    """Of an engine on a GPU, asked at the end (so that recompilations are counted): whether it ran
    as a CUDA graph (1 or 0), what compiling and recording took, how often it compiled again and how
    often its graph broke, nodes per provider (an engine that calls its device ``cuda+cpu`` has the
    verdict ``mixed placement``), and the most device memory it had. What it doesn't tell has no
    row; memory always has one.
    """
    notes = facts["notes"]
    base = {**columns, "scenario": SCENARIO, "threads": facts["threads"], "direction": "lower"}
    rows = []
    if "cuda_graph" in notes:
        graph = bool(notes["cuda_graph"])
        told = "calls replay a recorded CUDA graph" if graph else "kernels are launched one by one"
        rows.append(_row(base, "cuda_graph", "share", float(graph), told, direction="none"))
    for name, unit in _FACTS.items():
        if notes.get(name) is not None:
            rows.append(_row(base, name, unit, float(notes[name])))
    if isinstance(notes.get("nodes"), Mapping):
        rows.append(_nodes(base, facts))
    device, how = memory.get("device"), str(memory.get("how") or "the worker ended before")
    value = None if device is None else float(device)
    rows.append(_row(base, "peak_device_memory", "bytes", value, how))
    return rows


def _nodes(base: Mapping[str, Any], facts: Mapping[str, Any]) -> Row:
    """How many nodes the CPU's provider was given, and where all are."""
    nodes: Mapping[str, int] = facts["notes"]["nodes"]
    counts = ", ".join(f"{name}: {count}" for name, count in sorted(nodes.items()))
    told = "; ".join(filter(None, (counts, facts["notes"].get("placement"))))
    verdict = "mixed placement" if "+" in facts["device"] else None
    on_cpu = float(nodes.get("CPUExecutionProvider", 0))
    return _row(base, "nodes_on_cpu", "count", on_cpu, told or None, verdict=verdict)


def _row(
    base: Mapping[str, Any],
    metric: str,
    unit: str,
    value: float | None,
    reason: str | None = None,
    **changes: Any,
) -> Row:
    told = {"metric": metric, "unit": unit, "value": value, "reason": reason}
    return Row(**{**base, **told, "n": None if value is None else 1, **changes})
