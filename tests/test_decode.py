"""Blocks of few rows take other paths: the same bits as among many rows.

A block of at most half a vector of rows (with AVX-512 eight, of float64 four, of 16-bit types
sixteen) belongs to the decode kernel.  One of a single panel (up to 16 rows with AVX2) reads 16-bit
keys and values in place; `_MANY` rows in a block read copies.  All get the same `Config` but for
`block_q`.
"""

from __future__ import annotations

import itertools
from typing import Any

import layouts
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import Call, calls
from targets import Target, dtypes

_MANY = 4096
FEW = (1, 2, 3, 4)
PANEL = (7, 8, 13, 17)
WIDTHS = (1, 3, 4, 16, 64, 65, 128, 257, 600)
BLOCKS = (300, 1, 33, 64, 7)  # of keys
few_rows = pytest.mark.parametrize("rows", [*FEW, *PANEL])


def _rng() -> np.random.Generator:
    return np.random.default_rng(11)


def _assert_equal(got: np.ndarray, whole: np.ndarray) -> None:
    """Also NaN to NaN, which `assert_array_equal` knows of NumPy's own types."""
    np.testing.assert_array_equal(got.astype(np.float64), whole.astype(np.float64))


def _assert_same(
    native: Target, arrays: Any, tunables: dict[str, int], rows: int, **arguments: Any
) -> None:
    """In blocks of `rows` rows, and in one block."""
    whole, lse = native.both(*arrays, tunables={**tunables, "block_q": _MANY}, **arguments)
    got, got_lse = native.both(*arrays, tunables={**tunables, "block_q": rows}, **arguments)
    _assert_equal(got, whole)
    np.testing.assert_array_equal(got_lse, lse)


@dtypes
@pytest.mark.parametrize("dim", WIDTHS)
def test_every_width(native: Target, dtype: np.dtype, dim: int) -> None:
    """Remainders of sublanes, vectors, lines and chunks, in D and in Dv."""
    cases = zip((*FEW, 1), (dim, *WIDTHS[3:7]), BLOCKS, strict=True)
    panels = zip(PANEL, (dim, 8, 10, 132), BLOCKS[:4], strict=True)
    for rows, dim_v, block_k in (*cases, *panels):
        shapes = (70, dim), (75, dim), (75, dim_v)
        arrays = [_rng().standard_normal(shape).astype(dtype) for shape in shapes]
        _assert_same(native, arrays, {"block_k": block_k, "threads": 1}, rows)


@dtypes
@pytest.mark.parametrize("rows", [26, 66])
def test_a_last_narrow_panel_of_wide_heads(native: Target, dtype: np.dtype, rows: int) -> None:
    """Its taller tiles write scores past the last key, where the packed values begin."""
    q, k, v = (
        _rng().standard_normal((n, d)).astype(dtype) for n, d in ((rows, 54), (149, 54), (149, 139))
    )
    whole = native.attention(q, k, v, tunables={"block_k": 149, "block_q": _MANY, "threads": 1})
    for row in range(rows):
        alone = native.attention(q[row : row + 1], k, v, tunables={"block_k": 149, "threads": 1})
        _assert_equal(alone, whole[row : row + 1])


@dtypes
@pytest.mark.parametrize("kibibytes", [4, 8])
def test_rows_on_the_same_cache_sets(native: Target, dtype: np.dtype, kibibytes: int) -> None:
    """Values so far apart may be copied where others are read in place: the same bits."""
    q, k, v = (_rng().standard_normal((n, 20)).astype(dtype) for n in (150, 70, 70))
    apart = np.zeros((70, kibibytes * 1024 // dtype.itemsize), dtype)[:, :20]
    apart[:] = v
    tunables = {"block_k": 33, "threads": 1}
    whole = native.attention(q, k, v, tunables=tunables)
    _assert_equal(native.attention(q, k, apart, tunables=tunables), whole)


@dtypes
@pytest.mark.parametrize("keys", [16, 17, 33, 40])
def test_more_blocks_than_a_batch_has(native: Target, dtype: np.dtype, keys: int) -> None:
    """Keys of several blocks come before their values: also where blocks between are masked."""
    q, k, v = (_rng().standard_normal((n, 20)).astype(dtype) for n in (40, 70 * keys, 70 * keys))
    shown = _rng().random((40, 70 * keys)) < 0.7
    shown[:, 3 * keys : 5 * keys] = shown[:, 21 * keys : 22 * keys] = False
    v[4 * keys, 3] = v[50 * keys, 1] = np.nan
    shown[:, 50 * keys] = False
    tunables = {"block_k": keys, "keys_per_split": 2**20, "threads": 1}
    for arguments in {}, {"mask": shown}:
        for rows in FEW:
            _assert_same(native, (q, k, v), tunables, rows, **arguments)


@dtypes
@pytest.mark.parametrize("layout", layouts.NAMES)
def test_every_layout(native: Target, dtype: np.dtype, layout: str) -> None:
    """What is not adjacent or not aligned is copied first, or read a number at a time."""
    for name, axis in itertools.product("qkv", range(3)):
        arrays = {n: _rng().standard_normal((2, 37, 16)) for n in "qkv"}
        placed = {n: layouts.filled(x, dtype) for n, x in arrays.items()}
        placed[name] = layouts.filled(arrays[name], dtype, layout, axis)
        for rows in (1 + axis, PANEL[0]):
            _assert_same(native, placed.values(), {"block_k": 16, "threads": 1}, rows)


@given(call=calls(smallest=1), rows=st.sampled_from((*FEW, *PANEL)), data=st.data())
def test_any_call(native: Target, call: Call, rows: int, data: st.DataObject) -> None:
    """Every argument and layout, with numbers in k and v, seen or hidden, that are not finite."""
    q, k, v = call.arrays
    heads = q.shape[-3] // k.shape[-3] if q.ndim > 2 else 1
    assume(q.shape[-2] * heads > FEW[-1])
    odd = st.tuples(st.sampled_from([k, v]), st.sampled_from([np.nan, np.inf, -np.inf]))
    for array, number in data.draw(st.lists(odd, max_size=3), "odd numbers"):
        row = data.draw(st.integers(0, k.shape[-2] - 1), "row")
        array[..., row, data.draw(st.integers(0, array.shape[-1] - 1), "column")] = number
    tunables = {
        "block_k": data.draw(st.integers(1, 300), "block_k"),
        "keys_per_split": data.draw(st.sampled_from([2**20, 200, 64, 5]), "keys_per_split"),
        "threads": 1,
    }
    _assert_same(native, call.arrays, tunables, rows, **call.arguments)


def _features(dtype: np.dtype) -> dict[str, dict[str, Any]]:
    """What a call over 40 queries and 90 keys may have, one by one."""
    shown = _rng().random((40, 90)) < 0.6
    numbers = np.where(shown, _rng().standard_normal((40, 90)), -np.inf)
    return {
        "nothing": {},
        "causal": {"causal": True},
        "window": {"window": (7, 3)},
        "lengths": {"kv_lengths": 61},
        "bool mask": {"mask": shown},
        "float mask": {"mask": numbers.astype(np.float32)},
        "own mask": {"mask": numbers.astype(dtype)},
        "strided mask": {"mask": layouts.filled(shown, np.dtype(bool), "fortran")},
        "softcap": {"softcap": 2.0},
        "sinks": {"sinks": np.ones(1, np.float32)},
    }


@dtypes
@pytest.mark.parametrize("feature", _features(np.dtype(np.float32)))
def test_rows_in_a_call_of_their_own(native: Target, dtype: np.dtype, feature: str) -> None:
    """One to sixteen queries of forty, alone: hidden and seen values are NaN and infinite too."""
    arguments = {"align": 30, **_features(dtype)[feature]}
    q, k, v = (_rng().standard_normal((1, n, 20)).astype(dtype) for n in (40, 90, 90))
    v[:, 5, 3], v[:, 36, 0], v[:, 80] = np.inf, np.nan, -np.inf
    runs = (0, 1), (7, 9), (13, 16), (36, 40), (39, 40), (2, 10), (20, 36)
    for block_k, (start, stop) in itertools.product((1, 33), runs):
        tunables = {"block_k": block_k, "block_q": 64, "keys_per_split": 64, "threads": 1}
        whole, lse = native.both(q, k, v, tunables=tunables, **arguments)
        changed = {**arguments, "align": arguments["align"] + start}
        if "mask" in arguments:
            changed["mask"] = arguments["mask"][start:stop]
        got, got_lse = native.both(q[:, start:stop], k, v, tunables=tunables, **changed)
        _assert_equal(got, whole[:, start:stop])
        np.testing.assert_array_equal(got_lse, lse[:, start:stop])


@dtypes
@pytest.mark.parametrize("block_q", [*FEW, _MANY])
def test_values_are_added_in_the_order_of_their_keys(
    native: Target, dtype: np.dtype, block_q: int
) -> None:
    """With weights of 1, large values cancel before the small one comes, and only so."""
    values = np.zeros((40, 70))
    values[2], values[3], values[38] = 2.0**15, -(2.0**15), 2.0**-12
    if dtype == np.float64:
        values[2:4] *= 2.0**30
    v = values.astype(dtype)
    q, k = np.zeros((7, 4), dtype), np.zeros((40, 4), dtype)
    lone = np.zeros_like(v)
    lone[38] = v[38]
    tunables = {"block_k": 64, "block_q": block_q, "threads": 1}
    got = native.attention(q, k, v, tunables=tunables)
    assert got.any()
    np.testing.assert_array_equal(got, native.attention(q, k, lone, tunables=tunables))


@few_rows
@pytest.mark.parametrize("group", [1, 2, 4])
def test_few_rows_of_a_group(native: Target, rows: int, group: int) -> None:
    """The rows of a block may be heads of one query, or queries of several heads."""
    q = _rng().standard_normal((2, 3 * group, 6, 24)).astype(np.float32)
    k, v = _rng().standard_normal((2, 2, 3, 50, 24)).astype(np.float32)
    sinks = np.linspace(-3, 3, 3 * group).astype(np.float32)
    mask = _rng().random((2, 3 * group, 6, 50)) < 0.7
    arguments = {"sinks": sinks, "mask": mask, "causal": True, "align": "bottom_right"}
    _assert_same(native, (q, k, v), {"block_k": 12, "threads": 2}, rows, **arguments)
