"""Every model of the catalog: right shapes, no leak between candidates, exact reload."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_lists import TIED, TRAINING, save_lists

from harness import registry
from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.engines.torch_cpu import TorchCpu
from harness.modules import build_module, count_parameters, load_module, model_inputs
from harness.objectives import Training, predict
from harness.tables import Prepared, feeds
from harness.training import fit, objective_of

SPECS = {
    "dlrm": ModelSpec("dlrm", {"dim": 4, "bottom": [8], "top": [16, 8]}),
    "mlp": ModelSpec("mlp", {"dim": 4, "widths": [16, 8]}),
    "fm": ModelSpec("fm", {"dim": 4}),
    "deepfm": ModelSpec("deepfm", {"dim": 4, "widths": [16, 8]}),
    "dcn_v2": ModelSpec("dcn_v2", {"dim": 4, "layers": 2, "widths": [16, 8]}),
    "mf": ModelSpec("mf", {"dim": 4}),
    "two_embedding": ModelSpec("two_embedding", {"dim": 4, "widths": [16, 8]}),
    "neumf": ModelSpec("neumf", {"dim": 4, "mlp_dim": 4, "widths": [16, 8]}),
    "file": ModelSpec(
        "file", {"path": "model.py", "attribute": "Rec", "parameters": {}}, source="model.py"
    ),
}


LISTS = {
    "sasrec": ModelSpec("sasrec", {"dim": 8, "heads": 2, "top": 20}),
    "gru4rec": ModelSpec("gru4rec", {"dim": 8, "hidden": 12, "top": 20}),
    "mf_ranking": ModelSpec("mf_ranking", {"dim": 8, "top": 20}),
    "file": TIED,
}
"""Models of next items; a user's own file can be one of these and one of the others."""


def test_every_model_is_tested() -> None:
    assert set(SPECS) | set(LISTS) == set(registry.names("models"))


@pytest.fixture(params=SPECS)
def artifact(request, save_artifact: Callable[..., Artifact]) -> Artifact:
    return save_artifact(SPECS[request.param], name=request.param)


def scores(artifact: Artifact, data: Prepared, rows: np.ndarray) -> np.ndarray:
    module = load_module(artifact)
    arrays = feeds(data.schema, data.splits["test"], rows, artifact.inputs)
    with torch.inference_mode():
        out = module(**{name: torch.from_numpy(a.copy()) for name, a in arrays.items()})
    return out.numpy()


def test_one_logit_a_candidate(artifact: Artifact, tiny: Prepared) -> None:
    split = tiny.splits["test"]
    request = int(np.argmax(np.diff(split.offsets)))
    rows = np.arange(split.offsets[request], split.offsets[request + 1])[None, :]
    out = scores(artifact, tiny, rows)
    flat = artifact.inputs[0].shape[0] == "rows"
    assert out.shape == ((rows.size,) if flat else rows.shape)
    alone = np.concatenate([scores(artifact, tiny, row[None, None]).ravel() for row in rows[0]])
    np.testing.assert_allclose(out.ravel(), alone, atol=1e-5)


def test_a_reloaded_model_scores_the_same(artifact: Artifact, tiny: Prepared) -> None:
    rows = np.arange(50)[:, None]
    again = read_artifact(artifact.folder)
    np.testing.assert_array_equal(scores(artifact, tiny, rows), scores(again, tiny, rows))
    assert again == artifact
    assert artifact.parameters == count_parameters(load_module(artifact))[0]
    assert artifact.macs > 0


@pytest.mark.parametrize("name", SPECS)
def test_training_lowers_the_loss(name: str, tiny: Prepared, save_artifact) -> None:
    folder: Path = save_artifact(SPECS[name], name=name).folder
    module = build_module(SPECS[name], tiny.schema, folder=folder, seed=1)
    inputs = model_inputs(module, tiny.schema)
    training = Training(epochs=4, batch_size=128, learning_rate=0.02, evaluations=1)
    before = predict(module, tiny, tiny.splits["validation"], inputs)
    fit(module, tiny, inputs, training, seed=1, threads=1, progress=lambda label, share: None)
    after = predict(module, tiny, tiny.splits["validation"], inputs)
    label = tiny.splits["validation"].label

    def loss(logits: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, logits) - label * logits))

    assert loss(after) < loss(before) - 0.01


@pytest.mark.parametrize("name", SPECS)
def test_the_seed_decides_the_weights(name: str, tiny: Prepared, save_artifact) -> None:
    folder = save_artifact(SPECS[name], name=name).folder

    def weights(seed: int) -> torch.Tensor:
        module = build_module(SPECS[name], tiny.schema, folder=folder, seed=seed)
        return torch.cat([tensor.detach().flatten() for tensor in module.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.fixture(params=LISTS)
def listing(request, tiny_sequences: Prepared, tmp_path: Path) -> Artifact:
    """An untrained model of next items."""
    return save_lists(tiny_sequences, LISTS[request.param], tmp_path / request.param)


def test_lists_do_not_depend_on_the_batch_and_survive_a_reload(
    listing: Artifact, tiny_sequences: Prepared
) -> None:
    split = tiny_sequences.splits["test"]
    rows = np.arange(30)
    arrays = feeds(tiny_sequences.schema, split, rows[:, None], listing.inputs)
    with TorchCpu(read_artifact(listing.folder), threads=1) as engine:
        found = engine.score(arrays)
        alone = np.concatenate(
            [engine.score({n: a[i : i + 1] for n, a in arrays.items()}) for i in rows]
        )
    assert found.shape == (30, 20)
    np.testing.assert_array_equal(alone["item"], found["item"])
    np.testing.assert_allclose(alone["score"], found["score"], atol=1e-5)
    seen = split.histories.seen(split.request_of_row[rows], rows)
    assert not (found["item"][:, :, None] == np.where(seen, seen, -1)[:, None, :]).any()
    assert all(len(set(row)) == 20 for row in found["item"].tolist())
    assert listing.parameters == count_parameters(load_module(listing))[0]
    assert listing.macs > 0


@pytest.mark.parametrize("name", LISTS)
def test_training_betters_the_lists_and_the_seed_decides(
    name: str, tiny_sequences: Prepared, tmp_path: Path
) -> None:
    folder = save_lists(tiny_sequences, LISTS[name], tmp_path / name).folder

    def trained(seed: int) -> tuple[torch.nn.Module, float, float]:
        module = build_module(LISTS[name], tiny_sequences.schema, folder=folder, seed=seed)
        inputs = model_inputs(module, tiny_sequences.schema)
        training = replace(TRAINING, epochs=4)
        objective = objective_of(module, tiny_sequences, inputs, training, seed=1)
        rows = np.arange(200)
        before = objective.loss(module.eval(), rows).item()
        fit(module, tiny_sequences, inputs, training, seed=seed, threads=1, progress=_silent)
        return module, before, objective.loss(module, rows).item()

    module, before, after = trained(1)
    assert after < before - 0.1
    state, again = module.state_dict(), trained(1)[0].state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)
    other = build_module(LISTS[name], tiny_sequences.schema, folder=folder, seed=2).state_dict()
    assert any(not torch.equal(state[key], other[key]) for key in state)
    table = next(w for k, w in state.items() if k.endswith(("vectors.weight", "emb.weight")))
    assert table[0].eq(0).all()  # the row of no item


def _silent(label: str, share: float) -> None:
    assert label
    assert 0 <= share <= 1
