"""Bags of embeddings: as torch's for every mode, empty bags too, exported without a loop."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_lists import lists_context, save_lists
from torch import nn

from harness.artifact import Artifact, ModelSpec
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.engines.torch_cpu import TorchCpu
from harness.errors import UnsupportedError
from harness.modules import load_module
from harness.stages.base import Context
from harness.stages.convert_fp16 import convert_fp16
from harness.stages.embedding_bags import PaddedBag, padded_bags
from harness.stages.export_onnx import export_onnx
from harness.stages.graphs import ort_outputs
from harness.stages.quantize_tables import quantize_tables
from harness.tables import Prepared

MODES = ("mean", "sum", "max")
SOURCE = '''"""Histories as bags: as rows, and as one long list of ids with the starts of bags."""

import torch
from torch import nn
from torch.nn import functional as F


class Rows(nn.Module):
    def __init__(self, n_items, padding=True):
        super().__init__()
        pad = 0 if padding else None
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(n_items, 4, mode=mode, padding_idx=pad)
            for mode in ("mean", "sum", "max")
        )
        self.out = nn.Linear(12, n_items)

    def forward(self, history):
        return self.out(torch.cat([bag(history) for bag in self.bags], -1))


class Starts(Rows):
    def forward(self, history):
        starts = torch.arange(history.shape[0]) * history.shape[1]
        flat = history.reshape(-1)
        return self.out(torch.cat([bag(flat, starts) for bag in self.bags], -1))


class Bounded(Rows):
    def __init__(self, n_items):
        super().__init__(n_items)
        self.bags[1].max_norm = 1.0


class Functional(Rows):
    def forward(self, history):
        weights = [bag.weight for bag in self.bags]
        return self.out(torch.cat([F.embedding_bag(history, each) for each in weights], -1))
'''


def bag_of(mode: str, padding: int | None, *, last: bool = False) -> nn.EmbeddingBag:
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(12, 4, mode=mode, padding_idx=padding, include_last_offset=last)
    with torch.no_grad():
        bag.weight.normal_()  # the padding's row is not of zeros
    return bag.eval()


IDS = st.lists(st.lists(st.integers(0, 11), max_size=5), min_size=1, max_size=6)


@pytest.mark.parametrize("padding", [None, 0, 3])
@pytest.mark.parametrize("mode", MODES)
@given(ids=IDS)
def test_bags_of_any_length_are_those_of_torch(
    mode: str, padding: int | None, ids: list[list[int]]
) -> None:
    """Empty ones first, last, in a row, and all of them among the examples."""
    flat = torch.tensor([each for bag in ids for each in bag], dtype=torch.int64)
    ends = torch.tensor([len(bag) for bag in ids]).cumsum(0)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
    for last in (False, True):
        bag = bag_of(mode, padding, last=last)
        offsets = starts if last else starts[:-1]
        torch.testing.assert_close(PaddedBag(bag)(flat, offsets), bag(flat, offsets))


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "ids", [[[1, 2, 3], [0, 0, 5]], [[0, 0, 0], [4, 4, 4]], [[0, 0, 0], [0, 0, 0]]]
)
def test_bags_of_one_length_are_those_of_torch(
    mode: str, padding: int | None, ids: list[list[int]]
) -> None:
    bag, given = bag_of(mode, padding), torch.tensor(ids)
    torch.testing.assert_close(PaddedBag(bag)(given), bag(given))


def test_ids_may_have_weights_of_their_own() -> None:
    bag, ids = bag_of("sum", 0), torch.tensor([[1, 0, 3], [0, 0, 0]])
    weights = torch.tensor([[0.5, 7.0, -2.0], [1.0, 1.0, 1.0]])
    found = PaddedBag(bag)(ids, per_sample_weights=weights)
    torch.testing.assert_close(found, bag(ids, per_sample_weights=weights))
    expected = 0.5 * bag.weight[1] - 2 * bag.weight[3]
    torch.testing.assert_close(found, torch.stack([expected, torch.zeros(4)]))


def spec(attribute: str, **parameters: object) -> ModelSpec:
    own = {"path": "m.py", "attribute": attribute, "parameters": parameters, "top": 20}
    return ModelSpec("file", own, "m.py")


@pytest.fixture
def exported(
    tiny_sequences: Prepared, tmp_path: Path
) -> Callable[[ModelSpec], tuple[Artifact, Artifact]]:
    """``exported(spec)``: a model of ``SOURCE`` and its ONNX file."""

    def make(own: ModelSpec) -> tuple[Artifact, Artifact]:
        artifact = save_lists(tiny_sequences, own, tmp_path / "m", source=SOURCE)
        context = lists_context(tiny_sequences, artifact, tmp_path / "onnx")
        return artifact, export_onnx(artifact, context).artifact

    return make


def pasts() -> dict[str, np.ndarray]:
    """Empty first and last, two empty ones in a row, and full histories."""
    history = np.zeros((6, 12), np.int64)
    history[1, -2:] = [7, 7]
    history[4] = np.arange(1, 13)
    return {"history": history, "seen": np.zeros((6, 1), np.int64)}


@pytest.mark.parametrize(
    "own",
    [spec("Rows"), spec("Starts", padding=False)],
    ids=["rows", "starts"],
)
def test_exported_bags_have_no_loop_and_the_same_lists(
    own: ModelSpec, exported: Callable[[ModelSpec], tuple[Artifact, Artifact]]
) -> None:
    artifact, written = exported(own)
    nodes = onnx.load(written.file).graph.node
    operators = [node.op_type for node in nodes]
    assert not {"Loop", "If", "SequenceInsert"} & set(operators)
    assert operators.count("Gather") >= 3
    with TorchCpu(artifact, threads=1) as engine:
        expected = engine.score(pasts())
    for kind in (OrtCpu, OpenVinoCpu) if own.parameters["attribute"] == "Rows" else (OrtCpu,):
        with kind(written, threads=1) as engine:
            found = engine.score(pasts())
        np.testing.assert_array_equal(found["item"], expected["item"])
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)


def test_who_has_no_history_has_scores_in_every_form(
    exported: Callable[[ModelSpec], tuple[Artifact, Artifact]],
    tiny_sequences: Prepared,
    tmp_path: Path,
) -> None:
    """Those of the last layer's biases: an empty bag is a vector of zeros."""
    artifact, written = exported(spec("Rows"))
    bias = load_module(artifact).get_submodule("out").bias.detach().numpy()  # type: ignore[operator]
    expected = np.sort(bias[1:])[::-1][:20]

    def context(name: str) -> Context:
        return lists_context(tiny_sequences, artifact, tmp_path / name)

    narrow = {
        bits: quantize_tables(
            written, context(f"narrow{bits}"), bits=bits, form="plain", min_rows=20
        ).artifact
        for bits in (4, 8, 16)
    }
    half = convert_fp16(written, context("half")).artifact
    for made in (*narrow.values(), half):
        scores = ort_outputs(made.file)(pasts())[0]
        assert np.isfinite(scores).all()
        for row in (0, 2, 3, 5):
            np.testing.assert_allclose(scores[row], expected, atol=1e-3 if made is half else 1e-6)


def test_bags_that_can_not_be_exported_are_named(
    exported: Callable[[ModelSpec], tuple[Artifact, Artifact]],
) -> None:
    with pytest.raises(UnsupportedError, match=r"bags\.1: an EmbeddingBag with max_norm"):
        exported(spec("Bounded"))


def test_bags_beside_the_layer_are_named(
    exported: Callable[[ModelSpec], tuple[Artifact, Artifact]],
) -> None:
    with pytest.raises(UnsupportedError, match=r"'file' calls .*embedding_bag.*use nn\.EmbeddingB"):
        exported(spec("Functional"))


def test_the_module_is_as_before() -> None:
    module = nn.Sequential(bag_of("mean", 0))
    bag = module[0]
    with padded_bags(module, model="m"):
        assert type(module[0]) is PaddedBag
        assert module[0].weight is bag.weight
    assert module[0] is bag
    bag.max_norm = 1.0
    with pytest.raises(UnsupportedError), padded_bags(module, model="m"):
        pass
    assert module[0] is bag
