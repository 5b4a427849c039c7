"""The memory and size suite: peak resident bytes in a fresh process, bytes of the files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifact import Artifact
from harness.results import Row
from harness.suites.arms import Loaded

STEPS = {
    "import": "peak_memory_at_import",
    "load": "peak_memory_at_load",
    "first_call": "peak_memory",
}


def memory_rows(
    common: Mapping[str, Mapping[str, Any]],
    loaded: Mapping[str, Loaded],
    failures: Mapping[str, str],
    *,
    steady: Mapping[str, int],
) -> list[Row]:
    """Peak resident bytes of every arm named in ``common``: after import, load and first call of a
    fresh process, and (``steady``, by arm) after all that was asked of it.
    """
    rows = []
    for name, shared in common.items():
        base = {**shared, "scenario": "memory", "unit": "bytes", "direction": "lower"}
        if name not in loaded:
            failed = {"status": "failed", "reason": failures.get(name, "not loaded")}
            rows.append(Row(**{**base, "metric": "peak_memory", **failed}))
            continue
        facts = loaded[name].facts
        base |= {key: facts[key] for key in ("engine", "device", "precision", "threads")}
        base["engine_version"] = facts["version"]
        rows += [
            Row(**{**base, "metric": metric, "value": float(loaded[name].memory[step]), "n": 1})
            for step, metric in STEPS.items()
        ]
        rows.append(Row(**{**base, "metric": "peak_memory_steady", **_steady(name, steady)}))
    return rows


def _steady(name: str, steady: Mapping[str, int]) -> dict[str, Any]:
    if name not in steady:
        return {"reason": "the worker ended before all was timed"}
    return {"value": float(steady[name]), "n": 1}


def size_rows(common: Mapping[str, Any], artifact: Artifact) -> list[Row]:
    """Bytes of all model files, of the tables and of the rest; parameters and MACs of one row."""
    tables = table_bytes(artifact)
    unknown = None if tables is not None else f"not told by a {artifact.format} file"
    dense = None if tables is None else artifact.bytes - tables
    figures: list[tuple[str, str, float | None, str | None]] = [
        ("bytes", "bytes", artifact.bytes, None),
        ("embedding_bytes", "bytes", tables, unknown),
        ("dense_bytes", "bytes", dense, unknown),
        ("parameters", "count", artifact.parameters, None),
        ("embedding_parameters", "count", artifact.embedding_parameters, None),
        ("macs", "count", artifact.macs, None),
    ]
    return [
        Row(
            **{
                "direction": "lower",
                **common,
                "scenario": "size",
                "metric": metric,
                "unit": unit,
                "value": None if value is None else float(value),
                "reason": reason,
            }
        )
        for metric, unit, value, reason in figures
    ]


def table_bytes(artifact: Artifact) -> int | None:
    """Bytes of the embedding tables as they are stored, scales of quantised ones included; None
    where the format doesn't tell them apart.
    """
    if artifact.format == "torch":
        return _torch_tables(artifact)
    return _onnx_tables(artifact.file) if artifact.format == "onnx" else None


def _torch_tables(artifact: Artifact) -> int | None:
    """The share of the tables, when all numbers of the file have one type; codes are bytes."""
    with artifact.file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    header.pop("__metadata__", None)
    floats = {
        (tensor["data_offsets"][1] - tensor["data_offsets"][0])
        // max(1, int(np.prod(tensor["shape"])))
        for tensor in header.values()
        if tensor["dtype"].startswith(("F", "BF"))
    }
    codes = sum(int(np.prod(t["shape"])) for t in header.values() if t["dtype"] == "U8")
    numbers = artifact.embedding_parameters - codes
    return numbers * floats.pop() + codes if len(floats) == 1 else None


def _onnx_tables(path: Path) -> int:
    """Bytes of the weights that rows are gathered from, directly or dequantised on the way."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    sizes = {tensor.name: _tensor_bytes(tensor) for tensor in graph.initializer}
    shapes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    scaled = {n.output[0]: n.input for n in graph.node if n.op_type == "DequantizeLinear"}
    gathered = {n.input[0] for n in graph.node if n.op_type == "Gather"}
    dequantised_after = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Gather"}
    names: set[str] = set()
    for source in gathered:
        names |= set(scaled.get(source, [source]))
    for inputs in scaled.values():  # gathered as int8, its scales applied to the rows
        if inputs[0] in dequantised_after:
            names |= set(inputs[1:])
    tables = {name for name in names if shapes.get(name) == 2}
    return sum(sizes[name] for name in names if name in sizes) if tables else 0


def _tensor_bytes(tensor: Any) -> int:
    from onnx import helper

    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(np.prod(tensor.dims, dtype=np.int64)) * int(np.dtype(kind).itemsize)
