"""Every engine of the catalog keeps the same promises, or says why it can't run here."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import registry
from harness.artifact import Artifact, read_artifact
from harness.engines.base import Engine
from harness.engines.probing import probe_engine
from harness.errors import DataError
from harness.modules import load_module
from harness.stages.base import Context
from harness.tables import Prepared, feeds

REQUESTS, CANDIDATES = 3, 5

Feeds = dict[str, np.ndarray]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An engine's name; the test is skipped with the probe's sentence where it can't run."""
    engine: str = request.param
    probe = probe_engine(engine)
    if not probe.ok:
        pytest.skip(f"{engine}: {probe.code}: {probe.sentence}")
    return engine


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where artifacts are made once for all tests, which only read them."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def accepted(
    name: str, tiny_artifact: Artifact, make_context: Callable[..., Context], shared: Path
) -> tuple[Artifact, Artifact]:
    """The tiny DLRM as torch artifact, and in the format that the engine takes."""
    wanted = registry.entry("engines", name).marks["accepts"]
    chain = {"torch": (), "onnx": ("export_onnx",), "tensorrt": ("export_onnx", "build_tensorrt")}
    artifact = tiny_artifact
    for stage in chain[wanted]:
        kept = shared / stage
        if not kept.exists():
            made = registry.resolve("stages", stage)(artifact, make_context(stage)).artifact
            shutil.copytree(made.folder, kept)
        artifact = read_artifact(kept)
    return tiny_artifact, artifact


@pytest.fixture
def batch(accepted: tuple[Artifact, Artifact], tiny: Prepared) -> Feeds:
    """Inputs of 3 requests of 5 candidates each."""
    split = tiny.splits["test"]
    starts = split.offsets[:-1][np.diff(split.offsets) >= CANDIDATES][:REQUESTS]
    rows = starts[:, None] + np.arange(CANDIDATES)
    return feeds(tiny.schema, split, rows, accepted[1].inputs)


@pytest.fixture
def running(name: str, accepted: tuple[Artifact, Artifact]) -> Iterator[Engine]:
    with registry.resolve("engines", name)(accepted[1], threads=1) as engine:
        yield engine


engines = pytest.mark.parametrize("name", registry.names("engines"), indirect=True)


@engines
def test_scores_are_those_of_torch(
    name: str, accepted: tuple[Artifact, Artifact], running: Engine, batch: Feeds
) -> None:
    with torch.inference_mode():
        tensors = {key: torch.from_numpy(np.array(array)) for key, array in batch.items()}
        expected = load_module(accepted[0])(**tensors).flatten().numpy()

    scores = running.score(batch)

    assert scores.dtype == np.float32
    assert scores.shape == (REQUESTS * CANDIDATES,)
    np.testing.assert_allclose(scores, expected, atol=2e-4, rtol=1e-4)


@engines
def test_another_batch_size_needs_no_other_engine(name: str, running: Engine, batch: Feeds) -> None:
    whole = running.score(batch)
    one = {key: array[:1] for key, array in batch.items()}
    np.testing.assert_allclose(running.score(one), whole[:CANDIDATES], atol=1e-5, rtol=1e-5)


@engines
def test_prepared_inputs_can_be_run_again_and_are_not_the_callers(
    name: str, running: Engine, batch: Feeds
) -> None:
    prepared = running.prepare(batch)
    first = running.fetch(running.run(prepared))
    for array in batch.values():
        array[...] = 0
    running.synchronize()
    np.testing.assert_array_equal(running.fetch(running.run(prepared)), first)


@engines
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: {**f, "user": f["user"].astype(np.int32)}, "input 'user': int32"),
        (lambda f: {**f, "candidates": f["candidates"][..., :1]}, "input 'candidates'"),
        (lambda f: {**f, "users": f["user"]}, "inputs ['candidate_values'"),
        (lambda f: {k: v for k, v in f.items() if k != "user"}, "inputs ['candidate_values'"),
    ],
    ids=["type", "width", "unknown name", "missing name"],
)
def test_wrong_inputs_are_refused_before_the_library_sees_them(
    name: str, running: Engine, batch: Feeds, spoil: Callable[[Feeds], Feeds], said: str
) -> None:
    with pytest.raises(DataError) as caught:
        running.prepare(spoil(batch))
    assert said in str(caught.value)
    assert "expected" in str(caught.value)


@engines
def test_facts_are_read_back(name: str, running: Engine) -> None:
    facts = running.describe()
    assert facts.engine == name
    assert facts.device == registry.entry("engines", name).marks["device"]
    assert facts.precision == "fp32"
    assert facts.threads == 1
    assert facts.version
    assert facts.provider


@engines
def test_threads_are_set_to_what_is_asked(name: str, accepted: tuple[Artifact, Artifact]) -> None:
    with registry.resolve("engines", name)(accepted[1], threads=2) as engine:
        assert engine.describe().threads == 2


@pytest.mark.parametrize("engine", registry.names("engines"))
def test_an_engine_that_cannot_run_says_why_in_a_sentence(engine: str) -> None:
    probe = probe_engine(engine)
    assert probe.ok or len(probe.sentence) > 10
    assert "\n" not in probe.sentence


def test_nothing_is_written_to_the_artifact(
    tiny_artifact: Artifact, file_hashes: Callable[[Path], dict[str, str]]
) -> None:
    before = file_hashes(tiny_artifact.folder)
    engine: Any = registry.resolve("engines", "torch-cpu")
    with engine(tiny_artifact, threads=1) as running:
        running.describe()
    assert file_hashes(tiny_artifact.folder) == before
