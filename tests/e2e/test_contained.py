"""What goes wrong in one place stays there: a variant that ends its process, runs side by side, a
full disk.
"""

import resource
from pathlib import Path

from made_runs import harness, one_core

from harness.results import read_rows

ROOT = Path(__file__).parent
QUICK = str(ROOT / "profiles" / "quick.yaml")
PLAIN = ROOT / "recipes" / "made-fp32.yaml"

# Only pruned forms, by their widths, and only where they are made or scored: elsewhere each is a
# model like any other.
MODEL = """
import os
import resource
import signal
import sys
import time

import torch
from torch import nn


def within(name):
    frame = sys._getframe()
    while frame and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None


def die(number):
    os.kill(os.getpid(), number)


def fill(most):
    \"\"\"Take memory until a system that had no more would kill: no group of processes with a
    limit can be had in every place that tests run in, so this process does it to itself.\"\"\"
    held = []
    while sum(map(len, held)) < most:
        held.append(b"x" * 2**24)
    die(signal.SIGKILL)


def no_memory():
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
    try:
        bytearray(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


FAULTS = {
    8: ("build_stage", lambda: time.sleep(600)),
    16: ("build_stage", lambda: fill(2**28)),
    24: ("build_stage", no_memory),
    32: ("score_variant", lambda: time.sleep(600)),
    40: ("score_variant", lambda: fill(2**28)),
    48: ("score_variant", lambda: die(signal.SIGSEGV)),
    56: ("score_variant", no_memory),
}


class Rec(nn.Module):
    def __init__(self, n_users, n_items):
        super().__init__()
        self.user = nn.Embedding(n_users, 4)
        self.item = nn.Embedding(n_items, 4)
        self.hidden = nn.Linear(8, 64)
        self.out = nn.Linear(64, 1)

    def forward(self, user, item):
        place, fault = FAULTS.get(self.hidden.out_features, ("", None))
        if place and within(place):
            fault()
        x = torch.cat([self.user(user), self.item(item)], -1)
        return self.out(torch.relu(self.hidden(x))).squeeze(-1)
"""
BASELINE = """\
schema_version: 1
name: mine
dataset: {generated: {users: 100, items: 50, rows: 2000, candidates: 5}}
model: {file: {path: model.py, attribute: Rec}}
training: {epochs: 1, batch_size: 256}
"""
RECIPE = """\
schema_version: 1
name: NAME
baseline: mine.yaml
stages: STAGES
targets: [torch-cpu]
"""
PROFILE = """\
schema_version: 1
name: brief
base: ci
load: {scenarios: [single], candidates: 4}
protocol: {min_pairs: 5, max_pairs: 5, min_seconds: 0.01, max_seconds: 0.1}
scoring: {call_seconds: 20}
making: {silent_seconds: 20}
"""
TOLD = {
    8: "making (prune_channels: pruning step 1/1) gave no answer within 20 s",
    16: "SIGKILL during making (prune_channels: pruning step 1/1); a system out of memory",
    24: "making failed: MemoryError: ",
    32: "gave no answer within 20 s",
    40: "was killed by SIGKILL during scoring (the test split, 0 of ",
    48: "the worker was killed by SIGSEGV during scoring (the test split, 0 of ",
    56: "scoring failed: MemoryError: ",
}
"""What is told of each pruned form, by its width of 64."""


def test_variants_that_end_their_process_are_failed_rows(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(BASELINE)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "brief.yaml").write_text(PROFILE)
    recipes = []
    for width in (*TOLD, 64):
        stages = f"[prune_channels: {{ratio: {1 - width / 64}, round_to: 8, steps: 1}}]"
        text = RECIPE.replace("NAME", f"w{width}").replace("STAGES", stages if width < 64 else "[]")
        recipes.append(tmp_path / f"w{width}.yaml")
        recipes[-1].write_text(text)
    out = ("--out", tmp_path / "out", "--profile", tmp_path / "brief.yaml")
    done = harness("run", *recipes, *out, cache=tmp_path / "cache", preexec_fn=one_core)
    assert done.returncode == 0, done.stdout + done.stderr
    rows, report = read_rows(tmp_path / "out"), (tmp_path / "out" / "report.md").read_text()
    failed = {row.recipe: row for row in rows if row.status == "failed"}
    assert failed.keys() == {f"w{width}" for width in TOLD}, done.stdout
    for width, told in TOLD.items():
        row = failed[f"w{width}"]
        assert (row.target, row.scenario, row.value) == ("torch-cpu", "run", None)
        assert row.reason.startswith(f"w{width}@torch-cpu: ")
        assert told in row.reason
        assert f"w{width}@torch-cpu: " in report
    timed = {row.recipe for row in rows if row.metric == "latency_p50" and row.value}
    assert timed == {"w64"}
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_a_full_disk_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    def few_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    cache, out = tmp_path / "cache", tmp_path / "out"
    arguments = ("run", PLAIN, "--out", out, "--profile", QUICK, "--targets", "ort-cpu")
    done = harness(*arguments, cache=cache, preexec_fn=few_bytes)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {cache}/data/")
    # numpy doesn't say why an array went out short
    assert line.rpartition(": ")[2] in ("File too large", "No space left on device")
    assert not list(tmp_path.rglob("*.partial"))
    again = harness(*arguments, cache=cache, preexec_fn=one_core)
    assert again.returncode == 0, again.stdout + again.stderr
