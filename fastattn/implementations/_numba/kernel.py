"""The attention kernel in Numba: blocks of rows, blocks of keys, online softmax.

Scores are held transposed, keys down and queries across the lanes ("panels"), so that maximum,
sum and masks are taken lane by lane: nothing is summed across a register, and a row's result
does not depend on what the other lanes hold.  For each block of keys ([1]_, algorithm 3):

    S^T[key, query]   = K Q^T                 in chunks of `_CHUNK` features
    m, l, P^T         = softmax of S^T
    O^T[value, query] = alpha O^T + V^T P^T

The weight of a masked key is exactly 0, and adding 0 changes nothing.  The query heads that
share a key head are rows of one problem: row r is query ``r % Lq`` of head ``r // Lq``.

.. [1] Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fastattn.implementations._numba.rows import all_finite, clear_non_finite, prefetch, read_row
from fastattn.implementations._numba.softmax import cap, softmax
from fastattn.implementations._numba.tile import (
    PANEL_VECTORS,
    REGISTER_BYTES,
    helper,
    item_bytes,
    multiply,
    transpose,
)

NO_MASK, BOOL, ADDED = range(3)  # kinds of masks
_CHUNK = 128  # features: a panel's rows of so many stay in L1
_LINE_BYTES = 64
_ZERO, _ONE = np.intp(0), np.intp(1)  # for a literal, Numba compiles a function anew


@helper
def _pack(work, to, stage, stage_row, q, b, row, rows, dim, scale):
    """Rows of queries, times `scale`, as columns of a panel; empty lanes repeat the last one."""
    lanes = REGISTER_BYTES // item_bytes(work)
    for r in range(0, rows, lanes):
        for lane in range(lanes):
            at = stage + lane * stage_row
            read_row(work, at, q, b, row + min(r + lane, rows - 1), _ZERO, dim)
            line = work[at : at + dim]
            for d in range(dim):
                line[d] *= scale
        width = PANEL_VECTORS * lanes
        transpose(work, to + r, width, width, stage, stage_row, _ONE, dim)


@helper
def _read_mask(work, at, masks, kind, b, row, first, count):
    """Numbers to add to a row's scores: -inf masks a key."""
    if kind == BOOL:
        read_row(work, at, masks[0], b, row, first, count)
    else:
        read_row(work, at, masks[1], b, row, first, count)


@helper
def _classify(work, at, masks, kind, b, row, rows, first, count):
    """Whether the mask excludes all keys for all rows (0), changes nothing (2), or neither (1)."""
    masked = plain = 0
    for r in range(rows):
        _read_mask(work, at, masks, kind, b, row + r, first, count)
        zeros, infinities, line = 0, 0, work[at : at + count]
        for j in range(count):
            zeros += line[j] == 0.0
            infinities += line[j] == -np.inf
        masked += infinities == count
        plain += zeros == count
        if masked <= r and plain <= r:
            return 1
    return 0 if masked > 0 else 2


@njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)
def attend(
    q, k, v, out, lse, masks, mask_kind, offsets, lengths, sinks, left, right, scale, boost,
    softcap, block_q, block_k, begin_unit, end_unit,
):  # fmt: skip
    """Compute units, each a batch entry, a key head and a block of rows: the last block first.

    All arrays have one batch axis.  `masks` has one array of each kind; `lse` and `sinks` may be
    empty; a softcap of 0 is none.  `boost`: `CallSpec.factors`.
    """
    heads_kv, length_k, dim = k.shape[1:]
    length_q, dim_v = q.shape[2], v.shape[3]
    group = q.shape[1] // heads_kv
    all_rows = group * length_q
    row_blocks = (all_rows + block_q - 1) // block_q

    # The working memory is one array, whose regions begin at cache lines.
    lanes = REGISTER_BYTES // item_bytes(lse)
    width, line = PANEL_VECTORS * lanes, _LINE_BYTES // item_bytes(lse)
    panels = (min(block_q, all_rows) + width - 1) // width
    block_k = max(1, min(block_k, length_k))
    # Rows take an odd number of lines: rows 4 KiB apart would share a set of the L1 cache.
    value_step = ((dim_v + line - 1) // line | 1) * line
    panel_row = panels * width
    queries_panel, result_panel = (dim + lanes) * width, (dim_v + line) * width
    result = panels * queries_panel  # after the queries
    scores = result + panels * result_panel
    alphas = scores + (block_k + line) * width
    ones = alphas + panel_row
    values = ones + width
    stage = values + block_k * value_step
    stage_row = ((max(dim, dim_v + 2 * lanes, block_k) - 1) // line + 2 | 1) * line
    length_work = stage + lanes * stage_row
    memory = np.empty(length_work + line, lse.dtype)
    skipped = -(memory.ctypes.data // item_bytes(lse)) % line
    work = memory[skipped : skipped + length_work]
    work[ones:values] = 1.0
    low, high = np.empty(panel_row, np.int64), np.empty(panel_row, np.int64)
    begin, end = np.empty(panels, np.int64), np.empty(panels, np.int64)
    finite = work[values:stage].reshape((block_k, value_step))
    m, l = np.empty(panel_row, lse.dtype), np.empty(panel_row, lse.dtype)
    shift, total = np.empty(width, lse.dtype), np.empty(width, lse.dtype)
    masked, non_finite = np.empty(panels, np.bool_), np.empty(block_k, np.bool_)

    for unit in range(begin_unit, end_unit):
        first_row = (row_blocks - 1 - unit % row_blocks) * block_q
        h_kv, b = unit // row_blocks % heads_kv, unit // (row_blocks * heads_kv)
        first_row += h_kv * all_rows  # rows are counted from the first head's first query
        rows = min(block_q, (h_kv + 1) * all_rows - first_row)
        panels = (rows + width - 1) // width
        for r in range(rows):
            position = (first_row + r) % length_q + offsets[b]
            low[r] = min(max(0, position - left), lengths[b])
            high[r] = max(low[r], min(lengths[b], position + right + 1))
        first_key, past_key = low[:rows].min(), high[:rows].max()
        for p in range(panels):
            to, row, count = p * queries_panel, first_row + p * width, min(width, rows - p * width)
            _pack(work, to, stage, stage_row, q, b, row, count, dim, scale)
        work[result:scores] = 0.0
        m[:], l[:] = -np.inf, 0.0

        for block in range(first_key // block_k, (past_key + block_k - 1) // block_k):
            first, past = length_k, 0
            for p in range(panels):
                r0, r1 = p * width, min(rows, (p + 1) * width)
                begin[p] = max(low[r0:r1].min(), block * block_k)
                end[p] = min(high[r0:r1].max(), (block + 1) * block_k)
                masked[p] = False
                if mask_kind != NO_MASK and begin[p] < end[p]:
                    found = _classify(
                        work, stage, masks, mask_kind, b, first_row + r0, r1 - r0, begin[p],
                        end[p] - begin[p],
                    )  # fmt: skip
                    masked[p] = found == 1
                    end[p] = begin[p] if found == 0 else end[p]
                if begin[p] < end[p]:
                    first, past = min(first, begin[p]), max(past, end[p])
            if first >= past:
                continue
            key_rows, value_rows = k[b, h_kv, first:past], v[b, h_kv, first:past]
            work[stage] = prefetch(key_rows, line)  # a tile reads several rows at once
            any_non_finite = not all_finite(value_rows)
            if any_non_finite:
                for j in range(past - first):
                    at = values + j * value_step
                    read_row(work, at, v, b, h_kv * length_k + first + j, _ZERO, dim_v)
                    non_finite[j] = clear_non_finite(work[at : at + dim_v])
                value_rows = finite[: past - first, :dim_v]

            for p in range(panels):
                count, skip, alpha = end[p] - begin[p], begin[p] - first, alphas + p * width
                r0, r1 = p * width, min(rows, (p + 1) * width)
                results, vectors = result + p * result_panel, (r1 - r0 + lanes - 1) // lanes
                if count <= 0:
                    continue
                for d in range(0, dim, _CHUNK):
                    multiply(
                        work, vectors, scores, key_rows, skip, count, d, min(_CHUNK, dim - d),
                        p * queries_panel + d * width, ones, int(d > 0),
                    )  # fmt: skip
                padded = (count + 3) // 4 * 4
                panel = work[scores : scores + padded * width].reshape((padded, width))
                if boost != 1.0:
                    panel *= boost
                if softcap > 0.0:
                    cap(panel, softcap)
                panel[count:] = -np.inf
                for r in range(r0, r1):
                    if not masked[p] and low[r] <= begin[p] and end[p] <= high[r]:
                        continue
                    lane = panel[:, r - r0]
                    if masked[p]:
                        row = first_row + r
                        _read_mask(work, stage, masks, mask_kind, b, row, begin[p], count)
                        for j in range(count):
                            # Adding -inf would not mask a score that is NaN or +inf.
                            added = work[stage + j]
                            lane[j] = added if added == -np.inf else lane[j] + added
                    lane[: max(low[r] - begin[p], 0)] = -np.inf
                    lane[max(high[r] - begin[p], 0) :] = -np.inf
                used = m[r0 : r0 + vectors * lanes]
                softmax(panel, used, l[r0:], work[alpha:ones], shift, total)
                multiply(
                    work, vectors, results, value_rows.T, _ZERO, dim_v, skip, count, scores, alpha,
                    _ONE,
                )  # fmt: skip
                for j in range(begin[p], end[p] if any_non_finite else begin[p]):
                    if not non_finite[j - first]:
                        continue
                    # 0 stood for NaN and infinities: add them where they are visible.
                    read_row(work, stage + 1, v, b, h_kv * length_k + j, _ZERO, dim_v)
                    for r in range(r0, r1):
                        work[stage] = 0.0
                        if masked[p]:
                            _read_mask(work, stage, masks, mask_kind, b, first_row + r, j, _ONE)
                        if not low[r] <= j < high[r] or work[stage] == -np.inf:
                            continue
                        weight = panel[j - begin[p], r - r0]
                        for f in range(dim_v):
                            if not np.isfinite(work[stage + 1 + f]):
                                work[results + f * width + r - r0] += weight * work[stage + 1 + f]

        for r in range(rows):
            at, column = stage + r % lanes * stage_row, r // width * result_panel + r % width
            if r % lanes == 0:
                transpose(work, stage, stage_row, _ONE, result + column, width, width, dim_v)
            h, i = (first_row + r) // length_q, (first_row + r) % length_q
            factor = 1.0 / l[r] if l[r] != 0.0 else 0.0  # no visible key: zeros
            if lse.size > 0:
                lse[b, h, i] = m[r] + math.log(l[r]) if l[r] != 0.0 else -np.inf
            if sinks.size > 0 and l[r] != 0.0:
                largest = max(m[r], sinks[h]) if sinks[h] == sinks[h] else sinks[h]
                alone = math.exp(m[r] - largest)
                factor = alone / (l[r] * alone + math.exp(sinks[h] - largest))
            numbers, to = work[at : at + dim_v], out[b, h, i]
            for f in range(dim_v):
                # Adding 0 turns the -0 of an underflow into +0, as adding masked keys does.
                to[f] = numbers[f] * factor + 0.0
