"""Our search of a catalogue: the same bits as numpy on every instruction set, and clear errors."""

from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from harness import native
from harness.stages.native_scan import GROUP, Bits, pack_items, scan_node

INPUTS = {
    "queries": (TensorProto.FLOAT, 2),
    "codes": (TensorProto.UINT8, 2),
    "scales": (TensorProto.FLOAT, 1),
    "vectors": (TensorProto.FLOAT, 2),
    "hidden": (TensorProto.INT64, 2),
    "bias": (TensorProto.FLOAT, 1),
}
Lists = tuple[np.ndarray, np.ndarray]


pytestmark = pytest.mark.usefixtures("native_library")


def graph(names: list[str], **attributes: Any) -> ModelProto:
    node = scan_node(
        [name if name in names else "" for name in INPUTS][: 6 if "bias" in names else 5],
        ["scores", "items"],
        **attributes,
    )
    given = [helper.make_tensor_value_info(n, INPUTS[n][0], [None] * INPUTS[n][1]) for n in names]
    kinds = {"scores": TensorProto.FLOAT, "items": TensorProto.INT64}
    out = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    domains = [helper.make_opsetid("", 18), helper.make_opsetid(native.DOMAIN, 1)]
    made = helper.make_graph([node], "scan", given, out)
    return helper.make_model(made, opset_imports=domains, ir_version=10)


def search(feeds: dict[str, np.ndarray], *, threads: int = 1, **attributes: Any) -> Lists:
    model = graph(list(feeds), **attributes)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    native.add_operators(options, model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    scores, items = session.run(None, feeds)
    return scores, items


def coded(vectors: np.ndarray, bits: Bits) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers of vectors and their scales, without any packing."""
    limit = 127 if bits == 8 else 7
    largest = np.abs(vectors).max(axis=1)
    scales = np.where(largest > 0, largest / np.float32(limit), 1).astype(np.float32)
    return np.rint(vectors / scales[:, None]).astype(np.int64), scales


def products(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Exact scores as the operator sums: 16 sums of every sixteenth, then those in order."""
    wide = -(-vectors.shape[1] // 16) * 16
    each = np.zeros((len(vectors), wide), np.float32)
    each[:, : vectors.shape[1]] = vectors * query
    sums = np.zeros((len(vectors), 16), np.float32)
    for at in range(0, wide, 16):
        sums += each[:, at : at + 16]
    total = np.zeros(len(vectors), np.float32)
    for lane in range(16):
        total += sums[:, lane]
    return total


def expected(
    queries: np.ndarray,
    vectors: np.ndarray,
    *,
    bits: Bits,
    candidates: int,
    top: int,
    padding: int,
    hidden: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> Lists:
    """The lists by numpy: all scores by codes, the candidates' exactly."""
    codes, scales = coded(vectors, bits)
    scores = np.full((len(queries), top), -1e4, np.float32)
    items = np.zeros((len(queries), top), np.int64)
    for at, query in enumerate(queries):
        largest = np.abs(query).max(initial=0)
        step = np.float32(largest / np.float32(127) if largest > 0 else 1)
        whole = codes @ np.rint(query / step).astype(np.int64)
        rough = whole.astype(np.float32) * scales * step
        exact = products(vectors, query)
        if bias is not None:
            rough, exact = rough + bias[: len(vectors)], exact + bias[: len(vectors)]
        left = np.ones(len(vectors), bool)
        left[[i for i in (padding, *(hidden[at] if hidden is not None else ())) if i >= 0]] = False
        ids = np.flatnonzero(left)
        ids = ids[np.lexsort((ids, -rough[ids]))][:candidates]
        ids = ids[np.lexsort((ids, -exact[ids]))][:top]
        scores[at, : len(ids)], items[at, : len(ids)] = exact[ids], ids
    return scores, items


def made(items: int, dim: int, requests: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(items, dim)).astype(np.float32)
    return random.normal(size=(requests, dim)).astype(np.float32), vectors


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("items", "dim", "requests"), [(1, 1, 1), (37, 7, 3), (400, 24, 13), (2500, 50, 9)]
)
def test_lists_are_those_of_numpy(
    kernels: str, bits: Bits, items: int, dim: int, requests: int
) -> None:
    queries, vectors = made(items, dim, requests)
    vectors[items // 2] = 0  # an item of no direction
    queries[0] = 0  # which finds the first items
    codes, scales = pack_items(vectors, bits)
    how = {"bits": bits, "candidates": 20, "top": 6, "padding": 0}
    feeds = {"queries": queries, "codes": codes, "scales": scales, "vectors": vectors}
    scores, found = search(feeds, **how)
    right = expected(queries, vectors, **how)
    np.testing.assert_array_equal(found, right[1])
    np.testing.assert_array_equal(scores, right[0])


@pytest.mark.parametrize("bits", [8, 4])
def test_biases_count_and_hidden_items_are_never_found(kernels: str, bits: Bits) -> None:
    queries, vectors = made(200, 16, 5)
    codes, scales = pack_items(vectors, bits)
    random = np.random.default_rng(2)
    bias = np.pad(random.normal(size=200) * 3, (0, len(scales) - 200)).astype(np.float32)
    hidden = random.integers(0, 200, (5, 30))
    hidden[0] = 0
    how = {"bits": bits, "candidates": 200, "top": 200, "padding": 0}
    feeds = {"queries": queries, "codes": codes, "scales": scales, "vectors": vectors}
    scores, found = search({**feeds, "hidden": hidden, "bias": bias}, **how)
    right = expected(queries, vectors, hidden=hidden, bias=bias, **how)
    np.testing.assert_array_equal(found, right[1])
    np.testing.assert_array_equal(scores, right[0])
    for row, gone in zip(found, hidden, strict=True):
        assert not set(row[scores[0] > -1e4]) & set(gone) - {0}
    assert scores[0, 199] == -1e4


def test_of_equal_items_the_first_are_found(kernels: str) -> None:
    queries, vectors = made(3, 8, 4)
    many = np.tile(vectors[:1], (3000, 1))
    codes, scales = pack_items(many, 8)
    feeds = {"queries": queries, "codes": codes, "scales": scales, "vectors": many}
    _, found = search(feeds, bits=8, candidates=10, top=10, padding=-1)
    np.testing.assert_array_equal(found, np.tile(np.arange(10), (4, 1)))


@pytest.mark.parametrize("bits", [8, 4])
def test_two_threads_and_several_parts_give_the_same(bits: Bits) -> None:
    """140,000 items are two tasks for each 64 requests."""
    queries, vectors = made(140_000, 8, 70)
    codes, scales = pack_items(vectors, bits)
    feeds = {"queries": queries, "codes": codes, "scales": scales, "vectors": vectors}
    how = {"bits": bits, "candidates": 30, "top": 10, "padding": -1}
    one, two = search(feeds, **how), search(feeds, threads=2, **how)
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)
    few = slice(0, 3)
    right = expected(queries[few], vectors, **how)
    np.testing.assert_array_equal(one[1][few], right[1])
    np.testing.assert_array_equal(one[0][few], right[0])


def test_of_equal_items_in_several_parts_the_first_are_found() -> None:
    """What one part has found must be beaten in the next, not reached."""
    queries, vectors = made(1, 4, 2)
    many = np.tile(vectors, (140_000, 1))
    many[::1000] *= -1  # some are better, or worse, in either direction
    codes, scales = pack_items(many, 8)
    feeds = {"queries": queries, "codes": codes, "scales": scales, "vectors": many}
    how = {"bits": 8, "candidates": 200, "top": 150, "padding": -1}
    right = expected(queries, many, **how)
    for threads in (1, 2):
        scores, found = search(feeds, threads=threads, **how)
        np.testing.assert_array_equal(found, right[1])
        np.testing.assert_array_equal(scores, right[0])


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_codes_lie_where_they_are_read(data: st.DataObject) -> None:
    """Unpacked by the rule of the layout, they are the plain codes."""
    bits: Literal[4, 8] = data.draw(st.sampled_from([4, 8]))
    items, dim = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    _, vectors = made(items, dim, 1, seed=data.draw(st.integers(0, 99)))
    packed, scales = pack_items(vectors, bits)
    codes, plain = coded(vectors, bits)
    assert len(scales) == len(packed) * GROUP
    np.testing.assert_array_equal(scales[:items], plain)
    for item in range(items):
        for at in range(dim):
            group, lane = divmod(item, GROUP)
            step, inside = divmod(at, 4 if bits == 8 else 8)
            byte = int(packed[group, (step * GROUP + lane) * 4 + inside % 4])
            code = byte if bits == 8 else byte >> 4 if inside >= 4 else byte & 15
            assert code - (128 if bits == 8 else 8) == codes[item, at]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"queries": np.ones((1, 9), np.float32)}, "don't fit the vectors"),
        ({"codes": np.ones((2, 5), np.uint8)}, "don't fit the vectors"),
        ({"scales": np.ones(20, np.float32)}, "don't fit the vectors"),
        ({"hidden": np.ones((2, 1), np.int64)}, "hidden items aren't"),
    ],
)
def test_what_doesnt_fit_is_an_error(changes: dict[str, np.ndarray], told: str) -> None:
    queries, vectors = made(20, 8, 1)
    codes, scales = pack_items(vectors, 8)
    feeds = {"queries": queries, "codes": codes, "scales": scales, "vectors": vectors, **changes}
    with pytest.raises(Exception, match=told):
        search(feeds, bits=8, candidates=5, top=5, padding=-1)


@pytest.mark.parametrize("changes", [{"bits": 5}, {"top": 0}, {"candidates": 3}])
def test_attributes_are_checked(changes: dict[str, int]) -> None:
    queries, vectors = made(20, 8, 1)
    codes, scales = pack_items(vectors, 8)
    feeds = {"queries": queries, "codes": codes, "scales": scales, "vectors": vectors}
    with pytest.raises(Exception, match="bits are 4 or 8, top at least 1, candidates at least top"):
        search(feeds, **{"bits": 8, "candidates": 5, "top": 5, "padding": -1, **changes})
