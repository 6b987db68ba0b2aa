"""Splits of the keys, each computed on its own, then merged.

Where a call has fewer than four blocks of rows for each thread its splits are distributed over the
threads; else one thread takes all splits of a block.  Neither may show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, Call, calls
from targets import Target, dtypes

import fastattn

splits = pytest.mark.parametrize("keys_per_split", [1, 5, 16, 31, 32, 33])
_KEYS = 32


def _rng() -> np.random.Generator:
    return np.random.default_rng(12)


def _arrays(dtype: Any, heads: int = 1, rows: int = 3) -> list[np.ndarray]:
    shapes = (heads, rows, 16), (heads, _KEYS, 16), (heads, _KEYS, 11)
    return [_rng().standard_normal(shape).astype(dtype) for shape in shapes]


def _arguments() -> dict[str, dict[str, Any]]:
    """Calls over three rows and 32 keys, in some of whose parts no row sees a key."""
    early, late, none = (np.zeros((3, _KEYS), bool) for _ in range(3))
    early[:, :2], late[:, -2:] = True, True
    mixed = np.stack([early[0], none[0], late[0]])
    numbers = np.where(mixed, _rng().standard_normal((3, _KEYS)), -np.inf).astype(np.float32)
    sinks = np.array([0.5], np.float32)
    return {
        "nothing hidden": {},
        "no keys": {"kv_lengths": 0},
        "one key": {"kv_lengths": 1},
        "17 keys": {"kv_lengths": 17},
        "window": {"window": (2, 2), "align": 14},
        "window past the end": {"window": (2, 2), "align": 40},
        "causal": {"causal": True, "align": 5},
        "before the first key": {"causal": True, "align": -2},
        "early mask": {"mask": early},
        "late mask": {"mask": late},
        "empty mask": {"mask": none, "sinks": sinks},
        "a mask for each row": {"mask": mixed, "sinks": sinks},
        "numbers": {"mask": numbers, "softcap": 3.0},
        "sinks": {"sinks": sinks},
        "a large sink": {"sinks": 1e4 * sinks, "kv_lengths": 17},
        "no sink": {"sinks": -np.inf * sinks},
        "lengths and sinks": {"kv_lengths": 17, "sinks": -10 * sinks},
    }


@dtypes
@splits
@pytest.mark.parametrize("rows", [3, 9])
def test_splits_agree_with_the_oracle(
    native: Target, dtype: np.dtype, keys_per_split: int, rows: int
) -> None:
    """Result and log-sum-exp, also where no key of a split is visible, for both kernels."""
    arrays = _arrays(dtype, rows=rows)
    tunables = {"keys_per_split": keys_per_split, "block_k": 8, "threads": 1}
    for arguments in _arguments().values():
        given_ = dict(arguments)
        if "mask" in given_:
            given_["mask"] = np.tile(given_["mask"], (rows // 3, 1))
        got = native.both(*arrays, tunables=tunables, **given_)
        oracle.assert_agrees(got, *arrays, **given_)


@dtypes
@pytest.mark.parametrize("seen", ["kv_lengths", "window", "mask"])
def test_splits_without_visible_keys_change_no_bit(
    native: Target, dtype: np.dtype, seen: str
) -> None:
    """Where all that is visible lies in one split, the bits are those of a single split."""
    shown = np.zeros((3, _KEYS), bool)
    shown[:, 17:23] = _rng().random((3, 6)) < 0.8
    arguments: dict[str, dict[str, Any]] = {
        "kv_lengths": {"kv_lengths": 7},
        "window": {"window": (1, 3), "align": 18},
        "mask": {"mask": shown},
    }
    arrays = _arrays(dtype)
    for sinks in (None, np.array([0.5], np.float32)):
        whole, split = (
            native.both(
                *arrays,
                tunables={"keys_per_split": keys_per_split, "block_k": 4, "threads": 1},
                sinks=sinks,
                **arguments[seen],
            )
            for keys_per_split in (_KEYS, 8)
        )
        np.testing.assert_array_equal(split[0], whole[0])
        np.testing.assert_array_equal(split[1], whole[1])


@given(call=calls(smallest=1), keys_per_split=st.sampled_from([4, 16, 50, 128]), data=st.data())
def test_who_computes_a_split_changes_nothing(
    native: Target, call: Call, keys_per_split: int, data: st.DataObject
) -> None:
    """One thread or several, splits distributed or not, blocks of few rows or of many."""
    fixed = {
        "block_q": 16,
        "block_k": 16,
        **call.tunables,
        "keys_per_split": keys_per_split,
        "threads": 1,
    }
    whole, lse = native.both(*call.arrays, tunables=fixed, **call.arguments)
    threads = data.draw(st.sampled_from([2, 3, 16]), "threads")
    block_q = data.draw(st.sampled_from([1, 4, 5, 64]), "block_q")
    for other in ({"threads": threads}, {"threads": threads, "block_q": block_q}):
        got, got_lse = native.both(*call.arrays, tunables={**fixed, **other}, **call.arguments)
        np.testing.assert_array_equal(got, whole)
        np.testing.assert_array_equal(got_lse, lse)


@dtypes
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_other_heads_and_entries_change_nothing(
    native: Target, dtype: np.dtype, threads: int
) -> None:
    """A head computed alone, its splits distributed, and in twenty entries of several heads."""
    arrays = _arrays(dtype, heads=3)
    arguments = {"window": (20, None), "align": 25, "kv_lengths": 29}
    tunables = {"keys_per_split": 7, "block_k": 4, "block_q": 8, "threads": threads}
    many = [np.broadcast_to(x, (20, *x.shape)) for x in arrays]
    whole, lse = native.both(*many, tunables=tunables, **arguments)
    for head in range(3):
        alone = [x[head] for x in arrays]
        got, got_lse = native.both(*alone, tunables=tunables, **arguments)
        for entry in range(20):
            np.testing.assert_array_equal(whole[entry, head], got)
            np.testing.assert_array_equal(lse[entry, head], got_lse)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rows", [1, 9])
def test_splits_are_added_in_the_order_of_their_keys(
    native: Target, threads: int, rows: int
) -> None:
    """With weights of 1, large values cancel before the small one comes, and only so."""
    q, k = np.zeros((rows, 1), np.float32), np.zeros((4, 1), np.float32)
    v = np.array([[2.0**30], [-(2.0**30)], [0], [4]], np.float32)
    got = native.attention(q, k, v, tunables={"keys_per_split": 1, "threads": threads})
    np.testing.assert_array_equal(got, np.ones((rows, 1)))


@pytest.mark.parametrize("peak", [0, 1, 2, 3])
def test_a_split_may_outweigh_the_others(native: Target, peak: int) -> None:
    """Scores that overflow every exponential, in one split or another."""
    k = np.full((4, 1), -3e38, np.float32)
    k[peak] = 3e38
    v = np.arange(4, dtype=np.float32)[:, None]
    q = np.ones((1, 1), np.float32)
    got, lse = native.both(q, k, v, scale=1.0, tunables={"keys_per_split": 1})
    assert got[0, 0] == peak
    assert lse[0] == np.float32(3e38)


def _keys_per_split(shapes: list[tuple[int, ...]], dtype: np.dtype, **tunables: int) -> int:
    arrays = [np.broadcast_to(np.zeros((), dtype), shape) for shape in shapes]
    config = fastattn.Config(**tunables)
    resolved = fastattn.explain(*arrays, impl="cython", config=config).config.keys_per_split
    assert resolved is not None
    return resolved


@given(
    rows=st.integers(1, 100),
    length_k=st.integers(0, 200_000),
    batch=st.integers(1, 100),
    heads=st.integers(1, 40),
    dims=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    dtype=st.sampled_from(list(DTYPES.values())),
    threads=st.integers(1, 64),
)
def test_default_follows_rows_and_keys_alone(
    native: Target,
    rows: int,
    length_k: int,
    batch: int,
    heads: int,
    dims: tuple[int, int],
    dtype: np.dtype,
    threads: int,
) -> None:
    """So a head's bits do not change with the number of heads; few splits, one of few keys."""
    dim, dim_v = dims
    keys = (length_k, dim), (length_k, dim_v)
    keys_per_split = _keys_per_split([(rows, dim), *keys], dtype)
    grouped = [(batch, heads * rows, 1, dim), *((batch, heads, *x) for x in keys)]
    assert _keys_per_split(grouped, dtype, threads=threads) == keys_per_split
    queries = [(batch, heads, rows, dim), *((batch, heads, *x) for x in keys)]
    assert _keys_per_split(queries, dtype, threads=threads) == keys_per_split
    count = -(-length_k // keys_per_split)
    assert count <= -(-1024 // rows)
    assert count <= 1 or (keys_per_split >= 1024 and rows <= 64)
    assert length_k <= 1024 or rows > 64 or count > 1


def test_default_splits_of_a_long_decoding_step(native: Target) -> None:
    """The default splits it, and what it splits is right."""
    q, k, v = (_rng().standard_normal((n, 8)).astype(np.float32) for n in (2, 5000, 5000))
    assert fastattn.explain(q, k, v, impl="cython").config.keys_per_split == 1024
    arguments = {"kv_lengths": 4100}
    got = native.both(q, k, v, **arguments)
    oracle.assert_agrees(got, q, k, v, **arguments)
