"""Our own operators: the same bits as numpy on every instruction set, and clear errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from harness import native
from harness.errors import UnsupportedError

Run = Callable[[dict[str, np.ndarray]], np.ndarray]

FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64


pytestmark = pytest.mark.usefixtures("native_library")


def graph(op: str, inputs: dict[str, tuple[int, int]], **attributes: Any) -> ModelProto:
    """A graph of one operator, its inputs by name with type and rank."""
    node = helper.make_node(op, list(inputs), ["y"], domain=native.DOMAIN, **attributes)
    given = [
        helper.make_tensor_value_info(name, kind, [None] * rank)
        for name, (kind, rank) in inputs.items()
    ]
    out = helper.make_tensor_value_info("y", FLOAT, None)
    domains = [helper.make_opsetid("", 18), helper.make_opsetid(native.DOMAIN, 1)]
    made = helper.make_graph([node], "one", given, [out])
    return helper.make_model(made, opset_imports=domains, ir_version=10)


def session(model: ModelProto, *, threads: int = 1) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    native.add_operators(options, model)
    made = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: made.run(None, feeds)[0]


def bytes_of(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)


class Coded:
    """A random table in codes: its bytes as the operators read them, and its rows by numpy."""

    def __init__(self, rows: int, dim: int, *, bits: int, scale: str, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        half = (dim + 1) // 2
        stored = random.integers(0, 256, (rows, dim if bits == 8 else half), dtype=np.uint8)
        steps = random.random((rows, 1)).astype(scale)
        starts = random.normal(size=(rows, 1)).astype(scale)
        self.bytes = np.concatenate([stored, bytes_of(steps), bytes_of(starts)], axis=1)
        codes = stored if bits == 8 else np.concatenate([stored & 15, stored >> 4], axis=1)
        numbers = codes[:, :dim].astype(np.float32)
        self.rows = numbers * steps.astype(np.float32) + starts.astype(np.float32)
        self.attributes = {"bits": bits, "dim": dim, "scale_bytes": steps.itemsize}


def summed(rows: np.ndarray) -> np.ndarray:
    """Sums over the last but one axis, id by id in single precision."""
    total = np.zeros((*rows.shape[:-2], rows.shape[-1]), np.float32)
    for at in range(rows.shape[-2]):
        total = total + rows[..., at, :]
    return total


TABLES = [(bits, scale, dim) for bits in (4, 8) for scale in ("f4", "f2") for dim in (1, 7, 16, 50)]


@pytest.mark.parametrize(("bits", "scale", "dim"), [*TABLES, (4, "f2", 64), (8, "f4", 64)])
def test_rows_are_those_of_numpy(kernels: str, bits: int, scale: str, dim: int) -> None:
    table = Coded(40, dim, bits=bits, scale=scale)
    run = session(graph("Lookup", {"t": (UINT8, 2), "ids": (INT64, 2)}, **table.attributes))
    ids = np.random.default_rng(1).integers(0, 40, (6, 9))
    found = run({"t": table.bytes, "ids": ids})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, table.rows[ids])


@pytest.mark.parametrize(("bits", "scale", "dim"), [(8, "f4", 50), (4, "f2", 50), (4, "f2", 64)])
@pytest.mark.parametrize("weighted", [False, True])
def test_bags_are_those_of_numpy(
    kernels: str, bits: int, scale: str, dim: int, weighted: bool
) -> None:
    table = Coded(40, dim, bits=bits, scale=scale)
    inputs = {"t": (UINT8, 2), "ids": (INT64, 3), **({"w": (FLOAT, 3)} if weighted else {})}
    run = session(graph("Bag", inputs, **table.attributes, padding=-1))
    random = np.random.default_rng(1)
    ids = random.integers(0, 40, (3, 5, 7))
    weights = random.normal(size=ids.shape).astype(np.float32)
    weights[0, 0], weights[1, 1, 2:] = 0, 0
    rows = table.rows[ids]
    feeds = {"t": table.bytes, "ids": ids}
    if weighted:
        rows, feeds = rows * weights[..., None], {**feeds, "w": weights}
    np.testing.assert_array_equal(run(feeds), summed(rows))


def test_a_bag_of_nothing_is_zero(kernels: str) -> None:
    run = session(graph("FloatBag", {"t": (FLOAT, 2), "ids": (INT64, 2)}, padding=-1))
    table = np.ones((3, 5), np.float32)
    found = run({"t": table, "ids": np.zeros((4, 0), np.int64)})
    np.testing.assert_array_equal(found, np.zeros((4, 5)))
    assert run({"t": table, "ids": np.zeros((0, 2), np.int64)}).shape == (0, 5)


@pytest.mark.parametrize("op", ["Bag", "FloatBag"])
def test_padding_is_left_out(kernels: str, op: str) -> None:
    coded = Coded(40, 9, bits=8, scale="f4")
    kind, told = (UINT8, coded.attributes) if op == "Bag" else (FLOAT, {})
    run = session(graph(op, {"t": (kind, 2), "ids": (INT64, 2)}, padding=3, **told))
    ids = np.array([[3, 1, 3, 2], [3, 3, 3, 3], [3, 3, 3, 5]])
    table = coded.bytes if op == "Bag" else coded.rows
    found = run({"t": table, "ids": ids})
    np.testing.assert_array_equal(found[0], coded.rows[1] + coded.rows[2])
    np.testing.assert_array_equal(found[1], np.zeros(9))
    np.testing.assert_array_equal(found[2], coded.rows[5])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30),
    dim=st.integers(1, 40),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 6)),
    seed=st.integers(0, 99),
)
def test_bags_of_floats_are_those_of_numpy(
    rows: int, dim: int, shape: tuple[int, int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    table = random.normal(size=(rows, dim)).astype(np.float32)
    ids = random.integers(0, rows, shape)
    found = _float_bag({"t": table, "ids": ids})
    np.testing.assert_array_equal(found, summed(table[ids]))


def _float_bag(feeds: dict[str, np.ndarray]) -> np.ndarray:
    return session(graph("FloatBag", {"t": (FLOAT, 2), "ids": (INT64, 2)}, padding=-1))(feeds)


def interaction(
    table: np.ndarray, ids: np.ndarray, given: np.ndarray, shared: np.ndarray
) -> np.ndarray:
    own = np.concatenate([given, table[ids]], axis=2)
    rows, columns = np.tril_indices(own.shape[2], -1)
    flat = (*ids.shape[:2], -1)
    parts = (
        given.reshape(flat),
        _products(own[:, :, :, None], shared[:, None, None]).reshape(flat),
        _products(own[:, :, :, None], own[:, :, None])[:, :, rows, columns],
    )
    return np.concatenate(parts, axis=2)


def _products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Dot products over the last axis, column by column in single precision."""
    total = np.zeros(np.broadcast_shapes(one.shape[:-1], other.shape[:-1]), np.float32)
    for at in range(one.shape[-1]):
        total = total + one[..., at] * other[..., at]
    return total


DOTS = {"t": (FLOAT, 2), "ids": (INT64, 3), "given": (FLOAT, 4), "shared": (FLOAT, 3)}


@pytest.mark.parametrize(
    ("requests", "candidates", "fields", "given", "shared", "dim"),
    [
        (1, 40, 9, 1, 11, 16),
        (2, 7, 20, 2, 18, 32),
        (3, 2, 1, 0, 33, 8),
        (2, 3, 40, 0, 1, 10),
        (2, 2, 0, 2, 3, 16),
        (1, 5, 1, 0, 0, 7),
        (0, 4, 3, 1, 2, 4),
    ],
)
def test_interactions_are_those_of_numpy(
    kernels: str, requests: int, candidates: int, fields: int, given: int, shared: int, dim: int
) -> None:
    random = np.random.default_rng(0)
    feeds = {
        "t": random.normal(size=(50, dim)).astype(np.float32),
        "ids": random.integers(0, 50, (requests, candidates, fields)),
        "given": random.normal(size=(requests, candidates, given, dim)).astype(np.float32),
        "shared": random.normal(size=(requests, shared, dim)).astype(np.float32),
    }
    found = session(graph("Dots", DOTS))(feeds)
    width = given * dim + (fields + given) * shared + (fields + given) * (fields + given - 1) // 2
    assert found.shape == (requests, candidates, width)
    if requests:
        np.testing.assert_array_equal(found, interaction(*feeds.values()))


def test_given_and_shared_vectors_may_be_left_out() -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(9, 4)).astype(np.float32)
    ids = random.integers(0, 9, (2, 3, 5))
    found = session(graph("Dots", {"t": (FLOAT, 2), "ids": (INT64, 3)}))({"t": table, "ids": ids})
    none = np.zeros((2, 3, 0, 4), np.float32), np.zeros((2, 0, 4), np.float32)
    np.testing.assert_array_equal(found, interaction(table, ids, *none))


def test_two_threads_give_the_same() -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(300, 64)).astype(np.float32)
    ids = random.integers(0, 300, (500, 20))
    feeds = {"t": table, "ids": ids}
    model = graph("FloatBag", {"t": (FLOAT, 2), "ids": (INT64, 2)}, padding=-1)
    np.testing.assert_array_equal(session(model, threads=2)(feeds), summed(table[ids]))


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_an_id_outside_the_table_is_an_error(wrong: int) -> None:
    run = session(graph("FloatBag", {"t": (FLOAT, 2), "ids": (INT64, 2)}, padding=-1))
    with pytest.raises(Exception, match=rf"id {wrong} is outside the table's 3 rows"):
        run({"t": np.ones((3, 5), np.float32), "ids": np.array([[0, wrong]])})


@pytest.mark.parametrize(
    ("feeds", "told"),
    [
        ({"given": np.ones((1, 2, 1, 5), np.float32)}, "given vectors aren't"),
        ({"given": np.ones((1, 3, 1, 4), np.float32)}, "given vectors aren't"),
        ({"shared": np.ones((2, 1, 4), np.float32)}, "shared vectors aren't"),
    ],
)
def test_vectors_that_dont_fit_are_an_error(feeds: dict[str, np.ndarray], told: str) -> None:
    right = {
        "t": np.ones((9, 4), np.float32),
        "ids": np.zeros((1, 2, 3), np.int64),
        "given": np.ones((1, 2, 1, 4), np.float32),
        "shared": np.ones((1, 1, 4), np.float32),
    }
    with pytest.raises(Exception, match=told):
        session(graph("Dots", DOTS))({**right, **feeds})


def test_rows_of_another_width_are_an_error() -> None:
    table = Coded(5, 16, bits=8, scale="f4")
    run = session(graph("Lookup", {"t": (UINT8, 2), "ids": (INT64, 1)}, **table.attributes))
    with pytest.raises(Exception, match="isn't as wide as"):
        run({"t": table.bytes[:, :-1].copy(), "ids": np.array([0])})


def test_a_graph_says_whether_it_uses_them(tmp_path: Path) -> None:
    own = graph("FloatBag", {"t": (FLOAT, 2), "ids": (INT64, 2)}, padding=-1)
    other = ModelProto.FromString(own.SerializeToString())
    del other.opset_import[1]
    other.graph.node[0].domain = ""
    for model, expected in ((own, True), (other, False)):
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        for source in (model, path, str(path), path.read_bytes()):
            assert native.uses_operators(source) is expected
    path.write_bytes(b"")
    assert not native.uses_operators(path)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    native.library.cache_clear()
    with pytest.raises(UnsupportedError, match=r"no C\+\+ compiler \(no-such-compiler\)") as caught:
        native.library()
    native.library.cache_clear()
    assert caught.value.code == "no_package"


def test_what_the_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.cpp").write_text("int broken( {")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    native.library.cache_clear()
    with pytest.raises(UnsupportedError, match=r"can't build them \(.*broken\.cpp.*error"):
        native.library()
    native.library.cache_clear()
