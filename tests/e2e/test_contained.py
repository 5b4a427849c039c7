"""What goes wrong in one place stays there: a variant that ends its process, runs side by side, a
full disk.
"""

import resource
from pathlib import Path

import pytest
from made_runs import harness

from harness.results import read_rows

ROOT = Path(__file__).parent
QUICK = str(ROOT / "profiles" / "quick.yaml")
PLAIN = ROOT / "recipes" / "made-fp32.yaml"

# Only the pruned form, and only where it is scored: elsewhere it is a model like any other.
MODEL = """
import os
import signal
import sys
import time

import torch
from torch import nn


class Rec(nn.Module):
    def __init__(self, n_users, n_items):
        super().__init__()
        self.user = nn.Embedding(n_users, 4)
        self.item = nn.Embedding(n_items, 4)
        self.hidden = nn.Linear(8, 16)
        self.out = nn.Linear(16, 1)

    def forward(self, user, item):
        if self.hidden.out_features < 16 and sys.argv[0].endswith("scoring_worker.py"):
            FAULT
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
baseline: mine
stages: [STAGES]
targets: [torch-cpu]
"""
PROFILE = """\
schema_version: 1
name: brief
base: ci
load: {scenarios: [single], candidates: 4}
protocol: {min_pairs: 5, max_pairs: 5, min_seconds: 0.01, max_seconds: 0.1}
scoring: {call_seconds: 20}
"""


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the worker was killed by SIGSEGV during scoring"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "; a system out of memory does that"),
        ("time.sleep(600)", "gave no answer within 20 s"),
    ],
    ids=["segfault", "killed", "hangs"],
)
def test_a_variant_that_ends_its_process_is_a_failed_row(
    fault: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(BASELINE)
    (tmp_path / "model.py").write_text(MODEL.replace("FAULT", fault))
    (tmp_path / "brief.yaml").write_text(PROFILE)
    for name, stages in (("half", "prune_channels: {ratio: 0.5}"), ("plain", "")):
        text = RECIPE.replace("NAME", name).replace("STAGES", f"{{{stages}}}" if stages else "")
        (tmp_path / f"{name}.yaml").write_text(
            text.replace("baseline: mine", "baseline: mine.yaml")
        )
    recipes = [tmp_path / f"{name}.yaml" for name in ("half", "plain")]
    out = ("--out", tmp_path / "out", "--profile", tmp_path / "brief.yaml")
    done = harness("run", *recipes, *out, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(tmp_path / "out")
    (failed,) = (row for row in rows if row.status == "failed")
    assert (failed.recipe, failed.target, failed.scenario) == ("half", "torch-cpu", "run")
    assert failed.reason.startswith("half@torch-cpu: ")
    assert "scoring (the test split, 0 of " in failed.reason
    assert told in failed.reason
    timed = {row.recipe for row in rows if row.metric == "latency_p50" and row.value}
    assert timed == {"plain"}
    assert "half@torch-cpu: " in (tmp_path / "out" / "report.md").read_text()


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
    again = harness(*arguments, cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr
