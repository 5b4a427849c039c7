"""The README's own models on a csv of one's own: its blocks, as they stand there, end to end."""

import re
from pathlib import Path

import numpy as np
import pytest
from made_runs import harness, one_core

from harness.results import read_rows

README = Path(__file__).parent.parent.parent / "README.md"
PROFILE = """\
schema_version: 1
name: least
base: ci
load: {scenarios: [single], batches: [1]}
protocol: {min_pairs: 5, max_pairs: 5, min_seconds: 0.01, max_seconds: 0.1, block_seconds: 0.001,
  warm_seconds: 0.001, warm_cap: 0.05}
"""
BLOCK = re.compile(r"^```(?:python|yaml)\n# ((?:baselines|recipes)/[\w.-]+)(.*?)^```", re.S | re.M)
MAIN = {"clicks": "auc", "ratings": "rmse", "plays": "ndcg@10"}
"""What each baseline of the section is judged by."""
USERS, ITEMS, ROWS = 60, 100, 2400


def blocks() -> dict[str, str]:
    """The section's files by path; the first line, which names the file, stays a comment."""
    text = README.read_text()
    section = text[text.index("## Your own data and model") :]
    section = section[: section.index("\n## ")]
    return {path: f"# {path}{rest}" for path, rest in BLOCK.findall(section)}


def log() -> str:
    """A csv of what users did: each goes through the items in order, from a place of its own, and
    likes them by a taste of the user's and a quality of the item's.
    """
    random = np.random.default_rng(5)
    lines = ["user_id,item_id,clicked,stars,price,ts"]
    for at in range(ROWS):
        user = at % USERS
        item = (7 * user + at // USERS) % ITEMS
        stars = int(np.clip(np.rint(3 + np.sin(user) + np.cos(item)), 1, 5))
        clicked = int(random.random() < 0.15 + 0.7 * (stars > 3))
        price = f"{random.lognormal():.2f}"
        lines.append(f"u{user},i{item},{clicked},{stars},{price},{1_700_000_000 + at}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of the three recipes on both engines."""
    folder = tmp_path_factory.mktemp("readme")
    found = blocks()
    recipe = found["recipes/clicks-half.yaml"]
    for name in MAIN:
        found[f"recipes/{name}-half.yaml"] = recipe.replace("clicks", name)
    for path, text in found.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    (folder / "baselines" / "log.csv").write_text(log())
    (folder / "least.yaml").write_text(PROFILE)
    recipes = [folder / "recipes" / f"{name}-half.yaml" for name in MAIN]
    command = ("run", *recipes, "--out", "out", "--profile", "least.yaml")
    done = harness(*command, cache=folder / "cache", cwd=folder, preexec_fn=one_core)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


def test_the_section_has_a_model_and_a_baseline_of_each_task() -> None:
    assert list(blocks()) == [
        "baselines/models.py",
        *(f"baselines/{name}.yaml" for name in MAIN),
        "recipes/clicks-half.yaml",
    ]


@pytest.mark.parametrize("name", MAIN)
def test_a_baseline_is_at_most_ten_lines(name: str) -> None:
    assert len(blocks()[f"baselines/{name}.yaml"].splitlines()) <= 10


@pytest.mark.parametrize("name", MAIN)
def test_every_task_is_judged_on_both_engines(out: Path, name: str) -> None:
    rows = [row for row in read_rows(out) if row.recipe == f"{name}-half"]
    main = [row for row in rows if row.scenario == "accuracy" and row.metric == MAIN[name]]
    assert {row.target for row in main} == {"torch-cpu", "ort-cpu"}
    assert all(row.value is not None and row.value > 0 for row in main)
    times = [row for row in rows if row.scenario == "single" and row.metric == "latency_p50"]
    assert {row.target for row in times if row.value} == {"torch-cpu", "ort-cpu"}


def test_the_models_learn_what_is_in_the_data(out: Path) -> None:
    scenarios = ("accuracy", "reference")
    main = [r for r in read_rows(out) if r.scenario in scenarios and r.metric in MAIN.values()]
    found = {(row.baseline, row.recipe, row.metric): row.value for row in main}
    assert found["clicks", "clicks-reference", "auc"] > 0.65  # 0.5 is chance
    rmse = {recipe: v for (_, recipe, metric), v in found.items() if metric == "rmse"}
    assert rmse["ratings-reference"] < rmse["reference:mean"]
    ndcg = {
        recipe: v for (name, recipe, m), v in found.items() if (name, m) == ("plays", "ndcg@10")
    }
    assert ndcg["plays-reference"] > ndcg["reference:popularity"]


@pytest.mark.parametrize("name", MAIN)
def test_half_of_the_channels_are_gone(out: Path, name: str) -> None:
    achieved = {
        row.value
        for row in read_rows(out)
        if row.recipe == f"{name}-half" and row.metric.endswith("width:hidden:achieved")
    }
    assert achieved == {32}
