"""The rewrite to the last position: exact, cheaper, and refused where it can't be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_lists import SASREC, lists_context, save_lists

from harness import registry
from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.engines.torch_cpu import TorchCpu
from harness.errors import EffectError, UnsupportedError
from harness.models import sasrec
from harness.stages.last_position import last_position
from harness.stages.prune_channels import prune_channels
from harness.tables import Prepared, feeds


@pytest.fixture
def whole(tiny_sequences: Prepared, tmp_path: Path) -> Artifact:
    """An untrained SASRec that works out all positions."""
    return save_lists(tiny_sequences, SASREC, tmp_path / "whole")


def lists(artifact: Artifact, data: Prepared) -> np.ndarray:
    arrays = feeds(data.schema, data.splits["test"], np.arange(40)[:, None], artifact.inputs)
    with TorchCpu(artifact, threads=1) as running:
        return running.score(arrays)


def test_same_weights_same_lists_less_work(
    whole: Artifact, tiny_sequences: Prepared, tmp_path: Path, file_hashes: Callable[..., object]
) -> None:
    before = file_hashes(whole.folder)
    context = lists_context(tiny_sequences, whole, tmp_path / "last")
    outcome = last_position(whole, context)
    assert file_hashes(whole.folder) == before
    made = read_artifact(context.folder)
    assert made.model.parameters == {**SASREC.parameters, "positions": "last"}
    assert made.file.read_bytes() == whole.file.read_bytes()
    found, expected = lists(made, tiny_sequences), lists(whole, tiny_sequences)
    np.testing.assert_array_equal(found["item"], expected["item"])
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    effects = {effect.name: effect for effect in outcome.effects}
    assert effects["macs"].before == whole.macs
    assert effects["macs"].after == made.macs < whole.macs
    assert effects["parameters"].before == effects["parameters"].after
    assert outcome.notes[0].startswith("largest difference of scores: ")


def test_pruned_widths_stay(whole: Artifact, tiny_sequences: Prepared, tmp_path: Path) -> None:
    pruned = prune_channels(
        whole, lists_context(tiny_sequences, whole, tmp_path / "pruned"), ratio=0.5
    ).artifact
    made = last_position(pruned, lists_context(tiny_sequences, whole, tmp_path / "last")).artifact
    assert made.widths == pruned.widths != whole.widths


def test_twice_is_refused(whole: Artifact, tiny_sequences: Prepared, tmp_path: Path) -> None:
    once = last_position(whole, lists_context(tiny_sequences, whole, tmp_path / "one")).artifact
    with pytest.raises(EffectError, match="positions is 'last' already in model 'sasrec'; leave"):
        last_position(once, lists_context(tiny_sequences, whole, tmp_path / "two"))


@pytest.mark.parametrize("name", ["gru4rec", "mf_ranking"])
def test_other_models_are_refused_by_name(
    name: str, tiny_sequences: Prepared, tmp_path: Path
) -> None:
    other = save_lists(tiny_sequences, ModelSpec(name, {"dim": 8, "top": 20}), tmp_path / name)
    context = lists_context(tiny_sequences, other, tmp_path / "last")
    with pytest.raises(UnsupportedError, match=f"model '{name}' has no parameter 'positions'"):
        last_position(other, context)


def test_a_rewrite_that_changes_lists_is_refused(
    whole: Artifact,
    tiny_sequences: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = sasrec.SASRec.states

    def first(self: sasrec.SASRec, history: torch.Tensor, *, last: bool = False) -> torch.Tensor:
        states = honest(self, history)
        return states[:, :1] if last else states

    monkeypatch.setattr(sasrec.SASRec, "states", first)
    context = lists_context(tiny_sequences, whole, tmp_path / "last")
    with pytest.raises(EffectError, match="last_position isn't exact here"):
        last_position(whole, context)


def test_a_model_of_one_event_a_request_still_has_an_empty_past(
    tiny_sequences: Prepared, whole: Artifact, tmp_path: Path
) -> None:
    """Validation of users who had nothing before: their history is all padding."""
    split = tiny_sequences.splits["validation"]
    past = split.histories
    assert past is not None
    ends = np.repeat(past.start, np.diff(split.offsets))
    empty = replace(split, histories=replace(past, end=ends))
    data = replace(tiny_sequences, splits={**tiny_sequences.splits, "validation": empty})
    outcome = last_position(whole, lists_context(data, whole, tmp_path / "last"))
    assert outcome.effects[0].after < outcome.effects[0].before


def test_it_is_an_exact_rewrite_in_the_catalog() -> None:
    found = registry.entry("stages", "last_position")
    assert found.marks == {"accepts": "torch", "produces": "torch", "technique": "closed_like"}
