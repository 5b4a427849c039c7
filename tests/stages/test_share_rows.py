"""Ids that share rows: who keeps its own, which rows fit, collisions by traffic, and exports."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_lists import SASREC, TIED, lists_context, save_lists

from harness.artifact import Artifact, ModelSpec
from harness.compressed import HashedRows
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.errors import EffectError, UnsupportedError
from harness.modules import load_module
from harness.stages.base import Context, Outcome
from harness.stages.convert_fp16 import convert_fp16
from harness.stages.export_onnx import export_onnx
from harness.stages.finetune import finetune
from harness.stages.fuse_tables import fuse_tables
from harness.stages.graphs import random_feeds
from harness.stages.quantize_tables import quantize_tables
from harness.stages.row_sharing import (
    Sharing,
    bucket_means,
    collisions,
    nearest_sums,
    place_ids,
    with_buckets,
)
from harness.stages.share_rows import share_rows
from harness.stages.table_reads import TableReads
from harness.tables import Prepared

Make = Callable[..., Context]
PRODUCT = "inputs.tables.2"
METHODS = ("hash", "quotient_remainder")


def effects(outcome: Outcome) -> dict[str, tuple[float, float, float | None]]:
    return {effect.name: (effect.before, effect.after, effect.asked) for effect in outcome.effects}


def table(reads: list[int], unknown: tuple[int, ...] = (0,), dim: int = 4) -> TableReads:
    return TableReads("t", len(reads), dim, np.array(reads), np.array(unknown))


def test_the_first_ids_are_their_own_places_where_they_are_read_most() -> None:
    placed = place_ids(table([0, 9, 5, 5, 1]), padding=None, share=None, rows=3)
    assert (placed.hot, placed.ordered) == (3, False)
    assert placed.places.tolist() == [0, 1, 2, 3, 4]
    share = place_ids(table([0, 9, 5, 5, 1]), padding=0, share=0.7, rows=1)
    assert (share.hot, share.ordered) == (3, False)  # 14 of 20 reads
    assert place_ids(table([0, 9, 5, 5, 1]), padding=0, share=0.71, rows=1).hot == 4


def test_places_are_stored_where_traffic_is_in_another_order() -> None:
    placed = place_ids(table([0, 1, 5, 9, 2]), padding=None, share=None, rows=3)
    assert (placed.hot, placed.ordered) == (3, True)
    assert placed.places.tolist() == [0, 4, 2, 1, 3]  # the unknown one, then by reads
    alone = place_ids(table([0, 1, 5, 9, 2]), padding=None, share=None, rows=1)
    assert not alone.ordered  # nothing but the unknown row is its own
    padded = place_ids(table([0, 1, 5, 9, 2], unknown=(1,)), padding=4, share=None, rows=1)
    assert padded.hot == 2
    assert padded.places.tolist() == [4, 1, 3, 2, 0]  # padding has the first place


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=60),
    st.integers(1, 60),
    st.sampled_from(METHODS),
    st.floats(1.01, 20),
    st.integers(1, 8),
)
def test_what_was_asked_for_fits(
    reads: list[int], rows: int, method: str, times: float, dim: int
) -> None:
    given_table = table(reads, dim=dim)
    placed = place_ids(given_table, padding=0, share=None, rows=rows)
    limit = int(given_table.bytes / times)
    found = with_buckets(placed, method, dim=dim, buckets=None, limit=limit)  # type: ignore[arg-type]
    if isinstance(found, str):
        assert "room for" in found or "shrink" in found
        return
    assert found.bytes(dim) <= limit
    more = Sharing(found.method, found.places, found.hot, found.buckets + 1, found.ordered)
    assert more.bytes(dim) > limit or more.rows == found.rows
    bucket = found.bucket
    assert (bucket[found.places < found.hot] == -1).all()
    assert bucket.max(initial=-1) < found.buckets


def test_a_bucket_is_the_mean_of_its_rows_by_reads() -> None:
    grid = torch.tensor([[[1.0], [2.0], [7.0]], [[5.0], [4.0], [0.0]]]).double()
    reads = torch.tensor([[3, 0, 2], [1, 0, -1]]).double()  # the last place isn't there
    assert bucket_means(grid, reads).flatten().tolist() == [2, 3, 7]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_sums_are_the_nearest_there_are(quotients: int, buckets: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    grid = random.normal(size=(quotients, buckets, 2))
    reads = random.integers(0, 9, size=(quotients, buckets)).astype(float)
    reads[-1, buckets - int(random.integers(0, buckets)) :] = -1
    there = reads >= 0
    weights = np.where(there, reads + (0.01 * reads[there].mean() or 1.0), 0.0)
    at = np.argwhere(there)
    design = np.concatenate([np.eye(quotients)[at[:, 0]], np.eye(buckets)[at[:, 1]]], axis=1)
    scale = np.sqrt(weights[there])[:, None]
    best = np.linalg.lstsq(scale * design, scale * grid[there], rcond=None)[0]
    right = float(np.square(scale * (design @ best - grid[there])).sum())
    one, other = nearest_sums(torch.from_numpy(grid), torch.from_numpy(reads))
    sums = one.numpy()[:, None] + other.numpy()[None]
    found = float((weights[:, :, None] * np.square(sums - grid)).sum())
    assert found == pytest.approx(right, rel=1e-9, abs=1e-9 * weights.sum())


def test_a_table_of_sums_is_found_again() -> None:
    one, other = torch.randn(4, 1, 3).double(), torch.randn(1, 5, 3).double()
    quotients, remainders = nearest_sums(one + other, torch.ones(4, 5).double())
    torch.testing.assert_close(quotients.unsqueeze(1) + remainders, one + other)


def test_collisions_are_counted_by_reads() -> None:
    """Places 1 to 6 in two buckets: 1, 3, 5 and 2, 4, 6; of the latter only 4 is read."""
    sharing = Sharing("hash", np.arange(7), 1, 2, ordered=False)
    reads = np.array([50, 7, 0, 3, 9, 0, 0])
    assert sharing.bucket.tolist() == [-1, 0, 1, 0, 1, 0, 1]
    assert collisions(sharing, reads) == 7 + 3
    pairs = Sharing("quotient_remainder", np.arange(7), 1, 2, ordered=False)
    assert collisions(pairs, reads) == 0


def test_hashing_by_hand(
    tiny_artifact: Artifact, make_context: Make, tiny: Prepared, file_hashes
) -> None:
    before = file_hashes(tiny_artifact.folder)
    outcome = share_rows(
        tiny_artifact, make_context(), method="hash", buckets=6, fields=("product",), min_rows=9
    )
    assert file_hashes(tiny_artifact.folder) == before
    products = np.asarray(tiny.splits["train"].arrays["candidates"][:, 0])
    reads = np.bincount(products, minlength=31)
    assert reads[0] == 0
    assert (reads[1:] > 0).all()
    found = effects(outcome)
    assert found["table_bytes"] == (31 * 32, 7 * 32, None)
    assert found["table_rows"] == (31, 7, None)
    assert found["collisions"] == (0, 100, None)  # each bucket has five products that are read
    assert found["reads_of_own_rows"] == (100, 0, None)
    assert outcome.notes[0] == (
        f"most collisions: 100.00 % of {PRODUCT}'s training reads are of ids that share their "
        "vector with another one that is read"
    )
    was = load_module(tiny_artifact).get_parameter(f"{PRODUCT}.weight").detach().double()
    layer = load_module(outcome.artifact).get_submodule(PRODUCT)
    assert torch.equal(layer(torch.tensor([0])), was[:1].float())
    for bucket in range(6):
        members = torch.arange(1 + bucket, 31, 6)
        weights = torch.from_numpy(reads[members]).double()
        mean = (weights @ was[members] / weights.sum()).float()
        torch.testing.assert_close(layer(members), mean.expand(5, 8))


@pytest.mark.parametrize("method", METHODS)
def test_hot_ids_are_exact_and_the_share_is_reached(
    method: str, tiny_artifact: Artifact, make_context: Make, tiny: Prepared
) -> None:
    outcome = share_rows(
        tiny_artifact,
        make_context(),
        method=method,
        buckets=4,
        hot_share=0.3,
        fields=("product",),
        min_rows=9,
    )
    reads = np.bincount(tiny.splits["train"].arrays["candidates"][:, 0], minlength=31)
    order = np.argsort(-reads, kind="stable")
    hot = order[: int(np.searchsorted(np.cumsum(reads[order]), 0.3 * reads.sum())) + 1]
    own = 100 * reads[hot].sum() / reads.sum()
    assert effects(outcome)["reads_of_own_rows"] == (100, pytest.approx(own), 30)
    lost = {"hash": 100 - own, "quotient_remainder": 0}[method]
    assert effects(outcome)["collisions"][1] == pytest.approx(lost)
    was = load_module(tiny_artifact).get_submodule(PRODUCT)
    layer = load_module(outcome.artifact).get_submodule(PRODUCT)
    assert isinstance(layer, HashedRows)
    assert layer.order is not None  # made products aren't numbered by traffic
    assert outcome.notes[2].startswith("31 places are stored, 4 bytes each")
    for ids in (torch.from_numpy(hot), torch.tensor([0])):
        assert torch.equal(layer(ids), was(ids))
    others = torch.from_numpy(np.setdiff1d(np.arange(31), [0, *hot]))
    assert not torch.isclose(layer(others), was(others)).all(dim=1).any()
    assert len(torch.unique(layer(torch.arange(31)), dim=0)) == (
        31 if method == "quotient_remainder" else 1 + len(hot) + 4
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ordered", [False, True])
def test_exported_rows_are_the_same_on_every_engine(
    method: str, ordered: bool, tiny_artifact: Artifact, make_context: Make, tiny: Prepared
) -> None:
    made = share_rows(
        tiny_artifact,
        make_context("made"),
        method=method,
        buckets=5,
        hot_rows=4 if ordered else 1,
        min_rows=20,
    ).artifact
    tuned = finetune(made, make_context("tuned"), epochs=0.5).artifact
    onnx = export_onnx(tuned, make_context("onnx")).artifact
    assert (onnx.parameters, onnx.embedding_parameters) == (
        tuned.parameters,
        tuned.embedding_parameters,
    )
    batch = random_feeds(onnx, tiny, sizes=(4, 31), seed=3)
    batch["candidates"][..., 0] = np.arange(31)
    with OrtCpu(onnx, threads=1) as one, OpenVinoCpu(onnx, threads=1) as other:
        np.testing.assert_allclose(one.score(batch), other.score(batch), atol=1e-4)
    half = convert_fp16(onnx, make_context("half")).artifact
    with OrtCpu(onnx, threads=1) as one, OrtCpu(half, threads=1) as other:
        np.testing.assert_allclose(one.score(batch), other.score(batch), atol=0.05)
    coded = quantize_tables(onnx, make_context("coded"), form="plain", min_rows=6)
    assert effects(coded)["table_bytes"][1] < effects(coded)["table_bytes"][0]


def test_the_unknown_rows_of_a_fused_table_are_exact(
    tiny_artifact: Artifact, make_context: Make
) -> None:
    """41 households, 8 weekdays, 31 products, 7 brands: their unknown rows are 0, 41, 49, 80."""
    fused = fuse_tables(tiny_artifact, make_context("fused")).artifact
    made = share_rows(fused, make_context("made"), compression=1.5, min_rows=20).artifact
    was, layer = (load_module(a).inputs.tables.rows for a in (fused, made))
    unknown = torch.tensor([0, 41, 49, 80])
    assert torch.equal(layer(unknown), was(unknown))
    assert made.model.layers["inputs.tables.rows"]["hot"] == 4
    export_onnx(made, make_context("onnx"))


@pytest.mark.parametrize("spec", [SASREC, TIED])
def test_a_tied_table_is_left_and_said(
    spec: ModelSpec, tiny_sequences: Prepared, tmp_path: Path
) -> None:
    artifact = save_lists(tiny_sequences, spec, tmp_path / "lists")
    context = lists_context(tiny_sequences, artifact, tmp_path / "made")
    with pytest.raises(EffectError, match=r"read by more than the layer itself|tied to score"):
        share_rows(artifact, context, buckets=5, min_rows=10)


def test_what_can_not_be_is_one_sentence(tiny_artifact: Artifact, make_context: Make) -> None:
    def refused(name: str, message: str, **how: object) -> None:
        with pytest.raises((EffectError, UnsupportedError), match=message):
            share_rows(tiny_artifact, make_context(name), min_rows=20, **how)

    refused("a", "give compression or buckets, not both", compression=2.0, buckets=3)
    refused("b", "give hot_share or hot_rows, not both", hot_share=0.5, hot_rows=3)
    refused("c", "compression 1 makes no table smaller; expected above 1", compression=1.0)
    refused("d", r"\(it wouldn't shrink\)", buckets=400)
    refused("e", r"30 rows of their own leave room for -", hot_rows=30, compression=2.0)
    refused("f", r"leave room for 9, expected 14 or more", compression=4.0)
    refused("g", r"'shop' matches no table", buckets=3, fields=("shop",))
