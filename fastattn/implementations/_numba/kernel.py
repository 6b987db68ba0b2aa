"""The attention kernel in Numba: one thread's part.

Purpose: `kernel`, which takes work items until there are none.
Non-goals: threads and memory (`numba_`); one block of rows (`panels`), one of keys
(`block`, `few`), one tile (`tiles`, `strips`).

Scores are held transposed, keys down and queries across ("panels"), so that the maximum
and sum over keys are taken lane by lane: nothing is ever reduced across a register, and
a row's result does not depend on what the other lanes hold.

    for each block of keys:                          absolute multiples of BLOCK_K
        S^T[key, query]  = K Q^T                      in chunks of CHUNK features
        m, l, P^T        = softmax of S^T             relative to the block's maximum
        O^T[feature, query] = O^T alpha + V^T P^T beta    [1]_ algorithm 3

A block's weights are relative to its own maximum, so that blocks may be computed in any
order, by several threads, and then joined in one order: the result has the same bits.  A few
rows alone (decoding) are computed as they lie, with keys or features along the lanes.

The G query heads that share a key head are rows of one problem:
row r is query ``r % Lq`` of head ``r // Lq``.

.. [1] Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018,
   arXiv:1805.02867.
.. [2] Dao et al., "FlashAttention", 2022, arXiv:2205.14135.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (Numba infers the types: `like` is of the compute type, all else int64.)

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

from fastattn.implementations._numba.block import key_block
from fastattn.implementations._numba.few import few_block, join_part
from fastattn.implementations._numba.intrinsics import (
    batch_table,
    claim,
    data_address,
    field,
    fill,
    item_bytes,
    jitted,
    lane_count,
    load_word,
    panel_width,
    peek,
    place_of,
    state_row,
)
from fastattn.implementations._numba.panels import (
    lay_out_rows,
    pack_queries,
    prepare,
    read_few_queries,
    write_results,
)
from fastattn.implementations._numba.shape import HEADER_BYTES

__all__ = ["kernel"]

_PATIENCE = 100_000
"""Looks that the caller's thread takes at the counter of finished units before it goes to sleep:
some 50 microseconds."""


def _compiled(sources: int) -> Any:
    """`kernel`, kept in Numba's cache on disk if that can be written.

    To tell whether what it has cached is old, Numba looks only at the file of the compiled
    function.  `sources`, as a free variable, is part of the cache's key and stands for the
    other files.
    """

    def kernel(
        like, worker, table_id, scratch_id, q_id, k_id, v_id, out_id, lse_id, mask_id, offsets_id,
        lengths_id, sinks_id, scale, softcap,
    ):  # fmt: skip
        assert sources >= 0
        table, scratch = data_address(like, table_id), data_address(like, scratch_id)
        arena = scratch + field(like, table, "ARENAS") + worker * field(like, table, "ARENA_BYTES")
        sinks = data_address(like, sinks_id) if sinks_id != 0 else 0
        width, lanes, size = panel_width(like), lane_count(like), item_bytes(like)
        row_blocks, heads_kv = field(like, table, "ROW_BLOCKS"), field(like, table, "HEADS_KV")
        block_q, block_k = field(like, table, "BLOCK_Q"), field(like, table, "BLOCK_K")
        all_rows = field(like, table, "GROUP") * field(like, table, "LENGTH_Q")
        prepare(like, table, arena)
        few, splits = field(like, table, "FEW") != 0, field(like, table, "SPLITS")
        blocks, part_bytes = field(like, table, "BLOCKS"), field(like, table, "PART_BYTES")
        units, finished = field(like, table, "ITEMS") * splits, scratch + 8
        while True:
            unit = claim(like, scratch)
            if unit >= units:
                break
            item = unit // splits
            # The last row block of a head sees most keys under a causal mask: it comes first.
            first = (row_blocks - 1 - item % row_blocks) * block_q
            head = (item // row_blocks) % heads_kv
            batch = item // (row_blocks * heads_kv)

            q, k, v = data_address(like, q_id), data_address(like, k_id), data_address(like, v_id)
            out = data_address(like, out_id)
            lse = data_address(like, lse_id) if lse_id != 0 else 0
            mask = data_address(like, mask_id) if mask_id != 0 else 0
            offset_at, length_at = place_of(like, table, "ZERO"), place_of(like, table, "LENGTH_K")
            if offsets_id != 0:
                offset_at = data_address(like, offsets_id)
            if lengths_id != 0:
                length_at = data_address(like, lengths_id)
            axis = batch_table(like, table)
            for _ in range(field(like, table, "BATCH_AXES")):
                length = load_word(like, axis)
                index = batch % length
                batch //= length
                q += index * load_word(like, axis + 8)
                k += index * load_word(like, axis + 16)
                v += index * load_word(like, axis + 24)
                out += index * load_word(like, axis + 32)
                lse += index * load_word(like, axis + 40)
                mask += index * load_word(like, axis + 48)
                offset_at += index * load_word(like, axis + 56)
                length_at += index * load_word(like, axis + 64)
                axis += 72
            k += head * field(like, table, "K_H")
            v += head * field(like, table, "V_H")

            rows = min(block_q, all_rows - first)
            panels = (rows + width - 1) // width
            low, high = lay_out_rows(
                like, table, arena, first, rows, head, q, out, lse, mask,
                load_word(like, offset_at), load_word(like, length_at),
            )  # fmt: skip
            if few:
                read_few_queries(like, table, arena, rows, scale)
            else:
                pack_queries(like, table, arena, rows, scale)
            numbers = panels * width
            fill(like, state_row(like, table, arena, "TOP", 0), numbers // lanes, -math.inf)
            fill(like, state_row(like, table, arena, "TOTAL", 0), numbers // lanes, 0.0)
            result_bytes = panels * field(like, table, "RESULT_PANEL_BYTES")
            if few:
                result_bytes = rows * field(like, table, "RESULT_ROW_BYTES")
            result = arena + field(like, table, "RESULT")
            fill(like, result, result_bytes // (lanes * size), 0.0)
            low, high = low // block_k, (high + block_k - 1) // block_k
            if few:
                part = arena + field(like, table, "PART")
                begin, end, shared = low, high, 0
                if splits > 1:
                    part = scratch + field(like, table, "PARTS") + item * blocks * part_bytes
                    begin = (unit - item * splits) * field(like, table, "BLOCKS_PER_SPLIT")
                    end = min(high, begin + field(like, table, "BLOCKS_PER_SPLIT"))
                    begin, shared = max(low, begin), part_bytes
                for block in range(begin, end):
                    few_block(like, table, arena, rows, block, k, v, softcap, part + block * shared)
                    if splits == 1:
                        join_part(like, table, arena, rows, part)
                if splits > 1:
                    # The last thread finds all parts, and joins them as one thread alone would.
                    if claim(like, scratch + HEADER_BYTES + 8 * item) + 1 < splits:
                        claim(like, finished)
                        continue
                    for block in range(low, high):
                        join_part(like, table, arena, rows, part + block * shared)
            else:
                for block in range(low, high):
                    key_block(like, table, arena, rows, block, k, v, softcap)
            write_results(like, table, arena, rows, first, head, sinks, lse)
            claim(like, finished)
        # Going to sleep and being woken takes longer than most last units do.
        patience = _PATIENCE if worker == 0 else 0
        while peek(like, finished) < units and patience > 0:
            patience -= 1
        return peek(like, finished) >= units

    try:
        return jitted(cache=True, no_cpython_wrapper=False)(kernel)
    except RuntimeError:  # neither the package's cache folder nor the user's can be written
        return jitted(kernel, no_cpython_wrapper=False)


_SOURCES = sorted(Path(__file__).parent.glob("*.py"))

kernel = _compiled(zlib.crc32(b"".join(path.read_bytes() for path in _SOURCES)))
"""Take work items until there are none; each thread makes one call, alike but for `worker`.

``kernel(like, worker, table, scratch, q, k, v, out, lse, mask, offsets, lengths, sinks,
scale, softcap)``: `like` a NumPy scalar of the compute type, arrays as ``id(array)`` (0 for
None), `softcap` 0 for none.  Returns whether all units are finished, those of other threads too.
"""
