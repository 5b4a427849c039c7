"""Every peer that can be imported here scores nearly as fp32 does; others say what they lack."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.artifact import Artifact, read_artifact
from harness.engines.base import scores_of
from harness.errors import EffectError
from harness.modules import load_module
from harness.objectives import predict
from harness.peers import child, ort_dynamic, ort_nbits
from harness.peers.material import Material
from harness.peers.registry import (
    ENGINES,
    Peer,
    find_engine,
    peers,
    resolve,
    source_of,
    why_missing,
)
from harness.peers.spec import Bags, Search
from harness.peers.synthetic import judge, make_start, write_calls
from harness.registry import resolve as stage
from harness.stages.base import Context
from harness.store import Store
from harness.suites import lists
from harness.suites.points import read_feeds
from harness.tables import Prepared, feeds

BAGS = {bits: Bags(rows=300, dim=16, shortest=1, longest=6, bits=bits) for bits in (8, 4)}
SEARCH = Search(items=200, dim=8, top=5)
MODEL = {peer.name: peer for peer in peers("model")}
KEPT = {32: 0.999999, 8: 0.98, 4: 0.8}
"""What sums of rows of so many bits must keep of fp32's."""
COMPILED = "torch.compile"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the exported file is kept for all tests, which only read it."""
    return tmp_path_factory.mktemp("exported") / "model"


@pytest.fixture
def exported(
    tiny_artifact: Artifact, make_context: Callable[..., Context], shared: Path
) -> Artifact:
    if not shared.exists():
        made = stage("stages", "export_onnx")(tiny_artifact, make_context("export")).artifact
        shutil.copytree(made.folder, shared)
    return read_artifact(shared)


def skip_if_missing(peer: Peer) -> None:
    missing = why_missing(peer)
    if missing:
        assert "make peers" in missing
        pytest.skip(missing)


def made(peer: Peer, start: Artifact, folder: Path, data: Prepared | None) -> Artifact:
    if peer.make is None:
        return start
    folder.mkdir()
    resolve(peer.make)(Material(start, folder, data, 7))
    return read_artifact(folder)


@pytest.mark.parametrize("name", [name for name in MODEL if name != COMPILED])
def test_a_peer_scores_the_test_split_nearly_as_fp32_does(
    name: str,
    tiny: Prepared,
    tiny_artifact: Artifact,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    peer = MODEL[name]
    skip_if_missing(peer)
    start = tiny_artifact if peer.start == "torch" else request.getfixturevalue("exported")
    artifact = made(peer, start, tmp_path / "made", tiny)
    split = tiny.splits["test"]

    with find_engine(peer.engine)(artifact, threads=1) as engine:
        found = scores_of(lists.answer_split(engine, tiny, split))
        facts = engine.describe()

    expected = predict(load_module(tiny_artifact), tiny, split, tiny_artifact.inputs)
    assert facts.threads == 1
    json.dumps(facts.notes)  # what a worker says of itself is sent as JSON
    quantised = peer.make is not None or "int8" in name
    assert np.corrcoef(found, expected)[0, 1] > (0.98 if quantised else 0.999999)
    if quantised:
        assert not np.allclose(found, expected, atol=1e-6), "nothing was quantised"


@pytest.mark.slow
def test_a_compiled_module_gives_what_the_eager_one_gives(
    tiny: Prepared, rec_artifact: Artifact
) -> None:
    batches = [
        feeds(tiny.schema, tiny.splits["test"], np.arange(rows)[:, None], rec_artifact.inputs)
        for rows in (3, 5)
    ]
    with find_engine("torch-cpu")(rec_artifact, threads=1) as eager:
        expected = [eager.score(batch) for batch in batches]
    try:
        with find_engine("torch-compiled")(rec_artifact, threads=1) as engine:
            found = [engine.score(batch) for batch in batches]
            facts = engine.describe()
    finally:
        torch.compiler.reset()

    assert facts.provider == "inductor"
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_sum_of_bags_is_near_the_exact_one(bits: int, tmp_path: Path) -> None:
    asked = BAGS[bits]
    start = make_start(asked, Store(tmp_path / "store"))
    calls = write_calls(asked, 8, tmp_path / "feeds.npz")
    names = []

    for at, peer in enumerate(peers("bags", bits=bits)):
        artifact = made(peer, start, tmp_path / str(at), None)
        with find_engine(peer.engine)(artifact, threads=1) as engine:
            answer = engine.score(read_feeds(calls)[0])
        found = judge(asked, start, calls, answer)
        assert found.kept > KEPT[peer.bits], peer.name
        assert peer.bits == 32 or found.kept < 0.9999, f"{peer.name} lost nothing"
        assert peer.bits == 32 or artifact.bytes < start.bytes, peer.name
        names.append(peer.name)
    assert len(names) == 6
    assert sum(f"int{bits}" in name for name in names) == 4


@pytest.mark.parametrize("peer", peers("search"), ids=lambda peer: peer.name)
def test_a_search_finds_what_is_best(peer: Peer, tmp_path: Path) -> None:
    skip_if_missing(peer)
    start = make_start(SEARCH, Store(tmp_path / "store"))
    calls = write_calls(SEARCH, 4, tmp_path / "feeds.npz")
    artifact = made(peer, start, tmp_path / "made", None)

    with find_engine(peer.engine)(artifact, threads=1) as engine:
        answer = engine.score(read_feeds(calls)[0])

    found = judge(SEARCH, start, calls, answer)
    assert found.kept >= (0.8 if peer.name == "faiss HNSW" else 1.0)


def test_bags_are_judged_by_the_error_of_their_sums(tmp_path: Path) -> None:
    """Sums that are all a tenth too long keep nine tenths."""
    asked = BAGS[8]
    start = make_start(asked, Store(tmp_path / "store"))
    calls = write_calls(asked, 3, tmp_path / "feeds.npz")
    table = Material(start, tmp_path).table()
    ids = read_feeds(calls)[0]["ids"]

    found = judge(asked, start, calls, (1.1 * table[ids].sum(axis=1)).ravel())

    assert found.kept == pytest.approx(0.9, abs=1e-6)
    assert (found.change, found.label) == (pytest.approx(-0.1, abs=1e-6), "below 99 %")
    lengths = np.count_nonzero(ids, axis=1)
    assert lengths.min() >= 1
    assert lengths.max() <= 6
    assert not table[0].any()


def test_a_tool_that_changes_nothing_fails_by_name(
    exported: Artifact, tiny: Prepared, tmp_path: Path
) -> None:
    """A graph whose products were quantised already leaves nothing to the tool."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    ort_dynamic.make(Material(exported, first, tiny))

    with pytest.raises(EffectError, match="the tool changed nothing: the graph has no MatMulNBits"):
        ort_nbits.make(Material(read_artifact(first), second, tiny))


def test_a_lacking_package_is_named_with_what_to_do() -> None:
    peer = Peer("x", "ort-cpu", packages=("onnxruntime",))

    assert why_missing(peer) is None
    assert MODEL["OpenVINO + NNCF int8"].packages == ("openvino", "nncf")


@pytest.mark.parametrize("kind", ["model", "bags", "search"])
def test_every_line_of_the_table_can_be_resolved(kind: str) -> None:
    rows = [peer for bits in (4, 8) for peer in peers(kind, bits=bits)]  # type: ignore[arg-type]

    assert rows[0].side == "reference"
    assert len({peer.name for peer in peers(kind, bits=8)}) == len(peers(kind, bits=8))  # type: ignore[arg-type]
    for peer in rows:
        assert source_of(peer.engine).is_file()
        assert peer.make is None or callable(resolve(peer.make))
    assert {peer.engine for peer in rows} - set(ENGINES) <= {"ort-cpu", "openvino-cpu", "torch-cpu"}


def test_a_child_that_dies_costs_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = subprocess.run
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"

    def crash(command: object, **values: object) -> object:
        return real((sys.executable, "-c", code), **values)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", crash)
    with pytest.raises(child.PeerError, match="score: the process was killed by SIGSEGV"):
        child.ask("score", store=tmp_path)


def test_what_goes_wrong_in_a_child_is_told(tmp_path: Path) -> None:
    with pytest.raises(child.PeerError, match=r"score: DataError: .*not an artifact"):
        child.ask("score", store=tmp_path, engine="ort-cpu", folder=tmp_path, feeds="x/feeds.npz")
