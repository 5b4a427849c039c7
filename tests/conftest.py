"""Shared fixtures: a small dataset with a planted signal, a trained DLRM and a stage's context."""

import ctypes
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

from harness import native
from harness.artifact import Artifact, Effect, ModelSpec, Step, with_step
from harness.baseline import Trained
from harness.datasets.generated_events import load_events
from harness.datasets.prepare import prepare
from harness.errors import UnsupportedError
from harness.modules import build_module, model_inputs, model_outputs, save_module
from harness.objectives import Training
from harness.recipe import Baseline, StageSpec, TrainingSpec
from harness.schema import FeatureSchema, Field, Vocabulary, write_schema
from harness.stages.base import Context
from harness.store import Store
from harness.tables import Prepared, Split, write_prepared
from harness.training import fit

settings.register_profile("steady", deadline=None)  # a busy machine is no counterexample
settings.load_profile("steady")

DLRM_PARAMETERS = {"dim": 8, "bottom": [16], "top": [32, 16]}
MLP_PARAMETERS = {"dim": 8, "widths": [32, 16]}
REC = {"path": "model.py", "attribute": "Rec", "parameters": {}}
REC_SOURCE = '''"""A user's own flat model."""

import torch
from torch import nn


class Rec(nn.Module):
    def __init__(self, n_users, n_items, dim=8, hidden=16):
        super().__init__()
        self.user = nn.Embedding(n_users, dim)
        self.item = nn.Embedding(n_items, dim)
        self.f1 = nn.Linear(2 * dim, hidden)
        self.f2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, user, item):
        x = torch.cat([self.user(user), self.item(item)], -1)
        return self.out(torch.relu(self.f2(torch.relu(self.f1(x))))).squeeze(-1)
'''


def tiny_schema() -> FeatureSchema:
    """One user field, two item fields, one context field, one user and one item number."""
    fields = (
        Field("household", "categorical", "user", cardinality=41),
        Field("product", "categorical", "item", cardinality=31),
        Field("brand", "categorical", "item", cardinality=7),
        Field("weekday", "categorical", "context", cardinality=8),
        Field("spend", "numeric", "user", mean=20.0, scale=5.0),
        Field("price", "numeric", "item", mean=3.0, scale=1.5),
    )
    return FeatureSchema(fields, label="bought", user="household", item="product")


def tiny_split(name: str, *, requests: int, seed: int, first_row: int) -> Split:
    """Requests of 1 to 12 rows; the label follows user, product and price."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 13, size=requests)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = int(offsets[-1])
    user = random.integers(1, 41, size=(requests, 1)).astype(np.int32)
    product = random.integers(1, 31, size=rows).astype(np.int32)
    candidates = np.stack([product, 1 + product % 6], axis=1).astype(np.int32)
    price = random.normal(size=(rows, 1)).astype(np.float32)
    user_of_row = np.repeat(user[:, 0], lengths)
    signal = 1.5 * np.sin(product * 2.0) + 1.5 * np.cos(user_of_row * 3.0) - price[:, 0]
    label = (random.random(rows) < 1 / (1 + np.exp(-signal))).astype(np.float32)
    arrays = {
        "user": user,
        "candidates": candidates,
        "context": random.integers(1, 8, size=(requests, 1)).astype(np.int32),
        "user_values": random.normal(size=(requests, 1)).astype(np.float32),
        "candidate_values": price,
    }
    return Split(name, arrays, label, offsets, np.arange(first_row, first_row + rows))


@pytest.fixture(scope="session")
def tiny() -> Prepared:
    """About 2000 training rows, 500 of validation and 500 of test, with unique row ids."""
    train = tiny_split("train", requests=320, seed=1, first_row=10_000)
    validation = tiny_split("validation", requests=80, seed=2, first_row=50_000)
    test = tiny_split("test", requests=80, seed=3, first_row=90_000)
    splits = {split.name: split for split in (train, validation, test)}
    rows = sum(split.rows for split in splits.values())
    schema = tiny_schema()
    vocabularies = {
        field.name: Vocabulary(tuple(f"{field.name}{i}" for i in range(1, field.cardinality)))
        for field in schema.fields
        if field.kind == "categorical"
    }
    counts = {"read": rows, "kept": rows}
    return Prepared(schema, vocabularies, splits, counts, "tiny-1", "planted", {"source": "tests"})


@pytest.fixture(scope="session")
def tiny_sequences() -> Prepared:
    """A next-item dataset with a planted chain of item groups: 300 users, 120 items, 4500 events,
    a past of 12, each user's last event the test and the one before it the validation."""
    return prepare(load_events(users=300, items=120, rows=4500, length=12, repeats=False, seed=7))


@pytest.fixture(scope="session")
def tiny_training() -> Training:
    """Settings with which the tiny DLRM learns its planted signal in a second."""
    return Training(epochs=6, batch_size=128, learning_rate=0.01, evaluations=1, patience=3)


@pytest.fixture(scope="session")
def _trained(tiny: Prepared, tiny_training: Training) -> nn.Module:
    module = build_module(ModelSpec("dlrm", DLRM_PARAMETERS), tiny.schema, folder=Path(), seed=5)
    inputs = model_inputs(module, tiny.schema)
    fit(module, tiny, inputs, tiny_training, seed=5, threads=1, progress=_silent)
    return module


@pytest.fixture
def save_artifact(tiny: Prepared, tmp_path: Path) -> Callable[..., Artifact]:
    """``save_artifact(spec, name="model", module=None)``: a torch artifact in its own folder of
    ``tmp_path``; without a module it is built from the spec, untrained. ``source`` is what a user's
    own model file holds."""

    def save(
        spec: ModelSpec,
        *,
        name: str = "model",
        module: nn.Module | None = None,
        source: str = REC_SOURCE,
    ) -> Artifact:
        folder = tmp_path / name
        folder.mkdir()
        write_schema(folder, tiny.schema, tiny.vocabularies)
        if spec.source:
            (folder / spec.source).write_text(source)
        module = module or build_module(spec, tiny.schema, folder=folder, seed=7)
        inputs = model_inputs(module, tiny.schema)
        start = Artifact(folder, "torch", spec, inputs, model_outputs(module, inputs))
        return save_module(module.eval(), start, folder)

    return save


@pytest.fixture
def tiny_artifact(_trained: nn.Module, save_artifact: Callable[..., Artifact]) -> Artifact:
    """A trained DLRM (dim 8, bottom 16, top 32-16) saved as a torch artifact."""
    return save_artifact(ModelSpec("dlrm", DLRM_PARAMETERS), name="dlrm", module=_trained)


@pytest.fixture
def rec_artifact(save_artifact: Callable[..., Artifact]) -> Artifact:
    """An untrained user's own flat model (two hidden layers of 16)."""
    return save_artifact(ModelSpec("file", REC, source="model.py"), name="rec")


@pytest.fixture
def mlp_artifact(save_artifact: Callable[..., Artifact]) -> Artifact:
    """An untrained embedding MLP (dim 8, widths 32-16)."""
    return save_artifact(ModelSpec("mlp", MLP_PARAMETERS), name="mlp")


@pytest.fixture
def make_context(
    tiny: Prepared, tiny_training: Training, tiny_artifact: Artifact, tmp_path: Path
) -> Callable[..., Context]:
    """``make_context(name="out", **changes)``: a stage's context with an empty folder, the tiny
    data and the trained DLRM as baseline."""

    def make(name: str = "out", **changes: object) -> Context:
        folder = tmp_path / name
        folder.mkdir()
        context = Context(
            folder=folder,
            data=tiny,
            baseline=tiny_artifact,
            training=tiny_training,
            store=Store(tmp_path / "store"),
            seed=11,
            threads=1,
            progress=_silent,
        )
        return replace(context, **changes)  # type: ignore[arg-type]

    return make


def _silent(label: str, share: float) -> None:
    assert label
    assert 0 <= share <= 1


@pytest.fixture
def file_hashes() -> Callable[[Path], dict[str, str]]:
    """``file_hashes(folder)``: sha256 of every file, to show that nothing was written there."""

    def hashes(folder: Path) -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
        }

    return hashes


SCORE_ALONE = """
import sys
from pathlib import Path
import numpy as np
from harness.artifact import read_artifact
from harness.modules import load_module
from harness.tables import read_prepared
from harness.objectives import predict
folder, data, out = map(Path, sys.argv[1:])
artifact, prepared = read_artifact(folder), read_prepared(data)
split = prepared.splits["test"]
np.save(out, predict(load_module(artifact), prepared, split, artifact.inputs))
"""


@pytest.fixture
def score_alone(tiny: Prepared, tmp_path: Path) -> Callable[[Artifact], np.ndarray]:
    """``score_alone(artifact)``: test scores of a torch artifact whose folder was copied elsewhere,
    worked out in a new process."""

    def score(artifact: Artifact) -> np.ndarray:
        data, copied, out = tmp_path / "data", tmp_path / "alone" / "copy", tmp_path / "scores.npy"
        data.mkdir()
        write_prepared(data, tiny)
        shutil.copytree(artifact.folder, copied)
        command = [sys.executable, "-c", SCORE_ALONE, str(copied), str(data), str(out)]
        subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)
        return np.load(out)

    return score


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def native_library() -> ctypes.CDLL:
    """Our own operators, without which a test that needs them is skipped."""
    try:
        found = ctypes.CDLL(str(native.library()))
    except UnsupportedError as error:
        if error.code != "no_package":
            raise
        pytest.skip(str(error))
    found.recsys_use.restype = ctypes.c_char_p
    return found


@pytest.fixture(params=range(3), ids=["plain", "avx2", "avx512"])
def kernels(request: pytest.FixtureRequest, native_library: ctypes.CDLL) -> Iterator[str]:
    """Each set of kernels that this processor can run, in turn."""
    if request.param >= native_library.recsys_sets():
        pytest.skip("this processor has no such instructions")
    yield native_library.recsys_use(request.param).decode()
    native_library.recsys_use(-1)


@pytest.fixture
def trained(tiny, tiny_artifact, tiny_training) -> Trained:
    spec = Baseline(
        "tiny",
        Path("tiny.yaml"),
        "",
        StageSpec("generated", {}),
        StageSpec("dlrm", {}),
        TrainingSpec(),
        None,
        7,
    )
    step = Step("train", {}, 1.0, 1.0, (Effect("steps", 0, 10),))
    return Trained(spec, tiny, with_step(tiny_artifact, step), tiny_training, {}, Path())
