"""Every implementation and instruction set against the oracle, on generated calls."""

from __future__ import annotations

import layouts
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, FEATURES, Call, calls
from targets import Target


def _check(target: Target, call: Call) -> None:
    """The call's result and log-sum-exp are right, and nothing else was written."""
    inputs = [a.copy() for a in call.arrays]
    out = None if call.out is None else call.out.view
    before = None if call.out is None else call.out.raw.copy()
    got, lse = target.both(*call.arrays, out=out, tunables=call.tunables, **call.arguments)
    if call.out is not None:
        assert got is out
        assert call.out.only_the_view_differs(before)
    oracle.assert_agrees((got, lse), *call.arrays, **call.arguments)
    for array, kept in zip(call.arrays, inputs, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_agrees_with_the_oracle(target: Target, dtype: str, data: st.DataObject) -> None:
    """Any call: shapes, layouts, masks, alignments, lengths, softcap, sinks, scale, `out`."""
    target.require(DTYPES[dtype], drawn=False)
    _check(target, data.draw(calls(dtypes=(dtype,))))


@pytest.mark.parametrize("feature", FEATURES)
@given(data=st.data())
def test_each_feature_alone(target: Target, feature: str, data: st.DataObject) -> None:
    """A feature that others would hide."""
    call = data.draw(calls(features=(feature,), smallest=1))
    _check(target, call)


@given(call=calls())
def test_lse_is_no_part_of_the_result(target: Target, call: Call) -> None:
    """Asking for the log-sum-exp, or giving `out`, changes no bit of the result."""
    both, _ = target.both(*call.arrays, tunables=call.tunables, **call.arguments)
    alone = target.attention(
        *call.arrays,
        tunables=call.tunables,
        out=None if call.out is None else call.out.view,
        **call.arguments,
    )
    np.testing.assert_array_equal(both, alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", layouts.NAMES)
def test_views_are_read_in_place(target: Target, dtype: str, layout: str) -> None:
    """Each of q, k, v, mask and sinks as a view, along each axis, gives what a copy gives."""
    rng = np.random.default_rng(1)
    kind, shapes = DTYPES[dtype], {"q": (2, 4, 9, 6), "k": (2, 2, 13, 6), "v": (2, 2, 13, 10)}
    shapes |= {"mask": (2, 4, 9, 13), "sinks": (4,)}
    given_ = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        for axis in range(len(shape)):
            call = {n: layouts.filled(x, kind) for n, x in given_.items()}
            call[name] = view = layouts.filled(given_[name], kind, layout, axis)
            copies = {**call, name: view.copy()}
            got = target.attention(**call)
            expected = target.attention(**copies)
            bound = 32 * oracle.EPSILON[dtype]
            oracle.assert_close(got.astype(float), expected.astype(float), bound, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 3, 0, 5, 4), (2, 3, 5, 0, 4), (0, 3, 5, 5, 4), (2, 3, 0, 0, 4)]
)
def test_empty_axes(target: Target, dtype: str, shape: tuple[int, ...]) -> None:
    """No queries, no keys, no batch: zeros and lse = -inf of the right shape."""
    batch, heads, length_q, length_k, dim = shape
    q = np.ones((batch, heads, length_q, dim), DTYPES[dtype])
    k = np.ones((batch, heads, length_k, dim), DTYPES[dtype])
    v = np.ones((batch, heads, length_k, 7), DTYPES[dtype])
    out, lse = target.both(q, k, v, sinks=np.ones(heads, np.float32))
    assert out.shape == (batch, heads, length_q, 7)
    assert lse.shape == (batch, heads, length_q)
    assert not out.any()
    assert (lse == -np.inf).all()
