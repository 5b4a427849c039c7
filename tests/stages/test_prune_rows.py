"""Rows pruned by traffic: which are kept, what the others read, and the bytes that it takes."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifact import Artifact
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.errors import EffectError, UnsupportedError
from harness.stages.base import Context
from harness.stages.graphs import random_feeds
from harness.stages.prune_rows import kept_rows, prune, prune_rows
from harness.stages.quantize_tables import quantize_tables
from harness.tables import Prepared

COUNTS = np.array([0, 5, 1, 3, 0, 1])
ZERO = np.array([0])


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (0.5, [0, 1]),  # 5 of 10 reads
        (0.51, [0, 1, 3]),
        (0.9, [0, 1, 2, 3]),  # of rows 2 and 5, read once each, the first
        (1.0, [0, 1, 2, 3, 5]),
        (0.0, [0]),
    ],
)
def test_the_most_read_rows_are_kept(share: float, kept: list[int]) -> None:
    found = kept_rows(COUNTS, ZERO, share=share, max_rows=None)
    np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize(
    ("rows", "kept"), [(1, [0]), (2, [0]), (3, [0, 1]), (5, [0, 1, 2, 3]), (6, [0, 1, 2, 3, 4, 5])]
)
def test_the_shared_row_counts_as_one(rows: int, kept: list[int]) -> None:
    found = kept_rows(COUNTS, ZERO, share=None, max_rows=rows)
    np.testing.assert_array_equal(found, kept)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.floats(0, 1))
def test_what_is_kept_has_its_share_and_no_row_too_many(counts: list[int], share: float) -> None:
    reads = np.array(counts)
    kept = kept_rows(reads, np.array([], np.int64), share=share, max_rows=None)
    assert reads[kept].sum() >= share * reads.sum()
    if len(kept) > 1:
        assert np.sort(reads[kept])[1:].sum() < share * reads.sum()
    assert len(np.unique(kept)) == len(kept)


def test_the_others_become_their_mean_by_traffic() -> None:
    table = np.arange(12, dtype=np.float32).reshape(6, 2)
    made = prune(table, COUNTS, np.array([0, 1]))
    np.testing.assert_array_equal(made.remap, [0, 1, 2, 2, 2, 2])
    # Rows 2, 3, 4, 5 with weights 1, 3, 0, 1.
    mean = (table[2] + 3 * table[3] + table[5]) / 5
    np.testing.assert_allclose(made.rows, [table[0], table[1], mean])
    assert (made.reads, made.fallen) == (10, 5)
    assert made.bytes == 3 * 2 * 4 + 6 * 4
    np.testing.assert_allclose(made.decode(np.array([[4, 1]])), [[mean, table[1]]])
    unread = prune(table, COUNTS, np.array([0, 1, 2, 3, 5]))
    np.testing.assert_array_equal(unread.rows[-1], table[4])
    assert unread.fallen == 0


def test_kept_ids_score_as_before_and_the_others_alike(
    onnx_artifact: Artifact, make_context: Callable[..., Context], tiny: Prepared, file_hashes
) -> None:
    before = file_hashes(onnx_artifact.folder)
    outcome = prune_rows(
        onnx_artifact, make_context("p"), share=0.5, fields=("product",), min_rows=9
    )
    assert file_hashes(onnx_artifact.folder) == before
    made = outcome.artifact
    products = np.asarray(tiny.splits["train"].arrays["candidates"][:, 0])
    counts = np.bincount(products, minlength=31)
    kept = kept_rows(counts, ZERO, share=0.5, max_rows=None)
    fallen = 100 * (1 - counts[kept].sum() / counts.sum())
    effects = {e.name: (e.before, e.after, e.asked) for e in outcome.effects}
    assert effects["table_rows"] == (31, len(kept) + 1, None)
    assert effects["table_bytes"] == (31 * 32, (len(kept) + 1) * 32 + 31 * 4, None)
    assert effects["fallback_traffic"] == (0, pytest.approx(fallen), 50)
    assert "(not asked for)" in outcome.notes[-1]
    assert outcome.notes[0] == (
        f"most reads of a fallback row: {fallen:.2f} % of inputs.tables.2.weight's"
    )
    batch = random_feeds(made, tiny, sizes=(4, 31), seed=3)
    batch["candidates"][...] = np.stack([np.arange(31), np.ones(31, np.int64)], axis=1)
    batch["candidate_values"][...] = 0
    with OrtCpu(onnx_artifact, threads=1) as old, OrtCpu(made, threads=1) as new:
        was, now = (engine.score(batch).reshape(4, 31) for engine in (old, new))
    with OpenVinoCpu(made, threads=1) as openvino:
        np.testing.assert_allclose(openvino.score(batch).reshape(4, 31), now, atol=1e-4)
    np.testing.assert_allclose(was[:, kept], now[:, kept], atol=1e-6)
    others = np.setdiff1d(np.arange(31), kept)
    np.testing.assert_allclose(now[:, others], now[:, others[:1]].repeat(len(others), 1), atol=1e-6)
    assert np.abs(was[:, others] - now[:, others]).max() > 0.01


def test_pruned_tables_are_quantised_afterwards(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    pruned = prune_rows(onnx_artifact, make_context("p"), max_rows=12, min_rows=20)
    effects = {e.name: (e.before, e.after, e.asked) for e in pruned.effects}
    assert effects["table_rows"] == (72, 24, 24)
    assert effects["fallback_traffic"][2] is None
    made = quantize_tables(pruned.artifact, make_context("q"), form="plain", min_rows=12)
    narrow = {e.name: e for e in made.effects}
    assert narrow["quantised_rows"].after == 24
    operators = [node.op_type for node in onnx.load(made.artifact.file).graph.node]
    assert operators.count("Gather") == onnx_gathers(onnx_artifact) + 2 * 3


def onnx_gathers(artifact: Artifact) -> int:
    return sum(node.op_type == "Gather" for node in onnx.load(artifact.file).graph.node)


def test_tables_that_would_not_shrink_stay(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(EffectError, match=r"no effect; .*0\.weight \(it wouldn't shrink\)"):
        prune_rows(onnx_artifact, make_context("a"), share=1.0, min_rows=1)
    with pytest.raises(UnsupportedError, match="give share or max_rows, not both"):
        prune_rows(onnx_artifact, make_context("b"), share=0.9, max_rows=5)
    with pytest.raises(EffectError, match=r"no embedding table to change; .*\(41 rows\)"):
        prune_rows(onnx_artifact, make_context("c"))
