"""Channels of next-item models: heads stay, tables and the residual stream keep their width."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_lists import lists_context, save_lists
from torch import nn

from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.errors import EffectError
from harness.models.sasrec import build
from harness.modules import load_module, model_inputs
from harness.objectives import tensors
from harness.stages.base import Context, Outcome
from harness.stages.channel_groups import Layout, find_groups, random_feeds
from harness.stages.finetune import finetune
from harness.stages.prune_channels import prune_channels
from harness.tables import Prepared, write_prepared

SPEC = ModelSpec("sasrec", {"dim": 16, "heads": 2, "blocks": 2, "hidden": 24, "top": 20})
ATTENTION = ("query", "key", "value")
ALONE = """
import sys
from pathlib import Path
import numpy as np
import torch
from harness.artifact import read_artifact
from harness.modules import load_module
from harness.objectives import tensors
from harness.tables import read_prepared
folder, data, out = map(Path, sys.argv[1:])
artifact, prepared = read_artifact(folder), read_prepared(data)
inputs = tensors(prepared.schema, prepared.splits["test"], np.arange(200), artifact.inputs)
with torch.inference_mode():
    np.save(out, load_module(artifact)(**inputs)[0].numpy())
"""


@pytest.fixture
def sasrec(tiny_sequences: Prepared, tmp_path: Path) -> Artifact:
    return save_lists(tiny_sequences, SPEC, tmp_path / "sasrec")


@pytest.fixture
def room(tiny_sequences: Prepared, sasrec: Artifact, tmp_path: Path) -> Callable[[str], Context]:
    """``room(name)``: a context with a new folder of that name."""
    return lambda name: lists_context(tiny_sequences, sasrec, tmp_path / name)


@pytest.fixture
def lists_alone(tiny_sequences: Prepared, tmp_path: Path) -> Callable[[Artifact], np.ndarray]:
    """``lists_alone(artifact)``: what ``served`` gives, of a copy and in a new process."""

    def score(artifact: Artifact) -> np.ndarray:
        data, copied, out = tmp_path / "data", tmp_path / "alone" / "copy", tmp_path / "out.npy"
        data.mkdir()
        write_prepared(data, tiny_sequences)
        shutil.copytree(artifact.folder, copied)
        command = [sys.executable, "-c", ALONE, str(copied), str(data), str(out)]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
        found: np.ndarray = np.load(out)
        return found

    return score


def served(artifact: Artifact, data: Prepared) -> np.ndarray:
    """Scores (200, top) of test requests."""
    rows = np.arange(200)
    inputs = tensors(data.schema, data.splits["test"], rows, artifact.inputs)
    with torch.inference_mode():
        scores: np.ndarray = load_module(artifact)(**inputs)[0].numpy()
    return scores


def changed(outcome: Outcome) -> dict[str, tuple[float, float, float | None]]:
    return {
        effect.name.removeprefix("width:"): (effect.before, effect.after, effect.asked)
        for effect in outcome.effects
        if effect.name.startswith("width:")
    }


def layout_of(module: nn.Module, data: Prepared) -> Layout:
    inputs = model_inputs(module, data.schema)
    feeds = [random_feeds(inputs, data.schema, requests=r, candidates=4) for r in (2, 5)]
    return find_groups(module.eval(), feeds, frozen=set())


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
@pytest.mark.parametrize("steps", [1, 3])
def test_attention_and_mlp_lose_half_of_their_channels(
    sasrec: Artifact, room: Callable[[str], Context], importance: str, steps: int
) -> None:
    outcome = prune_channels(
        sasrec, room("p"), ratio=0.5, importance=importance, steps=steps, taylor_rows=64
    )
    wanted = {f"blocks.{at}.{name}": (16, 8, 8) for at in (0, 1) for name in ATTENTION}
    wanted |= {f"blocks.{at}.widen": (24, 12, 12) for at in (0, 1)}
    assert changed(outcome) == wanted
    made = outcome.artifact
    assert made.widths["blocks.1.out"] == (16, 8)
    assert made.widths["blocks.1.narrow"] == (16, 12)
    # Of each block 3 x (16 x 8 + 8) and 16 x 8 in attention, 16 x 12 + 12 and 12 x 16 beside it.
    assert sasrec.parameters - made.parameters == 2 * (3 * 136 + 128 + 204 + 192)
    assert made.embedding_parameters == sasrec.embedding_parameters
    assert made.model == sasrec.model  # as many heads, which are smaller


def test_what_stays_is_said_with_its_reason(
    sasrec: Artifact, room: Callable[[str], Context]
) -> None:
    notes = prune_channels(sasrec, room("p"), ratio=0.5).notes
    told = {name for name in ATTENTION if f"blocks.0.{name}" in notes[0]}
    assert told == set(ATTENTION)
    assert notes[0].endswith(": 2 heads of 4 channels each")
    tied = "its width is tied to the embedding table catalogue.vectors"
    for name in ("out", "narrow"):
        assert f"blocks.1.{name} kept its width: {tied}" in notes


def test_heads_lose_their_own_weakest_channels(
    sasrec: Artifact, room: Callable[[str], Context], tiny_sequences: Prepared, tmp_path: Path
) -> None:
    dead = [1, 4, 10, 15]  # two of each head of 8, at other places

    def kill(module: nn.Module) -> None:
        for block in module.blocks:  # type: ignore[union-attr]
            for name in ATTENTION:
                getattr(block, name).weight[dead] = 0.0
                getattr(block, name).bias[dead] = 0.0
            block.out.weight[:, dead] = 0.0

    artifact = save_lists(tiny_sequences, SPEC, tmp_path / "dead", change=kill)
    made = prune_channels(artifact, room("p"), ratio=0.25, ignore=("blocks.*.widen",)).artifact
    assert made.widths["blocks.0.key"] == (12, 16)
    np.testing.assert_allclose(
        served(made, tiny_sequences), served(artifact, tiny_sequences), atol=1e-5
    )


@pytest.mark.parametrize(("heads", "found"), [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6)])
def test_heads_are_counted_by_trial(tiny_sequences: Prepared, heads: int, found: int) -> None:
    torch.manual_seed(0)
    module = build(tiny_sequences.schema, dim=12, heads=heads, blocks=1, top=20)
    layout = layout_of(module, tiny_sequences)
    assert layout.heads == {"blocks.0.query": found, "blocks.0.widen": 1}
    assert set(layout.groups["blocks.0.query"]) == {f"blocks.0.{name}" for name in ATTENTION}


def test_heads_of_one_channel_cannot_be_cut(tiny_sequences: Prepared) -> None:
    module = build(tiny_sequences.schema, dim=12, heads=12, blocks=1, top=20)
    layout = layout_of(module, tiny_sequences)
    assert set(layout.groups) == {"blocks.0.widen"}
    assert "the model no longer runs without some of its" in layout.kept["blocks.0.query"]


class ScaledByWidth(nn.Module):
    """Attention whose scale follows its width: without a channel all others count for more."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.table = nn.Embedding(items, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.out, self.score = nn.Linear(8, 8), nn.Linear(8, items)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        states = self.table(history)
        query, key = self.query(states), self.key(states)
        weights = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        found: torch.Tensor = self.score(self.out(weights @ self.value(states))[:, -1])
        return found


def test_attention_that_a_cut_would_change_is_left_alone(tiny_sequences: Prepared) -> None:
    torch.manual_seed(0)
    items = tiny_sequences.schema.field(tiny_sequences.schema.item).cardinality
    layout = layout_of(ScaledByWidth(items), tiny_sequences)
    assert set(layout.groups) == {"out"}
    assert layout.kept["query"] == "its channels mean more than what the next layers read"


def test_a_large_catalogue_in_chunks_is_pruned_alike(
    tiny_sequences: Prepared, room: Callable[[str], Context], tmp_path: Path
) -> None:
    spec = replace(SPEC, parameters={**SPEC.parameters, "chunk": 40})
    artifact = save_lists(tiny_sequences, spec, tmp_path / "chunks")
    made = prune_channels(artifact, room("p"), ratio=0.5).artifact
    assert made.widths["blocks.0.query"] == (8, 16)


def test_a_new_process_serves_the_pruned_lists(
    sasrec: Artifact,
    room: Callable[[str], Context],
    tiny_sequences: Prepared,
    lists_alone: Callable[[Artifact], np.ndarray],
) -> None:
    pruned = prune_channels(sasrec, room("p"), ratio=0.5).artifact
    tuned = finetune(pruned, room("t"), epochs=0.5)
    assert read_artifact(tuned.artifact.folder).widths == pruned.widths
    here = served(tuned.artifact, tiny_sequences)
    np.testing.assert_allclose(lists_alone(tuned.artifact), here, atol=1e-6)
    assert tuned.effects[0].unit == "1 - NDCG@10"


def test_a_recurrent_model_is_refused_by_name(
    tiny_sequences: Prepared, room: Callable[[str], Context], tmp_path: Path
) -> None:
    spec = ModelSpec("gru4rec", {"dim": 8, "top": 20})
    artifact = save_lists(tiny_sequences, spec, tmp_path / "gru")
    with pytest.raises(EffectError, match=r"recurrent: it is a GRU, only Linear is pruned; out: "):
        prune_channels(artifact, room("p"), ratio=0.5)


def test_a_model_without_layers_is_refused(
    tiny_sequences: Prepared, room: Callable[[str], Context], tmp_path: Path
) -> None:
    spec = ModelSpec("mf_ranking", {"dim": 8, "top": 20})
    artifact = save_lists(tiny_sequences, spec, tmp_path / "mf")
    with pytest.raises(EffectError, match="no layer can be pruned: the model has no Linear layer"):
        prune_channels(artifact, room("p"), ratio=0.5)
