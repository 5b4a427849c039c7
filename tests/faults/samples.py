"""Right inputs of every reader, and awkward values in the right form, for those made wrong."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from random import Random

from made_rows import REFERENCE, difference, row, timed

from harness.recipe import MEASURES
from harness.report.cells import BY_METRIC

BASELINE = b"""schema_version: 1
name: base
dataset: {generated: {}}
model: {mlp: {dim: 4, widths: [8]}}
training: {epochs: 1, batch_size: 1e3, learning_rate: 1e-3}
"""
RECIPES = (
    b"""schema_version: 1
name: half
baseline: base
stages:
  - prune_channels: {ratio: 5e-1, importance: taylor}
  - quantize_static: {calibration_rows: 2E2}
targets: [{ort-cpu: {require: true}}, openvino-cpu]
expect: {macs: {max_ratio: 0.5}}
gates:
  - {metric: auc, max_drop: 0.01}
  - {metric: latency_p50, target: ort-cpu, min_speedup: 1.5}
bench: {sla: 0.05, scenarios: [single]}
seed: 7
""",
    b"schema_version: 1\nname: a\nbaseline: base\nstages: [share_user]\ntargets: [torch-cpu]\n",
)
KEYS = (
    *(b"schema_version", b"name", b"baseline", b"stages", b"targets", b"expect", b"gates", b"seed"),
    *(b"prune_channels", b"quantize_static", b"ratio", b"importance", b"metric", b"max_drop"),
    *(b"ort-cpu", b"torch-cpu", b"require", b"macs", b"max_ratio", b"auc", b"bench", b"5e-1", b"7"),
    *(b"distill: {student: {dim: 2}}", b"base", b"half", b"{}", b"[]"),
)


CSV = (
    b"u,i,l,c,n,t\n"
    + b"".join(b"u%d,i%d,%d,c%d,%d.5,%d\n" % (k % 4, k % 7, k % 2, k, k, k) for k in range(40)),
    b'u,i,l,c,n,t\r\n"a ""q""",b,1,"two\r\nlines",1,2026-01-02\r\n' * 1
    + b"".join(
        b'"u,%d",i%d,%d,,,2026-01-%02d\r\n' % (k % 3, k, k % 2, 1 + k % 28) for k in range(40)
    ),
)


ROWS = (
    row(**REFERENCE),
    row(value=None, reason="one class"),
    timed(**REFERENCE, ratio=None, ratio_low=None, ratio_high=None),
    timed(noise="waiting", converged=False),
    difference(),
    row(scenario="size", metric="bytes", unit="bytes", value=1024),
    row(scenario="run", metric="status", value=None, status="failed", reason="a | b"),
    timed(scenario="server", metric="latency_p99", offered_rate=10.0, unit="s"),
)
LINES = b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in ROWS)
COLUMNS = (
    *(f'"{name}"'.encode() for name in asdict(ROWS[0])),
    *(b'"accuracy"', b'"sweep"', b'"single"', b'"offline"', b'"cold"', b'"memory"', b'"machine"'),
    *(b'"fairness"', b'"importance"', b'"gate"', b'"effect"', b'"data"', b'"loadgen"', b'"peaks"'),
    *(b'"reference:popularity"', b'"ort-cpu"', b'"latency_p50"', b'"auc"', b"0.93", b"64", b"1.6"),
)


NUMBERS = (0, 1, -1, 2, 64, 0.5, 1e-300, 5e-324, 1e30, -1e30, 1e29, 1e-9, 1e15, 0.999999)
WHOLE = (0, 1, 2, 64, 256, 10**6, 1 << 53)
WORDS = (
    *("", " ", "a|b", "# x", "1. x", "---", "a\nb", "\x1b[2J", "\u202ex", "*b*", "<b>", "`", "$x$"),
    *("\\", "\\|", "](x)", "![x](y)", "\u2028", "x" * 500, "\U0001f525", "None", "nan", "machine"),
)
SCENARIOS = (
    *("accuracy", "sweep", "single", "offline", "server", "qps_at_sla", "cold", "memory", "parity"),
    *("roofline", "loadgen", "size", "run", "gate", "data", "effect", "fairness", "importance"),
    *("reference", "training", "health", "resources", "peaks", "agreement", "beyond", "stage"),
)


def made_lines(random: Random) -> bytes:
    """Rows of the right types whose values are as awkward as may be."""
    lines = []
    for one in random.choices(ROWS, k=random.randrange(1, 9)):
        record = asdict(one)
        for name in random.sample(sorted(record), k=random.randrange(1, 8)):
            record[name] = random.choice(_choices(name, record[name]))
        lines.append(json.dumps(record))
    return "\n".join(lines).encode() + b"\n"


def _choices(name: str, value: object) -> Sequence[object]:
    if name == "scenario":
        return SCENARIOS
    if name == "metric":
        return (*BY_METRIC, *MEASURES, "ndcg@10", "auc_difference", "wait", *WORDS)
    if name in ("batch", "candidates", "threads", "n"):
        return (*WHOLE, None)
    if name == "status":
        return ("ok", "skipped", "failed")
    if name in ("schema_version", "seed", "converged"):
        return (value,)
    numbers = ("value", "ci_low", "ci_high", "ratio", "ratio_low", "ratio_high", "aa_ratio")
    return (*NUMBERS, None) if name in (*numbers, "offered_rate") else WORDS


def made_table(random: Random) -> bytes:
    """A table whose cells are as awkward as may be, written by Python's own writer."""
    cells = (
        *WORDS,
        *map(str, NUMBERS),
        "1e300",
        "-1e308",
        "u1",
        "i1",
        "1",
        "0",
        "2026-01-02",
        'a "q"',
        "a\r\nb",
        ",",
    )
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=random.choice(("\n", "\r\n")))
    writer.writerow("uilcnt")
    for at in range(random.randrange(1, 40)):
        right = [f"u{at % 4}", f"i{at % 7}", str(at % 2), "c", str(at), str(at)]
        writer.writerow([c if random.random() < 0.9 else random.choice(cells) for c in right])
    return out.getvalue().encode("utf-8")


ENVIRONMENT = json.dumps(
    {
        "cpu": "one",
        "threads": 2,
        "flags": ["avx2"],
        "packages": {"torch": "2"},
        "memory_bytes": 2**30,
    }
).encode()
ARTIFACT = json.dumps(
    {
        "format": "torch",
        "model": {"name": "file", "parameters": {"path": "model.py"}, "source": "model.py"},
        "inputs": [{"name": "user", "dtype": "int64", "shape": ["rows"], "fields": ["u"]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["rows"]}],
        "widths": {"out": [1, 2]},
        "lineage": [
            {"stage": "train", "parameters": {}, "seconds": 1.0, "cpu_seconds": 1.0}
            | {"effects": [{"name": "steps", "before": 0, "after": 3}], "notes": ["all"]}
        ],
    }
).encode()
BUILD = json.dumps(
    {
        "schema_version": 1,
        "environment": {"cpu": "one"},
        "artifacts": [
            dict.fromkeys(("baseline", "key", "format", "precision", "technique"), "x")
            | {"name": "half@ort-cpu", "recipe": "half", "engine": "ort-cpu", "bytes": 3}
            | {"data_hash": "d", "inputs": {"64x1": ["inputs/a.npz", "hash"]}}
        ],
        "skipped": {},
        "failed": {"b": "why"},
    }
).encode()
FIELD = {"kind": "categorical", "cardinality": 2, "mean": 0.0, "scale": 1.0}
SCHEMA = json.dumps(
    {
        "fields": [{"name": "u", "role": "user", **FIELD}, {"name": "i", "role": "item", **FIELD}],
        "label": "l",
        "user": "u",
        "item": "i",
        "history": None,
        "task": "click",
        "length": 0,
        "repeats": False,
    }
).encode()


def checkpoint(**how: bool) -> bytes:
    """A state dict as torch saves it."""
    import torch

    out = io.BytesIO()
    torch.save({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, out, **how)
    return out.getvalue()


def graph() -> bytes:
    """An ONNX graph whose weights are in a file beside it."""
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "own.bin"), ("offset", "0")):
        weight.external_data.add(key=key, value=value)
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4])
        for name in ("x", "logits")
    )
    add = helper.make_node("Add", ["x", "w"], ["logits"])
    inside = helper.make_graph([add], "g", [given], [made], [weight])
    content: bytes = helper.make_model(inside).SerializeToString()
    return content
