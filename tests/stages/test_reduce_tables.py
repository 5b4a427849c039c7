"""Tables of fewer columns: the nearest product, its bytes, what it leaves alone, what follows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_lists import SASREC, TIED, lists_context, save_lists

from harness.artifact import Artifact, ModelSpec
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.errors import EffectError, UnsupportedError
from harness.modules import load_module, save_module
from harness.objectives import predict
from harness.stages.base import Context, Outcome
from harness.stages.distill import distill
from harness.stages.export_onnx import export_onnx
from harness.stages.finetune import finetune
from harness.stages.fold_tables import fold_tables
from harness.stages.fuse_tables import fuse_tables
from harness.stages.graphs import random_feeds
from harness.stages.prune_channels import prune_channels
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.stages.quantize_tables import quantize_tables
from harness.stages.reduce_tables import reduce_table, reduce_tables
from harness.stages.share_rows import share_rows
from harness.stages.share_user import share_user
from harness.tables import Prepared

Make = Callable[..., Context]
PRODUCT, USER = "inputs.tables.2", "inputs.tables.0"


def effects(outcome: Outcome) -> dict[str, tuple[float, float, float | None]]:
    return {effect.name: (effect.before, effect.after, effect.asked) for effect in outcome.effects}


def test_the_directions_of_the_rows_that_are_read() -> None:
    """Ten reads of (1, 0) outweigh one of (0, 2), which alone is the longer."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    once = reduce_table(rows, np.array([1, 1]), energy=None, rank=1)
    assert once.directions.abs().flatten().tolist() == [0, 1]
    assert once.energy == pytest.approx(4 / 5)
    by_reads = reduce_table(rows, np.array([10, 1]), energy=None, rank=1)
    assert by_reads.directions.abs().flatten().tolist() == [1, 0]
    assert by_reads.energy == pytest.approx(10 / 14)
    assert reduce_table(rows, np.array([10, 1]), energy=10 / 14, rank=None).rank == 1
    assert reduce_table(rows, np.array([10, 1]), energy=0.72, rank=None).rank == 2


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31), st.integers(1, 6))
def test_no_other_product_of_the_rank_is_nearer(rows: int, dim: int, seed: int, rank: int) -> None:
    """Eckart and Young: the squared error is what the other singular values squared add up to."""
    random = np.random.default_rng(seed)
    table, weights = random.normal(size=(rows, dim)), random.integers(0, 9, size=rows)
    made = reduce_table(torch.from_numpy(table), weights, energy=None, rank=rank)
    projected = table @ made.directions.numpy() @ made.directions.numpy().T
    error = float(weights @ np.square(table - projected).sum(axis=1))
    values = np.linalg.svd(np.sqrt(weights)[:, None] * table, compute_uv=False)
    assert error == pytest.approx(float(np.square(values[made.rank :]).sum()), abs=1e-8)


def with_rank(artifact: Artifact, rank: int, folder: Path) -> Artifact:
    """The artifact with a table of products of just that rank."""
    module = load_module(artifact)
    random = torch.manual_seed(4)
    with torch.no_grad():
        weight = module.get_parameter(f"{PRODUCT}.weight")
        rows, dim = weight.shape
        left, right = torch.randn(rows, rank, generator=random), torch.randn(rank, dim)
        weight.copy_(left @ right)
    folder.mkdir()
    return save_module(module, artifact, folder)


def test_a_table_of_low_rank_stays_what_it_is(
    tiny_artifact: Artifact, make_context: Make, tiny: Prepared, tmp_path: Path, file_hashes
) -> None:
    given_artifact = with_rank(tiny_artifact, 3, tmp_path / "low")
    before = file_hashes(given_artifact.folder)
    outcome = reduce_tables(
        given_artifact, make_context(), energy=0.999999, fields=("product",), min_rows=9
    )
    assert file_hashes(given_artifact.folder) == before
    found = effects(outcome)
    assert found[f"rank:{PRODUCT}"] == (8, 3, None)
    assert found["table_bytes"] == (31 * 8 * 4, (31 + 8) * 3 * 4, None)
    assert found["energy"] == (1, pytest.approx(1), 0.999999)
    assert found["read_error"] == (0, pytest.approx(0, abs=1e-5), None)
    assert found["parameters"][0] - found["parameters"][1] == 31 * 8 - (31 + 8) * 3
    assert found["macs"][1] - found["macs"][0] == 3 * 8  # of each candidate's product
    was, now = (
        predict(load_module(a), tiny, tiny.splits["test"], a.inputs)
        for a in (given_artifact, outcome.artifact)
    )
    np.testing.assert_allclose(now, was, atol=1e-4)


def test_rank_bytes_and_error_by_traffic(
    tiny_artifact: Artifact, make_context: Make, tiny: Prepared
) -> None:
    outcome = reduce_tables(tiny_artifact, make_context(), rank=3, min_rows=20)
    found = effects(outcome)
    size = (41 + 31) * 8 * 4, (41 + 8 + 31 + 8) * 3 * 4
    assert found["table_bytes"] == (*size, size[1])
    assert found[f"rank:{USER}"] == found[f"rank:{PRODUCT}"] == (8, 3, 3)
    assert outcome.notes == (
        "tables left alone: inputs.tables.1 (8 rows), inputs.tables.3 (7 rows)",
    )
    before, after = (load_module(a) for a in (tiny_artifact, outcome.artifact))
    train = tiny.splits["train"]
    users = train.arrays["user"][:, 0][train.request_of_row]
    error = length = 0.0
    for name, ids in ((USER, users), (PRODUCT, train.arrays["candidates"][:, 0])):
        read = torch.from_numpy(np.asarray(ids).astype(np.int64))
        right = before.get_submodule(name)(read)
        error += (after.get_submodule(name)(read) - right).square().sum().item()
        length += right.square().sum().item()
    assert found["read_error"][1] == pytest.approx((error / length) ** 0.5, rel=1e-4)


def test_weighting_by_reads_serves_what_is_read(
    tiny_artifact: Artifact, make_context: Make
) -> None:
    errors = [
        effects(
            reduce_tables(tiny_artifact, make_context(how), rank=2, min_rows=20, weighting=how)
        )["read_error"][1]
        for how in ("reads", "rows")
    ]
    assert errors[0] < errors[1]


def test_what_comes_after(tiny_artifact: Artifact, make_context: Make, tiny: Prepared) -> None:
    reduced = reduce_tables(tiny_artifact, make_context("reduced"), rank=3, min_rows=20).artifact
    shared = share_rows(
        reduced, make_context("shared"), buckets=6, fields=(f"{PRODUCT}.rows",), min_rows=20
    ).artifact
    assert list(shared.model.layers) == [USER, PRODUCT, f"{PRODUCT}.rows"]
    tuned = finetune(shared, make_context("tuned"), epochs=0.5).artifact
    assert tuned.model == shared.model
    taught = distill(tuned, make_context("taught"), epochs=0.5).artifact
    pruned = prune_channels(taught, make_context("pruned"), ratio=0.5, layers=("top.*",)).artifact
    onnx = export_onnx(pruned, make_context("onnx")).artifact
    assert onnx.parameters == pruned.parameters
    coded = quantize_tables(onnx, make_context("coded"), form="plain", min_rows=20)
    assert effects(coded)["table_bytes"][1] < effects(coded)["table_bytes"][0]
    made = quantize_dynamic(coded.artifact, make_context("int8")).artifact
    batch = random_feeds(made, tiny, sizes=(5, 9), seed=2)
    with OrtCpu(onnx, threads=1) as one, OpenVinoCpu(onnx, threads=1) as other:
        np.testing.assert_allclose(one.score(batch), other.score(batch), atol=1e-4)
    with OrtCpu(made, threads=1) as engine:
        assert np.isfinite(engine.score(batch)).all()


@pytest.mark.parametrize("rewrite", [share_user, fold_tables, fuse_tables])
def test_rewrites_come_first(
    rewrite: Callable[..., Outcome], mlp_artifact: Artifact, make_context: Make
) -> None:
    reduced = reduce_tables(mlp_artifact, make_context("r"), rank=3, min_rows=40).artifact
    message = (
        rf"^{rewrite.__name__}: layers of model 'mlp' have another form: inputs\.tables\.0 "
        rf"\(low_rank_table\); put {rewrite.__name__} before"
    )
    with pytest.raises(UnsupportedError, match=message):
        rewrite(reduced, make_context("after"))
    first = rewrite(mlp_artifact, make_context("first")).artifact
    if rewrite is not fold_tables:  # which leaves no table
        reduce_tables(first, make_context("then"), rank=3, min_rows=40)


@pytest.mark.parametrize("spec", [SASREC, TIED])
def test_a_tied_table_is_left_and_said(
    spec: ModelSpec, tiny_sequences: Prepared, tmp_path: Path
) -> None:
    artifact = save_lists(tiny_sequences, spec, tmp_path / "lists")
    context = lists_context(tiny_sequences, artifact, tmp_path / "made")
    reason = {
        "sasrec": r"catalogue\.vectors \(its weights are read by more than the layer itself\)",
        "file": r"emb \(tied to score\.weight\)",
    }[spec.name]
    with pytest.raises(EffectError, match=reason):
        reduce_tables(artifact, context, rank=2, min_rows=10)
    assert not list(context.folder.iterdir())


def test_the_other_tables_of_a_model_of_lists_may_change(
    tiny_sequences: Prepared, tmp_path: Path
) -> None:
    spec = ModelSpec("mf_ranking", {"dim": 8, "top": 20})
    artifact = save_lists(tiny_sequences, spec, tmp_path / "lists")
    context = lists_context(tiny_sequences, artifact, tmp_path / "made")
    outcome = reduce_tables(artifact, context, rank=2, min_rows=10)
    assert list(outcome.artifact.model.layers) == ["users"]
    assert effects(outcome)["table_bytes"] == (301 * 32, (301 + 8) * 8, (301 + 8) * 8)
    assert "catalogue.vectors (its weights are read" in outcome.notes[0]
    tuned = finetune(outcome.artifact, replace(context, folder=_folder(tmp_path)), epochs=0.5)
    module = load_module(tuned.artifact)
    assert module.catalogue.vectors.weight[0].eq(0).all()


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tuned"
    folder.mkdir()
    return folder


SHARED_TABLE = """
import torch
from torch import nn


class Rec(nn.Module):
    def __init__(self, n_users, n_items):
        super().__init__()
        self.user = nn.Embedding(n_users, 8)
        self.item = nn.Embedding(n_items, 8, padding_idx=0)
        self.same = self.item
        self.bag = nn.EmbeddingBag(n_items, 8)
        self.short = nn.Embedding(n_users, 8, max_norm=1.0)
        self.unused = nn.Embedding(500, 8)
        self.out = nn.Linear(32, 1)

    def forward(self, user, item):
        parts = [self.user(input=user), self.same(item), self.bag(item[:, None]), self.short(user)]
        return self.out(torch.cat(parts, 1)).squeeze(1)
"""


def test_every_table_left_alone_has_its_reason(
    save_artifact: Callable[..., Artifact], make_context: Make
) -> None:
    spec = ModelSpec("file", {"path": "model.py", "attribute": "Rec", "parameters": {}}, "model.py")
    artifact = save_artifact(spec, name="rec", source=SHARED_TABLE)
    outcome = reduce_tables(artifact, make_context(), rank=2, min_rows=20)
    assert list(outcome.artifact.model.layers) == ["user"]
    assert outcome.notes == (
        "tables left alone: item (tied to same.weight), bag (it is a EmbeddingBag), "
        "short (max_norm changes its rows as they are read), unused (nothing calls it)",
    )


def test_what_can_not_be_is_one_sentence(tiny_artifact: Artifact, make_context: Make) -> None:
    with pytest.raises(UnsupportedError, match="give energy or rank, not both"):
        reduce_tables(tiny_artifact, make_context("a"), energy=0.9, rank=2)
    with pytest.raises(EffectError, match=r"rank 8 of 8 wouldn't shrink it"):
        reduce_tables(tiny_artifact, make_context("b"), rank=8, min_rows=20)
    with pytest.raises(EffectError, match=r"'shop' matches no table; the tables are .*product"):
        reduce_tables(tiny_artifact, make_context("c"), rank=2, min_rows=20, fields=("shop",))
    with pytest.raises(EffectError, match=r"no embedding table to change; .*\(31 rows\)"):
        reduce_tables(tiny_artifact, make_context("d"), rank=2)
