"""Every engine of the catalog keeps the same promises, or says why it can't run here."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_lists import SASREC, save_lists

from harness import registry
from harness.artifact import Artifact, read_artifact
from harness.engines.base import Engine, host_form, scores_of
from harness.engines.probing import probe_engine
from harness.engines.torch_cpu import host_arrays
from harness.errors import DataError
from harness.modules import load_module
from harness.stages.base import Context
from harness.tables import Prepared, feeds

REQUESTS, CANDIDATES, TOP = 3, 5, 20
CHAINS = {
    "torch": (),
    "onnx": ("export_onnx",),
    "tensorrt": ("export_onnx", "build_tensorrt"),
    "faiss": ("export_onnx", "index_catalogue"),
}
"""Stages up to the format that an engine takes."""
LISTS = {"faiss"}
"""Formats of next-item models alone."""

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
    name: str,
    tiny_artifact: Artifact,
    tiny_sequences: Prepared,
    make_context: Callable[..., Context],
    shared: Path,
) -> tuple[Artifact, Artifact]:
    """The tiny DLRM, or for an engine of lists a tiny SASRec, as torch artifact and in the format
    that the engine takes.
    """
    wanted = registry.entry("engines", name).marks["accepts"]
    start, data = tiny_artifact, {}
    if wanted in LISTS:
        start, data = _lists_artifact(tiny_sequences, shared), {"data": tiny_sequences}
    artifact = start
    for stage in CHAINS[wanted]:
        kept = shared / f"{start.model.name}-{stage}"
        if not kept.exists():
            made = registry.resolve("stages", stage)(artifact, make_context(stage, **data)).artifact
            shutil.copytree(made.folder, kept)
        artifact = read_artifact(kept)
    return start, artifact


def _lists_artifact(data: Prepared, shared: Path) -> Artifact:
    kept = shared / "lists"
    return read_artifact(kept) if kept.exists() else save_lists(data, SASREC, kept)


@pytest.fixture
def batch(accepted: tuple[Artifact, Artifact], tiny: Prepared, tiny_sequences: Prepared) -> Feeds:
    """Inputs of 3 requests of 5 candidates each, or of 3 requests for a list."""
    if accepted[1].format in LISTS:
        rows, split = np.arange(REQUESTS)[:, None], tiny_sequences.splits["test"]
        return feeds(tiny_sequences.schema, split, rows, accepted[1].inputs)
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
        expected = host_form(host_arrays(load_module(accepted[0])(**tensors)))

    answer = running.score(batch)
    scores = scores_of(answer)

    assert scores.dtype == np.float32
    lists = accepted[1].format in LISTS
    assert scores.shape == ((REQUESTS, TOP) if lists else (REQUESTS * CANDIDATES,))
    np.testing.assert_allclose(scores, scores_of(expected), atol=2e-4, rtol=1e-4)
    if lists:
        np.testing.assert_array_equal(answer["item"], expected["item"])


@engines
def test_another_batch_size_needs_no_other_engine(name: str, running: Engine, batch: Feeds) -> None:
    whole = scores_of(running.score(batch))
    one = {key: array[:1] for key, array in batch.items()}
    first = whole[:1] if whole.ndim > 1 else whole[:CANDIDATES]
    np.testing.assert_allclose(scores_of(running.score(one)), first, atol=1e-5, rtol=1e-5)


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
        (lambda f, name: {**f, name: f[name].astype(np.int32)}, "input '{0}': int32"),
        (lambda f, name: {**f, name: f[name][..., :1]}, "input '{0}': "),
        (lambda f, name: {**f, "users": f[name]}, "'users'"),
        (lambda f, name: {k: v for k, v in f.items() if k != name}, "inputs ["),
    ],
    ids=["type", "width", "unknown name", "missing name"],
)
def test_wrong_inputs_are_refused_before_the_library_sees_them(
    name: str, running: Engine, batch: Feeds, spoil: Callable[[Feeds, str], Feeds], said: str
) -> None:
    spoiled = "history" if "history" in batch else "candidates"
    with pytest.raises(DataError) as caught:
        running.prepare(spoil(batch, spoiled))
    assert said.format(spoiled) in str(caught.value)
    assert "expected" in str(caught.value)


@engines
def test_facts_are_read_back(name: str, running: Engine) -> None:
    facts = running.describe()
    assert facts.engine == name
    assert facts.device == registry.entry("engines", name).marks["device"]
    assert facts.precision.split(",")[0] == "fp32"
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
