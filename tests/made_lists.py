"""Next-item models as artifacts, and a schema of any size, for the tests of lists."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness.artifact import Artifact, ModelSpec
from harness.modules import build_module, model_inputs, model_outputs, save_module
from harness.objectives import Training
from harness.schema import FeatureSchema, Field, write_schema
from harness.stages.base import Context
from harness.stages.graphs import random_feeds
from harness.store import Store
from harness.tables import Prepared

SASREC = ModelSpec("sasrec", {"dim": 8, "heads": 2, "top": 20})
TRAINING = Training(epochs=2, batch_size=32, learning_rate=0.01, evaluations=1)
TIED_SOURCE = '''"""A user's own model: the mean of a history, looked up and scored in one table."""

import torch
from torch import nn


class Tied(nn.Module):
    def __init__(self, n_items, dim=8):
        super().__init__()
        self.emb = nn.Embedding(n_items, dim, padding_idx=0)
        self.mix = nn.Linear(dim, dim)
        self.score = nn.Linear(dim, n_items, bias=False)
        self.score.weight = self.emb.weight

    def forward(self, history):
        keep = (history != 0).unsqueeze(-1).float()
        h = (self.emb(history) * keep).sum(1) / keep.sum(1).clamp(min=1.0)
        return self.score(torch.relu(self.mix(h)))
'''
TIED = ModelSpec(
    "file", {"path": "model.py", "attribute": "Tied", "parameters": {}, "top": 20}, "model.py"
)

BIASED = '''"""A user's own model with a bias an item."""

from torch import nn


class Pool(nn.Module):
    def __init__(self, n_items):
        super().__init__()
        self.emb = nn.Embedding(n_items, 8, padding_idx=0)
        self.out = nn.Linear(8, n_items)

    def forward(self, history):
        return self.out(self.emb(history).sum(1))
'''
ITEMS, TOP = 121, 20
"""Items of the tiny sequences, the unknown one included, and places of a list."""
CATALOGUES = {
    "sasrec": SASREC,
    "factors": ModelSpec("mf_ranking", {"dim": 4, "top": TOP}),
    "chunks": ModelSpec("sasrec", {"dim": 8, "heads": 2, "top": TOP, "chunk": 50}),
    "tied": TIED,
    "biased": ModelSpec(
        "file", {"path": "m.py", "attribute": "Pool", "parameters": {}, "top": TOP}, "m.py"
    ),
}
"""Models whose catalogues are scored in each of the ways there are."""


def all_pasts(artifact: Artifact, data: Prepared) -> dict[str, np.ndarray]:
    """Pasts of all kinds; the second request has seen everything, the third all but two items."""
    batch = random_feeds(artifact, data, sizes=(9, 4), seed=2)
    everything = np.tile(np.arange(ITEMS), (9, 1))
    everything[2, -2:] = 0
    everything[[0, *range(3, 9)], 30:] = 0
    return {**batch, "seen": everything}


def item_schema(items: int, *, users: int = 8, length: int = 6) -> FeatureSchema:
    """A next-item schema of a user and an item, rows of unknown ones included."""
    fields = (
        Field("user", "categorical", "user", users),
        Field("item", "categorical", "item", items),
    )
    return FeatureSchema(fields, "event", "user", "item", task="next_item", length=length)


def save_lists(
    data: Prepared,
    spec: ModelSpec,
    folder: Path,
    *,
    source: str = TIED_SOURCE,
    change: Callable[[nn.Module], object] | None = None,
) -> Artifact:
    """A torch artifact of an untrained model, with its weights changed by ``change``."""
    folder.mkdir()
    write_schema(folder, data.schema, data.vocabularies)
    if spec.source:
        (folder / spec.source).write_text(source)
    module = build_module(spec, data.schema, folder=folder, seed=3)
    if change is not None:
        with torch.no_grad():
            change(module)
    inputs = model_inputs(module, data.schema)
    start = Artifact(folder, "torch", spec, inputs, model_outputs(module, inputs))
    return save_module(module.eval(), start, folder)


def lists_context(data: Prepared, baseline: Artifact, folder: Path) -> Context:
    """A stage's context with a new folder."""
    folder.mkdir()
    return Context(
        folder=folder,
        data=data,
        baseline=baseline,
        training=TRAINING,
        store=Store(folder.with_name("store")),
        seed=11,
        threads=1,
        progress=lambda label, share: None,
    )
