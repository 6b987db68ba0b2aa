"""NaN and infinity reach the rows that see them, and no other bit of the result."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import oracle
import pytest
from targets import Target, blocks, dtypes

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

HIDING: dict[str, dict[str, Any]] = {
    "bool": {"mask": np.arange(23) % 7 + np.arange(9)[:, None] > 4},
    "float": {
        "mask": np.where(np.arange(23) % 7 + np.arange(9)[:, None] > 4, 0.5, -np.inf).astype("f4")
    },
    "causal": {"causal": True, "align": 2},
    "causal_bottom_right": {"causal": True, "align": "bottom_right"},
    "window_left": {"window": (3, None), "align": 4},
    "window_right": {"window": (None, 2), "align": 4},
    "window": {"window": (2, 1), "align": 5},
    "kv_lengths": {"kv_lengths": np.array([11, 23])},
}


def _shown(arguments: dict[str, Any]) -> np.ndarray:
    """Visibility (2, 9, 23) of each of `HIDING`."""
    i, j = np.arange(9)[:, None], np.arange(23)
    if (mask := arguments.get("mask")) is not None:
        shown = mask if mask.dtype == bool else mask > -np.inf
    elif (lengths := arguments.get("kv_lengths")) is not None:
        return np.broadcast_to(j < lengths[:, None, None], (2, 9, 23))
    else:
        align = arguments["align"]
        left, right = arguments.get("window", (None, 0))
        place = i + (23 - 9 if align == "bottom_right" else align)
        shown = np.ones((9, 23), bool)
        shown &= j >= place - (99 if left is None else left)
        shown &= j <= place + (99 if right is None else right)
    return np.broadcast_to(shown, (2, 9, 23))


def _gqa(dtype: np.dtype) -> Arrays:
    """Two batches, four query heads over two key heads, 9 queries, 23 keys."""
    rng = np.random.default_rng(5)
    q = rng.standard_normal((2, 4, 9, 8)).astype(dtype)
    k, v = rng.standard_normal((2, 2, 2, 23, 8)).astype(dtype)
    return q, k, v


@dtypes
@blocks
@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=str)
def test_hidden_poison_does_not_leak(
    target: Target, dtype: np.dtype, tunables: dict[str, int], hiding: str, poison: float
) -> None:
    """NaN or infinity in a key or value reaches the rows that see it, and no other bit."""
    arguments = HIDING[hiding]
    shown = _shown(arguments)
    q, k, v = _gqa(dtype)
    clean, clean_lse = target.both(q, k, v, tunables=tunables, **arguments)
    oracle.assert_agrees((clean, clean_lse), q, k, v, **arguments)
    for j in (0, 6, 7, 12, 22):
        hidden = ~shown[:, :, j]
        for which in ("k", "v"):
            bad = {"k": k.copy(), "v": v.copy()}
            bad[which][:, 0, j, 3] = poison  # of key head 0: query heads 0 and 1
            out, lse = target.both(q, bad["k"], bad["v"], tunables=tunables, **arguments)
            np.testing.assert_array_equal(out[:, 2:], clean[:, 2:])
            for b, h in np.ndindex(2, 2):
                untouched = hidden[b]
                np.testing.assert_array_equal(out[b, h, untouched], clean[b, h, untouched])
                np.testing.assert_array_equal(lse[b, h, untouched], clean_lse[b, h, untouched])
                if which == "v":
                    seen = out[b, h, ~untouched].astype(float)
                    assert not np.isfinite(seen[:, 3]).any()
                    assert np.isfinite(np.delete(seen, 3, axis=1)).all()
                    np.testing.assert_array_equal(lse[b, h], clean_lse[b, h])
                elif np.isnan(poison):
                    assert np.isnan(out[b, h, ~untouched].astype(float)).all()
                    assert np.isnan(lse[b, h, ~untouched]).all()


@dtypes
@blocks
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=str)
def test_poisoned_query_stays_in_its_row(
    target: Target, dtype: np.dtype, tunables: dict[str, int], poison: float
) -> None:
    """The other rows keep every bit, and a poisoned row that sees nothing is zeros."""
    q, k, v = _gqa(dtype)
    mask = np.ones((9, 23), bool)
    mask[5] = False
    clean, clean_lse = target.both(q, k, v, mask=mask, tunables=tunables)
    q[1, 2, [4, 5], 1] = poison
    out, lse = target.both(q, k, v, mask=mask, tunables=tunables)
    assert not np.isfinite(out[1, 2, 4].astype(float)).any()
    assert not np.isfinite(lse[1, 2, 4])
    out[1, 2, 4], lse[1, 2, 4] = clean[1, 2, 4], clean_lse[1, 2, 4]
    np.testing.assert_array_equal(out, clean)
    np.testing.assert_array_equal(lse, clean_lse)
    assert not out[1, 2, 5].any()


@dtypes
@blocks
@pytest.mark.parametrize("at", [0, 8, 22])
def test_plus_infinity_stays_in_its_row(
    target: Target, dtype: np.dtype, tunables: dict[str, int], at: int
) -> None:
    """A score of +inf, from a key or from the mask, makes NaN of the rows that see it."""
    q, k, v = np.ones((4, 1), dtype), np.zeros((23, 1)), np.ones((23, 3), dtype)
    k[at] = np.inf
    shown = np.ones((4, 23), bool)
    shown[2, at] = False
    added = np.zeros((4, 23), np.float32)
    added[[0, 1, 3], at] = np.inf
    for key, mask in ((k.astype(dtype), shown), (np.zeros((23, 1), dtype), added)):
        out, lse = target.both(q, key, v, mask=mask, scale=1.0, tunables=tunables)
        assert np.isnan(out[[0, 1, 3]].astype(float)).all()
        assert not np.isfinite(lse[[0, 1, 3]]).any()
        np.testing.assert_array_equal(out[2].astype(float), np.ones(3))


@dtypes
@blocks
def test_nan_in_a_mask_stays_in_its_row(
    target: Target, dtype: np.dtype, tunables: dict[str, int]
) -> None:
    """NaN is a number that is added, not -inf."""
    q, k, v = _gqa(dtype)
    mask = np.zeros((9, 23), np.float32)
    clean = target.attention(q, k, v, mask=mask, tunables=tunables)
    mask[3, 17] = np.nan
    out = target.attention(q, k, v, mask=mask, tunables=tunables)
    assert np.isnan(out[:, :, 3].astype(float)).all()
    out[:, :, 3] = clean[:, :, 3]
    np.testing.assert_array_equal(out, clean)


@dtypes
def test_no_warning_and_no_floating_point_error(target: Target, dtype: np.dtype) -> None:
    """Hard numbers are data: nothing is warned of, or raised, where the caller asks for it."""
    q, k, v = _gqa(dtype)
    k[0, 0, 3], v[0, 0, 3], q[0, 0, 2] = np.nan, np.inf, 60_000.0
    shown = np.ones((9, 23), bool)
    shown[4] = False
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        target.both(q, k, v, mask=shown, sinks=np.full(4, 300, np.float32), softcap=1e4)
        target.both(q, k, v, kv_lengths=np.array([0, 5]))
