"""Every model of the catalog: right shapes, no leak between candidates, exact reload."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import registry
from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.modules import build_module, count_parameters, load_module, model_inputs
from harness.tables import Prepared, feeds
from harness.training import Training, fit, predict

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


@pytest.fixture(params=registry.names("models"))
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


@pytest.mark.parametrize("name", registry.names("models"))
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


@pytest.mark.parametrize("name", registry.names("models"))
def test_the_seed_decides_the_weights(name: str, tiny: Prepared, save_artifact) -> None:
    folder = save_artifact(SPECS[name], name=name).folder

    def weights(seed: int) -> torch.Tensor:
        module = build_module(SPECS[name], tiny.schema, folder=folder, seed=seed)
        return torch.cat([tensor.detach().flatten() for tensor in module.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
