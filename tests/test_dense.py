"""The dense mask, whose tiles are classified before their scores are computed.

An empty tile is skipped, the masked keys at the ends of another are cut off, and one that changes
nothing is not read again.  None of that may show: what masks the same keys, by whatever means,
gives the same bits.
"""

from __future__ import annotations

from typing import Any

import layouts
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, seeds
from targets import Target, dtypes

import fastattn

_SHAPE = (2, 45, 150)  # heads, queries, keys
_TUNABLES = {"block_q": 20, "block_k": 40, "threads": 1}
CLASSES = ("empty", "full", "partial")
BOOL = np.dtype(bool)


def _rng() -> np.random.Generator:
    return np.random.default_rng(13)


def _arrays(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> list[np.ndarray]:
    heads, queries, keys = shape
    shapes = (heads, queries, 12), (heads, keys, 12), (heads, keys, 9)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def _bits(native: Target, arrays: list[np.ndarray], **arguments: Any) -> np.ndarray:
    """Result and log-sum-exp side by side."""
    out, lse = native.both(*arrays, tunables=_TUNABLES, **arguments)
    return np.concatenate([out.astype(np.float64), lse[..., None].astype(np.float64)], axis=-1)


@st.composite
def _tiles(draw: st.DrawFn, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Booleans of `shape`, tile by tile all masked, all visible, or neither."""
    rows = draw(st.sampled_from([1, 4, 16, 50]))
    columns = draw(st.sampled_from([1, 7, 32, 64, 100]))
    chosen = draw(st.sets(st.sampled_from(CLASSES), min_size=1), "classes")
    parts = {"empty": 0.0, "full": 1.0, "partial": draw(st.sampled_from([0.02, 0.5, 0.98]))}
    shares = [parts[name] for name in CLASSES if name in chosen]
    grid = (*shape[:-2], -(-shape[-2] // rows), -(-shape[-1] // columns))
    share = rng.choice(shares, size=grid).repeat(rows, -2).repeat(columns, -1)
    return rng.random(shape) < share[..., : shape[-2], : shape[-1]]


@given(data=st.data())
def test_tiles_of_every_class(native: Target, data: st.DataObject) -> None:
    """Booleans and numbers, a mask for all heads or each, for all queries or each."""
    rng, dtype = data.draw(seeds()), data.draw(st.sampled_from(list(DTYPES.values())))
    heads, queries = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 60))
    shape = heads, queries, data.draw(st.integers(1, 400))
    own = tuple(n if data.draw(st.booleans()) else 1 for n in shape[:2])
    mask = data.draw(_tiles(rng, (*own, shape[2])))
    if data.draw(st.booleans(), "numbers"):
        numbers = rng.standard_normal(mask.shape) * data.draw(st.sampled_from([0.0, 2.0]))
        kind = data.draw(st.sampled_from([dtype, DTYPES["float32"]]))
        mask = np.where(mask, numbers, -np.inf).astype(kind)
    layout = data.draw(st.sampled_from(["contiguous", "stepped", "reversed", "unaligned"]))
    mask = layouts.filled(mask, mask.dtype, layout, 2)
    arrays = _arrays(rng, dtype, shape)
    tunables = {
        "block_q": data.draw(st.sampled_from([1, 4, 16, 100])),
        "block_k": data.draw(st.sampled_from([16, 33, 96, 300])),
    }
    expected = oracle.expect(*arrays, mask=mask)
    out, lse = native.both(*arrays, mask=mask, tunables=tunables)
    defined = fastattn.attention(*arrays, mask=mask, impl="numpy")
    oracle.assert_close(out, expected.out, expected.out_bound, "out")
    oracle.assert_close(lse, expected.lse, expected.lse_bound, "lse")
    oracle.assert_close(out, defined.astype(expected.out.dtype), 2 * expected.out_bound, "numpy")


@given(data=st.data())
def test_the_same_mask_in_other_forms(native: Target, data: st.DataObject) -> None:
    """Booleans, numbers of either type, full or broadcast, adjacent or not: the same bits."""
    rng, dtype = data.draw(seeds()), data.draw(st.sampled_from(list(DTYPES.values())))
    shown = data.draw(_tiles(rng, (1, *_SHAPE[1:]) if data.draw(st.booleans()) else _SHAPE))
    if data.draw(st.booleans(), "one row"):
        shown = shown[:, :1]
    arrays = _arrays(rng, dtype, _SHAPE)
    expected = _bits(native, arrays, mask=shown)
    numbers = np.where(shown, 0.0, -np.inf)
    forms = [
        np.ascontiguousarray(np.broadcast_to(shown, _SHAPE)),
        np.asfortranarray(shown),
        layouts.filled(shown, BOOL, "reversed", 2),
        numbers.astype(np.float32),
        numbers.astype(dtype),
        np.broadcast_to(numbers, _SHAPE).astype(dtype),
        layouts.filled(numbers, dtype, "unaligned"),
        layouts.filled(numbers, dtype, "stepped", 2),
    ]
    for form in forms:
        np.testing.assert_array_equal(_bits(native, arrays, mask=form), expected)


@dtypes
@pytest.mark.parametrize("form", ["bool", "numbers"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kv_lengths": 0},
        {"kv_lengths": 1},
        {"kv_lengths": 97},
        {"causal": True, "align": "top_left"},
        {"causal": True, "align": "bottom_right"},
        {"causal": True, "align": -20},
        {"window": (3, 5), "align": 60},
        {"window": (0, 0), "align": 0},
        {"window": (None, 40), "align": 0},
    ],
    ids=str,
)
def test_a_band_drawn_as_a_mask(
    native: Target, dtype: np.dtype, form: str, arguments: dict[str, Any]
) -> None:
    """The keys that are cut off are those that a band or a length leaves out."""
    ones = np.ones(_SHAPE[1:], dtype)
    keys = np.eye(_SHAPE[2], dtype=dtype)
    weights = fastattn.attention(ones[:, :1], ones[0, :, None], keys, impl="numpy", **arguments)
    mask = weights != 0
    if form == "numbers":
        mask = np.where(mask, 0, -np.inf).astype(np.float32)
    arrays = _arrays(_rng(), dtype, _SHAPE)
    np.testing.assert_array_equal(
        _bits(native, arrays, mask=mask), _bits(native, arrays, **arguments)
    )


@dtypes
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_hidden_keys_may_hold_anything(native: Target, dtype: np.dtype, odd: float) -> None:
    """At the ends of a tile, in its middle, and where it is skipped."""
    shown = np.zeros(_SHAPE[1:], bool)
    shown[:, 3:30] = shown[30:, 85:] = True
    shown[:, 90:95] = shown[::2, 10:20] = False
    hidden = ~shown.any(axis=0)
    assert hidden[[0, 30, 79, 92]].all()
    arrays = _arrays(_rng(), dtype, _SHAPE)
    masks = shown, np.where(shown, 1.0, -np.inf).astype(np.float32)
    expected = [_bits(native, arrays, mask=mask) for mask in masks]
    for array in arrays[1:]:
        array[:, hidden] = odd
    for mask, bits in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(_bits(native, arrays, mask=mask), bits)


@dtypes
@pytest.mark.parametrize("layout", ["contiguous", "reversed"])
def test_nothing_seen(native: Target, dtype: np.dtype, layout: str) -> None:
    """A mask wholly False, or of -inf alone, hides NaN too: zeros, and a sum of nothing."""
    arrays = _arrays(_rng(), dtype, _SHAPE)
    for array in arrays[1:]:
        array[...] = np.nan
    for mask in (np.zeros(_SHAPE, bool), np.full(_SHAPE, -np.inf)):
        kind = BOOL if mask.dtype == bool else dtype
        bits = _bits(native, arrays, mask=layouts.filled(mask, kind, layout, 2))
        assert not bits[..., :-1].any()
        assert (bits[..., -1] == -np.inf).all()


@dtypes
def test_one_number_that_changes_a_tile(native: Target, dtype: np.dtype) -> None:
    """A tile of zeros with a single other number is no tile of zeros, wherever that stands."""
    arrays = _arrays(_rng(), dtype, _SHAPE)
    plain = _bits(native, arrays)
    for row, key in ((0, 0), (19, 39), (20, 40), (44, 149), (7, 31), (3, 71), (44, 120)):
        for number in (-np.inf, 4.0, np.nan):
            mask = np.zeros(_SHAPE[1:], dtype)
            mask[row, key] = number
            changed = (_bits(native, arrays, mask=mask) != plain).any(axis=(0, 2))
            assert changed.nonzero()[0].tolist() == [row], (row, key, number)
