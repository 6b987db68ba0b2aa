"""Block sizes where the caller gives none: what holds for them whatever the caches and the tile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES

from fastattn._dtypes import lookup
from fastattn.implementations import cython_
from fastattn.implementations.cython_ import Tile

KIB = 1024
caches = st.one_of(
    st.just({}), st.integers(8 * KIB, 256 * KIB).map(lambda n: {"L1d": n}), st.just({"L2": 2**21})
)


def _spec(dtype: np.dtype, **extents: int) -> Any:
    """Only the facts that block sizes may follow."""
    return SimpleNamespace(dtype=lookup(dtype), **extents)


@st.composite
def _tiles(draw: st.DrawFn) -> Tile:
    """Those of the instruction sets and others."""
    lanes = draw(st.sampled_from([2, 4, 8, 16]))
    keys = draw(st.sampled_from([8, 16, 32]))
    return Tile(lanes, keys, lanes * draw(st.integers(1, 4)), 128, 128)


@given(
    length_k=st.one_of(st.integers(0, 3000), st.integers(0, 2**40)),
    keys_per_split=st.one_of(st.integers(1, 3000), st.just(2**48)),
    dims=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    tile=_tiles(),
    dtype=st.sampled_from(list(DTYPES.values())),
    caches_bytes=caches,
)
def test_blocks_of_keys(
    length_k: int,
    keys_per_split: int,
    dims: tuple[int, int],
    tile: Tile,
    dtype: np.dtype,
    caches_bytes: dict[str, int],
) -> None:
    """Weights fit L1 (or are of 32 keys), and no short block is left over in a part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cython_, "caches_bytes", lambda: caches_bytes)
        spec = _spec(dtype, length_k=length_k, dim=dims[0], dim_v=dims[1])
        block_k, why = cython_.default_block_k(spec, keys_per_split, tile)
    weights = block_k * tile.rows * lookup(dtype).compute.itemsize
    l1_bytes = caches_bytes.get("L1d", 32 * KIB)
    assert why
    assert block_k >= 1
    assert weights <= l1_bytes or block_k <= 32
    keys = max(1, min(length_k, keys_per_split))
    blocks = -(-keys // block_k)
    if blocks <= block_k // 2:  # else equal blocks of whole keys need not exist
        last = keys - (blocks - 1) * block_k
        assert 2 * last >= block_k - tile.keys, "a short block is left over"


@pytest.mark.parametrize(
    ("dtype", "dim", "wanted"),
    [("float32", 64, 128), ("float32", 1024, 128), ("float64", 64, 128), ("float64", 1024, 64)],
)
def test_blocks_of_wide_heads_are_of_bytes(dtype: str, dim: int, wanted: int) -> None:
    """Their scores and a chunk of keys wait in L2, which holds half as many float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cython_, "caches_bytes", dict)
        spec = _spec(np.dtype(dtype), length_k=1920, dim=dim, dim_v=64)
        assert cython_.default_block_k(spec, 1920, Tile(4, 16, 8, 128, 128))[0] == wanted


@pytest.mark.parametrize(
    ("dim", "packed", "wanted"), [(64, 2, 1024), (1024, 2, 256), (1024, 6, 64)]
)
def test_packed_blocks_fit_half_of_l2(dim: int, packed: int, wanted: int) -> None:
    """Where keys and values are packed, their copies are read again for each panel of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cython_, "caches_bytes", lambda: {"L2": 2 * 1024 * 1024})
        spec = _spec(np.dtype("float32"), length_k=4096, dim=dim, dim_v=dim)
        tile = Tile(16, 32, 32, 1024, 2**31 - 1, packed)
        assert cython_.default_block_k(spec, 4096, tile)[0] == wanted


@given(
    batch=st.integers(1, 64),
    heads_kv=st.integers(1, 16),
    group=st.integers(1, 8),
    length_q=st.one_of(st.integers(1, 300), st.integers(1, 100_000)),
    dims=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    dtype=st.sampled_from(list(DTYPES.values())),
    threads=st.integers(1, 64),
    tile=_tiles(),
)
def test_blocks_of_rows(
    batch: int,
    heads_kv: int,
    group: int,
    length_q: int,
    dims: tuple[int, int],
    dtype: np.dtype,
    threads: int,
    tile: Tile,
) -> None:
    """Whole vectors that fit some MiB, no more of them than a head has; work for every thread.

    Where there is work for all: some hundred rows or more of one thread's share.
    """
    heads_q = heads_kv * group
    spec = _spec(
        dtype,
        batch=batch,
        heads_q=heads_q,
        heads_kv=heads_kv,
        length_q=length_q,
        dim=dims[0],
        dim_v=dims[1],
    )
    vector, lanes = tile.lanes, tile.rows
    block_q, why = cython_.default_block_q(spec, threads, tile)
    assert why
    assert block_q >= vector
    assert block_q % vector == 0
    assert block_q < length_q * group + lanes
    largest, mib = (2048, 8) if tile.packed else (512, 2)
    assert block_q <= largest + lanes
    row_bytes = sum(dims) * lookup(dtype).compute.itemsize
    assert (block_q - lanes) * row_bytes <= mib * KIB**2
    items = batch * heads_kv * -(-length_q * group // block_q)
    share = batch * heads_q * length_q / threads
    if share >= 256 + lanes:
        assert items >= threads


@pytest.mark.parametrize(
    ("heads", "length_q", "threads", "wanted"),
    [(1, 384, 2, 4), (1, 768, 4, 8), (3, 1000, 16, 48), (8, 2048, 2, 64), (1, 384, 1, 1)],
)
def test_few_blocks_of_rows_are_shared_out_evenly(
    heads: int, length_q: int, threads: int, wanted: int
) -> None:
    """No thread waits for another's whole block: three on two threads take as long as four."""
    spec = _spec(
        np.dtype("float32"),
        batch=1,
        heads_q=heads,
        heads_kv=heads,
        length_q=length_q,
        dim=64,
        dim_v=64,
    )
    block_q, _ = cython_.default_block_q(spec, threads, Tile(8, 16, 16, 128, 128))
    assert heads * -(-length_q // block_q) == wanted


def test_two_threads_share_a_head_that_no_tile_divides() -> None:
    """Seven tiles of 64 queries, the last of 16, are not four and three."""
    spec = _spec(
        np.dtype("float32"), batch=1, heads_q=1, heads_kv=1, length_q=400, dim=400, dim_v=400
    )
    assert cython_.default_block_q(spec, 2, Tile(16, 16, 64, 128, 128))[0] == 208
