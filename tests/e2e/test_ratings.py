"""The task rating through the command line: trained, taught, quantised, judged as ratings are."""

from pathlib import Path

import pytest
from made_runs import harness, one_core

from harness.results import read_rows

ROOT = Path(__file__).parent
QUICK = str(ROOT / "profiles" / "quick.yaml")


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rated")
    recipe = ROOT / "rated" / "rated-student-int8.yaml"
    command = ("run", recipe, "--out", folder / "out", "--profile", QUICK)
    done = harness(*command, cache=folder / "cache", preexec_fn=one_core)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


def test_ratings_are_judged_as_ratings(out: Path) -> None:
    rows = read_rows(out)
    found = {(r.recipe, r.metric): r for r in rows if r.scenario in ("accuracy", "reference")}
    metrics = {metric for _, metric in found}
    assert {"rmse", "mae", "rmse_difference", "quality_class"} <= metrics
    assert not {"auc", "logloss", "ece"} & metrics
    rmse = {recipe: row.value for (recipe, metric), row in found.items() if metric == "rmse"}
    assert set(rmse) == {
        "rated-reference",
        "rated-student-int8",
        "reference:mean",
        "reference:bias",
    }
    # the data are drawn with a noise of 0.5, which nothing can predict
    assert 0.49 < rmse["rated-reference"] < rmse["reference:mean"]
    losses = [row for row in rows if row.metric == "0.train.validation_loss"]
    assert [row.unit for row in losses] == ["squared rating"]
    parity = {row.metric for row in rows if row.scenario == "parity"}
    assert "timed_rmse_difference" in parity


def test_the_report_speaks_of_ratings(out: Path) -> None:
    report = (out / "report.md").read_text()
    assert "| variant | target | RMSE | RMSE difference [CI] | class |" in report
    assert "AUC" not in report.split("## Columns")[0]
    gate = harness("gate", out, cache=out)
    assert gate.returncode == 0, gate.stdout
    assert "rmse max_rise 0.5" in gate.stdout


def test_a_temperature_without_effect_is_refused(tmp_path: Path) -> None:
    (tmp_path / "baselines").mkdir()
    (tmp_path / "recipes").mkdir()
    for kind, folder, name in (
        ("baselines", "baselines", "rated"),
        ("rated", "recipes", "rated-student-int8"),
    ):
        text = (ROOT / kind / f"{name}.yaml").read_text()
        (tmp_path / folder / f"{name}.yaml").write_text(
            text.replace("temperature: 1", "alpha: 0.5").replace("epochs: 8", "epochs: 1")
        )
    recipe = tmp_path / "recipes" / "rated-student-int8.yaml"
    out = ("--out", tmp_path / "out", "--profile", QUICK)
    done = harness("run", recipe, *out, cache=tmp_path / "cache", preexec_fn=one_core)
    rows = read_rows(tmp_path / "out")
    (stopped,) = (row for row in rows if row.status == "failed" and row.scenario == "run")
    assert "temperature 2 softens probabilities, and ratings have none" in str(stopped.reason)
    assert done.returncode == 1
