"""Every stage of the catalog: what it promises of its input, its output and its effects."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_costs import counted_pair
from made_lists import SASREC, save_lists

from harness import registry
from harness.artifact import Artifact, read_artifact
from harness.engines.base import scores_of
from harness.errors import UnsupportedError
from harness.stages import graph_timing
from harness.stages.base import Context, Outcome
from harness.tables import Prepared, feeds

PARAMETERS: dict[str, dict[str, Any]] = {
    "prune_channels": {"ratio": 0.5},
    "clip_weights": {"ratio": 0.5},
    "factorize_linears": {"ratio": 0.5, "min_weights": 256},
    "reduce_tables": {"rank": 3, "min_rows": 20},
    "share_rows": {"buckets": 5, "min_rows": 20},
    "quantize_catalogue": {"splits": 4, "centroids": 5},
    "finetune": {"epochs": 0.5},
    "distill": {"epochs": 0.5},
    "search_student": {"student": {"top": [[12], [8]]}, "trial_epochs": 0.1, "epochs": 0.5},
    "prune_to_latency": {"speedup": 1.3, "round_to": 4, "rounds": 1},
    "quantize_static": {"calibration_rows": 256},
    "quantize_aware": {"epochs": 0.5},
    # Whatever is measured: one kind, quicker or not.
    "quantize_measured": {"kinds": "static", "min_speedup": 1e-9, "max_loss_increase": 9},
    "prune_rows": {"share": 0.5, "min_rows": 20},
    # The form that is quicker isn't the same each time.
    "quantize_tables": {"form": "plain", "min_rows": 20},
}
STAGES = registry.names("stages")
SEQUENCES = {"last_position", "quantize_catalogue", "scan_catalogue", "index_catalogue"}
"""Stages that only models of sequences have a use for."""
TOWERS = {"fold_tables"}
"""Stages that need tables which feed nothing but a tower."""
FUSED = {"native_operators"}
"""Stages that need a request's side shared and tables fused."""


def apply(name: str, artifact: Artifact, context: Context) -> Outcome:
    parameters = registry.bind("stages", name, PARAMETERS.get(name, {}))
    return registry.resolve("stages", name)(artifact, context, **parameters)


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths aren't chosen by the clock here."""
    monkeypatch.setattr(graph_timing, "time_pair", counted_pair)


@dataclass(frozen=True)
class Made:
    """What a stage made, of what, in which context, and the hashes of its files before it ran:
    of its input and of the baseline.
    """

    artifact: Artifact
    context: Context
    outcome: Outcome
    before: tuple[Mapping[str, str], Mapping[str, str]]


@pytest.fixture(scope="module")
def _exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture
def given(
    tiny_artifact: Artifact,
    mlp_artifact: Artifact,
    make_context: Callable[..., Context],
    tiny_sequences: Prepared,
    tmp_path: Path,
    _exported: Path,
):
    """``given(stage)``: an artifact of the format that the stage takes, in a folder of its own."""

    def export(start: Artifact, kind: str, **changes: object) -> Artifact:
        """Exports cost most here, and are of three models."""
        if not (_exported / kind).exists():
            made = apply("export_onnx", start, make_context("exported", **changes)).artifact
            shutil.copytree(made.folder, _exported / kind)
        shutil.copytree(_exported / kind, tmp_path / "given")
        return read_artifact(tmp_path / "given")

    def make(name: str) -> Artifact:
        if name in SEQUENCES:
            lists = save_lists(tiny_sequences, SASREC, tmp_path / "sequences")
            if registry.entry("stages", name).marks["accepts"] == "torch":
                return lists
            return export(lists, "sequences", data=tiny_sequences)
        if name in TOWERS:
            return mlp_artifact
        if registry.entry("stages", name).marks["accepts"] == "torch":
            return tiny_artifact
        start = tiny_artifact
        for step in ("share_user", "fuse_tables") if name in FUSED else ():
            start = apply(step, start, make_context(step)).artifact
        return export(start, "fused" if name in FUSED else "plain")

    return make


@pytest.fixture
def room(make_context: Callable[..., Context], tiny_sequences: Prepared):
    """``room(stage)``: a context with the data that the stage's model is of."""

    def make(name: str) -> Context:
        return make_context("made", **({"data": tiny_sequences} if name in SEQUENCES else {}))

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


@pytest.fixture(scope="module")
def _made() -> dict[str, Made]:
    return {}


@pytest.fixture
def once(_made: dict[str, Made], given, room, file_hashes) -> Callable[[str], Made]:
    """``once(stage)``: what the stage made, for all tests of it."""

    def make(name: str) -> Made:
        if name not in _made:
            artifact, context = given(name), room(name)
            before = file_hashes(artifact.folder), file_hashes(context.baseline.folder)
            _made[name] = Made(artifact, context, made(name, artifact, context), before)
        return _made[name]

    return make


@contextmanager
def moved(folder: Path, to: Path) -> Iterator[Path]:
    """The folder elsewhere, and no longer where it was."""
    folder.rename(to)
    try:
        yield to
    finally:
        to.rename(folder)


@pytest.mark.parametrize("name", STAGES)
def test_keeps_its_promises(name: str, once: Callable[[str], Made], file_hashes) -> None:
    told = once(name)
    artifact, context, outcome = told.artifact, told.context, told.outcome
    assert (file_hashes(artifact.folder), file_hashes(context.baseline.folder)) == told.before
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
    name: str, once: Callable[[str], Made], tmp_path: Path
) -> None:
    context = once(name).context
    with moved(context.folder, tmp_path / "moved") as folder:
        artifact = read_artifact(folder)
        engine = {"torch": "torch-cpu", "onnx": "ort-cpu", "faiss": "faiss-cpu"}[artifact.format]
        rows = np.arange(7)[:, None]
        arrays = feeds(context.data.schema, context.data.splits["test"], rows, artifact.inputs)
        with registry.resolve("engines", engine)(artifact, threads=1) as running:
            answer = running.score(arrays)
            again = running.score(arrays)
    assert answer.shape == ((7, 20) if name in SEQUENCES else (7,))
    assert np.isfinite(scores_of(answer)).all()
    np.testing.assert_array_equal(answer, again)


@pytest.mark.parametrize("name", STAGES)
def test_twice_the_same(name: str, once: Callable[[str], Made], file_hashes) -> None:
    told = once(name)
    one = file_hashes(told.context.folder)
    for path in told.context.folder.iterdir():
        path.unlink()
    two = file_hashes(made(name, told.artifact, told.context).artifact.folder)
    assert {k: v for k, v in one.items() if k != "artifact.json"} == {
        k: v for k, v in two.items() if k != "artifact.json"
    }


def test_only_an_export_counts_as_the_baseline_itself() -> None:
    """What a report compares with is what was trained, exported; an exact rewrite is a variant."""
    marks = {name: registry.entry("stages", name).marks for name in registry.names("stages")}
    found = [name for name, told in marks.items() if told["technique"] == "reference"]
    assert found == ["export_onnx"]
