"""Items in product codes: exact where they can be, one tied table, trained on, on every engine."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_lists import SASREC, TIED, item_schema, lists_context, save_lists
from torch import nn
from torch.nn import functional as F

from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.compressed import ProductTable, place_layers
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.errors import EffectError, UnsupportedError
from harness.models import sasrec
from harness.modules import load_module, model_inputs, model_outputs
from harness.stages.base import Context, Outcome
from harness.stages.distill import distill
from harness.stages.export_onnx import export_module, export_onnx, module_outputs
from harness.stages.finetune import finetune
from harness.stages.graphs import random_feeds
from harness.stages.index_catalogue import index_catalogue
from harness.stages.product_codes import fit_centres, nearest, product_codes
from harness.stages.quantize_catalogue import quantize_catalogue
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.stages.quantize_static import quantize_static
from harness.stages.reduce_tables import reduce_tables
from harness.stages.scan_catalogue import scan_catalogue
from harness.suites.memory import table_bytes
from harness.suites.work import count_work
from harness.tables import Prepared

ITEMS, DIM = 121, 8
HOW = {"splits": 4, "centroids": 5}
SPECS = {
    "sasrec": SASREC,
    "sasrec in chunks": replace(SASREC, parameters={**SASREC.parameters, "chunk": 40}),
    "gru4rec": ModelSpec("gru4rec", {"dim": 8, "top": 20}),
    "mf_ranking": ModelSpec("mf_ranking", {"dim": 8, "top": 20}),
}
ALONE = """
import sys
from pathlib import Path

import numpy as np

from harness.artifact import read_artifact
from harness.modules import load_module
from harness.stages.export_onnx import module_outputs

folder, feeds, out = map(Path, sys.argv[1:])
scores, items = module_outputs(load_module(read_artifact(folder)), dict(np.load(feeds)))
np.savez(out, scores=scores, items=items)
"""


@pytest.fixture
def artifact(tiny_sequences: Prepared, tmp_path: Path) -> Artifact:
    return save_lists(tiny_sequences, SASREC, tmp_path / "lists")


@pytest.fixture
def room(tiny_sequences: Prepared, artifact: Artifact, tmp_path: Path) -> Callable[[str], Context]:
    """``room(name)``: a context with a new folder of that name."""
    return lambda name: lists_context(tiny_sequences, artifact, tmp_path / name)


@pytest.fixture(scope="module")
def files(
    tiny_sequences: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, Artifact]:
    """The artifact in codes and its export, made once."""
    folder = tmp_path_factory.mktemp("files")
    start = save_lists(tiny_sequences, SASREC, folder / "lists")
    made = quantize_catalogue(start, lists_context(tiny_sequences, start, folder / "made"), **HOW)
    written = export_onnx(made.artifact, lists_context(tiny_sequences, start, folder / "onnx"))
    return made.artifact, written.artifact


def effects(outcome: Outcome) -> dict[str, tuple[float, float, float | None]]:
    return {effect.name: (effect.before, effect.after, effect.asked) for effect in outcome.effects}


def coded(artifact: Artifact) -> tuple[nn.Module, ProductTable]:
    module = load_module(artifact)
    table = module.get_submodule("catalogue.vectors")
    assert isinstance(table, ProductTable)
    return module, table


def make_product(module: nn.Module) -> None:
    """Items whose vectors are each another choice of 4 of 4 x 4 parts of two numbers."""
    parts = torch.randn(4, 4, 2, generator=torch.manual_seed(5))
    choices = list(product(range(4), repeat=4))
    order = torch.randperm(len(choices), generator=torch.manual_seed(6))[: ITEMS - 1]
    for item, at in enumerate(order.tolist(), start=1):
        chosen = [parts[split, code] for split, code in enumerate(choices[at])]
        module.get_parameter("catalogue.vectors.weight")[item] = torch.cat(chosen)


def test_codes_and_centroids_by_hand() -> None:
    vectors = torch.tensor([[0.0, 5.0], [0.0, 7.0], [1.0, 5.0], [1.0, 7.0], [1.0, 7.0]])
    found = product_codes(vectors, splits=2, count=2, seed=3)
    assert found.codes.dtype == torch.uint8
    assert found.used == (2, 2)
    assert [sorted(part.flatten().tolist()) for part in found.centroids] == [[0, 1], [5, 7]]
    read = [found.centroids[split][found.codes[:, split].long()] for split in (0, 1)]
    assert torch.equal(torch.cat(read, dim=1), vectors)


@pytest.mark.parametrize("seed", range(8))
def test_centres_are_the_means_of_their_rows(seed: int) -> None:
    rows = torch.tensor([[0.0], [1.0], [10.0], [11.0]]).double()
    centres = fit_centres(rows, 2, torch.Generator().manual_seed(seed))
    assert sorted(centres.flatten().tolist()) == [0.5, 10.5]  # from any two rows Lloyd ends there


def test_the_first_of_equally_near_centres_is_taken() -> None:
    rows, centres = torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([[0.0], [2.0], [4.0], [2.0]])
    assert nearest(rows, centres).tolist() == [0, 1, 1]


@given(
    st.lists(st.sampled_from([-3.0, -0.1, 0.0, 0.3, 1e-3, 7.0]), min_size=2, max_size=60),
    st.integers(6, 9),
    st.integers(0, 2**31),
)
def test_rows_of_few_kinds_are_found_exactly(rows: list[float], count: int, seed: int) -> None:
    vectors = torch.tensor(rows).unsqueeze(1)
    found = product_codes(vectors, splits=1, count=count, seed=seed)
    assert torch.equal(found.centroids[0][found.codes[:, 0].long()], vectors)
    assert found.used == (len(set(rows)),)
    assert found.centroids.shape == (1, count, 1)
    again = product_codes(vectors, splits=1, count=count, seed=seed)
    assert torch.equal(again.codes, found.codes)


def test_a_table_that_is_a_product_gives_the_same_lists(
    tiny_sequences: Prepared, room: Callable[[str], Context], tmp_path: Path, file_hashes
) -> None:
    artifact = save_lists(tiny_sequences, SASREC, tmp_path / "product", change=make_product)
    before = file_hashes(artifact.folder)
    outcome = quantize_catalogue(artifact, room("made"), splits=4, centroids=4)
    assert file_hashes(artifact.folder) == before
    size = ITEMS * 4 + 4 * DIM * 4  # a byte for each part of an item, and the parts
    found = effects(outcome)
    assert found["table_bytes"] == (ITEMS * DIM * 4, size, size)
    assert found["row_error"] == (0, 0, None)
    assert found["list_overlap"] == (1, 1, None)
    assert found["centroids"] == (0, 4, 4)
    assert found["model_bytes"][1] < found["model_bytes"][0] - 2500
    # Instead of 121 x 8 products, 4 x 8 of them.
    assert found["macs"][0] - found["macs"][1] == (ITEMS - 4) * DIM
    was, (module, table) = load_module(artifact), coded(outcome.artifact)
    assert torch.equal(table.table(), was.get_parameter("catalogue.vectors.weight"))
    batch = random_feeds(artifact, tiny_sequences, sizes=(40, 7), seed=2)
    (scores, items), (right, expected) = (module_outputs(one, batch) for one in (module, was))
    np.testing.assert_allclose(scores, right, atol=1e-5)
    np.testing.assert_array_equal(items, expected)
    assert outcome.notes[1].startswith("120 items: a plain table of that size is 3,872 bytes; exp")


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_one_table_is_looked_up_and_scored_with(
    spec: ModelSpec, tiny_sequences: Prepared, room: Callable[[str], Context], tmp_path: Path
) -> None:
    artifact = save_lists(tiny_sequences, spec, tmp_path / "other")
    outcome = quantize_catalogue(artifact, room("made"), **HOW)
    assert 0.2 < effects(outcome)["row_error"][1] < 0.9
    assert 0.3 < effects(outcome)["list_overlap"][1] < 0.99
    module, table = coded(outcome.artifact)
    rows = table.table()
    assert torch.equal(table(torch.arange(ITEMS)), rows)
    assert not rows[0].any()
    batch = random_feeds(outcome.artifact, tiny_sequences, sizes=(9, 5), seed=1)
    past = {k: torch.from_numpy(v) for k, v in batch.items() if k != "seen"}
    with torch.no_grad():
        queries = module.states(**past)
        queries = queries[:, -1] if queries.dim() == 3 else queries
        right = F.linear(queries, rows)  # (requests, items)
    scores, items = module_outputs(module, batch)
    right[:, 0] = -np.inf
    right[torch.arange(9).unsqueeze(1), torch.from_numpy(batch["seen"])] = -np.inf
    real = items != 0
    order = right.sort(dim=1, descending=True, stable=True).values[:, :20].numpy()
    np.testing.assert_allclose(scores[real], order[real], atol=1e-5)
    own = right.gather(1, torch.from_numpy(items)).numpy()
    np.testing.assert_allclose(scores[real], own[real], atol=1e-5)


@pytest.mark.parametrize("spec", list(SPECS.values())[1:], ids=list(SPECS)[1:])
def test_every_engine_gives_the_same_scores(
    spec: ModelSpec, tiny_sequences: Prepared, room: Callable[[str], Context], tmp_path: Path
) -> None:
    artifact = save_lists(tiny_sequences, spec, tmp_path / "other")
    made = quantize_catalogue(artifact, room("made"), **HOW).artifact
    written = export_onnx(made, room("onnx")).artifact  # compares lists with torch's
    batch = random_feeds(written, tiny_sequences, sizes=(6, 7), seed=3)
    right, _ = module_outputs(load_module(made), batch)
    for engine in (OrtCpu, OpenVinoCpu):
        with engine(written, threads=1) as running:
            scores = np.asarray(running.score(batch)["score"])
        np.testing.assert_allclose(scores, right, atol=1e-4)


def test_training_moves_centroids_and_leaves_codes(
    artifact: Artifact, room: Callable[[str], Context]
) -> None:
    made = quantize_catalogue(artifact, room("made"), **HOW).artifact
    _, before = coded(made)
    for name, train in (("finetune", finetune), ("distill", distill)):
        tuned = train(made, room(name), epochs=0.5).artifact
        module, after = coded(tuned)
        assert torch.equal(after.codes, before.codes)
        moved = (after.centroids.weight != before.centroids.weight).any(dim=1)
        assert moved.all(), "an item that is scored moves its parts"
        assert torch.equal(module.catalogue.table[1:], after(torch.arange(1, ITEMS)))
        assert not module.catalogue.table[0].any()
        assert tuned.model.layers == made.model.layers


def test_a_new_process_gives_the_same_lists(
    artifact: Artifact, room: Callable[[str], Context], tiny_sequences: Prepared, tmp_path: Path
) -> None:
    made = quantize_catalogue(artifact, room("made"), **HOW).artifact
    tuned = finetune(made, room("tuned"), epochs=0.5).artifact
    assert read_artifact(tuned.folder).model.layers == {
        "catalogue.vectors": {"form": "product_codes", **HOW}
    }
    batch = random_feeds(tuned, tiny_sequences, sizes=(9, 5), seed=1)
    copied, given_, out = tmp_path / "copied", tmp_path / "feeds.npz", tmp_path / "out.npz"
    shutil.copytree(tuned.folder, copied)
    np.savez(given_, **batch)
    command = [sys.executable, "-c", ALONE, str(copied), str(given_), str(out)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    scores, items = module_outputs(load_module(tuned), batch)
    alone = np.load(out)
    np.testing.assert_allclose(alone["scores"], scores, atol=1e-6)
    np.testing.assert_array_equal(alone["items"], items)


def test_an_exported_file_holds_each_code_as_a_byte() -> None:
    """Of a catalogue that the exporter doesn't fold for being small."""
    schema = item_schema(3001)
    module = sasrec.build(schema, dim=64, top=20, chunk=2000)
    told = {"form": "product_codes", "splits": 8, "centroids": 256}
    place_layers(module, {"catalogue.vectors": told})
    inputs = model_inputs(module, schema)
    start = Artifact(
        Path(), "torch", ModelSpec("sasrec", {}), inputs, model_outputs(module, inputs)
    )
    graph = export_module(module, start, opset=18).graph
    large = {t.name: t.data_type for t in graph.initializer if np.prod(t.dims) > 64 * 64}
    assert large == {
        "catalogue.vectors.codes": onnx.TensorProto.UINT8,
        "catalogue.vectors.centroids.weight": onnx.TensorProto.FLOAT,
    }
    casts = [n for n in graph.node if n.op_type == "Cast" and "codes" in str(n.input)]
    assert all(n.attribute[0].i == onnx.TensorProto.INT32 for n in casts)


def test_sizes_and_work_are_counted(artifact: Artifact, files: tuple[Artifact, Artifact]) -> None:
    made, written = files
    codes, centroids, positions = ITEMS * 4, 5 * DIM, 12 * DIM
    assert made.embedding_parameters == codes + centroids + positions
    assert made.parameters == artifact.parameters - ITEMS * DIM + codes + centroids
    assert table_bytes(made) == codes + 4 * (centroids + positions)
    assert count_work(made).weight_bytes > 0
    assert table_bytes(written) >= codes + 4 * centroids
    count_work(written)


@pytest.mark.parametrize("quantise", [quantize_dynamic, quantize_static])
def test_int8_stages_leave_the_products_with_centroids(
    quantise: Callable[..., Outcome],
    files: tuple[Artifact, Artifact],
    room: Callable[[str], Context],
) -> None:
    found = quantise(files[1], room("int8"))
    assert effects(found)["quantised_ops"] == (0, 12, 12)  # six Linears in each of two blocks


def test_searches_for_vectors_are_refused(
    files: tuple[Artifact, Artifact], room: Callable[[str], Context]
) -> None:
    made, written = files
    for name, search in (("scan_catalogue", scan_catalogue), ("index_catalogue", index_catalogue)):
        with pytest.raises(UnsupportedError, match=f"^{name}: the items .* are in product codes"):
            search(written, room(name))
    with pytest.raises(EffectError, match=r"centroids \(its weights are read by more than the lay"):
        reduce_tables(made, room("reduced"), rank=1, min_rows=2)


def test_what_can_not_be_is_one_sentence(
    artifact: Artifact,
    tiny_artifact: Artifact,
    room: Callable[[str], Context],
    tiny_sequences: Prepared,
    tmp_path: Path,
) -> None:
    def refused(name: str, message: str, given_: Artifact = artifact, **how: int) -> None:
        with pytest.raises((EffectError, UnsupportedError), match=message):
            quantize_catalogue(given_, room(name), **how)

    refused("a", r"splits 3 don't divide dim 8; 1, 2, 4, 8 do", splits=3, centroids=5)
    refused("b", r"centroids 257: a code is a byte, expected 2 to 256", centroids=257)
    refused("c", r"centroids 1: a code", centroids=1)
    refused("d", r"120 items are fewer than 121 centroids; lower centroids", centroids=121)
    refused("e", r"had no effect: codes .* are 4,808 bytes, the table is 3,872", centroids=120)
    refused("f", "model 'dlrm' scores rows and has no catalogue to search", tiny_artifact)
    tied = save_lists(tiny_sequences, TIED, tmp_path / "tied")
    refused("g", "model 'file' scores its items by itself, .* sasrec, gru4rec and", tied)
    made = quantize_catalogue(artifact, room("made"), **HOW).artifact
    refused("h", "in product codes already; leave it out", made, **HOW)


def test_padding_of_an_embedding_without_any_is_a_row_like_others() -> None:
    table = ProductTable(nn.Embedding(3, 4), splits=2, centroids=2)
    with torch.no_grad():
        table.centroids.weight.copy_(torch.arange(8.0).reshape(4, 2))
    table.codes.copy_(torch.tensor([[0, 1], [1, 0], [1, 1]]))
    assert table.table().tolist() == [[0, 1, 6, 7], [2, 3, 4, 5], [2, 3, 6, 7]]
    assert torch.equal(table(torch.tensor([[2, 0]])), table.table()[[2, 0]].unsqueeze(0))
    queries = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 2.0, 0.0]])
    products = table.products(queries)
    assert products.shape == (2, 2, 2)  # splits, centroids, requests
    assert table.scores(products, 0, 3).tolist() == [[7, 7, 9], [13, 11, 15]]
    assert table.scores(products, 1, 3).tolist() == [[7, 9], [11, 15]]
    assert (table.num_embeddings, table.embedding_dim) == (3, 4)
