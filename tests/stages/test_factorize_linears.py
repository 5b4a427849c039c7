"""Linears as products: the nearest one for the inputs there are, only where weights get fewer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_lists import SASREC, TIED, lists_context, save_lists

from harness.artifact import Artifact, ModelSpec
from harness.engines.ort_cpu import OrtCpu
from harness.errors import EffectError, UnsupportedError
from harness.modules import load_module
from harness.objectives import predict
from harness.stages.base import Context, Outcome
from harness.stages.export_onnx import export_onnx
from harness.stages.factorize_linears import factorize, factorize_linears, rank_within
from harness.stages.finetune import finetune
from harness.stages.graphs import random_feeds
from harness.stages.prune_channels import prune_channels
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.tables import Prepared

Make = Callable[..., Context]


def effects(outcome: Outcome) -> dict[str, tuple[float, float, float | None]]:
    return {effect.name: (effect.before, effect.after, effect.asked) for effect in outcome.effects}


@given(
    *(st.integers(1, 6) for _ in range(2)), st.integers(0, 2**31), st.integers(1, 6), st.booleans()
)
def test_no_other_product_gives_nearer_outputs(
    outputs: int, inputs: int, seed: int, rank: int, whitened: bool
) -> None:
    """Eckart and Young on the outputs W X^T: what is lost is their other singular values."""
    random = np.random.default_rng(seed)
    weight, x = random.normal(size=(outputs, inputs)), random.normal(size=(20, inputs))
    x *= random.exponential(size=inputs) ** 2
    x = x if whitened else np.eye(inputs)
    moments = torch.from_numpy(x.T @ x) if whitened else None
    made = factorize(torch.from_numpy(weight), moments, energy=None, rank=rank)
    right = weight @ x.T
    found = made.up.numpy() @ made.down.numpy() @ x.T
    values = np.square(np.linalg.svd(right, compute_uv=False))
    lost = float(values[made.rank :].sum())
    assert np.square(found - right).sum() == pytest.approx(lost, abs=1e-6 * values.sum())
    assert made.error**2 == pytest.approx(lost / values.sum(), abs=1e-6)


def test_inputs_decide_which_directions_stay() -> None:
    """The first output is small, but its input is large: 1 x 10 against 3 x 1."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    plain = factorize(weight, None, energy=None, rank=1)
    assert (plain.up @ plain.down).round(decimals=6).tolist() == [[0, 0], [0, 3]]
    assert plain.energy == pytest.approx(9 / 10)
    inputs = torch.tensor([[100.0, 0.0], [0.0, 1.0]])  # E[x x^T]
    seen = factorize(weight, inputs.double(), energy=None, rank=1)
    assert (seen.up @ seen.down).round(decimals=6).tolist() == [[1, 0], [0, 0]]
    assert seen.energy == pytest.approx(100 / 109)
    assert factorize(weight, inputs.double(), energy=0.91, rank=None).rank == 1
    assert factorize(weight, inputs.double(), energy=0.93, rank=None).rank == 2


@pytest.mark.parametrize(
    ("shape", "ratio", "rank"),
    [((32, 16), 0.5, 5), ((32, 16), 0.0, 10), ((16, 16), 0.5, 4), ((16, 1), 0.5, 0)],
)
def test_the_largest_rank_within_a_ratio(shape: tuple[int, int], ratio: float, rank: int) -> None:
    assert rank_within(torch.empty(shape), ratio) == rank


def test_sizes_by_hand(tiny_artifact: Artifact, make_context: Make, file_hashes) -> None:
    """DLRM: bottom 2-16-8, top 18-32-16-1; of those, 18 x 32 and 32 x 16 have 256 or more."""
    before = file_hashes(tiny_artifact.folder)
    outcome = factorize_linears(tiny_artifact, make_context(), ratio=0.5, min_weights=256)
    assert file_hashes(tiny_artifact.folder) == before
    found = effects(outcome)
    assert found["rank:top.0"] == (18, 5, 5)  # 288 / 50
    assert found["rank:top.2"] == (16, 5, 5)  # 256 / 48
    fewer = 18 * 32 - 5 * 50 + 32 * 16 - 5 * 48
    assert found["parameters"][0] - found["parameters"][1] == fewer
    assert found["parameters"][0] - found["parameters"][2] == (18 * 32 + 32 * 16) / 2
    assert found["macs"][0] - found["macs"][1] == fewer
    assert 0 < found["output_error:top.0"][1] < 1
    assert outcome.artifact.widths["top.0.down"] == (5, 18)
    assert outcome.notes == (
        "layers left alone: bottom.0 (32 weights), bottom.2 (128 weights), top.4 (16 weights)",
    )


def test_whitening_is_nearer_in_what_the_layer_gives(
    tiny_artifact: Artifact, make_context: Make, tiny: Prepared
) -> None:
    def outputs(artifact: Artifact) -> torch.Tensor:
        module, found = load_module(artifact), list[torch.Tensor]()
        module.get_submodule("top.0").register_forward_hook(lambda *told: found.append(told[2]))
        predict(module, tiny, tiny.splits["test"], artifact.inputs)
        return torch.cat(found)

    gaps = [
        (outputs(made.artifact) - outputs(tiny_artifact)).square().mean().item()
        for made in (
            factorize_linears(
                tiny_artifact, make_context(how), ratio=0.5, weighting=how, min_weights=256
            )
            for how in ("inputs", "none")
        )
    ]
    assert gaps[0] < gaps[1]


def test_energy_is_kept_and_reported(tiny_artifact: Artifact, make_context: Make) -> None:
    outcome = factorize_linears(tiny_artifact, make_context(), energy=0.9, min_weights=256)
    found = effects(outcome)
    assert found["energy"][2] == 0.9
    assert 0.9 <= found["energy"][1] < 1
    errors = [after for name, (_, after, _) in found.items() if name.startswith("output_error:")]
    assert max(errors) == pytest.approx((1 - found["energy"][1]) ** 0.5)


def test_what_comes_after(
    tiny_artifact: Artifact,
    make_context: Make,
    tiny: Prepared,
    score_alone: Callable[[Artifact], np.ndarray],
) -> None:
    made = factorize_linears(
        tiny_artifact, make_context("low"), ratio=0.4, min_weights=256
    ).artifact
    tuned = finetune(made, make_context("tuned"), epochs=0.5).artifact
    pruned = prune_channels(tuned, make_context("pruned"), ratio=0.5, tolerance=0.2).artifact
    assert pruned.widths["top.0.down"][0] < tuned.widths["top.0.down"][0]
    assert np.isfinite(score_alone(pruned)).all()
    onnx = export_onnx(pruned, make_context("onnx")).artifact
    assert onnx.parameters == pruned.parameters
    int8 = quantize_dynamic(onnx, make_context("int8"), exclude=("top.2.up",)).artifact
    batch = random_feeds(int8, tiny, sizes=(3, 5), seed=1)
    with OrtCpu(onnx, threads=1) as one, OrtCpu(int8, threads=1) as other:
        np.testing.assert_allclose(one.score(batch), other.score(batch), atol=0.5)


@pytest.mark.parametrize(("spec", "kept"), [(SASREC, "blocks.1.out"), (TIED, "mix")])
def test_models_of_lists_keep_their_tie(
    spec: ModelSpec, kept: str, tiny_sequences: Prepared, tmp_path: Path
) -> None:
    artifact = save_lists(tiny_sequences, spec, tmp_path / "lists")
    context = lists_context(tiny_sequences, artifact, tmp_path / "made")
    outcome = factorize_linears(artifact, context, ratio=0.4, min_weights=32)
    assert kept in outcome.artifact.model.layers
    module = load_module(outcome.artifact)
    if spec is TIED:
        assert outcome.notes == ("layers left alone: score (tied to emb.weight)",)
        assert module.score.weight is module.emb.weight
        # The table once, and 8 x 8 as two of 2 x 8 with its bias.
        assert outcome.artifact.parameters == 121 * 8 + 2 * 16 + 8


OUTPUT = """
from torch import nn


class Next(nn.Module):
    def __init__(self, n_items):
        super().__init__()
        self.items = nn.Embedding(n_items, 16, padding_idx=0)
        self.hidden, self.score = nn.Linear(16, 16), nn.Linear(16, n_items)

    def forward(self, history):
        return self.score(self.hidden(self.items(history).mean(1)).relu())
"""


def test_the_layer_that_scores_the_catalogue_stays_unless_asked(
    tiny_sequences: Prepared, tmp_path: Path
) -> None:
    parameters = {"path": "model.py", "attribute": "Next", "parameters": {}, "top": 20}
    artifact = save_lists(
        tiny_sequences, ModelSpec("file", parameters, "model.py"), tmp_path / "l", source=OUTPUT
    )
    context = lists_context(tiny_sequences, artifact, tmp_path / "a")
    outcome = factorize_linears(artifact, context, ratio=0.5, min_weights=32)
    assert list(outcome.artifact.model.layers) == ["hidden"]
    assert outcome.notes[0].endswith("score (it scores the whole catalogue (keep_output))")
    context = lists_context(tiny_sequences, artifact, tmp_path / "b")
    both = factorize_linears(artifact, context, ratio=0.5, min_weights=32, keep_output=False)
    assert list(both.artifact.model.layers) == ["hidden", "score"]


def test_what_can_not_be_is_one_sentence(tiny_artifact: Artifact, make_context: Make) -> None:
    def refused(name: str, message: str, **how: object) -> None:
        with pytest.raises((EffectError, UnsupportedError), match=message):
            factorize_linears(tiny_artifact, make_context(name), **how)

    refused("a", "give energy or ratio, not both", energy=0.9, ratio=0.5)
    refused("b", r"layers: pattern 'topp\.\*' matches no layer.*the layers are", layers=("topp.*",))
    refused("c", r"ignore: pattern 'x' matches no layer", ignore=("x",))
    refused("d", r"no effect; layers left alone: .*top\.0 \(576 weights\)")
    refused("e", r"top\.2 \(rank 16 of 16 wouldn't shrink it\)", energy=1.0, min_weights=256)
    refused(
        "f", r"top\.4 \(no product has so few weights", ratio=0.1, layers=("top.4",), min_weights=1
    )
