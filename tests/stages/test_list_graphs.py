"""Graphs of next-item models: parity of lists, one item table, half precision, int8."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from made_lists import SASREC, TIED, TIED_SOURCE, item_schema, lists_context, save_lists
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from harness.artifact import Artifact, ModelSpec
from harness.engines.base import Engine
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.engines.probing import probe_engine
from harness.engines.torch_cpu import TorchCpu
from harness.errors import EffectError, UnsupportedError
from harness.models import mf_ranking
from harness.modules import load_module, model_inputs, model_outputs
from harness.stages import channel_groups
from harness.stages.base import Context, Outcome
from harness.stages.convert_fp16 import convert_fp16
from harness.stages.export_onnx import check_parity, export_module, export_onnx, output_gap
from harness.stages.graphs import graph_facts, ort_outputs, random_feeds, random_past
from harness.stages.quantize_aware import quantize_aware
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.stages.quantize_static import quantize_static
from harness.tables import Prepared, TensorSpec

ITEMS = 121
LENGTH = 12


MASKED_POOL = '''"""Attention with a mask that half precision doesn't hold."""

import torch
from torch import nn


class Pool(nn.Module):
    def __init__(self, n_items, mask=-1e9):
        super().__init__()
        self.mask = mask
        self.emb = nn.Embedding(n_items, 8, padding_idx=0)
        self.query = nn.Linear(8, 1)
        self.out = nn.Linear(8, n_items)

    def forward(self, history):
        x = self.emb(history)
        s = self.query(x).squeeze(-1) + (history == 0).to(x.dtype) * self.mask
        w = torch.softmax(s, -1).unsqueeze(-1)
        return self.out((w * x).sum(1))
'''
BAGS = '''"""Histories as bags of items, of every mode; a bag of padding alone is empty."""

import torch
from torch import nn


class Bags(nn.Module):
    def __init__(self, n_items):
        super().__init__()
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(n_items, 4, mode=mode, padding_idx=0) for mode in ("mean", "sum", "max")
        )
        self.out = nn.Linear(12, n_items)

    def forward(self, history):
        return self.out(torch.cat([bag(history) for bag in self.bags], -1))
'''
SOURCES = {"tied": TIED_SOURCE, "pool": MASKED_POOL, "bags": BAGS}
MASKS = {"pool masked by the lowest number": -3.4028234e38, "pool masked by 1e5": -1e5}
SOURCES |= dict.fromkeys(MASKS, MASKED_POOL)
POOL = ModelSpec("file", {"path": "m.py", "attribute": "Pool", "parameters": {}, "top": 20}, "m.py")
SPECS = {
    "sasrec": SASREC,
    "gru4rec": ModelSpec("gru4rec", {"dim": 8, "layers": 2, "top": 20}),
    "factors": ModelSpec("mf_ranking", {"dim": 4, "top": 20}),
    "factors in chunks": ModelSpec("mf_ranking", {"dim": 4, "top": 20, "chunk": 40}),
    "tied": TIED,
    "pool": POOL,
    "bags": ModelSpec(
        "file", {"path": "m.py", "attribute": "Bags", "parameters": {}, "top": 20}, "m.py"
    ),
}
SPECS |= {
    name: replace(POOL, parameters={**POOL.parameters, "parameters": {"mask": mask}})
    for name, mask in MASKS.items()
}


def _same_scores(module: nn.Module) -> None:
    module.users.weight[:2].zero_()  # type: ignore[union-attr, index, operator]


@pytest.fixture(scope="session")
def made(
    tiny_sequences: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Artifact, Artifact]]:
    """``made(name)``: a model of ``SPECS`` and its ONNX file, exported once."""
    folder, known = tmp_path_factory.mktemp("lists"), dict[str, tuple[Artifact, Artifact]]()

    def make(name: str) -> tuple[Artifact, Artifact]:
        if name not in known:
            artifact = save_lists(
                tiny_sequences,
                SPECS[name],
                folder / name,
                source=SOURCES.get(name, ""),
                change=_same_scores if "factors" in name else None,
            )
            context = lists_context(tiny_sequences, artifact, folder / f"{name}-onnx")
            known[name] = artifact, export_onnx(artifact, context).artifact
        return known[name]

    return make


@pytest.fixture
def room(
    made: Callable[[str], tuple[Artifact, Artifact]], tiny_sequences: Prepared, tmp_path: Path
) -> Callable[[str], Context]:
    """``room(name)``: a context with a new folder of that name."""
    return lambda name: lists_context(tiny_sequences, made("sasrec")[0], tmp_path / name)


def probe_pasts() -> dict[str, np.ndarray]:
    """Histories that are empty, of one item and full, and of who has seen nearly everything."""
    history = np.zeros((5, LENGTH), np.int64)
    history[1, -1] = 7
    history[2] = np.arange(1, LENGTH + 1)
    history[3, -3:] = [5, 5, 9]
    seen = np.zeros((5, ITEMS), np.int64)
    seen[1, 0] = 7
    seen[2, :LENGTH] = history[2]
    seen[4, :-3] = np.arange(1, ITEMS - 2)  # all but two
    return {"history": history, "seen": seen}


def table_rows(model: onnx.ModelProto) -> list[str]:
    """Names of the stored matrices that have a row, or a column, of every item."""
    return [t.name for t in model.graph.initializer if ITEMS in t.dims and len(t.dims) > 1]


@pytest.mark.parametrize("name", [name for name in SPECS if name != "bags"])
def test_lists_are_the_same_on_every_engine(
    name: str, made: Callable[[str], tuple[Artifact, Artifact]], tiny_sequences: Prepared
) -> None:
    artifact, written = made(name)
    assert [(o.name, o.dtype) for o in written.outputs] == [
        ("scores", "float32"),
        ("items", "int64"),
    ]
    assert [o.name for o in onnx.load(written.file).graph.output] == ["scores", "items"]
    batch = random_feeds(artifact, tiny_sequences, sizes=(9, 4), seed=2)
    batch |= {n: a for n, a in probe_pasts().items() if "user" not in batch}
    expected = run(TorchCpu, artifact, batch)
    for kind in (OrtCpu, OpenVinoCpu):
        found = run(kind, written, batch)
        np.testing.assert_array_equal(found["item"], expected["item"])
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)


def run(kind: type[Engine], artifact: Artifact, batch: dict[str, np.ndarray]) -> np.ndarray:
    if kind is OpenVinoCpu and not (probe := probe_engine("openvino-cpu")).ok:
        pytest.skip(probe.sentence)
    with kind(artifact, threads=1) as engine:
        return engine.score(batch)


@pytest.mark.parametrize("name", ["factors", "factors in chunks"])
def test_equal_scores_go_by_id_on_every_engine(
    name: str, made: Callable[[str], tuple[Artifact, Artifact]]
) -> None:
    """User 1 scores all items 0, so the list is the lowest ids that weren't seen."""
    artifact, written = made(name)
    users = len(artifact.inputs[1].fields)
    batch = {
        "user": np.ones((3, users), np.int64),
        "seen": np.array([[0, 0], [3, 1], [0, 21]]),
    }
    expected = [list(range(1, 21)), [2, *range(4, 23)], list(range(1, 21))]
    for kind, stored in ((TorchCpu, artifact), (OrtCpu, written), (OpenVinoCpu, written)):
        found = run(kind, stored, batch)
        assert found["item"].tolist() == expected, kind.__name__
        assert (found["score"] == 0).all()


def test_an_empty_bag_is_a_vector_of_zeros(
    made: Callable[[str], tuple[Artifact, Artifact]],
) -> None:
    """Its scores are the last layer's biases; padding between items counts nowhere."""
    artifact, written = made("bags")
    module = load_module(artifact)
    bias = module.get_submodule("out").bias.detach().numpy()[1:]  # type: ignore[operator]
    expected = run(TorchCpu, artifact, probe_pasts())
    found = run(OrtCpu, written, probe_pasts())
    np.testing.assert_allclose(found["score"][0], np.sort(bias)[::-1][:20], atol=1e-6)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    np.testing.assert_array_equal(found["item"], expected["item"])
    again = run(OpenVinoCpu, written, probe_pasts())
    np.testing.assert_allclose(again["score"], expected["score"], atol=1e-5)
    np.testing.assert_array_equal(again["item"], expected["item"])


def test_openvino_takes_the_lower_of_equal_places_as_onnx_says(tmp_path: Path) -> None:
    """Left as it is read, its TopK gives places 1 to 20 of a row of zeros."""
    kinds = (("x", "FLOAT", 121), ("scores", "FLOAT", 20), ("items", "INT64", 20))
    rows, scores, items = (
        onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), ["rows", width])
        for name, kind, width in kinds
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("TopK", ["x", "k"], ["scores", "items"], axis=1)],
        "best",
        [rows],
        [scores, items],
        [numpy_helper.from_array(np.array([20]), "k")],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx"
    )
    inputs = (TensorSpec("x", "float32", ("rows", 121)),)
    outputs = tuple(
        TensorSpec(name, dtype, ("rows", 20))
        for name, dtype in (("scores", "float32"), ("items", "int64"))
    )
    artifact = Artifact(tmp_path, "onnx", ModelSpec("mlp", {}), inputs, outputs)
    found = run(OpenVinoCpu, artifact, {"x": np.zeros((3, 121), np.float32)})
    assert found["item"].tolist() == [list(range(20))] * 3


def test_one_item_table_looks_up_and_scores(
    made: Callable[[str], tuple[Artifact, Artifact]],
) -> None:
    artifact, written = made("sasrec")
    model = onnx.load(written.file)
    (table,) = table_rows(model)
    users = [node.op_type for node in model.graph.node if table in node.input]
    assert sorted(users) == ["Gather", "Gemm"]
    assert written.embedding_parameters == ITEMS * 8
    assert written.parameters < artifact.parameters + 10


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("sasrec", quantize_dynamic),
        ("tied", quantize_dynamic),
        ("sasrec", quantize_static),
        ("tied", quantize_static),
        ("tied", quantize_aware),
    ],
)
def test_int8_leaves_the_table_one(
    name: str,
    stage: Callable[..., Outcome],
    made: Callable[[str], tuple[Artifact, Artifact]],
    room: Callable[[str], Context],
) -> None:
    artifact, written = made(name)
    if stage is quantize_aware:
        outcome = stage(artifact, room("int8"), epochs=0.2)
    else:
        outcome = stage(written, room("int8"))
    model = onnx.load(outcome.artifact.file)
    (table,) = table_rows(model)
    users = [node for node in model.graph.node if table in node.input]
    assert sorted(node.op_type for node in users) == ["Gather", "Gemm"]
    assert all(a.f == 1 for node in users for a in node.attribute if a.name == "alpha")
    assert not any("stored twice" in note for note in outcome.notes)
    scores, items = ort_outputs(outcome.artifact.file)(probe_pasts())
    assert np.isfinite(scores).all()
    assert (items[4, :2] > 0).all()
    assert (items[4, 2:] == 0).all()
    assert not (items[2, :, None] == np.arange(1, LENGTH + 1)).any()


def test_a_scoring_table_that_is_quantised_is_said_to_be_untied(
    made: Callable[[str], tuple[Artifact, Artifact]], room: Callable[[str], Context]
) -> None:
    outcome = quantize_dynamic(made("sasrec")[1], room("int8"), keep_last=False)
    assert any("catalogue.vectors.weight is stored twice" in note for note in outcome.notes)


def test_half_precision_beside_a_recurrent_layer_is_refused(
    made: Callable[[str], tuple[Artifact, Artifact]], room: Callable[[str], Context]
) -> None:
    """It would take the process that serves it down."""
    with pytest.raises(UnsupportedError, match="the graph has GRU, and onnxruntime crashes"):
        convert_fp16(made("gru4rec")[1], room("half"))


@pytest.mark.parametrize("name", ["sasrec", "pool", *MASKS])
def test_half_precision_of_empty_short_and_full_histories(
    name: str,
    made: Callable[[str], tuple[Artifact, Artifact]],
    room: Callable[[str], Context],
) -> None:
    _, exact = made(name)
    half = convert_fp16(exact, room("half")).artifact
    expected = ort_outputs(exact.file)(probe_pasts())
    served = ort_outputs(half.file)(probe_pasts())
    true_half = ReferenceEvaluator(onnx.load(half.file)).run(None, probe_pasts())
    for scores, items in (served, true_half):
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(scores, expected[0], atol=0.01)
        assert (items[4, :2] > 0).all()
        assert (items[4, 2:] == 0).all()
    stored = {tensor.data_type for tensor in onnx.load(half.file).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in stored


def lists(scores: list[float], items: list[int]) -> list[np.ndarray]:
    return [np.array([scores], np.float32), np.array([items])]


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (lists([3, 2, 1], [4, 5, 6]), ""),
        (lists([3, 2, 1], [5, 4, 6]), "item 5 at place 1 where torch has 4"),
        (lists([3, 2, 1], [4, 5, 9]), ""),  # the last place was missed by a hair
        (lists([3, 2, 1], [4, 9, 6]), "item 9 at place 2 where torch has 5"),
        (lists([3, 2, -1e4], [4, 5, 7]), "item 7 at place 3 where torch has 6"),
    ],
)
def test_items_may_differ_only_where_scores_are_tied(found: list[np.ndarray], fault: str) -> None:
    expected = lists([3, 2, float(found[0][0, 2])], [4, 5, 6])
    gap, allowed, said = output_gap(found, expected, tolerance=1e-4)
    assert gap == 0
    assert allowed == pytest.approx(3e-4)  # an empty place sets no scale
    assert said == fault


def test_tied_items_may_change_places() -> None:
    expected = lists([3, 2, 2.0001], [4, 5, 6])
    assert output_gap(lists([3, 2, 2.0001], [4, 6, 5]), expected, tolerance=1e-4)[2] == ""


def test_another_list_than_torchs_fails_the_export(
    made: Callable[[str], tuple[Artifact, Artifact]], room: Callable[[str], Context]
) -> None:
    artifact, written = made("sasrec")
    module, context = load_module(artifact), room("z")
    assert check_parity(written, module, context, tolerance=1e-4) < 1e-5
    honest = module.forward

    def swapped(history: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores, items = honest(history, seen)
        return scores, items.flip(1)

    module.forward = swapped
    with pytest.raises(EffectError, match=r"ONNX file lists item \d+ at place 1 where torch has"):
        check_parity(written, module, context, tolerance=1e-4)


@pytest.mark.parametrize("shape", [(40, 6), (40, 30)])
def test_random_pasts_are_legal_and_of_every_kind(shape: tuple[int, int]) -> None:
    past = random_past(np.random.default_rng(1), shape, 21)
    filled = (past > 0).sum(axis=1)
    assert past.max() <= 20
    assert (np.diff((past > 0).astype(int), axis=1) >= 0).all()  # padding on the left
    assert {0, 1, shape[1]} < set(filled.tolist())
    if shape[1] >= 20:
        full = past[filled == shape[1]]
        assert all(set(range(1, 21)) <= set(row) for row in full.tolist())


def test_pruning_tries_legal_pasts(tiny_sequences: Prepared) -> None:
    module = mf_ranking.build(tiny_sequences.schema, dim=4, top=11)
    inputs = model_inputs(module, tiny_sequences.schema)
    feeds = channel_groups.random_feeds(inputs, tiny_sequences.schema, requests=8, candidates=4)
    seen = feeds["seen"].numpy()
    assert (np.diff((seen > 0).astype(int), axis=1) >= 0).all()
    assert {0, 1, seen.shape[1]} <= set((seen > 0).sum(axis=1).tolist())


def test_a_catalogue_above_one_chunk_is_stored_once(tmp_path: Path) -> None:
    schema = item_schema(70_001)
    torch.manual_seed(4)
    module = mf_ranking.build(schema, dim=8, top=11).eval()
    inputs = model_inputs(module, schema)
    described = Artifact(
        tmp_path, "torch", ModelSpec("mf_ranking", {}), inputs, model_outputs(module, inputs)
    )
    model = export_module(module, described, opset=18)
    assert graph_facts(model).parameters == pytest.approx(70_001 * 8 + 8 * 8, abs=10)
    found = ort_outputs(model)({"user": np.array([[2]]), "seen": np.array([[70_000, 1]])})[1]
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scores = weights["catalogue.vectors.weight"] @ weights["users.weight"][2]
    scores[[0, 1, 70_000]] = -np.inf
    assert found[0].tolist() == np.argsort(-scores, kind="stable")[:11].tolist()
