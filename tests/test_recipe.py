"""Recipes and baselines: what is right, and every mistake at once with file, line and place."""

from pathlib import Path

import pytest

from harness.document import read_document, yaml_text
from harness.errors import RecipeError
from harness.loading import load_baseline, load_recipes, recipe_json_schema
from harness.recipe import ChainError, StageSpec, chain, check_name, resolved

BASELINE = """\
schema_version: 1
name: base
dataset: {generated: {}}
model: {mlp: {dim: 4, widths: [8]}}
training: {epochs: 1, batch_size: 1e3, learning_rate: 1e-3, weight_decay: 5e-4}
"""
RECIPE = """\
schema_version: 1
name: half
baseline: base
stages:
  - prune_channels: {ratio: 5e-1}
  - quantize_static: {calibration_rows: 2E2}
targets: [ort-cpu]
gates:
  - {metric: auc, max_drop: 0.01}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "base.yaml").write_text(BASELINE)
    return tmp_path


def write(folder: Path, text: str, name: str = "r") -> Path:
    path = folder / "recipes" / f"{name}.yaml"
    path.write_text(text)
    return path


def told(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipes([write(folder, text)])
    return str(caught.value)


def test_a_right_recipe_has_numbers_and_all_defaults(folder: Path) -> None:
    (recipe,) = load_recipes([write(folder, RECIPE)])
    training = recipe.baseline.training
    assert (training.learning_rate, training.weight_decay, training.batch_size) == (
        1e-3,
        5e-4,
        1000,
    )
    assert type(training.batch_size) is int
    assert recipe.stages[0].parameters["ratio"] == 0.5
    assert recipe.stages[0].parameters["importance"] == "magnitude"
    assert recipe.stages[1].parameters["calibration_rows"] == 200
    names = [stage.name for stage in recipe.chain("ort-cpu")]
    assert names == ["prune_channels", "export_onnx", "quantize_static"]


def test_the_resolved_recipe_reads_back_the_same(folder: Path) -> None:
    (recipe,) = load_recipes([write(folder, RECIPE)])
    path = write(folder, yaml_text(resolved(recipe)), "again")
    (again,) = load_recipes([path])
    assert resolved(again) == resolved(recipe)
    numbers = read_document(path).data["stages"][0]["prune_channels"]
    assert isinstance(numbers["ratio"], float)


def test_every_mistake_of_every_file_at_once(folder: Path) -> None:
    one = write(
        folder,
        RECIPE.replace("ratio: 5e-1", "ratoi: 0.5")
        .replace("metric: auc", "metric: auk")
        .replace("[ort-cpu]", "[ort-cup]"),
        "one",
    )
    two = write(folder, RECIPE.replace("schema_version: 1\n", "").replace("half", "two"), "two")
    with pytest.raises(RecipeError) as caught:
        load_recipes([one, two])
    lines = str(caught.value).splitlines()
    assert (
        f"{one}:5: stages[0].prune_channels.ratoi: unknown parameter 'ratoi'; did you mean 'ratio'?"
        in lines
    )
    assert f"{one}:5: stages[0].prune_channels.ratio: 'ratio' is required" in lines
    assert f"{one}:7: targets[0]: unknown target 'ort-cup'; did you mean 'ort-cpu'?" in lines
    assert f"{one}:9: gates[0].metric: unknown metric 'auk'; did you mean 'auc'?" in lines
    assert f"{two}:1: schema_version: 'schema_version' is required" in lines
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("ratio: 5e-1", "ratio: .nan", "expected a finite number, got nan"),
        ("ratio: 5e-1", "ratio: .inf", "expected a finite number, got inf"),
        ("ratio: 5e-1", "ratio: -0.1", "greater than or equal to 0"),
        ("ratio: 5e-1", "ratio: 1.7", "less than 1"),
        ("ratio: 5e-1", "ratio: 1.0", "less than 1"),
        ("ratio: 5e-1", "ratio: '50%'", "expected a number, got str '50%'"),
        ("ratio: 5e-1", "ratio: true", "expected a number, got bool True"),
        ("2E2", "200.5", "expected a whole number, got 200.5"),
        ("2E2", "0", "greater than or equal to 1"),
        ("prune_channels", "prune_channel", "did you mean 'prune_channels'?"),
        ("baseline: base", "baseline: bass", "no baseline 'bass': looked for"),
        ("targets: [ort-cpu]", "targets: []", "name at least one target"),
        ("targets: [ort-cpu]", "targets: [ort-cpu, ort-cpu]", "given twice"),
        ("targets: [ort-cpu]", "targets: [torch-cpu]", "takes a torch model, but gets a onnx one"),
        ("targets: [ort-cpu]", "targets: [{ort-cpu: {requir: true}}]", "did you mean 'require'?"),
        ("max_drop: 0.01", "max_drop: 0.01, minimum: 0.9", "exactly one of"),
        ("metric: auc,", "metric: auc, target: tensorrt,", "is not a target of this recipe"),
        ("metric: auc, max_drop: 0.01", "metric: auc, min_speedup: 2", "'auc' has no speedup"),
        ("gates:", "gate:", "unknown parameter 'gate'; did you mean 'gates'?"),
        ("schema_version: 1", "schema_version: 2", "input should be 1, got 2"),
        ("name: half", "name: ../../escape", "can't be a name"),
    ],
)
def test_one_mistake_one_sentence(folder: Path, old: str, new: str, sentence: str) -> None:
    assert old in RECIPE
    text = told(folder, RECIPE.replace(old, new))
    assert sentence in text
    assert "recipes/r.yaml:" in text


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        ("learning_rate: .inf", "learning_rate: expected a finite number, got inf"),
        ("learning_rate: -0.1", "learning_rate: input should be greater than 0"),
        ("epochs: true", "epochs: expected a number, got bool True"),
        ("epohcs: 1", "unknown parameter 'epohcs'; did you mean 'epochs'?"),
        ("batch_size: 2.5", "batch_size: expected a whole number, got 2.5"),
    ],
)
def test_a_baselines_mistakes(folder: Path, new: str, sentence: str) -> None:
    path = folder / "baselines" / "base.yaml"
    lines = [line for line in BASELINE.splitlines() if not line.startswith("training")]
    path.write_text("\n".join([*lines, f"training: {{{new}}}", ""]))
    with pytest.raises(RecipeError) as caught:
        load_baseline(path)
    assert f"{path}:5: training." in str(caught.value)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "   ",
        "a/b",
        "a b",
        "/abs",
        "../x",
        "x\\y",
        "CON",
        "com1",
        "name.",
        "-rf",
        "~",
        "$(touch MARK)",
        "%s%n",
        "n" * 300,
        "a\x00b",
        "a\nb",
        "é",
    ],
)
def test_names_that_are_not_file_names(name: str) -> None:
    with pytest.raises(ValueError, match="can't be a name"):
        check_name(name)


def test_names_are_unique_without_case(folder: Path) -> None:
    one = write(folder, RECIPE, "one")
    two = write(folder, RECIPE.replace("half", "HALF"), "two")
    with pytest.raises(RecipeError, match="'HALF' is also the name of"):
        load_recipes([one, two])


def test_chain_puts_exports_in_and_refuses_the_way_back() -> None:
    fp16 = StageSpec("convert_fp16", {})
    prune = StageSpec("prune_channels", {"ratio": 0.5})
    assert [s.name for s in chain([fp16], "tensorrt")] == [
        "export_onnx",
        "convert_fp16",
        "build_tensorrt",
    ]
    assert chain([prune], "torch-cpu") == (prune,)
    with pytest.raises(
        ChainError, match="prune_channels takes a torch model, but gets a onnx one"
    ) as e:
        chain([fp16, prune], "ort-cpu")
    assert e.value.at == 1


def test_a_baseline_may_be_named_by_path(folder: Path) -> None:
    recipe = RECIPE.replace("baseline: base", "baseline: ../baselines/base.yaml")
    (found,) = load_recipes([write(folder, recipe)])
    assert found.baseline.name == "base"


def test_the_json_schema_knows_every_stage() -> None:
    schema = recipe_json_schema()
    text = str(schema["properties"]["stages"]["items"])
    assert "prune_channels" in text
    assert "'ratio'" in text
