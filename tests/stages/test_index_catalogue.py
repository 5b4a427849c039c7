"""A catalogue in a faiss index: the exact lists, ties by id, what was seen, and damaged files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_lists import CATALOGUES, ITEMS, TOP, all_pasts, lists_context

from harness.artifact import Artifact
from harness.engines.ort_cpu import OrtCpu
from harness.errors import DataError, EffectError, UnsupportedError
from harness.item_index import INDEX, VECTORS, IndexSpec, ItemIndex, open_index, save_index
from harness.item_lists import find_lists
from harness.stages import list_check as check_module
from harness.stages import side_files
from harness.stages.base import Context, Outcome
from harness.stages.exact_lists import exact_lists, list_overlap
from harness.stages.index_building import build_index
from harness.stages.index_catalogue import index_catalogue
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.stages.scan_catalogue import scan_catalogue
from harness.tables import Prepared

pytest.importorskip("faiss")

from harness.engines.faiss_cpu import FaissCpu

KINDS = ("flat", "pq4", "hnsw")
Make = Callable[[str], Artifact]


@pytest.fixture
def exported(catalogues: Callable[[str], tuple[Artifact, Artifact]]) -> Make:
    """``exported(name)``: the ONNX file of a model of ``CATALOGUES``."""
    return lambda name: catalogues(name)[1]


@pytest.fixture
def room(exported: Make, tiny_sequences: Prepared, tmp_path: Path) -> Callable[[str], Context]:
    """``room(name)``: a context with a new folder of that name."""
    return lambda name: lists_context(tiny_sequences, exported("factors"), tmp_path / name)


def effects(outcome: Outcome) -> dict[str, tuple[float, float, float | None]]:
    return {each.name: (each.before, each.after, each.asked) for each in outcome.effects}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CATALOGUES)
def test_lists_are_the_exact_ones(
    name: str,
    kind: str,
    exported: Make,
    room: Callable[[str], Context],
    tiny_sequences: Prepared,
) -> None:
    """All 120 items are candidates, whatever the codes lose."""
    written = exported(name)
    outcome = index_catalogue(written, room("out"), kind=kind)
    batch = all_pasts(written, tiny_sequences)
    with OrtCpu(written, threads=1) as engine:
        expected = engine.score(batch)
    with FaissCpu(outcome.artifact, threads=1) as engine:
        found = engine.score(batch)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    np.testing.assert_array_equal(found["item"], expected["item"])
    assert (found["item"][1] == 0).all()
    assert sorted(found["item"][2])[-3:] == [0, ITEMS - 2, ITEMS - 1]
    assert not np.isin(found["item"][3:], np.arange(1, 30)).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sasrec", "biased"])
def test_the_effects_say_what_was_done(
    name: str, kind: str, exported: Make, room: Callable[[str], Context]
) -> None:
    written = exported(name)
    outcome = index_catalogue(written, room("out"), kind=kind, oversample=3, overlap=0.5)
    told, artifact = effects(outcome), outcome.artifact
    width = 8 + (name == "biased")
    assert told["indexed_items"] == (0, 120, 120)
    assert told["candidates"] == (TOP, 60, 60)
    assert told["list_overlap"][2] == 0.5
    asked = 120 * width / 2 if kind == "pq4" else None
    size = (artifact.folder / INDEX).stat().st_size if kind != "flat" else 0
    assert told["index_bytes"] == (0, size, asked)
    assert told["model_bytes"][:2] == (written.bytes, artifact.bytes)
    queries = written.macs - ITEMS * 8
    known = {"flat": 120 * width, "pq4": 16 * width}
    if kind in known:
        assert artifact.macs == queries + known[kind] + 60 * 8
    else:  # a list of 60 means looking at 60 of them at least, at most at all on two levels
        assert queries + 60 * (width + 1) < artifact.macs - 60 * 8
        assert artifact.macs - 60 * 8 < queries + 2 * 120 * (width + 1)
    operators = {node.op_type for node in onnx.load(artifact.file).graph.node}
    assert "TopK" not in operators
    assert [spec.name for spec in artifact.outputs] == ["scores", "items"]
    more = ITEMS * 8 + ITEMS if name == "biased" else 0  # its vectors aren't looked up
    if kind != "hnsw":
        coded = 120 * width + 16 * width if kind == "pq4" else 0
        graph = sum(
            int(np.prod(t.dims))
            for t in onnx.load(artifact.file).graph.initializer
            if t.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
        )
        assert artifact.parameters == graph + more + coded


def test_twice_the_same_bytes(exported: Make, room: Callable[[str], Context]) -> None:
    for kind in ("pq4", "hnsw"):
        once, again = (
            index_catalogue(
                exported("sasrec"), replace(room(f"{kind}{n}"), threads=n + 1), kind=kind
            )
            for n in (0, 1)
        )
        one, two = (o.artifact.folder.joinpath(INDEX).read_bytes() for o in (once, again))
        assert one == two


def test_the_graphs_table_is_mapped_where_it_stands_in_a_side_file(
    exported: Make, room: Callable[[str], Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_files, "SIDE_FILE_ABOVE", 0)
    shared = index_catalogue(exported("tied"), room("tied"))
    assert not (shared.artifact.folder / VECTORS).exists()
    assert "shared with the table" in shared.notes[0]
    index = open_index(shared.artifact.folder)
    assert index.spec.stored_at[0] == side_files.SIDE_FILE
    own = index_catalogue(exported("biased"), room("biased"))
    assert (own.artifact.folder / VECTORS).stat().st_size == ITEMS * 8 * 4
    assert "a file of their own" in own.notes[0]
    table = {t.dims[0]: t for t in onnx.load(exported("tied").file).graph.initializer if t.dims}
    np.testing.assert_array_equal(index.vectors, onnx.numpy_helper.to_array(table[ITEMS]))


def test_too_small_an_overlap_fails_by_name(
    exported: Make, room: Callable[[str], Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = check_module.exact_lists

    def other(queries: np.ndarray, table: np.ndarray, *given, **more):
        scores, items = real(queries, table, *given, **more)
        items[:, 0], scores[:, 0] = ITEMS + 5, scores[:, 0] + 1
        return scores, items

    monkeypatch.setattr(check_module, "exact_lists", other)
    with pytest.raises(
        EffectError, match=r"index_catalogue: lists hold 95\.000% .* with pq4, oversample 32 \(120"
    ):
        index_catalogue(exported("sasrec"), room("out"))
    told = index_catalogue(exported("sasrec"), room("lenient"), overlap=0.94)
    assert effects(told)["list_overlap"] == (1.0, pytest.approx(0.95), 0.94)


def test_what_it_cannot_do_is_refused_by_name(
    exported: Make, onnx_artifact: Artifact, room: Callable[[str], Context]
) -> None:
    with pytest.raises(UnsupportedError, match="index_catalogue: model 'dlrm' scores rows"):
        index_catalogue(onnx_artifact, room("rows"))
    with pytest.raises(UnsupportedError, match="numbers_per_code 2 is for pq4, flat has no codes"):
        index_catalogue(exported("sasrec"), room("flat"), kind="flat", numbers_per_code=2)
    with pytest.raises(UnsupportedError, match="9 is more than the 8 numbers of a vector"):
        index_catalogue(exported("sasrec"), room("wide"), numbers_per_code=9)
    scanned = scan_catalogue(exported("sasrec"), room("scan")).artifact
    with pytest.raises(EffectError, match="index_catalogue: the catalogue is scanned in int8"):
        index_catalogue(scanned, room("after"))
    quantised = quantize_dynamic(exported("sasrec"), room("int8"), keep_last=False).artifact
    with pytest.raises(UnsupportedError, match=r"index_catalogue: .* where Gemm or MatMul was"):
        index_catalogue(quantised, room("last"))


def test_int8_layers_before_it_stay(
    exported: Make, room: Callable[[str], Context], tiny_sequences: Prepared
) -> None:
    quantised = quantize_dynamic(exported("sasrec"), room("int8")).artifact
    indexed = index_catalogue(quantised, room("out")).artifact
    assert indexed.precision == quantised.precision
    batch = all_pasts(quantised, tiny_sequences)
    with OrtCpu(quantised, threads=1) as engine:
        expected = engine.score(batch)
    with FaissCpu(indexed, threads=1) as engine:
        np.testing.assert_array_equal(engine.score(batch)["item"], expected["item"])
        assert engine.describe().precision == "int8, pq4 index"


def made_index(
    folder: Path,
    kind: str,
    table: np.ndarray,
    *,
    top: int,
    candidates: int,
    bias: np.ndarray | None = None,
    codes: int | None = None,
) -> ItemIndex:
    """An index of a table alone, written and read again."""
    folder.mkdir(exist_ok=True)
    width = table.shape[1] + (bias is not None)
    told = None if bias is None else tuple(map(float, bias))
    spec = IndexSpec(
        kind,
        len(table),
        table.shape[1],
        top,
        candidates,
        (codes or width) if kind == "pq4" else 0,
        told,
        "queries",
        0,
        (VECTORS, 0),
    )
    (folder / VECTORS).write_bytes(table.tobytes())
    spec = replace(spec, index_bytes=build_index(spec, table, bias, folder, seed=0))
    save_index(folder, spec)
    return open_index(folder)


@settings(max_examples=60, deadline=None)
@given(
    items=st.integers(20, 400),
    dim=st.integers(1, 40),
    requests=st.integers(1, 5),
    kind=st.sampled_from(KINDS),
    biased=st.booleans(),
    per_code=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_all_items_as_candidates_give_the_exact_lists(
    tmp_path_factory: pytest.TempPathFactory,
    items: int,
    dim: int,
    requests: int,
    kind: str,
    biased: bool,
    per_code: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    table = random.normal(size=(items, dim)).astype(np.float32)
    bias = random.normal(size=items).astype(np.float32) if biased else None
    queries = random.normal(size=(requests, dim)).astype(np.float32)
    seen = random.integers(0, items, size=(requests, int(random.integers(1, 2 * items))))
    codes = -(-(dim + biased) // per_code)
    folder = tmp_path_factory.mktemp("all")
    index = made_index(folder, kind, table, top=11, candidates=items - 1, bias=bias, codes=codes)
    scores, found = find_lists(index, queries, seen)
    right = exact_lists(queries, table, seen, top=11, bias=bias)
    overlap = list_overlap((scores, found), right, tolerance=1e-5)
    if kind == "hnsw":  # links may not lead to every item
        assert np.nanmean(np.r_[1.0, overlap]) > 0.9
        assert not (found[:, :, None] == np.where(seen, seen, -1)[:, None, :]).any()
        return
    np.testing.assert_allclose(scores, right[0], rtol=1e-5, atol=1e-5)
    assert (overlap[~np.isnan(overlap)] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 7, 33])
def test_items_of_equal_vectors_go_by_id(kind: str, dim: int, tmp_path: Path) -> None:
    """99 items of three vectors: the best one's 33 items fill the list, lowest ids first."""
    random = np.random.default_rng(dim)
    vectors = random.normal(size=(3, dim)).astype(np.float32)
    vectors[1:] = vectors[0] * np.array([[0.5], [0.25]], np.float32)
    table = np.concatenate([np.zeros((1, dim), np.float32), np.tile(vectors, (33, 1))])
    index = made_index(tmp_path, kind, table, top=11, candidates=99)
    scores, items = find_lists(index, np.tile(vectors[0], (3, 1)), np.tile([4, 0, 10], (3, 1)))
    assert items.tolist() == [[1, 7, *range(13, 38, 3)]] * 3
    assert (scores == scores[0, 0]).all()


def test_lists_by_hand(tmp_path: Path) -> None:
    """Scores -1, 3, 3, 2, ... of items 1 and on, one of zero from each side."""
    table = np.array([[9], [-1], [3], [3], [2], [-0.0], [0.0], [3]] + [[-2.0]] * 12, np.float32)
    index = made_index(tmp_path, "flat", table, top=6, candidates=19)
    queries = np.array([[1], [1], [-1]], np.float32)
    scores, items = find_lists(index, queries, np.array([[0, 0], [2, 2], [8, 9]]))
    assert items.tolist() == [
        [2, 3, 7, 4, 5, 6],
        [3, 7, 4, 5, 6, 1],
        [10, 11, 12, 13, 14, 15],
    ]
    assert scores.tolist() == [[3, 3, 3, 2, 0, 0], [3, 3, 2, 0, 0, -1], [2] * 6]
    scores, items = find_lists(index, queries[:1], np.arange(20)[None, :])
    assert items.tolist() == [[0] * 6]
    assert (scores == -1e4).all()
    assert find_lists(index, queries[:1], None)[1].tolist() == [[2, 3, 7, 4, 5, 6]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_does_not_depend_on_the_rest_of_the_batch(kind: str, tmp_path: Path) -> None:
    """One request has seen nothing, another 200 items: both get the list they get alone."""
    random = np.random.default_rng(1)
    table = random.normal(size=(600, 16)).astype(np.float32)
    queries = random.normal(size=(6, 16)).astype(np.float32)
    index = made_index(tmp_path, kind, table, top=11, candidates=15, codes=8)
    seen = np.zeros((6, 200), np.int64)
    seen[3] = random.permutation(599)[:200] + 1
    seen[4, :20] = seen[3, :20]
    together = find_lists(index, queries, seen)
    for row in range(6):
        alone = find_lists(index, queries[row : row + 1], seen[row : row + 1])
        np.testing.assert_array_equal(alone[1][0], together[1][row])
        np.testing.assert_array_equal(alone[0][0], together[0][row])
        assert not np.isin(alone[1], seen[3]).any() or row != 3


def test_codes_propose_what_their_own_scores_say(tmp_path: Path) -> None:
    """Sixteen values a number are coded without loss: as many candidates as places are enough."""
    random = np.random.default_rng(3)
    table = random.integers(0, 16, size=(500, 6)).astype(np.float32)
    queries = random.integers(1, 4, size=(8, 6)).astype(np.float32)
    index = made_index(tmp_path, "pq4", table, top=11, candidates=33)
    found = find_lists(index, queries, None)
    right = exact_lists(queries, table, np.zeros((8, 1), np.int64), top=11)
    assert (list_overlap(found, right, tolerance=1e-6) == 1).all()


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[str], Path]:
    """``stored(kind)``: the folder of an index of 100 items."""
    table = np.random.default_rng(0).normal(size=(101, 6)).astype(np.float32)

    def make(kind: str) -> Path:
        made_index(tmp_path / kind, kind, table, top=11, candidates=50)
        return tmp_path / kind

    return make


@pytest.mark.parametrize("kind", ["pq4", "hnsw"])
def test_damaged_files_are_refused(kind: str, stored: Callable[[str], Path]) -> None:
    folder = stored(kind)
    path, whole = folder / INDEX, (folder / INDEX).read_bytes()
    for damaged in (whole[:-1], whole + b"\0", b"", b"\x80\x04" + whole[2:], b"IxFI" + whole[4:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"index\.faiss: not the index that index\.json tells"):
            open_index(folder)
    path.unlink()
    with pytest.raises(DataError, match="0 bytes, expected"):
        open_index(folder)


@pytest.mark.parametrize("kind", ["pq4", "hnsw"])
def test_a_file_of_changed_sizes_is_refused_or_searched(
    kind: str, stored: Callable[[str], Path]
) -> None:
    """Each of the first 150 bytes changed: refused by name, or an index that can be searched."""
    folder, refused = stored(kind), 0
    path, whole = folder / INDEX, (folder / INDEX).read_bytes()
    for at in range(150):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        try:
            index = open_index(folder)
        except DataError:
            refused += 1
            continue
        found = find_lists(index, np.ones((2, 6), np.float32), None)[1]
        assert ((found >= 0) & (found <= 100)).all()
    assert refused > 40


def test_links_that_lead_outside_are_refused(stored: Callable[[str], Path]) -> None:
    folder = stored("hnsw")
    path, whole = folder / INDEX, (folder / INDEX).read_bytes()
    import faiss

    whole_index = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_STORAGE)
    links = faiss.vector_to_array(whole_index.hnsw.neighbors)
    start = whole.index(links.tobytes())
    for wrong in (100, -2, 2**31 - 1):
        changed = links.copy()
        changed[5] = wrong
        path.write_bytes(whole[:start] + changed.tobytes() + whole[start + links.nbytes :])
        with pytest.raises(DataError, match=r"lead outside|out of range"):
            open_index(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"items": 2**40}, "lists of 11"),
        ({"items": "many"}, "counts"),
        ({"kind": "ivf"}, "kind 'ivf'"),
        ({"codes": 0}, "0 codes"),
        ({"top": 80}, "lists of 80"),
        ({"stored_at": ["../vectors.bin", 0]}, "vectors at"),
        ({"stored_at": ["vectors.bin", -4]}, "vectors at"),
        ({"bias": [1.0]}, "1 biases"),
        ({"other": 1}, "other"),
    ],
)
def test_another_description_is_refused(
    change: dict[str, object], told: str, stored: Callable[[str], Path]
) -> None:
    path = stored("pq4") / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=told):
        open_index(path.parent)


def test_vectors_that_are_cut_short_are_refused(stored: Callable[[str], Path]) -> None:
    folder = stored("flat")
    path = folder / VECTORS
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="2420 bytes, but the items' vectors take 2424 from byte 0"):
        open_index(folder)


def test_fewer_items_than_codes_are_refused(tmp_path: Path) -> None:
    table = np.ones((16, 4), np.float32)
    with pytest.raises(UnsupportedError, match="15 items are fewer than the 16 codes of pq4"):
        made_index(tmp_path, "pq4", table, top=11, candidates=15)


def test_threads_are_given_back(exported: Make, room: Callable[[str], Context]) -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    artifact = index_catalogue(exported("factors"), room("out")).artifact
    assert faiss.omp_get_max_threads() == before
    with FaissCpu(artifact, threads=before + 1) as engine:
        assert engine.describe().threads == before + 1
    assert faiss.omp_get_max_threads() == before
