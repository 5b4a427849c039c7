"""Layers of other forms: rebuilt from the artifact alone, counted right, and their arithmetic."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.compressed import (
    HashedRows,
    LowRankLinear,
    LowRankTable,
    QuotientRemainder,
    place_layers,
    quotient_rows,
)
from harness.errors import DataError
from harness.modules import load_module, save_module
from harness.objectives import predict
from harness.stages.export_onnx import export_module
from harness.stages.graphs import ort_scores
from harness.tables import Prepared, TensorSpec

LAYERS: dict[str, dict[str, Any]] = {
    "user": {"form": "low_rank_table", "rank": 3},
    "user.rows": {"form": "hashed_rows", "hot": 4, "buckets": 5, "ordered": True},
    "item": {"form": "quotient_remainder", "hot": 2, "buckets": 6, "ordered": False},
    "f1": {"form": "low_rank_linear", "rank": 4},
}


@pytest.fixture
def compressed(rec_artifact: Artifact, tmp_path: Path) -> Artifact:
    """The user's own model (tables of 41 and 31 rows of 8, Linears 16-16-16-1) in other forms."""
    module = load_module(rec_artifact)
    place_layers(module, LAYERS)
    order = module.get_submodule("user.rows").order
    order.copy_(torch.randperm(41, generator=torch.manual_seed(3)).unsqueeze(1))
    folder = tmp_path / "compressed"
    folder.mkdir()
    spec = replace(rec_artifact.model, layers=LAYERS)
    return save_module(module.eval(), replace(rec_artifact, model=spec), folder)


def test_the_folder_alone_gives_the_same_module(
    compressed: Artifact, tiny: Prepared, score_alone: Callable[[Artifact], np.ndarray]
) -> None:
    again = read_artifact(compressed.folder)
    assert again == compressed
    assert list(again.model.layers) == list(LAYERS)
    module = load_module(again)
    assert [type(module.get_submodule(name)) for name in LAYERS] == [
        LowRankTable,
        HashedRows,
        QuotientRemainder,
        LowRankLinear,
    ]
    scores = predict(module, tiny, tiny.splits["test"], again.inputs)
    assert len(np.unique(scores)) > 50
    np.testing.assert_array_equal(score_alone(again), scores)


def test_counts_by_hand(compressed: Artifact) -> None:
    # User: 4 + 5 rows of 3, 41 places, and 3 x 8. Item: 2 + 6 rows and 1 + 5 quotients of 8.
    tables = 9 * 3 + 41 + (8 + 6) * 8
    assert compressed.embedding_parameters == tables
    first = 16 * 4 + 4 * 16 + 16
    assert compressed.parameters == tables + 3 * 8 + first + (16 * 16 + 16) + 17
    assert compressed.macs == 3 * 8 + (16 * 4 + 4 * 16) + 16 * 16 + 16
    widths = {"user.up": (8, 3), "f1.down": (4, 16), "f1.up": (16, 4)}
    assert compressed.widths == widths | {"f2": (16, 16), "out": (1, 16)}
    module = load_module(compressed)
    assert module.f1.bias is module.f1.up.bias
    assert (module.f1.in_features, module.f1.out_features) == (16, 16)
    assert (module.user.num_embeddings, module.user.embedding_dim) == (41, 8)
    assert (module.item.num_embeddings, module.item.embedding_dim) == (31, 8)


def test_other_widths_than_the_spec_says_are_fitted(compressed: Artifact, tmp_path: Path) -> None:
    module = load_module(compressed)
    with torch.no_grad():
        module.f1.down.weight = nn.Parameter(module.f1.down.weight[:3])
        module.f1.up.weight = nn.Parameter(module.f1.up.weight[:, :3])
    folder = tmp_path / "narrow"
    folder.mkdir()
    loaded = load_module(save_module(module, compressed, folder))
    assert (loaded.f1.down.out_features, loaded.f1.up.in_features) == (3, 3)
    ids = torch.tensor([1, 5])
    assert torch.equal(loaded(ids, ids), module(ids, ids))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"f1": {"form": "lowrank_linear", "rank": 2}}, r"'f1'.*isn't known; did you mean 'low_r"),
        ({"f9": {"form": "low_rank_linear", "rank": 2}}, r"'f9'.*the model has no such layer"),
        ({"user": {"form": "low_rank_linear", "rank": 2}}, r"'user' is a Embedding.*a Linear"),
        ({"f1": {"form": "low_rank_linear"}}, r"'f1' of form 'low_rank_linear'.*rank"),
    ],
)
def test_a_spec_that_does_not_fit_is_one_sentence(
    rec_artifact: Artifact, layers: dict[str, dict[str, Any]], message: str
) -> None:
    wrong = replace(rec_artifact, model=replace(rec_artifact.model, layers=layers))
    with pytest.raises(DataError, match=message):
        load_module(wrong)


def test_weights_are_not_to_be_had(rec_artifact: Artifact) -> None:
    """Code that reads them would go on with what they no longer are."""
    module = load_module(rec_artifact)
    place_layers(module, LAYERS)
    for name in LAYERS:
        assert not hasattr(module.get_submodule(name), "weight")


def test_a_padding_row_of_zeros_stays_one() -> None:
    table = nn.Embedding(20, 4, padding_idx=0)
    reduced = LowRankTable(table, rank=2)
    hashed = HashedRows(table, hot=3, buckets=4, ordered=False)
    paired = QuotientRemainder(table, hot=3, buckets=4, ordered=False)
    for layer in (reduced, hashed, paired):
        ids = torch.arange(20)
        assert layer(ids)[0].eq(0).all()
        layer(ids).square().sum().backward()
        torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1).step()
        assert layer(ids)[0].eq(0).all()
        assert layer(ids)[1:].ne(0).any(dim=1).all()


SIZES = st.tuples(st.integers(1, 300), st.integers(0, 300), st.integers(1, 50))


@given(SIZES)
def test_rows_and_quotients_are_what_branches_would_give(sizes: tuple[int, int, int]) -> None:
    rows, hot, buckets = sizes
    hot = min(hot, rows)
    layer = QuotientRemainder(nn.Embedding(rows, 1), hot=hot, buckets=buckets, ordered=False)
    places = range(rows)
    expected = [p if p < hot else hot + (p - hot) % buckets for p in places]
    quotients = [0 if p < hot else 1 + (p - hot) // buckets for p in places]
    assert layer.row_of(torch.tensor(places)).tolist() == expected
    assert layer.quotient_of(torch.tensor(places)).tolist() == quotients
    assert layer.quotients.num_embeddings == max(quotients, default=0) + 1


@given(SIZES)
def test_no_two_ids_have_the_same_pair(sizes: tuple[int, int, int]) -> None:
    rows, hot, buckets = sizes
    hot = min(hot, rows)
    layer = QuotientRemainder(nn.Embedding(rows, 1), hot=hot, buckets=buckets, ordered=True)
    layer.order.copy_(torch.randperm(rows).unsqueeze(1))
    places = layer.place_of(torch.arange(rows))
    pairs = set(zip(layer.row_of(places).tolist(), layer.quotient_of(places).tolist(), strict=True))
    assert len(pairs) == rows


@given(st.integers(0, 2**60), st.integers(1, 2**40), st.integers(0, 2**40))
def test_places_beyond_32_bits_are_exact(place: int, buckets: int, hot: int) -> None:
    layer = QuotientRemainder(nn.Embedding(2, 1), hot=0, buckets=1, ordered=False)
    layer.hot, layer.buckets = hot, buckets
    at = torch.tensor([place])
    inside = place < hot
    assert layer.row_of(at).item() == (place if inside else hot + (place - hot) % buckets)
    assert layer.quotient_of(at).item() == (0 if inside else 1 + (place - hot) // buckets)


@pytest.mark.parametrize("form", [HashedRows, QuotientRemainder])
def test_exported_ids_above_the_exact_range_of_fp32(
    form: type[HashedRows], rec_artifact: Artifact
) -> None:
    """A division in fp32 would take 2^24 + 1 for 2^24, and its neighbour's quotient."""
    cardinality, buckets = 2**25 + 9, 4096
    table = nn.Embedding(cardinality, 1, device="meta")
    layer = form(table, hot=5, buckets=buckets, ordered=False)
    with torch.no_grad():
        layer.rows.weight[:, 0] = torch.arange(len(layer.rows.weight)) / 2**13
        if isinstance(layer, QuotientRemainder):
            layer.quotients.weight[:, 0] = torch.arange(len(layer.quotients.weight))
            assert len(layer.quotients.weight) == quotient_rows(cardinality, hot=5, buckets=4096)

    class OneTable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = layer

        def forward(self, item: torch.Tensor) -> torch.Tensor:
            return self.table(item).squeeze(1)

    inputs = (TensorSpec("item", "int64", ("rows",), ("product",)),)
    artifact = replace(rec_artifact, model=ModelSpec("file", {}), inputs=inputs)
    graph = export_module(OneTable().eval(), artifact, opset=18)
    edges = [0, 4, 5, 6, 2**24 + 1, 2**24 + 4, 2**24 + 5, 2**25 + 4, 2**25 + 5, cardinality - 1]
    near = [2**24 + 5 + step for step in range(-3, 4)]
    ids = np.array(edges + near)
    np.testing.assert_array_equal(
        ort_scores(graph)({"item": ids}), OneTable()(torch.from_numpy(ids)).detach().numpy()
    )
