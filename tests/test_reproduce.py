"""Published figures: folds, rivals, bands; mistakes of a file before anything is trained."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from harness import reproduce as module
from harness.errors import DataError, RecipeError
from harness.loading import load_baseline
from harness.reproduce import RIVALS, Figure, Reproduced, lines, read_figures, reproduce, write
from harness.store import Store

FIGURES = """\
schema_version: 1
figures:
  - {name: biases, baseline: b.yaml, rival: bias, metric: rmse, folds: 3, published: 0.9,
     band: 0.5, source: by hand}
  - {name: factors, baseline: b.yaml, metric: rmse, folds: 3, published: 0.9,
     band: 0.5, source: by hand}
"""
BASELINE = """\
schema_version: 1
name: b
dataset: {movielens: {size: 100k, path: ml, fold: 0, validation_share: 0.1}}
model: {mf: {dim: 4}}
training: {epochs: 2, batch_size: 64, learning_rate: 0.02}
"""
USERS, ITEMS, ROWS = 20, 15, 300


def task(name: str):
    return lambda label, share: None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of ratings in u.data's form: 3, and a bias for each user and item."""
    (tmp_path / "ml").mkdir()
    random = np.random.default_rng(0)
    pairs = random.choice(USERS * ITEMS, ROWS, replace=False)
    user, item = pairs // ITEMS + 1, pairs % ITEMS + 1
    rating = np.clip(np.rint(3 + 0.8 * np.sin(user) + 0.8 * np.cos(item)), 1, 5).astype(int)
    rows = zip(user, item, rating, range(ROWS), strict=True)
    text = "".join(f"{u}\t{i}\t{r}\t{880000000 + t}\n" for u, i, r, t in rows)
    (tmp_path / "ml" / "u.data").write_text(text)
    users = "".join(f"{u}|30|F|writer|0\n" for u in range(1, USERS + 1))
    flags = "|".join("0" * 18 + "1")
    items = "".join(f"{i}|Film {i} (1990)|1-Jan-1990|||{flags}\n" for i in range(1, ITEMS + 1))
    (tmp_path / "ml" / "u.user").write_text(users)
    (tmp_path / "ml" / "u.item").write_text(items)
    (tmp_path / "b.yaml").write_text(BASELINE)
    (tmp_path / "figures.yaml").write_text(FIGURES)
    return tmp_path


def test_every_fold_is_trained_and_scored(folder: Path, tmp_path: Path) -> None:
    found = reproduce(folder / "figures.yaml", Store(tmp_path / "cache"), task)
    assert [one.figure.name for one in found] == ["biases", "factors"]
    assert [len(one.values) for one in found] == [3, 3]
    assert len(set(found[1].values)) == 3  # three different thirds were held out
    assert all(0.1 < value < 2 for one in found for value in one.values)


def test_folds_hold_out_different_rows(folder: Path) -> None:
    spec = load_baseline(folder / "b.yaml")
    parameters = [module._folded(spec, fold, 3).dataset.parameters for fold in range(3)]
    assert [(p["fold"], p["folds"]) for p in parameters] == [(0, 3), (1, 3), (2, 3)]
    assert module._folded(spec, 0, 1) is spec


def test_data_without_folds_is_refused(folder: Path) -> None:
    (folder / "b.yaml").write_text(
        "schema_version: 1\nname: b\ndataset: {generated: {rows: 1000}}\nmodel: mf\n"
    )
    with pytest.raises(DataError, match="dataset generated has no folds, 3 were asked"):
        module._folded(load_baseline(folder / "b.yaml"), 0, 3)


def figure(**changes) -> Figure:
    given = {"name": "f", "baseline": "b", "metric": "rmse", "source": "s", "folds": 2}
    return Figure(**{**given, "published": 0.9, "band": 0.01, **changes})


@pytest.mark.parametrize(
    ("values", "inside"), [((0.905, 0.905), True), ((0.915, 0.90), True), ((0.93, 0.90), False)]
)
def test_a_figure_is_inside_when_its_mean_is(values: tuple[float, float], inside: bool) -> None:
    one = Reproduced(figure(), values)
    assert one.inside == inside
    assert one.deviation == pytest.approx(np.mean(values) - 0.9)
    assert lines([one])[2].count("OUTSIDE") == (not inside)


def test_a_written_table_has_each_fold(tmp_path: Path) -> None:
    said: list[str] = []
    write([Reproduced(figure(), (0.91, 0.90))], tmp_path / "out", say=said.append)
    (one,) = json.loads((tmp_path / "out" / "figures.json").read_text())["figures"]
    assert one["values"] == [0.91, 0.90]
    text = (tmp_path / "out" / "figures.md").read_text()
    assert "| f | rmse | 0.900 | 0.9050 | 2, sd 0.0071 | +0.0050 | 0.010 | inside | s |" in text
    assert said == [f"written: {tmp_path / 'out' / 'figures.md'}"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("metric: rmse", "metric: rmsee", "did you mean 'rmse'"),
        ("band: 0.5", "bnad: 0.5", "did you mean 'band'"),
        ("rival: bias", "rival: luck", "rival"),
        ("published: 0.9", "published: no", "published"),
        ("figures:", "figure:", "did you mean 'figures'"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    folder: Path, old: str, new: str, said: str
) -> None:
    path = folder / "figures.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecipeError, match=r"figures\.yaml") as caught:
        read_figures(path)
    assert said in str(caught.value)


def test_the_committed_figures_are_right() -> None:
    path = Path(__file__).parent.parent / "baselines" / "published" / "figures.yaml"
    for one in read_figures(path):
        assert load_baseline(path.parent / one.baseline)


def test_every_rival_that_a_figure_may_name_is_there() -> None:
    names = get_args(get_args(Figure.model_fields["rival"].annotation)[0])
    assert set(names) == set(RIVALS)
