"""The attention kernel in Numba: blocks, masks, online softmax, one thread's part.

Purpose: `kernel`, which takes work items until there are none.
Non-goals: threads and memory (`numba_`), what runs within a tile (`_numba_tiles`).

Scores are held transposed, keys down and queries across ("panels"), so that the maximum
and sum over keys are taken lane by lane: nothing is ever reduced across a register, and
a row's result does not depend on what the other lanes hold.

    for each block of keys:                          absolute multiples of BLOCK_K
        S^T[key, query]  = K Q^T                      in chunks of CHUNK features
        m, l, alpha, P^T = online softmax of S^T      [1]_ algorithm 3
        O^T[feature, query] = O^T alpha + V^T P^T     in chunks of CHUNK features

Hidden keys weigh exactly 0, and adding 0 changes nothing: blocks in which a panel sees
no key are left out.  The G query heads that share a key head are rows of one problem:
row r is query ``r % Lq`` of head ``r // Lq``.

.. [1] Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018,
   arXiv:1805.02867.
.. [2] Dao et al., "FlashAttention", 2022, arXiv:2205.14135.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numba

from fastattn.implementations._numba_ir import TILE_ROWS
from fastattn.implementations._numba_rows import pack_row, read_row, row_is_finite, write_row
from fastattn.implementations._numba_shape import (
    BFLOAT16,
    BOOL,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    HEADER_BYTES,
    NO_KIND,
)
from fastattn.implementations._numba_tiles import (
    add_mask_tile,
    batch_table,
    cap_scores,
    claim,
    clamp,
    data_address,
    field,
    fill,
    finish_panel,
    gather_tile,
    item_bytes,
    lane_count,
    lane_row,
    load_float,
    load_word,
    multiply_tile,
    panel_cell,
    panel_width,
    place_of,
    row_table,
    scatter_tile,
    softmax_panel,
    state_row,
    store_float,
    store_word,
    used_vectors,
)

__all__ = ["kernel"]

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

@numba.njit(**_OPTIONS)
def _read(like, kind, row, source, stride, count):
    """Row of the compute type from a row of `kind`."""
    if kind == FLOAT32:
        read_row(like, FLOAT32, row, source, stride, count)
    elif kind == FLOAT64:
        read_row(like, FLOAT64, row, source, stride, count)
    elif kind == FLOAT16:
        read_row(like, FLOAT16, row, source, stride, count)
    elif kind == BFLOAT16:
        read_row(like, BFLOAT16, row, source, stride, count)
    else:
        read_row(like, BOOL, row, source, stride, count)


@numba.njit(**_OPTIONS)
def _write(like, kind, target, stride, row, count):
    """Row of `kind` from a row of the compute type."""
    if kind == FLOAT32:
        write_row(like, FLOAT32, target, stride, row, count)
    elif kind == FLOAT64:
        write_row(like, FLOAT64, target, stride, row, count)
    elif kind == FLOAT16:
        write_row(like, FLOAT16, target, stride, row, count)
    else:
        write_row(like, BFLOAT16, target, stride, row, count)


@numba.njit(**_OPTIONS)
def _multiply(like, vectors, c, rows, a, a_row, a_group, a_step, b, count, fresh, alpha):
    """`multiply_tile` for any number of rows: those of `a` in groups, `a_group` apart.

    Writes up to a multiple of TILE_ROWS rows of ``c``.
    """
    group_bytes = TILE_ROWS * panel_width(like) * item_bytes(like)
    left = rows
    while left > 0:
        used = min(left, TILE_ROWS)
        if vectors == 1:
            multiply_tile(like, TILE_ROWS, 1, used, c, a, a_row, a_step, b, count, fresh, alpha)
        elif used > 4:
            multiply_tile(like, TILE_ROWS, 2, used, c, a, a_row, a_step, b, count, fresh, alpha)
        else:
            multiply_tile(like, 4, 2, used, c, a, a_row, a_step, b, count, fresh, alpha)
        c += group_bytes
        a += a_group
        left -= TILE_ROWS


@numba.njit(**_OPTIONS)
def _lay_out_rows(like, table, arena, first, rows, head, q, out, lse, mask, offset, length):
    """Fill the row and panel tables of a row block; the keys from ... to that it sees."""
    width = panel_width(like)
    group = field(like, table, "GROUP")
    length_q = field(like, table, "LENGTH_Q")
    left = field(like, table, "LEFT")
    right = field(like, table, "RIGHT")
    length_k = field(like, table, "LENGTH_K")
    q_h, q_r = field(like, table, "Q_H"), field(like, table, "Q_R")
    out_h, out_r = field(like, table, "OUT_H"), field(like, table, "OUT_R")
    lse_h, lse_r = field(like, table, "LSE_H"), field(like, table, "LSE_R")
    mask_h, mask_r = field(like, table, "MASK_H"), field(like, table, "MASK_R")
    q_rows = row_table(like, table, arena, "Q")
    out_rows = row_table(like, table, arena, "OUT")
    lse_rows = row_table(like, table, arena, "LSE")
    mask_rows = row_table(like, table, arena, "MASK")
    lows = row_table(like, table, arena, "LOW")
    highs = row_table(like, table, arena, "HIGH")
    # Lanes past the last row repeat it, and write where nobody reads.
    unread = arena + field(like, table, "STAGE")
    unread += lane_count(like) * field(like, table, "STAGE_BYTES")
    block_low, block_high = length_k, 0
    for panel in range((rows + width - 1) // width):
        low_min, low_max, high_min, high_max = length_k, 0, length_k, 0
        for r in range(panel * width, (panel + 1) * width):
            row = first + min(r, rows - 1)
            g = row // length_q
            i = row - g * length_q
            h = head * group + g
            store_word(like, q_rows + 8 * r, q + h * q_h + i * q_r)
            store_word(like, out_rows + 8 * r, out + h * out_h + i * out_r if r < rows else unread)
            store_word(like, lse_rows + 8 * r, lse + h * lse_h + i * lse_r)
            store_word(like, mask_rows + 8 * r, mask + h * mask_h + i * mask_r)
            low = clamp(like, i + offset - left, 0, length)
            high = clamp(like, i + offset + right + 1, 0, length)
            store_word(like, lows + 8 * r, low)
            store_word(like, highs + 8 * r, high)
            if low < high:
                low_min, high_max = min(low_min, low), max(high_max, high)
            low_max, high_min = max(low_max, low), min(high_min, high)
        store_word(like, panel_cell(like, table, arena, panel, "LOW_MIN"), low_min)
        store_word(like, panel_cell(like, table, arena, panel, "LOW_MAX"), low_max)
        store_word(like, panel_cell(like, table, arena, panel, "HIGH_MIN"), high_min)
        store_word(like, panel_cell(like, table, arena, panel, "HIGH_MAX"), high_max)
        block_low, block_high = min(block_low, low_min), max(block_high, high_max)
    return block_low, block_high


@numba.njit(**_OPTIONS)
def _pack_queries(like, table, arena, rows, scale):
    """Q as panels, one panel row per feature, multiplied by `scale`."""
    width, lanes, size = panel_width(like), lane_count(like), item_bytes(like)
    dim, kind = field(like, table, "DIM"), field(like, table, "KIND")
    stride = field(like, table, "Q_E")
    in_place = field(like, table, "IN_PLACE") != 0 and stride == size and dim >= lanes
    stage = arena + field(like, table, "STAGE")
    stage_table = arena + field(like, table, "STAGE_TABLE")
    stage_bytes = field(like, table, "STAGE_BYTES")
    for panel in range((rows + width - 1) // width):
        packed = arena + field(like, table, "QUERIES")
        packed += panel * field(like, table, "QUERY_PANEL_BYTES")
        for vector in range(used_vectors(like, rows, panel)):
            q_rows = row_table(like, table, arena, "Q") + 8 * (panel * width + vector * lanes)
            if not in_place:
                for lane in range(lanes):
                    source = load_word(like, q_rows + 8 * lane)
                    _read(like, kind, stage + lane * stage_bytes, source, stride, dim)
                q_rows = stage_table
            for d in range(0, dim, lanes):
                # In place, the last tile overlaps the one before; staged rows are long enough.
                start = min(d, dim - lanes) if in_place else d
                target = packed + (start * width + vector * lanes) * size
                gather_tile(like, q_rows, start * size, target, scale)


@numba.njit(**_OPTIONS)
def _stage_keys(like, table, arena, k, begin, keys, feature, count):
    """Keys from `begin` on, `count` features from `feature` on, as rows of the arena."""
    kind, stride = field(like, table, "KIND"), field(like, table, "K_E")
    k_r, key_bytes = field(like, table, "K_R"), field(like, table, "KEY_BYTES")
    staged = arena + field(like, table, "KEYS")
    source = k + begin * k_r + feature * stride
    for j in range(keys):
        _read(like, kind, staged + j * key_bytes, source + j * k_r, stride, count)


@numba.njit(**_OPTIONS)
def _value_row(like, table, arena, v, key, feature, count):
    """Address of `count` features of a value at unit stride in the compute type."""
    stride = field(like, table, "V_E")
    source = v + key * field(like, table, "V_R") + feature * stride
    if field(like, table, "IN_PLACE") != 0 and stride == item_bytes(like):
        return source
    row = arena + field(like, table, "STAGE")
    _read(like, field(like, table, "KIND"), row, source, stride, count)
    return row


@numba.njit(**_OPTIONS)
def _pack_values(like, table, arena, v, begin, keys, feature, count):
    """Values as groups of TILE_ROWS features, key after key in each.

    Where a key may be hidden, a NaN or infinity is packed as 0: `_add_non_finite` adds it
    to the rows that see it.  Returns whether there was one.
    """
    group_bytes = field(like, table, "VALUE_GROUP_BYTES")
    masked = field(like, table, "MASKED") != 0
    size = item_bytes(like)
    packed = arena + field(like, table, "VALUES")
    clean = arena + field(like, table, "STAGE") + field(like, table, "STAGE_BYTES")
    found = False
    for j in range(keys):
        row = _value_row(like, table, arena, v, begin + j, feature, count)
        if masked and row_is_finite(like, row, count) == 0:
            found = True
            for d in range(count):
                value = load_float(like, row + d * size)
                store_float(like, clean + d * size, value if math.isfinite(value) else like * 0)
            row = clean
        pack_row(like, TILE_ROWS, packed + j * TILE_ROWS * size, group_bytes, row, count)
    return found


@numba.njit(**_OPTIONS)
def _sees(like, table, arena, row, key):
    """Whether a row of the block sees a key."""
    low = load_word(like, row_table(like, table, arena, "LOW") + 8 * row)
    high = load_word(like, row_table(like, table, arena, "HIGH") + 8 * row)
    if key < low or key >= high:
        return False
    kind = field(like, table, "MASK_KIND")
    if kind == NO_KIND:
        return True
    source = load_word(like, row_table(like, table, arena, "MASK") + 8 * row)
    added = lane_row(like, table, arena, "FACTOR")
    stride = field(like, table, "MASK_E")
    _read(like, kind, added, source + key * stride, stride, 1)
    return load_float(like, added) != -math.inf


@numba.njit(**_OPTIONS)
def _add_non_finite(like, table, arena, v, feature, count, rows, panel, weights, begin, end):
    """Add what `_pack_values` left out to the rows that see it."""
    width, size = panel_width(like), item_bytes(like)
    result = arena + field(like, table, "RESULT")
    result += panel * field(like, table, "RESULT_PANEL_BYTES")
    for key in range(begin, end):
        row = _value_row(like, table, arena, v, key, feature, count)
        if row_is_finite(like, row, count) != 0:
            continue
        for lane in range(min(width, rows - panel * width)):
            if not _sees(like, table, arena, panel * width + lane, key):
                continue
            weight = load_float(like, weights + ((key - begin) * width + lane) * size)
            for d in range(count):
                value = load_float(like, row + d * size)
                if not math.isfinite(value):
                    place = result + ((feature + d) * width + lane) * size
                    store_float(like, place, load_float(like, place) + weight * value)


@numba.njit(**_OPTIONS)
def _add_mask(like, table, arena, panel, scores, begin, keys):
    """Add the dense mask to a panel's scores."""
    width, lanes, size = panel_width(like), lane_count(like), item_bytes(like)
    kind, stride = field(like, table, "MASK_KIND"), field(like, table, "MASK_E")
    staged, row_bytes = (
        arena + field(like, table, "MASK"),
        field(like, table, "MASK_ROW_BYTES"),
    )
    for lane in range(width):
        source = load_word(
            like, row_table(like, table, arena, "MASK") + 8 * (panel * width + lane)
        )
        _read(like, kind, staged + lane * row_bytes, source + begin * stride, stride, keys)
    for j in range(0, keys, lanes):
        for lane in range(0, width, lanes):
            tile = staged + lane * row_bytes + j * size
            add_mask_tile(like, tile, row_bytes, scores + (j * width + lane) * size)


@numba.njit(**_OPTIONS)
def _softmax(like, table, arena, rows, panel, scores, softcap):
    """Masks and the online softmax for a panel's part of a key block."""
    width, size = panel_width(like), item_bytes(like)
    vectors = used_vectors(like, rows, panel)
    begin = load_word(like, panel_cell(like, table, arena, panel, "BEGIN"))
    keys = load_word(like, panel_cell(like, table, arena, panel, "END")) - begin
    if softcap > 0.0:
        cap_scores(like, scores, keys, vectors, softcap)
    if field(like, table, "MASK_KIND") != NO_KIND:
        _add_mask(like, table, arena, panel, scores, begin, keys)
    low_max = load_word(like, panel_cell(like, table, arena, panel, "LOW_MAX"))
    high_min = load_word(like, panel_cell(like, table, arena, panel, "HIGH_MIN"))
    partial = low_max > begin or high_min < begin + keys
    first, past = lane_row(like, table, arena, "FIRST"), lane_row(like, table, arena, "PAST")
    if partial:
        lows, highs = row_table(like, table, arena, "LOW"), row_table(like, table, arena, "HIGH")
        for lane in range(width):
            r = panel * width + lane
            low = clamp(like, load_word(like, lows + 8 * r) - begin, 0, keys)
            high = clamp(like, load_word(like, highs + 8 * r) - begin, 0, keys)
            # Exact: block_k is at most 2**16.
            store_float(like, first + lane * size, float(low))
            store_float(like, past + lane * size, float(high))
    softmax_panel(
        like,
        scores,
        keys,
        vectors,
        1 if partial else 0,
        first,
        past,
        state_row(like, table, arena, "TOP", panel),
        state_row(like, table, arena, "TOTAL", panel),
        state_row(like, table, arena, "ALPHA", panel),
    )


@numba.njit(**_OPTIONS)
def _key_block(like, table, arena, rows, block, k, v, softcap):
    """Scores, softmax and weighted sum of one block of keys for a row block."""
    width, size = panel_width(like), item_bytes(like)
    panels = (rows + width - 1) // width
    block_k, chunk = field(like, table, "BLOCK_K"), field(like, table, "CHUNK")
    dim, dim_v = field(like, table, "DIM"), field(like, table, "DIM_V")

    first, past = field(like, table, "LENGTH_K"), 0
    for panel in range(panels):
        low = load_word(like, panel_cell(like, table, arena, panel, "LOW_MIN"))
        high = load_word(like, panel_cell(like, table, arena, panel, "HIGH_MAX"))
        begin, end = max(low, block * block_k), min(high, (block + 1) * block_k)
        store_word(like, panel_cell(like, table, arena, panel, "BEGIN"), begin)
        store_word(like, panel_cell(like, table, arena, panel, "END"), end)
        if begin < end:
            first, past = min(first, begin), max(past, end)
    if first >= past:
        return

    # Where a chunk holds all features, panels go through one after the other while their
    # scores are in the nearest cache; else all panels meet each chunk of K and V in turn.
    one_chunk = dim <= chunk and dim_v <= chunk
    together = 1 if one_chunk else panels
    keys_at, key_stride = k + first * field(like, table, "K_R"), field(like, table, "K_R")
    key_step = field(like, table, "K_E")
    staged = field(like, table, "KEY_BYTES") != 0
    if staged:
        keys_at, key_step = arena + field(like, table, "KEYS"), size
        key_stride = field(like, table, "KEY_BYTES")
    values_at = arena + field(like, table, "VALUES")
    group_bytes = field(like, table, "VALUE_GROUP_BYTES")
    query_panel = field(like, table, "QUERY_PANEL_BYTES")
    result_panel = field(like, table, "RESULT_PANEL_BYTES")
    score_panel = field(like, table, "SCORE_PANEL_BYTES")
    ones = lane_row(like, table, arena, "ONES")
    non_finite = False
    for panel_0 in range(0, panels, together):
        panel_1 = min(panels, panel_0 + together)
        for d in range(0, dim, chunk):
            count = min(chunk, dim - d)
            if staged and panel_0 == 0:
                _stage_keys(like, table, arena, k, first, past - first, d, count)
            for panel in range(panel_0, panel_1):
                begin = load_word(like, panel_cell(like, table, arena, panel, "BEGIN"))
                end = load_word(like, panel_cell(like, table, arena, panel, "END"))
                _multiply(
                    like,
                    used_vectors(like, rows, panel),
                    arena + field(like, table, "SCORES") + (panel - panel_0) * score_panel,
                    end - begin,
                    keys_at + (begin - first) * key_stride + (0 if staged else d * key_step),
                    key_stride,
                    TILE_ROWS * key_stride,
                    key_step,
                    arena
                    + field(like, table, "QUERIES")
                    + panel * query_panel
                    + d * width * size,
                    count,
                    1 if d == 0 else 0,
                    ones,
                )
        for panel in range(panel_0, panel_1):
            begin = load_word(like, panel_cell(like, table, arena, panel, "BEGIN"))
            end = load_word(like, panel_cell(like, table, arena, panel, "END"))
            if begin < end:
                scores = arena + field(like, table, "SCORES")
                scores += (panel - panel_0) * score_panel
                _softmax(like, table, arena, rows, panel, scores, softcap)
        for d in range(0, dim_v, chunk):
            count = min(chunk, dim_v - d)
            if panel_0 == 0:
                non_finite = _pack_values(
                    like, table, arena, v, first, past - first, d, count
                )
            for panel in range(panel_0, panel_1):
                begin = load_word(like, panel_cell(like, table, arena, panel, "BEGIN"))
                end = load_word(like, panel_cell(like, table, arena, panel, "END"))
                if begin >= end:
                    continue
                weights = arena + field(like, table, "SCORES")
                weights += (panel - panel_0) * score_panel
                _multiply(
                    like,
                    used_vectors(like, rows, panel),
                    arena
                    + field(like, table, "RESULT")
                    + panel * result_panel
                    + d * width * size,
                    count,
                    values_at + (begin - first) * TILE_ROWS * size,
                    size,
                    group_bytes,
                    TILE_ROWS * size,
                    weights,
                    end - begin,
                    0,
                    state_row(like, table, arena, "ALPHA", panel),
                )
                if non_finite:
                    _add_non_finite(
                        like, table, arena, v, d, count, rows, panel, weights, begin, end
                    )


@numba.njit(**_OPTIONS)
def _finish(like, table, arena, rows, first, head, sinks, lse):
    """Divide by the sums, with sinks, and write the result and the log-sum-exp."""
    width, lanes, size = panel_width(like), lane_count(like), item_bytes(like)
    dim_v, kind = field(like, table, "DIM_V"), field(like, table, "KIND")
    stride = field(like, table, "OUT_E")
    in_place = field(like, table, "IN_PLACE") != 0 and stride == size and dim_v >= lanes
    stage = arena + field(like, table, "STAGE")
    stage_table = arena + field(like, table, "STAGE_TABLE")
    stage_bytes = field(like, table, "STAGE_BYTES")
    factors = lane_row(like, table, arena, "FACTOR")
    sink_kind, sink_stride = field(like, table, "SINK_KIND"), field(like, table, "SINK_E")
    group, length_q = field(like, table, "GROUP"), field(like, table, "LENGTH_Q")
    for panel in range((rows + width - 1) // width):
        top, total = state_row(like, table, arena, "TOP", panel), state_row(like, table, arena, "TOTAL", panel)
        used = min(width, rows - panel * width)
        with_sinks = sink_kind != NO_KIND
        sink_row = state_row(like, table, arena, "SINK", panel)
        if with_sinks:
            for lane in range(width):
                row = first + min(panel * width + lane, rows - 1)
                source = sinks + (head * group + row // length_q) * sink_stride
                _read(like, sink_kind, sink_row + lane * size, source, sink_stride, 1)
        if lse != 0:
            lse_rows = row_table(like, table, arena, "LSE") + 8 * panel * width
            for lane in range(used):
                m, l = load_float(like, top + lane * size), load_float(like, total + lane * size)
                value = m + math.log(l)
                store_float(like, load_word(like, lse_rows + 8 * lane), value)
        vectors = used_vectors(like, rows, panel)
        finish_panel(like, vectors, 1 if with_sinks else 0, sink_row, top, total, factors)
        result = arena + field(like, table, "RESULT")
        result += panel * field(like, table, "RESULT_PANEL_BYTES")
        for vector in range(vectors):
            out_rows = row_table(like, table, arena, "OUT") + 8 * (panel * width + vector * lanes)
            targets = out_rows if in_place else stage_table
            for d in range(0, dim_v, lanes):
                start = min(d, dim_v - lanes) if in_place else d
                source = result + (start * width + vector * lanes) * size
                scatter_tile(like, source, factors + vector * lanes * size, targets, start * size)
            if not in_place:
                for lane in range(min(lanes, used - vector * lanes)):
                    target = load_word(like, out_rows + 8 * lane)
                    _write(like, kind, target, stride, stage + lane * stage_bytes, dim_v)


@numba.njit(**_OPTIONS)
def _prepare(like, table, arena):
    """Fill what all items of a thread share."""
    lanes, size = lane_count(like), item_bytes(like)
    stage = arena + field(like, table, "STAGE")
    stage_table = arena + field(like, table, "STAGE_TABLE")
    for lane in range(lanes):
        row = stage + lane * field(like, table, "STAGE_BYTES")
        store_word(like, stage_table + 8 * lane, row)
    width = panel_width(like)
    fill(like, lane_row(like, table, arena, "ONES"), width // lanes, 1.0)


def _compiled(sources: int) -> Any:
    """`kernel`, kept in Numba's cache on disk where there is a place for it.

    Numba looks only at the file of the compiled function to tell whether what it has is
    old.  `sources`, as a free variable, is part of the cache's key, and stands for the rest.
    """

    def kernel(
        like, worker, table_id, scratch_id, q_id, k_id, v_id, out_id, lse_id, mask_id, offsets_id,
        lengths_id, sinks_id, scale, softcap,
    ):  # fmt: skip
        assert sources >= 0
        table, scratch = data_address(like, table_id), data_address(like, scratch_id)
        arena = scratch + HEADER_BYTES + worker * field(like, table, "ARENA_BYTES")
        sinks = data_address(like, sinks_id) if sinks_id != 0 else 0
        width, lanes, size = panel_width(like), lane_count(like), item_bytes(like)
        row_blocks, heads_kv = field(like, table, "ROW_BLOCKS"), field(like, table, "HEADS_KV")
        block_q, block_k = field(like, table, "BLOCK_Q"), field(like, table, "BLOCK_K")
        all_rows = field(like, table, "GROUP") * field(like, table, "LENGTH_Q")
        _prepare(like, table, arena)
        while True:
            item = claim(like, scratch)
            if item >= field(like, table, "ITEMS"):
                return
            # The last row block of a head sees most under a causal mask: it comes first.
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
            low, high = _lay_out_rows(
                like, table, arena, first, rows, head, q, out, lse, mask,
                load_word(like, offset_at), load_word(like, length_at),
            )  # fmt: skip
            _pack_queries(like, table, arena, rows, scale)
            numbers = panels * width
            fill(like, state_row(like, table, arena, "TOP", 0), numbers // lanes, -math.inf)
            fill(like, state_row(like, table, arena, "TOTAL", 0), numbers // lanes, 0.0)
            result_bytes = panels * field(like, table, "RESULT_PANEL_BYTES")
            result = arena + field(like, table, "RESULT")
            fill(like, result, result_bytes // (lanes * size), 0.0)
            for block in range(low // block_k, (high + block_k - 1) // block_k):
                _key_block(like, table, arena, rows, block, k, v, softcap)
            _finish(like, table, arena, rows, first, head, sinks, lse)

    try:
        return numba.njit(cache=True, **_OPTIONS)(kernel)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        return numba.njit(**_OPTIONS)(kernel)


kernel = _compiled(
    zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("_numba_*.py"))))
)
"""Take work items until there are none; one call for each thread, the same but for `worker`.

``kernel(like, worker, table, scratch, q, k, v, out, lse, mask, offsets, lengths, sinks,
scale, softcap)``: `like` a NumPy scalar of the compute type, arrays as ``id(array)`` (0 for
None), `softcap` 0 for none.
"""
