"""Kinds of faults in variations that no other file has: code that only a run may import, names that
lead elsewhere, columns of one value, numbers as YAML 1.1 would not read them.
"""

import math
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.datasets.base import Column, Tables
from harness.datasets.prepare import prepare
from harness.document import read_document

BASELINE = """\
schema_version: 1
name: BASE
dataset: {generated: {users: 20, items: 30, rows: 400, candidates: 5}}
model: {file: {path: model.py, attribute: Model}}
training: {epochs: 1, batch_size: 64}
"""
RECIPE = """\
schema_version: 1
name: NAME
baseline: base.yaml
stages: [prune_channels: {ratio: 0.5}]
targets: [torch-cpu]
"""
NAMES = [
    *("../../escape", "/abs/olute", "a/b", "a b", ".", "..", "'   '", "CON", "name.", "x\\y"),
    *(
        "-rf",
        "'~'",
        "$(touch MARK)",
        "'%s%n'",
        "n" * 300,
        "''",
        "nul.txt",
        "~root",
        "a\u0301",
        "com1",
    ),
]


def harness(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *words],
        env={**os.environ, "HARNESS_CACHE": str(folder / "cache")},
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder deep enough for names that climb, with a recipe whose model leaves a mark."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("open('MARK', 'w').close()\nraise SystemExit('imported')\n")
    (folder / "base.yaml").write_text(BASELINE.replace("BASE", "base"))
    (folder / "r.yaml").write_text(RECIPE.replace("NAME", "half"))
    return folder


@pytest.mark.parametrize(
    "words", [("check", "r.yaml"), ("run", "r.yaml", "--dry-run"), ("list", "models"), ("schema",)]
)
def test_a_models_code_is_imported_by_a_run_alone(mine: Path, words: tuple[str, ...]) -> None:
    done = harness(mine, *words)
    assert done.returncode == 0, done.stderr
    assert not list(mine.rglob("MARK"))
    assert not list(mine.rglob("*.pyc"))


def test_names_that_lead_elsewhere_are_refused_and_nothing_is_made(mine: Path) -> None:
    """All of a command line's mistakes are told at once: a file for each name."""
    for at, name in enumerate(NAMES):
        (mine / f"r{at}.yaml").write_text(RECIPE.replace("NAME", name))
        (mine / f"b{at}.yaml").write_text(BASELINE.replace("BASE", name))
        of_it = RECIPE.replace("NAME", f"of-{at}").replace("base.yaml", f"b{at}.yaml")
        (mine / f"s{at}.yaml").write_text(of_it)
    before = sorted(path for path in mine.parents[2].rglob("*"))
    recipes = [f"{kind}{at}.yaml" for kind in "rs" for at in range(len(NAMES))]
    done = harness(mine, "run", *recipes, "--out", "out")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    for at, name in enumerate(NAMES):
        for kind in "rb":
            told = [line for line in lines if f"{kind}{at}.yaml:2: " in line]
            assert told, (kind, name)
            assert all("can't be a name" in line or "expected" in line for line in told), told
    assert sorted(path for path in mine.parents[2].rglob("*")) == before


@pytest.mark.parametrize("link", ["out", "out/report.md"])
def test_an_output_that_is_a_link_leaves_what_it_leads_to(mine: Path, link: str) -> None:
    (mine / "elsewhere").mkdir()
    (mine / "elsewhere" / "kept.txt").write_text("kept")
    (mine / "model.py").write_text("class Model: pass\n")
    target = "elsewhere" if link == "out" else "elsewhere/kept.txt"
    (mine / link).parent.mkdir(exist_ok=True)
    (mine / link).symlink_to(mine / target)
    done = harness(mine, "run", "r.yaml", "--out", "out")
    assert done.returncode == 2, done.stderr
    assert (mine / "elsewhere" / "kept.txt").read_text() == "kept"
    assert [path.name for path in (mine / "elsewhere").iterdir()] == ["kept.txt"]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_column_of_one_value_says_nothing_whatever_the_value(value: float) -> None:
    frame = pl.DataFrame(
        {
            "u": ["a", "b"] * 6,
            "i": [f"i{at}" for at in range(12)],
            "x": [value] * 12,
            "l": [0, 1] * 6,
            "request": range(12),
            "split": ["train"] * 6 + ["validation"] * 3 + ["test"] * 3,
        }
    )
    columns = (
        Column("u", "categorical", "user"),
        Column("i", "categorical", "item"),
        Column("x", "numeric", "context"),
    )
    prepared = prepare(Tables(frame, columns, "l", "u", "i", "made", 12))
    assert prepared.counts == {"read": 12, "kept": 12}
    for split in prepared.splits.values():
        assert np.array_equal(split.arrays["context_values"], np.zeros((split.requests, 1)))


@given(st.integers(1, 9), st.integers(0, 99), st.integers(-30, 30), st.sampled_from("eE"))
def test_numbers_with_an_exponent_are_numbers(
    whole: int, part: int, exponent: int, letter: str
) -> None:
    forms = (
        f"{whole}{letter}{exponent}",
        f"{whole}.{part}{letter}{exponent:+d}",
        f"-{whole}.{letter}{exponent}",
    )
    text = "\n".join(f"k{at}: {form}" for at, form in enumerate(forms))
    data = _document(text)
    for at, form in enumerate(forms):
        value = data[f"k{at}"]
        assert isinstance(value, int | float)
        assert math.isclose(value, float(form), rel_tol=1e-15)


def _document(text: str) -> dict[str, object]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "d.yaml"
        path.write_text(text)
        document = read_document(path)
    assert not document.problems
    assert isinstance(document.data, dict)
    return document.data
