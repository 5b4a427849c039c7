"""Rows in codes: error bounds, rows apart from each other, exact cases, memory."""

import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from harness.errors import DataError
from harness.stages.row_codes import CHUNK, Grid, joined, quantise_rows, spans, stored_bytes

KINDS = st.tuples(
    st.sampled_from([4, 8]),
    st.sampled_from(["fp16", "fp32"]),
    st.sampled_from(["offset", "zero_point"]),
)
TABLES = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


def random_table(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def test_by_hand() -> None:
    table = np.array([[0.0, 1.0, 2.0, 15.0], [-3.0, 12.0, 0.0, 1.5]], np.float32)
    made = quantise_rows(table, bits=4)
    np.testing.assert_array_equal(made.scale, [[1], [1]])
    np.testing.assert_array_equal(made.base, [[0], [-3]])
    # Codes 0 1 2 15 and 3 - 3, 12 + 3, 3, 4.5 -> 4; column k below column k + 2.
    np.testing.assert_array_equal(
        made.codes, [[0 + 16 * 2, 1 + 16 * 15], [0 + 16 * 3, 15 + 16 * 4]]
    )
    expected = [[0, 1, 2, 15], [-3, 12, 0, 1]]
    np.testing.assert_array_equal(made.decode(np.array([0, 1])), expected)
    np.testing.assert_allclose(made.error, [0, 0.5 / np.sqrt(9 + 144 + 2.25)], rtol=1e-6)
    assert made.bytes == 2 * (2 + 4 + 4) == stored_bytes(2, 4, bits=4, scale_bytes=4)


def test_a_zero_that_is_a_code() -> None:
    table = np.array([[-5.0, 10.0, 0.0, 2.0], [3.0, 15.0, 6.0, 6.0]], np.float32)
    made = quantise_rows(table, bits=4, grid="zero_point")
    np.testing.assert_array_equal(made.base, [[5], [0]])  # a range holds 0, also that from 3 to 15
    np.testing.assert_array_equal(
        made.codes, [[0 + 16 * 15, 5 + 16 * 7], [3 + 16 * 15, 6 + 16 * 6]]
    )
    np.testing.assert_array_equal(made.decode(np.arange(2)), table)
    assert made.bytes == stored_bytes(2, 4, bits=4, scale_bytes=4, grid="zero_point") == 2 * 7


@settings(max_examples=150)
@given(TABLES, KINDS)
def test_no_value_is_further_away_than_half_a_step(
    table: np.ndarray, kind: tuple[Literal[4, 8], Literal["fp16", "fp32"], Grid]
) -> None:
    bits, scales, grid = kind
    made = quantise_rows(table, bits=bits, scales=scales, grid=grid)
    found = made.decode(np.arange(len(table))).astype(np.float64)
    largest = np.abs(table).max(axis=1, keepdims=True)
    # Beside half a step: what the last addition rounds, and half precision where that's the result.
    rounded = 2.0**-11 if (scales, grid) == ("fp16", "zero_point") else 2.0**-22
    allowed = made.scale.astype(np.float64) / 2 + largest * rounded + 1e-7
    assert (np.abs(found - table) <= allowed).all()


@given(TABLES, KINDS, st.randoms(use_true_random=False))
def test_rows_in_another_order_give_the_same_codes(table, kind, random) -> None:
    bits, scales, grid = kind
    order = list(range(len(table)))
    random.shuffle(order)
    one = quantise_rows(table, bits=bits, scales=scales, grid=grid, search=True)
    two = quantise_rows(table[order], bits=bits, scales=scales, grid=grid, search=True)
    for name in ("codes", "scale", "base", "error"):
        np.testing.assert_array_equal(getattr(one, name)[order], getattr(two, name))


@given(TABLES, KINDS)
def test_the_search_never_makes_it_worse(table, kind) -> None:
    bits, scales, grid = kind
    plain = quantise_rows(table, bits=bits, scales=scales, grid=grid)
    searched = quantise_rows(table, bits=bits, scales=scales, grid=grid, search=True)
    assert (searched.error <= plain.error).all()


def test_the_search_cuts_a_long_tail() -> None:
    table = np.random.default_rng(3).standard_t(3, size=(200, 64)).astype(np.float32)
    plain, searched = (quantise_rows(table, bits=4, search=s).error.mean() for s in (False, True))
    assert searched < 0.95 * plain


@pytest.mark.parametrize("grid", ["offset", "zero_point"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_huge_value_hurts_its_own_row_alone(bits: Literal[4, 8], grid: Grid) -> None:
    table = random_table(CHUNK // 16 + 50, 16)
    huge = table.copy()
    huge[7, 3] = 1e30
    calm, hurt = (quantise_rows(t, bits=bits, grid=grid) for t in (table, huge))
    others = np.arange(len(table)) != 7
    np.testing.assert_array_equal(calm.codes[others], hurt.codes[others])
    np.testing.assert_array_equal(calm.scale[others], hurt.scale[others])
    assert hurt.decode(np.array([7]))[0, 3] == pytest.approx(1e30, rel=1e-6)


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("grid", ["offset", "zero_point"])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_one_value_and_of_zeros_are_exact(
    bits: Literal[4, 8], grid: Grid, search: bool
) -> None:
    values = np.array([0.1, -0.1, 0.0, 3e-30, -7.3e20, 123456.7], np.float32)
    table = np.repeat(values[:, None], 5, axis=1)
    made = quantise_rows(table, bits=bits, grid=grid, search=search)
    np.testing.assert_array_equal(made.decode(np.arange(6)), table)
    np.testing.assert_array_equal(made.error, 0)


def test_rows_of_one_value_with_half_precision_scales() -> None:
    table = np.repeat(np.array([[0.1], [-0.1], [0.0], [777.7], [0.5]], np.float32), 3, axis=1)
    made = quantise_rows(table, bits=4, scales="fp16").decode(np.arange(5))
    np.testing.assert_allclose(made, table, rtol=2.0**-20)  # a scale and an offset: 11 bits each
    np.testing.assert_array_equal(made[[2, 4]], table[[2, 4]])


def test_ids_keep_their_shape_and_odd_columns_come_back() -> None:
    table = random_table(9, 7)
    ids = np.array([[[8, 0]], [[3, 3]]])
    for grid in ("offset", "zero_point"):
        made = quantise_rows(table, bits=4, grid=grid)
        assert made.codes.shape == (9, 4)
        np.testing.assert_allclose(made.decode(ids), table[ids], atol=0.3)


@pytest.mark.parametrize("search", [False, True])
def test_rows_that_have_no_codes_are_named(search: bool) -> None:
    table = random_table(CHUNK // 8 + 20, 8)
    table[-2, 5] = np.nan
    with pytest.raises(DataError, match=rf"items, row {len(table) - 2}: a value is not finite"):
        quantise_rows(table, bits=8, where="items", search=search)
    table[-2, 5] = -1e6
    with pytest.raises(DataError, match=rf"row {len(table) - 2}: .*set scales: fp32"):
        quantise_rows(table, bits=8, scales="fp16", search=search)
    quantise_rows(table, bits=8, search=search)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scales", ["fp16", "fp32"])
def test_rows_that_stand_together(bits: Literal[4, 8], scales: Literal["fp16", "fp32"]) -> None:
    table = random_table(50, 7)
    apart = quantise_rows(table, bits=bits, scales=scales)
    together = joined(apart)
    assert together.rows is not None
    parts = [np.ascontiguousarray(a).view(np.uint8) for a in (apart.codes, apart.scale, apart.base)]
    np.testing.assert_array_equal(together.rows, np.concatenate(parts, axis=1))
    assert together.bytes == apart.bytes == together.rows.nbytes
    np.testing.assert_array_equal(together.decode(np.arange(50)), apart.decode(np.arange(50)))


def test_sizes_above_32_bits() -> None:
    rows, dim = 2**27 + 3, 48
    assert rows * dim > 2**32
    assert stored_bytes(rows, dim, bits=8, scale_bytes=4) == rows * 56
    assert stored_bytes(rows, dim, bits=4, scale_bytes=2) == rows * 28
    assert stored_bytes(rows, dim, bits=16, scale_bytes=4) == rows * 96
    found = np.array(list(spans(rows, dim)), dtype=np.int64)
    assert found[0, 0] == 0
    assert found[-1, 1] == rows
    np.testing.assert_array_equal(found[1:, 0], found[:-1, 1])
    assert ((found[:, 1] - found[:, 0]) * dim <= CHUNK).all()
    first, end = (int(at) for at in found[-1])
    far = np.broadcast_to(random_table(1, dim), (rows, dim))[
        first:end
    ]  # starts above 2**32 numbers
    made = quantise_rows(far, bits=8)
    np.testing.assert_allclose(made.decode(np.array([end - first - 1])), far[-1:], atol=0.02)


def test_a_row_wider_than_a_chunk_is_a_chunk() -> None:
    assert list(spans(3, CHUNK + 1)) == [(0, 1), (1, 2), (2, 3)]
    assert list(spans(0, 8)) == []


LARGE = """
import numpy as np
from harness.stages.row_codes import quantise_rows
from harness.suites.worker import peak_bytes
table = np.random.default_rng(0).standard_normal((1 << 21, 32), dtype=np.float32)
before = peak_bytes()
made = quantise_rows(table, bits=8)
spent = peak_bytes() - before
print(spent, made.bytes + made.error.nbytes, float(made.error.max()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_table_takes_its_codes_and_a_few_chunks() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    spent, kept, worst = (float(word) for word in done.stdout.split())
    assert kept == 2**21 * (32 + 8 + 4)
    assert spent < kept + 24e6  # 1 MB a chunk, some of them at a time
    assert worst < 0.02
