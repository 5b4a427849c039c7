"""Every stage of the catalog: what it promises of its input, its output and its effects."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import registry
from harness.artifact import Artifact, read_artifact
from harness.errors import UnsupportedError
from harness.stages.base import Context, Outcome
from harness.tables import Prepared, feeds

PARAMETERS: dict[str, dict[str, Any]] = {
    "prune_channels": {"ratio": 0.5},
    "finetune": {"epochs": 0.5},
    "distill": {"epochs": 0.5},
    "quantize_static": {"calibration_rows": 256},
    "quantize_aware": {"epochs": 0.5},
}
STAGES = registry.names("stages")


def apply(name: str, artifact: Artifact, context: Context) -> Outcome:
    parameters = registry.bind("stages", name, PARAMETERS.get(name, {}))
    return registry.resolve("stages", name)(artifact, context, **parameters)


@pytest.fixture
def given(tiny_artifact: Artifact, make_context: Callable[..., Context]):
    """``given(stage)``: an artifact of the format that the stage takes."""

    def make(name: str) -> Artifact:
        if registry.entry("stages", name).marks["accepts"] == "torch":
            return tiny_artifact
        return apply("export_onnx", tiny_artifact, make_context("exported")).artifact

    return make


def made(name: str, artifact: Artifact, context: Context) -> Outcome:
    """The stage's outcome; a stage whose runtime isn't here is skipped with its own sentence."""
    outcome: Outcome | UnsupportedError
    try:
        outcome = apply(name, artifact, context)
    except UnsupportedError as error:
        outcome = error
    if isinstance(outcome, UnsupportedError):
        assert outcome.code.startswith("no_"), outcome
        pytest.skip(str(outcome))
    return outcome


@pytest.mark.parametrize("name", STAGES)
def test_keeps_its_promises(name: str, given, make_context, file_hashes, tiny: Prepared) -> None:
    artifact, context = given(name), make_context("made")
    before, baseline = file_hashes(artifact.folder), file_hashes(context.baseline.folder)
    outcome = made(name, artifact, context)
    assert file_hashes(artifact.folder) == before
    assert file_hashes(context.baseline.folder) == baseline
    marks = registry.entry("stages", name).marks
    new = read_artifact(context.folder)
    assert new == replace(outcome.artifact, folder=context.folder)
    assert new.format == marks["produces"]
    assert new.file.is_file()
    assert new.inputs == artifact.inputs
    assert new.bytes > 0
    assert new.parameters > 0
    assert (new.folder / "schema.json").is_file()
    assert (new.folder / "vocabulary.json").is_file()
    assert outcome.effects
    assert any(effect.before != effect.after for effect in outcome.effects)


@pytest.mark.parametrize("name", STAGES)
def test_the_result_scores_from_its_folder(
    name: str, given, make_context, tiny: Prepared, tmp_path: Path
) -> None:
    outcome = made(name, given(name), make_context("made"))
    moved = tmp_path / "moved"
    outcome.artifact.folder.rename(moved)
    artifact = read_artifact(moved)
    engine = {"torch": "torch-cpu", "onnx": "ort-cpu"}[artifact.format]
    rows = np.arange(7)[:, None]
    arrays = feeds(tiny.schema, tiny.splits["test"], rows, artifact.inputs)
    with registry.resolve("engines", engine)(artifact, threads=1) as running:
        logits = running.score(arrays)
        again = running.score(arrays)
    assert logits.shape == (7,)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits, again)


@pytest.mark.parametrize("name", STAGES)
def test_twice_the_same(name: str, given, make_context, file_hashes) -> None:
    artifact = given(name)
    context = make_context("made")
    one = file_hashes(made(name, artifact, context).artifact.folder)
    for path in context.folder.iterdir():
        path.unlink()
    two = file_hashes(made(name, artifact, context).artifact.folder)
    assert {k: v for k, v in one.items() if k != "artifact.json"} == {
        k: v for k, v in two.items() if k != "artifact.json"
    }
