"""What makes the cache stale: whatever data, weights or a variant depend on, and nothing else.

Each case changes one thing of a user's own csv, model and recipe, and says which kinds of entries
are made anew.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness import baseline as baseline_module
from harness import variants as variants_module
from harness.baseline import train_baseline
from harness.loading import load_recipes
from harness.store import Store
from harness.variants import Variant, make_variant

MODEL = '''"""A user's own model."""
import torch
from torch import nn

SCALE = 1.0


class Rec(nn.Module):
    def __init__(self, n_users, n_items):
        super().__init__()
        self.user = nn.Embedding(n_users, 4)
        self.item = nn.Embedding(n_items, 4)
        self.hidden = nn.Linear(8, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, user, item):
        x = torch.cat([self.user(user), self.item(item)], -1)
        return SCALE * self.out(torch.relu(self.hidden(x))).squeeze(-1)
'''
BASELINE = """\
schema_version: 1
name: mine
dataset:
  table: {path: clicks.csv, user: user_id, item: item_id, label: clicked, time: ts}
model:
  file: {path: model.py, attribute: Rec}
training: {epochs: 1, batch_size: 64}
seed: 3
"""
RECIPE = """\
schema_version: 1
name: half
baseline: mine
stages:
  - prune_channels: {ratio: 0.5}
targets: [torch-cpu]
seed: 5
"""
ALL = {"data", "baselines", "artifacts"}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    rows = [
        f"u{random.integers(0, 12)},i{random.integers(0, 9)},{random.integers(0, 2)},"
        f"{random.integers(0, 2)},{1000 + at}"
        for at in range(300)
    ]
    for folder in ("baselines", "recipes"):
        (tmp_path / folder).mkdir()
    header = "user_id,item_id,clicked,bought,ts"
    (tmp_path / "baselines" / "clicks.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "baselines" / "model.py").write_text(MODEL)
    (tmp_path / "baselines" / "mine.yaml").write_text(BASELINE)
    (tmp_path / "recipes" / "half.yaml").write_text(RECIPE)
    return tmp_path


def made(mine: Path) -> set[str]:
    """Kinds of the entries that a run with a fresh look at the cache makes."""
    (recipe,) = load_recipes([mine / "recipes" / "half.yaml"])
    store = Store(mine / "cache")
    how = {"threads": 1, "progress": lambda label, share: None}
    trained = train_baseline(recipe.baseline, store, **how)
    make_variant(Variant(recipe, recipe.targets[0]), trained, store, **how)
    return {key.partition("/")[0] for key in store.made}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def flip_label(mine: Path) -> None:
    """Another label in the same bytes, under the same time."""
    path = mine / "baselines" / "clicks.csv"
    before, lines = path.stat(), path.read_text().splitlines(keepends=True)
    fields = lines[1].split(",")
    lines[1] = ",".join([*fields[:2], str(1 - int(fields[2])), *fields[3:]])
    path.write_text("".join(lines))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def touch(mine: Path) -> None:
    os.utime(mine / "baselines" / "clicks.csv", ns=(1, 1))


def in_baseline(old: str, new: str) -> Callable[[Path], None]:
    return lambda mine: edit(mine / "baselines" / "mine.yaml", old, new)


def in_model(old: str, new: str) -> Callable[[Path], None]:
    return lambda mine: edit(mine / "baselines" / "model.py", old, new)


def in_recipe(old: str, new: str) -> Callable[[Path], None]:
    return lambda mine: edit(mine / "recipes" / "half.yaml", old, new)


def reorder(mine: Path) -> None:
    """The same YAML with its keys in another order, at the top and within."""
    path = mine / "baselines" / "mine.yaml"
    head, _, tail = path.read_text().partition("dataset:")
    edit(path, "{epochs: 1, batch_size: 64}", "{batch_size: 64, epochs: 1}")
    body, seed = ("dataset:" + path.read_text().partition("dataset:")[2]).split("seed: 3")
    assert head.count("\n") == 2
    assert tail
    path.write_text(f"seed: 3\n{body}{head}{seed}")


def move(mine: Path) -> None:
    """The model's file under another name."""
    (mine / "baselines" / "model.py").rename(mine / "baselines" / "mine.py")
    edit(mine / "baselines" / "mine.yaml", "path: model.py", "path: mine.py")


def rewrite(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    """Another text of a file of the folder, its bytes as they are said."""

    def apply(mine: Path) -> None:
        path = mine / name
        text = path.read_text()
        assert change(text) != text
        path.write_bytes(change(text).encode())

    return apply


def behind_link(mine: Path, *, flipped: bool) -> None:
    """The data behind a link of the name they had, the same or with another label."""
    if flipped:
        flip_label(mine)
    path = mine / "baselines" / "clicks.csv"
    path.rename(mine / "real.csv")
    path.symlink_to(mine / "real.csv")


def another_file_of_that_name(mine: Path) -> None:
    """A relative path that leads to another file: the baseline stands in another folder now."""
    (mine / "baselines").rename(mine / "earlier")
    (mine / "baselines").mkdir()
    for name in ("clicks.csv", "model.py", "mine.yaml"):
        (mine / "baselines" / name).write_bytes((mine / "earlier" / name).read_bytes())
    flip_label(mine)


def crlf(text: str) -> str:
    return text.replace("\n", "\r\n")


def columns_turned(text: str) -> str:
    return "".join(",".join(line.split(",")[::-1]) + "\n" for line in text.splitlines())


def with_anchor(text: str) -> str:
    return text.replace("path: clicks.csv, user: user_id", "path: &p clicks.csv, user: &u user_id")


CASES = [
    ("nothing", lambda mine: None, set()),
    ("a label of the same size and time", flip_label, ALL),
    ("another time of the same file", touch, set()),
    ("another column map", in_baseline("label: clicked", "label: bought"), ALL),
    ("a constant of the model", in_model("SCALE = 1.0", "SCALE = 2.0"), ALL - {"data"}),
    ("a comment of the model", in_model("SCALE = 1.0", "SCALE = 1.0  # as it was"), set()),
    ("a docstring of the model", in_model("A user's own", "My"), set()),
    ("the model's file name", move, set()),
    ("the training", in_baseline("epochs: 1", "epochs: 2"), ALL - {"data"}),
    ("the baseline's seed", in_baseline("seed: 3", "seed: 4"), ALL - {"data"}),
    ("a comment of the baseline", in_baseline("seed: 3", "seed: 3  # three"), set()),
    ("the order of keys", reorder, set()),
    ("the recipe's seed", in_recipe("seed: 5", "seed: 6"), {"artifacts"}),
    ("a stage's parameter", in_recipe("ratio: 0.5", "ratio: 0.25"), {"artifacts"}),
    ("another form of the same number", in_recipe("ratio: 0.5", "ratio: 5e-1"), set()),
    ("a parameter's default, said", in_recipe("ratio: 0.5", "ratio: 0.5, steps: 1"), set()),
    ("the recipe's name", in_recipe("name: half", "name: other"), set()),
    ("the model's line ends", rewrite("baselines/model.py", crlf), set()),
    (
        "the model's blank lines",
        rewrite("baselines/model.py", lambda t: t.replace("\n", "\n\n")),
        set(),
    ),
    ("the baseline's line ends", rewrite("baselines/mine.yaml", crlf), set()),
    ("the recipe's line ends", rewrite("recipes/half.yaml", crlf), set()),
    ("anchors of the baseline", rewrite("baselines/mine.yaml", with_anchor), set()),
    ("a whole number as a float", in_baseline("epochs: 1", "epochs: 1.0"), set()),
    ("a count as a float", in_baseline("batch_size: 64", "batch_size: 6.4e1"), set()),
    ("a seed as a float", in_recipe("seed: 5", "seed: 5.0"), set()),
    (
        "a default of the training",
        in_baseline("batch_size: 64", "batch_size: 64, patience: 3"),
        set(),
    ),
    ("the same data behind a link", lambda mine: behind_link(mine, flipped=False), set()),
    ("other data behind a link", lambda mine: behind_link(mine, flipped=True), ALL),
    ("another file of that name", another_file_of_that_name, ALL),
    ("columns in another order", rewrite("baselines/clicks.csv", columns_turned), {"data"}),
    ("a row less", rewrite("baselines/clicks.csv", lambda t: t[: t.rindex("u")]), ALL),
    (
        "a parameter of the model",
        in_baseline("attribute: Rec}", "attribute: Rec, parameters: {n_items: 20}}"),
        ALL - {"data"},
    ),
    (
        "a line more of the model",
        rewrite("baselines/model.py", lambda t: t + "EXTRA = 1\n"),
        ALL - {"data"},
    ),
]


@pytest.mark.parametrize(
    ("change", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_depends_on_a_change_is_made_anew(
    mine: Path, change: Callable[[Path], None], expected: set[str]
) -> None:
    assert made(mine) == ALL
    change(mine)
    assert made(mine) == expected
    assert made(mine) == set()


@pytest.mark.parametrize("package", ["torch", "onnxruntime", "numpy"])
def test_another_version_of_a_package_trains_anew(
    mine: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    assert made(mine) == ALL
    versions = {**baseline_module.package_versions(), package: "999"}
    for module in (baseline_module, variants_module):
        monkeypatch.setattr(module, "package_versions", lambda: versions)
    assert made(mine) == ALL - {"data"}


def test_another_version_of_polars_prepares_anew(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made(mine) == ALL
    versions = {**baseline_module.package_versions(), "polars": "999"}
    monkeypatch.setattr(baseline_module, "package_versions", lambda: versions)
    assert made(mine) == ALL


def test_a_file_that_was_read_before_is_read_again(mine: Path) -> None:
    """Going back to what was is found, not made a third time."""
    made(mine)
    in_model("SCALE = 1.0", "SCALE = 2.0")(mine)
    assert made(mine) == ALL - {"data"}
    in_model("SCALE = 2.0", "SCALE = 1.0")(mine)
    assert made(mine) == set()


def test_other_weights_to_start_from_train_anew(mine: Path) -> None:
    """Of the same size and under the same time: the content counts."""
    (recipe,) = load_recipes([mine / "recipes" / "half.yaml"])
    store = Store(mine / "cache")
    trained = train_baseline(recipe.baseline, store, threads=1, progress=lambda label, share: None)
    weights = mine / "baselines" / "start.safetensors"
    weights.write_bytes(trained.artifact.file.read_bytes())
    edit(mine / "baselines" / "mine.yaml", "seed: 3", "seed: 3\nweights: start.safetensors")
    assert made(mine) == ALL - {"data"}
    assert made(mine) == set()
    before, content = weights.stat(), bytearray(weights.read_bytes())
    content[-2] ^= 1  # a bit of the last number
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert made(mine) == ALL - {"data"}
    weights.rename(mine / "baselines" / "other.safetensors")
    edit(mine / "baselines" / "mine.yaml", "start.safetensors", "other.safetensors")
    assert made(mine) == set()
