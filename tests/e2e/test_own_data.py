"""A user's own csv and torch module through the command line, and what goes wrong with them."""

import json
import os
import subprocess
from pathlib import Path

import made_runs
import numpy as np
import pytest
import torch

from harness.results import read_rows

MODEL = """
import torch
from torch import nn


class Rec(nn.Module):
    def __init__(self, n_users, n_items, dim=4):
        super().__init__()
        self.user = nn.Embedding(n_users, dim)
        self.item = nn.Embedding(n_items, dim)
        self.hidden = nn.Linear(2 * dim + 1, 16)
        self.out = nn.Linear(16, 1)

    def forward(self, user, item, price):
        x = torch.cat([self.user(user), self.item(item), price[:, None]], -1)
        return self.out(torch.relu(self.hidden(x))).squeeze(-1)
"""
BASELINE = """\
schema_version: 1
name: mine
dataset:
  table:
    {path: clicks.csv, user: user_id, item: item_id, label: clicked, time: ts, numeric: [price]}
model:
  file: {path: model.py, attribute: Rec, parameters: {dim: 4}}
training: {epochs: 2, batch_size: 64, learning_rate: 1e-2}
"""
QUICK = str(Path(__file__).parent / "profiles" / "quick.yaml")
RECIPE = """\
schema_version: 1
name: mine-int8
baseline: mine
stages:
  - prune_channels: {ratio: 0.5}
  - quantize_dynamic
targets: [ort-cpu]
"""


def rows(count: int = 600) -> str:
    random = np.random.default_rng(3)
    lines = ["user_id,item_id,clicked,price,ts"]
    for at in range(count):
        user, item = random.integers(0, 20), random.integers(0, 15)
        clicked = int(random.random() < 0.2 + 0.6 * ((user + item) % 3 == 0))
        lines.append(f"u{user},i{item},{clicked},{random.normal():.3f},{1000 + at}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "baselines").mkdir()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "baselines" / "mine.yaml").write_text(BASELINE)
    (tmp_path / "baselines" / "model.py").write_text(MODEL)
    (tmp_path / "baselines" / "clicks.csv").write_text(rows())
    (tmp_path / "recipes" / "mine-int8.yaml").write_text(RECIPE)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def harness(mine: Path, *arguments: object) -> subprocess.CompletedProcess:
    once = made_runs.one_core
    return made_runs.harness(*arguments, cache=mine / "cache", cwd=mine.parent, preexec_fn=once)


def run(mine: Path) -> subprocess.CompletedProcess:
    recipe, out = mine / "recipes" / "mine-int8.yaml", mine / "out"
    return harness(mine, "run", recipe, "--out", out, "--profile", QUICK)


def check_refused(mine: Path, told: str) -> None:
    """One line on stderr, exit code 2, nothing that looks finished."""
    done = run(mine)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (mine / "out" / "report.md").exists()
    assert not (mine / "out" / "rows.jsonl").exists()


def test_the_readmes_example(mine: Path) -> None:
    done = run(mine)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_rows(mine / "out")
    values = {(r.recipe, r.metric): r.value for r in found if r.scenario in ("accuracy", "data")}
    assert values["mine", "rows read"] == values["mine", "rows kept"] == 600
    assert 0 <= values["mine-int8", "auc"] <= 1
    achieved = [r.value for r in found if r.metric.endswith("width:hidden:achieved")]
    assert achieved == [8]
    folder = next((mine / "cache" / "artifacts").glob("*/model.onnx")).parent
    assert json.loads((folder / "vocabulary.json").read_text())["user_id"]


def train(mine: Path) -> str:
    """Train the baseline only; gives the sha256 of its weights, as its lock file tells it."""
    path = mine / "baselines" / "mine.yaml"
    done = harness(mine, "train", path, "--seeds", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    lock = json.loads((mine / "baselines" / "mine.lock.json").read_text())
    assert set(lock["metrics"]) >= {"auc", "logloss"}
    assert lock["environment"]["key"]
    return lock["checkpoint_sha256"]


def counts(mine: Path) -> tuple[int, int]:
    """Prepared datasets and trained baselines in the cache."""
    cache = mine / "cache"
    return len(list((cache / "data").iterdir())), len(list((cache / "baselines").iterdir()))


def test_training_is_found_again_until_something_it_depends_on_changes(mine: Path) -> None:
    first = train(mine)
    edit(mine / "baselines" / "mine.yaml", "schema_version: 1", "# a comment\nschema_version: 1")
    edit(mine / "baselines" / "model.py", "import torch\n", "# a comment\nimport torch\n")
    assert train(mine) == first
    assert counts(mine) == (1, 1)
    edit(mine / "baselines" / "model.py", "torch.relu", "torch.tanh")
    assert train(mine) != first
    assert counts(mine) == (1, 2)


def test_a_changed_label_of_the_same_size_prepares_anew(mine: Path) -> None:
    path = mine / "baselines" / "clicks.csv"
    train(mine)
    before = path.stat()
    lines = path.read_text().splitlines(keepends=True)
    fields = lines[1].split(",")
    fields[2] = str(1 - int(fields[2]))
    lines[1] = ",".join(fields)
    path.write_text("".join(lines))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    train(mine)
    assert counts(mine) == (2, 2)


def test_a_test_set_of_one_class_has_no_auc(mine: Path) -> None:
    test = "user_id,item_id,clicked,price,ts\n" + "u1,i1,1,0.5,9999\nu2,i2,1,0.1,9999\n" * 5
    (mine / "baselines" / "test.csv").write_text(test)
    edit(mine / "baselines" / "mine.yaml", "path: clicks.csv,", "path: clicks.csv, test: test.csv,")
    trained = harness(mine, "train", mine / "baselines" / "mine.yaml", "--seeds", 1)
    assert trained.returncode == 0, trained.stderr
    assert "auc: undefined on this test split" in trained.stdout
    assert "rows read: 610" in trained.stdout
    done = run(mine)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [r for r in read_rows(mine / "out") if r.scenario == "accuracy"]
    auc = next(r for r in found if r.metric == "auc")
    assert auc.value is None
    assert auc.reason
    assert all(r.value is not None for r in found if r.metric == "logloss")
    assert "n/a" in (mine / "out" / "report.md").read_text()
    edit(
        mine / "recipes" / "mine-int8.yaml",
        "targets:",
        "gates: [{metric: auc, max_drop: 0.01}]\ntargets:",
    )
    again = run(mine)
    assert again.returncode == 1
    assert "undefined" in again.stdout


def test_a_loss_that_explodes_names_its_step(mine: Path) -> None:
    edit(mine / "baselines" / "mine.yaml", "learning_rate: 1e-2", "learning_rate: 1e30")
    check_refused(mine, "at step ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "clicks.csv"),
        ("user_id,item_id,clicked,price,ts\n", "clicks.csv"),
        ("user_id,item_id,price,ts\nu,i,1,1\n", "clicked"),
        ("user_id;item_id;clicked;price;ts\nu;i;1;1;1\n", "separator"),
    ],
    ids=["empty", "header only", "no label", "semicolons"],
)
def test_data_that_cant_be_read(mine: Path, content: str, told: str) -> None:
    (mine / "baselines" / "clicks.csv").write_text(content)
    check_refused(mine, told)


def test_weights_to_start_from(mine: Path) -> None:
    first = train(mine)
    trained = next((mine / "cache" / "baselines").glob("*/weights.safetensors"))
    (mine / "baselines" / "start.safetensors").write_bytes(trained.read_bytes())
    edit(
        mine / "baselines" / "mine.yaml",
        "schema_version: 1",
        "schema_version: 1\nweights: start.safetensors",
    )
    assert train(mine) != first
    assert counts(mine) == (1, 2)


def test_weights_that_hold_more_than_weights(mine: Path) -> None:
    marker = mine / "MARK.txt"

    class Mark:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"state_dict": Mark()}, mine / "baselines" / "evil.pt")
    edit(
        mine / "baselines" / "mine.yaml", "schema_version: 1", "schema_version: 1\nweights: evil.pt"
    )
    check_refused(mine, "contains more than weights")
    assert not marker.exists()


def test_weights_that_dont_fit_are_named(mine: Path) -> None:
    torch.save({"user.weight": torch.zeros(50, 8)}, mine / "baselines" / "other.pt")
    edit(
        mine / "baselines" / "mine.yaml",
        "schema_version: 1",
        "schema_version: 1\nweights: other.pt",
    )
    check_refused(mine, "missing hidden.bias, hidden.weight, item.weight")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("class Rec", "class Other", "has no 'Rec'"),
        (
            "def forward(self, user, item, price)",
            "def forward(self, user, item, prize)",
            "did you mean 'price'?",
        ),
        ("import torch\n", "import tortch\n", "can't be imported"),
    ],
)
def test_a_model_file_with_a_mistake(mine: Path, old: str, new: str, told: str) -> None:
    edit(mine / "baselines" / "model.py", old, new)
    check_refused(mine, told)


def test_a_folder_with_other_files_is_left_alone(mine: Path) -> None:
    out = mine / "out"
    (out / "recipes").mkdir(parents=True)
    (out / "recipes" / "mine-int8.yaml").write_text("precious")
    check_refused(mine, "holds other files (recipes)")
    assert (out / "recipes" / "mine-int8.yaml").read_text() == "precious"


def test_nothing_is_written_outside(mine: Path) -> None:
    edit(mine / "recipes" / "mine-int8.yaml", "name: mine-int8", "name: ../../escape")
    before = sorted(mine.rglob("*"))
    check_refused(mine, "can't be a name")
    assert sorted(mine.rglob("*")) == before
