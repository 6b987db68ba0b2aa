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

from fastattn.implementations._numba.rows import pack_value, read_row, write_row
from fastattn.implementations._numba.tile import (
    PANEL_VECTORS,
    TILE_ROWS,
    multiply,
    transpose,
)
from fastattn.implementations._numba.vectors import (
    REGISTER_BYTES,
    exp,
    fma,
    load,
    store,
    tanh,
    where_less,
)

NO_MASK, BOOL, SINGLE, SAME = range(4)  # kinds of masks; SAME: of the data type of q
_CHUNK = 256  # features: a panel's rows of so many stay in L1
_LINE_BYTES = 64


@njit
def _up(n, step):
    return (n + step - 1) // step * step


@njit
def _fill(work, at, count, number):
    for j in range(at, at + count):
        work[j] = number


@njit
def _range_of(low, high, begin, end):
    """Least and greatest of `low`, then of `high`, for rows `begin` to `end`."""
    low_min = low_max = low[begin]
    high_min = high_max = high[begin]
    for r in range(begin + 1, end):
        low_min, low_max = min(low_min, low[r]), max(low_max, low[r])
        high_min, high_max = min(high_min, high[r]), max(high_max, high[r])
    return low_min, low_max, high_min, high_max


@njit
def _read_mask(work, at, masks, kind, b, row, first, count, half):
    """Numbers to add to a row's scores: -inf masks a key."""
    if kind == BOOL:
        read_row(work, at, masks[0], b, row, first, count, half)
    elif kind == SINGLE:
        read_row(work, at, masks[1], b, row, first, count, half)
    else:
        read_row(work, at, masks[2], b, row, first, count, half)


@njit
def _classify(work, at, masks, kind, b, row, rows, first, count, half):
    """Whether the mask excludes all keys for all rows (0), changes nothing (2), or neither (1)."""
    masked = plain = 0
    for r in range(rows):
        _read_mask(work, at, masks, kind, b, row + r, first, count, half)
        zeros = infinities = 0
        for j in range(count):
            zeros += work[at + j] == 0.0
            infinities += work[at + j] == -np.inf
        masked += infinities == count
        plain += zeros == count
        if masked <= r and plain <= r:
            return 1
    return 0 if masked > 0 else 2


@njit
def _cap(work, scores, keys, vectors, softcap):
    lanes = REGISTER_BYTES // work.itemsize
    for j in range(keys):
        for v in range(vectors):
            at = scores + (PANEL_VECTORS * j + v) * lanes
            store(work, at, tanh(load(work, at) / softcap) * softcap)


@njit
def _add_mask(work, scores, keys, vectors, added):
    """Adding -inf would not hide a score that is NaN or +inf, so -inf replaces it."""
    lanes = REGISTER_BYTES // work.itemsize
    for j in range(keys):
        for v in range(vectors):
            at = (PANEL_VECTORS * j + v) * lanes
            number = load(work, added + at)
            score = load(work, scores + at)
            store(work, scores + at, where_less(-np.inf, number, score + number, number))


@njit
def _hide_outside(work, scores, keys, vectors, low, high):
    """Hide keys before `low` and from `high` on, which are numbers of each lane."""
    lanes = REGISTER_BYTES // work.itemsize
    for v in range(vectors):
        first, past = load(work, low + v * lanes), load(work, high + v * lanes)
        for j in range(keys):
            at = scores + (PANEL_VECTORS * j + v) * lanes
            key = float(j)
            seen = where_less(key, past, load(work, at), -np.inf)
            store(work, at, where_less(key, first, -np.inf, seen))


@njit
def _softmax(work, scores, keys, vectors, state, panel_row, zeros):
    """Scores become weights; `state` has the panel's m, l and alpha, `panel_row` apart."""
    lanes = REGISTER_BYTES // work.itemsize
    step = PANEL_VECTORS * lanes
    for v in range(vectors):
        at, m_at = scores + v * lanes, state + v * lanes
        before = load(work, m_at)
        a = b = c = d = before  # four chains, as a maximum does not depend on the order
        for j in range(0, keys - 3, 4):
            s = at + j * step
            w, x = load(work, s), load(work, s + step)
            y, z = load(work, s + 2 * step), load(work, s + 3 * step)
            a, b = where_less(a, w, w, a), where_less(b, x, x, b)
            c, d = where_less(c, y, y, c), where_less(d, z, z, d)
        for j in range(keys - keys % 4, keys):
            w = load(work, at + j * step)
            a = where_less(a, w, w, a)
        a, c = where_less(a, b, b, a), where_less(c, d, d, c)
        m = where_less(a, c, c, a)
        shift = where_less(-np.inf, m, m, 0.0)  # exp(-inf - 0) = 0 where nothing is visible
        total = load(work, zeros + v * lanes)
        for j in range(keys):
            weight = exp(load(work, at + j * step) - shift)
            store(work, at + j * step, weight)
            total = total + weight
        alpha = exp(before - shift)
        store(work, m_at, m)
        store(work, m_at + panel_row, fma(load(work, m_at + panel_row), alpha, total))
        store(work, m_at + 2 * panel_row, alpha)


@njit
def _scale_result(work, result, count, vectors, factor):
    lanes = REGISTER_BYTES // work.itemsize
    for f in range(count):
        for v in range(vectors):
            at = result + (PANEL_VECTORS * f + v) * lanes
            # Adding 0 turns the -0 of an underflow into +0, as adding masked keys does elsewhere.
            store(work, at, fma(load(work, at), load(work, factor + v * lanes), 0.0))


@njit(nogil=True, error_model="numpy")
def attend(
    q, k, v, out, lse, masks, mask_kind, offsets, lengths, sinks, left, right, scale, softcap,
    half, block_q, block_k, begin_unit, end_unit,
):  # fmt: skip
    """Compute units, each a batch entry, a key head and a block of rows: the last block first.

    All arrays have one batch axis.  `masks` has one array of each kind; `lse` and `sinks` may be
    empty; a softcap of 0 is none.
    """
    heads_kv, length_k, dim = k.shape[1:]
    length_q, dim_v = q.shape[2], v.shape[3]
    group = q.shape[1] // heads_kv
    all_rows = group * length_q
    row_blocks = (all_rows + block_q - 1) // block_q

    # The working memory is one array, whose regions begin at cache lines.
    lanes = REGISTER_BYTES // lse.itemsize
    width, line = PANEL_VECTORS * lanes, _LINE_BYTES // lse.itemsize
    panels = (min(block_q, all_rows) + width - 1) // width
    block_k = max(1, min(block_k, length_k))
    padded_k = _up(_up(block_k, TILE_ROWS), lanes)
    padded_v = _up(_up(dim_v, TILE_ROWS), lanes)
    groups = (dim_v + TILE_ROWS - 1) // TILE_ROWS
    # Rows that were a multiple of 4 KiB apart would share a set of the L1 cache.
    key_row = _up(dim, line) + line
    value_group = block_k * TILE_ROWS
    stage_row = max(_up(dim, line), padded_v, padded_k) + line
    panel_row = panels * width
    queries_panel, result_panel = _up(dim, lanes) * width, padded_v * width
    queries = 0
    result = queries + panels * queries_panel
    scores = result + panels * result_panel
    added = scores + padded_k * width
    state = added + padded_k * width
    bounds = state + 3 * panel_row
    ones = bounds + 2 * width
    zeros = ones + width
    keys = zeros + width
    values = keys + _up(block_k, TILE_ROWS) * key_row
    stage = values + _up(groups * value_group, line)
    elements = stage + width * stage_row
    memory = np.empty(elements + line, lse.dtype)
    skipped = -(memory.ctypes.data // lse.itemsize) % line
    work = memory[skipped : skipped + elements]
    _fill(work, ones, width, 1.0)
    _fill(work, zeros, width, 0.0)
    low, high = np.empty(panel_row, np.int64), np.empty(panel_row, np.int64)
    begin, end = np.empty(panels, np.int64), np.empty(panels, np.int64)
    masked = np.empty(panels, np.bool_)
    non_finite = np.empty(block_k, np.bool_)

    for unit in range(begin_unit, end_unit):
        first_row = (row_blocks - 1 - unit % row_blocks) * block_q
        h_kv, b = unit // row_blocks % heads_kv, unit // (row_blocks * heads_kv)
        first_row += h_kv * all_rows  # rows are counted from the first head's first query
        rows = min(block_q, (h_kv + 1) * all_rows - first_row)
        panels = (rows + width - 1) // width
        length = lengths[b]
        for r in range(rows):
            position = (first_row + r) % length_q + offsets[b]
            low[r] = min(max(0, position - left), length)
            high[r] = max(low[r], min(length, position + right + 1))
        first_key, _, _, past_key = _range_of(low, high, 0, rows)

        for p in range(panels):
            for lane in range(width):
                row, at = first_row + p * width + lane, stage + lane * stage_row
                if p * width + lane < rows:
                    read_row(work, at, q, b, row, 0, dim, half)
                    for d in range(dim):
                        work[at + d] *= scale
                else:
                    _fill(work, at, dim, 0.0)
            transpose(work, queries + p * queries_panel, width, stage, stage_row, width, dim)
        _fill(work, result, panels * result_panel, 0.0)
        _fill(work, state, panel_row, -np.inf)
        _fill(work, state + panel_row, panel_row, 0.0)

        for block in range(first_key // block_k, (past_key + block_k - 1) // block_k):
            first, past = length_k, 0
            for p in range(panels):
                r0, r1 = p * width, min(rows, (p + 1) * width)
                low_min, _, _, high_max = _range_of(low, high, r0, r1)
                begin[p] = max(low_min, block * block_k)
                end[p] = min(high_max, (block + 1) * block_k)
                masked[p] = False
                if mask_kind != NO_MASK and begin[p] < end[p]:
                    found = _classify(
                        work, stage, masks, mask_kind, b, first_row + r0, r1 - r0, begin[p],
                        end[p] - begin[p], half,
                    )  # fmt: skip
                    masked[p] = found == 1
                    if found == 0:
                        end[p] = begin[p]
                if begin[p] < end[p]:
                    first, past = min(first, begin[p]), max(past, end[p])
            any_non_finite, row = False, h_kv * length_k + first
            for j in range(past - first):
                read_row(work, keys + j * key_row, k, b, row + j, 0, dim, half)
            for j in range(past - first):
                read_row(work, stage, v, b, row + j, 0, dim_v, half)
                to = values + j * TILE_ROWS
                non_finite[j] = pack_value(work, to, value_group, stage, dim_v)
                any_non_finite |= non_finite[j]

            for p in range(panels):
                count = end[p] - begin[p]
                if count <= 0:
                    continue
                r0, r1 = p * width, min(rows, (p + 1) * width)
                vectors = (r1 - r0 + lanes - 1) // lanes
                skip = begin[p] - first
                for d in range(0, dim, _CHUNK):
                    multiply(
                        work, vectors, scores, count, keys + skip * key_row + d,
                        TILE_ROWS * key_row, key_row, 1, queries + p * queries_panel + d * width,
                        min(_CHUNK, dim - d), ones, int(d == 0),
                    )  # fmt: skip
                if softcap > 0.0:
                    _cap(work, scores, count, vectors, softcap)
                if masked[p]:
                    for r in range(r0, r1):
                        at, row = stage + (r - r0) * stage_row, first_row + r
                        _read_mask(work, at, masks, mask_kind, b, row, begin[p], count, half)
                    transpose(work, added, width, stage, stage_row, r1 - r0, count)
                    _add_mask(work, scores, count, vectors, added)
                _, low_max, high_min, _ = _range_of(low, high, r0, r1)
                if low_max > begin[p] or high_min < end[p]:
                    for r in range(r0, r1):
                        work[bounds + r - r0] = max(0, low[r] - begin[p])
                        work[bounds + width + r - r0] = min(high[r] - begin[p], count)
                    _hide_outside(work, scores, count, vectors, bounds, bounds + width)
                of_panel = state + p * width
                _softmax(work, scores, count, vectors, of_panel, panel_row, zeros)
                results = result + p * result_panel
                multiply(
                    work, vectors, results, dim_v, values + skip * TILE_ROWS, value_group, 1,
                    TILE_ROWS, scores, count, of_panel + 2 * panel_row, 0,
                )  # fmt: skip
                for j in range(begin[p], end[p] if any_non_finite else begin[p]):
                    if not non_finite[j - first]:
                        continue
                    # 0 stood for NaN and infinities: add them in the rows that see them.
                    read_row(work, stage, v, b, h_kv * length_k + j, 0, dim_v, half)
                    for r in range(r0, r1):
                        work[added] = 0.0
                        if masked[p]:
                            _read_mask(work, added, masks, mask_kind, b, first_row + r, j, 1, half)
                        if not low[r] <= j < high[r] or work[added] == -np.inf:
                            continue
                        weight = work[scores + (j - begin[p]) * width + r - r0]
                        for f in range(dim_v):
                            if not np.isfinite(work[stage + f]):
                                work[results + f * width + r - r0] += weight * work[stage + f]

        for p in range(panels):
            r0, r1 = p * width, min(rows, (p + 1) * width)
            vectors = (r1 - r0 + lanes - 1) // lanes
            factors = state + 2 * panel_row + p * width
            for r in range(r0, r1):
                m, l = work[state + r], work[state + panel_row + r]
                h, i = (first_row + r) // length_q, (first_row + r) % length_q
                if lse.size > 0:
                    lse[b, h, i] = m + math.log(l) if l != 0.0 else -np.inf
                factor = m - m + 1.0
                if sinks.size > 0:
                    largest = max(m, sinks[h]) if sinks[h] == sinks[h] else sinks[h]
                    factor = math.exp(m - largest)
                    l = l * factor + math.exp(sinks[h] - largest)
                work[factors + r - r0] = factor / l
                if work[state + panel_row + r] == 0.0:  # no key is visible
                    work[factors + r - r0] = 0.0
            _scale_result(work, result + p * result_panel, dim_v, vectors, factors)
            results = result + p * result_panel
            transpose(work, stage, stage_row, results, width, dim_v, vectors * lanes)
            for r in range(r0, r1):
                at = stage + (r - r0) * stage_row
                write_row(work, at, out, b, first_row + r, dim_v, half)
