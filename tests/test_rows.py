"""A row's result does not depend on which other rows or batches are computed with it.

Bit by bit for the tiled implementations, at one `Config`.  ``numpy`` leaves its products
to BLAS, which may sum in another order for another shape: at equal shapes bit by bit too,
else within its error bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, Call, calls
from targets import Target


def _same(target: Target, got: np.ndarray, whole: np.ndarray, size: float) -> None:
    if target.tiled:
        np.testing.assert_array_equal(got, whole)
    else:
        bound = 16 * size * oracle.EPSILON[got.dtype.name]
        oracle.assert_close(got.astype(float), whole.astype(float), bound, "row")


def _fixed(call: Call) -> dict[str, int]:
    """Every tunable given: defaults may follow the shape."""
    return {"block_q": 16, "block_k": 16, "keys_per_split": 64, "threads": 2, **call.tunables}


def _positional(call: Call) -> dict[str, Any]:
    """The call's arguments with `align` an array over the batch axes."""
    arguments = dict(call.arguments)
    q, k, v = call.arrays
    batch = np.broadcast_shapes(*(a.shape[:-3] for a in call.arrays))
    align = arguments.get("align", "top_left")
    if isinstance(align, str):
        counts = arguments.get("kv_lengths", k.shape[-2])
        align = 0 if align == "top_left" else np.asarray(counts) - q.shape[-2]
    arguments["align"] = np.broadcast_to(align, batch)
    return arguments


@given(call=calls(smallest=1), data=st.data())
def test_some_of_the_queries(target: Target, call: Call, data: st.DataObject) -> None:
    """A run of query rows computed alone gives what it gives among the others."""
    q, k, v = call.arrays
    start = data.draw(st.integers(0, q.shape[-2] - 1), "start")
    stop = data.draw(st.integers(start + 1, q.shape[-2]), "stop")
    arguments = _positional(call)
    whole, lse = target.both(q, k, v, tunables=_fixed(call), **arguments)
    arguments["align"] = arguments["align"] + start
    mask = arguments.get("mask")
    if mask is not None and mask.ndim >= 2 and mask.shape[-2] > 1:
        arguments["mask"] = mask[..., start:stop, :]
    part, part_lse = target.both(q[..., start:stop, :], k, v, tunables=_fixed(call), **arguments)
    size = float(np.abs(v.astype(float)).max(initial=0))
    _same(target, part, whole[..., start:stop, :], size)
    if target.tiled:
        np.testing.assert_array_equal(part_lse, lse[..., start:stop])


@given(call=calls(smallest=1, features=("causal", "window", "kv_lengths", "softcap", "align")))
def test_one_batch_entry_or_head(target: Target, call: Call) -> None:
    """A batch entry, then a key head, computed alone."""
    q, k, v = call.arrays
    arguments = _positional(call)
    whole = target.attention(q, k, v, tunables=_fixed(call), **arguments)
    size = float(np.abs(v.astype(float)).max(initial=0))
    if q.ndim == 2:
        return _same(
            target,
            target.attention(q[None], k[None], v[None], tunables=_fixed(call), **arguments)[0],
            whole,
            size,
        )
    batch = whole.shape[:-3]
    full = [np.broadcast_to(a, batch + a.shape[-3:]) for a in (q, k, v)]
    lengths = arguments.pop("kv_lengths", None)
    align = arguments.pop("align")
    at = tuple(n - 1 for n in batch)
    one = dict(arguments, align=int(align[at]))
    if lengths is not None:
        one["kv_lengths"] = int(np.broadcast_to(lengths, batch)[at])
    entry = [a[at] for a in full]
    _same(target, target.attention(*entry, tunables=_fixed(call), **one), whole[at], size)
    group = q.shape[-3] // k.shape[-3]
    head = entry[0][-group:], entry[1][-1:], entry[2][-1:]
    _same(target, target.attention(*head, tunables=_fixed(call), **one), whole[at][-group:], size)
    single = head[0][-1], head[1][0], head[2][0]
    return _same(
        target, target.attention(*single, tunables=_fixed(call), **one), whole[at][-1], size
    )


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("other", [1e-6, 3e4, np.nan], ids=str)
def test_values_of_other_rows(target: Target, dtype: np.dtype, other: float) -> None:
    """Whatever the other queries hold, at equal shapes no bit of a row changes."""
    rng = np.random.default_rng(3)
    q, k, v = rng.standard_normal((3, 2, 3, 41, 24)).astype(dtype)
    tunables = {"block_q": 16, "block_k": 16, "threads": 2}
    for arguments in ({}, {"causal": True}, {"sinks": np.ones(3, np.float32)}):
        whole = target.attention(q, k, v, tunables=tunables, **arguments)
        for row in (0, 15, 16, 40):
            changed = np.full_like(q, other)
            changed[..., row, :] = q[..., row, :]
            got = target.attention(changed, k, v, tunables=tunables, **arguments)
            np.testing.assert_array_equal(got[..., row, :], whole[..., row, :])


@given(call=calls(smallest=1), data=st.data())
def test_threads_and_query_blocks_change_nothing(
    tiled: Target, call: Call, data: st.DataObject
) -> None:
    """Who computes a row, and beside which others, is no part of its sum."""
    fixed = {**_fixed(call), "threads": 1}
    whole, lse = tiled.both(*call.arrays, tunables=fixed, **call.arguments)
    other = {
        **fixed,
        "threads": data.draw(st.sampled_from([2, 3]), "threads"),
        "block_q": data.draw(st.sampled_from([1, 3, 8, 32, 100]), "block_q"),
    }
    got, got_lse = tiled.both(*call.arrays, tunables=other, **call.arguments)
    np.testing.assert_array_equal(got, whole)
    np.testing.assert_array_equal(got_lse, lse)


@given(call=calls())
def test_the_same_call_twice(target: Target, call: Call) -> None:
    """Two equal calls give equal bits."""
    first = target.both(*call.arrays, tunables=call.tunables, **call.arguments)
    second = target.both(*call.arrays, tunables=call.tunables, **call.arguments)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_sum_that_underflows_has_one_sign(target: Target, dtype: str) -> None:
    """Whether or not keys that only other rows see add 0 to it."""
    far, tiny = (-700, -1e-308) if dtype == "float64" else (-20, -1e-38)
    k, v = np.zeros((1, 40, 1)), np.ones((1, 40, 20))
    k[0, 1] = far
    v[0, :2] = [[0.0], [tiny]]  # the second row's sum is that of 0 and a product that underflows
    arrays = [x.astype(DTYPES[dtype]) for x in (np.ones((1, 40, 1)), k, v)]
    signs = [
        np.signbit(
            target.attention(
                *arrays, causal=True, scale=1.0, tunables={"block_q": block_q, "threads": 1}
            )
        )
        for block_q in (1, 8, 64)
    ]
    for other in signs[1:]:
        np.testing.assert_array_equal(other, signs[0])
