"""Half weights: what the file holds, what scores become, and what is refused by name."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_lists import CATALOGUES, lists_context
from safetensors import safe_open

from harness import registry
from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.engines.torch_cpu import TorchCpu
from harness.errors import EffectError, UnsupportedError
from harness.halved import halve
from harness.modules import load_module
from harness.recipe import ChainError, StageSpec, chain
from harness.stages.base import Context
from harness.stages.cast_weights import cast_weights
from harness.tables import Prepared, feeds

MASKED = """
import torch
from torch import nn


class MaskedPool(nn.Module):
    def __init__(self, n_users, n_items, dim=8, low=-1e9):
        super().__init__()
        self.low = low
        self.users, self.items = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
        self.query = nn.Parameter(torch.ones(dim))
        self.out = nn.Linear(dim, 1)

    def forward(self, user, item):
        x = torch.stack([self.users(user), self.items(item)], 1)  # (rows, 2, dim)
        padding = torch.stack([user == 0, item == 0], 1)
        weights = torch.softmax(x @ self.query + padding.to(x.dtype) * self.low, -1)
        return self.out((weights.unsqueeze(-1) * x).sum(1)).squeeze(-1)
"""


@pytest.fixture
def masked(save_artifact: Callable[..., Artifact]) -> Callable[[float], Artifact]:
    made = count()

    def make(low: float) -> Artifact:
        how = {"path": "model.py", "attribute": "MaskedPool", "parameters": {"low": low}}
        spec = ModelSpec("file", how, source="model.py")
        return save_artifact(spec, name=f"masked{next(made)}", source=MASKED)

    return make


@pytest.mark.parametrize(("to", "stored"), [("fp16", "F16"), ("bf16", "BF16")])
def test_weights_are_half_and_scores_are_fp32_and_near(
    tiny_artifact: Artifact,
    tiny: Prepared,
    make_context: Callable[..., Context],
    to: str,
    stored: str,
) -> None:
    outcome = cast_weights(tiny_artifact, make_context(), to=to)  # type: ignore[arg-type]
    made = read_artifact(outcome.artifact.folder)
    with safe_open(made.file, "np") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert set(kinds.values()) == {stored}
    assert made.precision == to
    assert made.parameters == tiny_artifact.parameters
    assert made.bytes < 0.6 * tiny_artifact.bytes
    effects = {effect.name: effect for effect in outcome.effects}
    assert effects[f"{to}_parameters"].after == made.parameters
    assert 0 < effects["drift"].after < 0.05
    assert "not torch's autocast" in outcome.notes[0]
    rows = np.arange(9)[:, None]
    batch = feeds(tiny.schema, tiny.splits["test"], rows, made.inputs)
    with TorchCpu(made, threads=1) as engine, TorchCpu(tiny_artifact, threads=1) as exact:
        assert engine.describe().precision == to
        found, right = engine.score(batch), exact.score(batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, right, atol=0.1)
    assert not np.array_equal(found, right)


def test_every_layer_works_in_half() -> None:
    """65504 is the largest number of fp16: one more layer and fp32 would hold what it can't."""
    layer = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 40_000.0)
    assert halve(layer, "fp16")(torch.ones(1, 2)).item() == float("inf")
    whole = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(whole.weight)
    scores = halve(whole, "fp16")(torch.tensor([[1e6, 0.0]]))
    assert scores.dtype == torch.float32
    assert scores.item() == 65_504  # a number beyond the range is cut to it


def test_ids_above_2048_stay_apart() -> None:
    table = torch.nn.Embedding(5000, 1)
    with torch.no_grad():
        table.weight[4097], table.weight[4096] = 1.0, 2.0
    found = halve(table, "fp16")(torch.tensor([4096, 4097]))
    assert found.tolist() == [[2.0], [1.0]]


def test_a_mask_that_half_does_not_hold_fails_with_the_rows(
    masked: Callable[[float], Artifact], make_context: Callable[..., Context]
) -> None:
    with pytest.raises(EffectError, match=r"scores of 1 of 257 rows aren't finite in fp16.*bf16"):
        cast_weights(masked(-1e9), make_context("fp16"))
    # It is finite where the type or the mask has room; the row of padding is among those checked.
    cast_weights(masked(-1e9), make_context("bf16"), to="bf16")
    cast_weights(masked(-1e4), make_context("small"))


def test_a_weight_beyond_the_range_is_named(
    tiny_artifact: Artifact,
    save_artifact: Callable[..., Artifact],
    make_context: Callable[..., Context],
) -> None:
    module = load_module(tiny_artifact)
    with torch.no_grad():
        module.get_parameter("top.0.bias")[0] = 1e6
    wide = save_artifact(tiny_artifact.model, name="wide", module=module)
    with pytest.raises(EffectError, match=r"beyond the range of fp16: top\.0\.bias"):
        cast_weights(wide, make_context())


def test_scores_too_far_from_fp32_fail(
    tiny_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(EffectError, match=r"in bf16 are .* away from fp32, tolerance 0.00%"):
        cast_weights(tiny_artifact, make_context(), to="bf16", tolerance=1e-6)


def test_what_is_half_already_is_refused(
    tiny_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    made = cast_weights(tiny_artifact, make_context("a")).artifact
    with pytest.raises(UnsupportedError, match="the weights are fp16 already"):
        cast_weights(made, make_context("b"), to="bf16")


@pytest.mark.parametrize("name", sorted({*CATALOGUES} - {"tied"}))
@pytest.mark.parametrize("to", ["fp16", "bf16"])
def test_models_of_next_items_are_cast_too(
    name: str,
    to: Any,
    catalogues: Callable[[str], tuple[Artifact, Artifact]],
    tiny_sequences: Prepared,
    tmp_path: Path,
) -> None:
    artifact, _ = catalogues(name)
    context = lists_context(tiny_sequences, artifact, tmp_path / "made")
    made = cast_weights(artifact, context, to=to, tolerance=0.2).artifact
    rows = np.arange(5)[:, None]
    batch = feeds(tiny_sequences.schema, tiny_sequences.splits["test"], rows, made.inputs)
    with TorchCpu(made, threads=1) as engine:
        answer = engine.score(batch)
    assert np.isfinite(answer["score"]).all()
    assert (np.diff(answer["score"], axis=1) <= 0).all()


def test_a_model_that_widens_on_the_way_fails_by_name(
    catalogues: Callable[[str], tuple[Artifact, Artifact]], tiny_sequences: Prepared, tmp_path: Path
) -> None:
    """The user's own ``tied`` multiplies by a mask in fp32."""
    context = lists_context(tiny_sequences, catalogues("tied")[0], tmp_path / "made")
    with pytest.raises(EffectError, match=r"doesn't run in fp16 .*must have the same dtype"):
        cast_weights(catalogues("tied")[0], context)
    assert not (context.folder / "weights.safetensors").exists()


@pytest.mark.parametrize("name", ["mlp", "fm", "deepfm", "dcn_v2", "mf", "two_embedding", "neumf"])
def test_models_of_clicks_are_cast_too(
    name: str, save_artifact: Callable[..., Artifact], make_context: Callable[..., Context]
) -> None:
    defaults = {k: v for k, v in registry.bind("models", name, {}).items() if v is not None}
    small = defaults | ({"dim": 8} if "dim" in defaults else {})
    artifact = save_artifact(ModelSpec(name, small), name=name)
    outcome = cast_weights(artifact, make_context(), to="bf16", tolerance=0.5)
    assert outcome.artifact.precision == "bf16"


def test_it_is_the_last_stage() -> None:
    cast = StageSpec("cast_weights", {"to": "fp16"})
    assert chain([cast], "torch-cpu") == (cast,)
    with pytest.raises(ChainError, match="finetune can't come after cast_weights: half weights"):
        chain([cast, StageSpec("finetune", {})], "torch-cpu")
    with pytest.raises(ChainError, match="target ort-cpu can't come after cast_weights"):
        chain([cast], "ort-cpu")


def test_a_copy_of_the_artifact_scores_the_same(
    tiny_artifact: Artifact,
    make_context: Callable[..., Context],
    score_alone: Callable[[Artifact], np.ndarray],
    tiny: Prepared,
) -> None:
    made = cast_weights(tiny_artifact, make_context()).artifact
    assert np.isfinite(score_alone(made)).all()
