"""A few rows in Numba, as in decoding: keys and values are read where they lie, once.

Purpose: `few_block`, one block of keys for up to `FEW_ROWS` rows, and `join_part`.  They do to
the last bit what `panels` and `block` do: a row's result does not depend on how many others
are computed with it.
Non-goals: arithmetic (`strips`); queries in, results out (`panels`).

A block's maximum, sum and weighted sum are its part of the result.  Parts are joined in the
order of the blocks: at once or, if threads share an item's keys, by the last one to finish.

part    of a block of keys: one maximum and one sum for each row, then the rows' results
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (Numba infers the types: `like` is of the compute type, all else int64.)

from __future__ import annotations

import math

from fastattn.implementations._numba.block import (
    add_non_finite,
    all_finite,
    look_at_panel,
    value_row,
)
from fastattn.implementations._numba.intrinsics import (
    clamp,
    field,
    fill,
    inlined,
    item_bytes,
    jitted,
    lane_count,
    lane_row,
    load_float,
    load_word,
    panel_cell,
    row_table,
    state_row,
    store_float,
)
from fastattn.implementations._numba.rows import read_any, row_is_finite
from fastattn.implementations._numba.shape import FEW_ROWS, NO_KIND, TOGETHER
from fastattn.implementations._numba.strips import (
    add_mask_strip,
    join_strips,
    score_few,
    softmax_few,
    weigh_few,
)
from fastattn.implementations._numba.tiles import cap_scores

__all__ = ["few_block", "join_part"]


@inlined
def _score(like, table, arena, rows, k, begin, keys):
    """Scores of all rows, in chunks of features as in `key_block`.

    Keys are read in place, a few at a time; those that cannot be are staged.  Scores are
    written up to a multiple of twice the lanes.
    """
    size, lanes = item_bytes(like), lane_count(like)
    dim, chunk = field(like, table, "DIM"), field(like, table, "CHUNK")
    k_r, k_e, kind = (
        field(like, table, "K_R"),
        field(like, table, "K_E"),
        field(like, table, "KIND"),
    )
    direct = field(like, table, "IN_PLACE") != 0 and k_e == size and dim % lanes == 0
    query_row = field(like, table, "QUERY_ROW_BYTES")
    score_row = field(like, table, "SCORE_ROW_BYTES")
    staged, key_bytes = arena + field(like, table, "KEYS"), field(like, table, "KEY_BYTES")
    for d in range(0, dim, chunk):
        count = min(chunk, dim - d)
        padded = (count + lanes - 1) // lanes * lanes
        fresh = 1 if d == 0 else 0
        done = 0
        while done < keys:
            source = k + (begin + done) * k_r + d * k_e
            now = (keys - done) // (2 * lanes) * (2 * lanes) if direct else 0
            keys_at, stride = source, k_r
            if now == 0:
                now, keys_at, stride = 2 * lanes, staged, key_bytes
                for j in range(now):
                    row = staged + j * key_bytes
                    fill(like, row + (padded - lanes) * size, 1, 0.0)
                    given = source + min(j, keys - done - 1) * k_r
                    read_any(like, kind, row, given, k_e, count)
            queries = arena + field(like, table, "QUERIES") + d * size
            scores = arena + field(like, table, "SCORES") + done * size
            for r in range(0, rows, TOGETHER):
                q, s = queries + r * query_row, scores + r * score_row
                if rows - r == 1:
                    score_few(
                        like, 1, s, score_row, now, keys_at, stride, q, query_row, padded, fresh
                    )
                else:
                    score_few(
                        like, TOGETHER, s, score_row, now, keys_at, stride, q, query_row, padded,
                        fresh,
                    )  # fmt: skip
            done += now


@inlined
def _hide(like, table, arena, rows, begin, keys, softcap):
    """Cap the scores, add the dense mask, and set what lies outside the rows' bands to -inf."""
    size, lanes = item_bytes(like), lane_count(like)
    kind, stride = field(like, table, "MASK_KIND"), field(like, table, "MASK_E")
    masked = kind != NO_KIND and load_word(like, panel_cell(like, table, arena, 0, "FULL")) == 0
    vectors = (keys + lanes - 1) // lanes
    staged = arena + field(like, table, "MASK")
    for r in range(rows):
        scores = arena + field(like, table, "SCORES") + r * field(like, table, "SCORE_ROW_BYTES")
        if softcap > 0.0:
            cap_scores(like, scores, 1, vectors, softcap)
        if masked:
            mask_row = load_word(like, row_table(like, table, arena, "MASK") + 8 * r)
            read_any(like, kind, staged, mask_row + begin * stride, stride, keys)
            add_mask_strip(like, scores, staged, vectors)
        low = load_word(like, row_table(like, table, arena, "LOW") + 8 * r)
        high = load_word(like, row_table(like, table, arena, "HIGH") + 8 * r)
        for j in range(clamp(like, low - begin, 0, keys)):
            store_float(like, scores + j * size, -math.inf)
        for j in range(clamp(like, high - begin, 0, keys), vectors * lanes):
            store_float(like, scores + j * size, -math.inf)


@inlined
def _stage_values(like, table, arena, v, begin, keys, feature, count, hides):
    """Stage values as rows of the arena, non-finite ones as 0 if `hides`; whether any was."""
    size = item_bytes(like)
    found = False
    for j in range(keys):
        row = value_row(like, table, arena, v, begin + j, feature, count)
        target = arena + field(like, table, "VALUES") + j * count * size
        finite = not hides or row_is_finite(like, row, count) != 0
        if not finite:
            found = True
        for d in range(count):
            value = load_float(like, row + d * size)
            store_float(like, target + d * size, value if finite or math.isfinite(value) else 0.0)
    return found


@inlined
def _weigh(like, table, arena, rows, v, begin, keys, results, hides):
    """Weighted sums of a block's values, for all rows."""
    size, dim_v, v_r = item_bytes(like), field(like, table, "DIM_V"), field(like, table, "V_R")
    result_row, weight_row = (
        field(like, table, "RESULT_ROW_BYTES"),
        field(like, table, "SCORE_ROW_BYTES"),
    )
    in_place = field(like, table, "IN_PLACE") != 0 and field(like, table, "V_E") == size
    if in_place and hides:
        in_place = all_finite(like, v + begin * v_r, keys, v_r, dim_v)
    chunk = dim_v if in_place else field(like, table, "CHUNK")
    for d in range(0, dim_v, chunk):
        count = min(chunk, dim_v - d)
        values, stride, non_finite = v + begin * v_r, v_r, False
        if not in_place:
            values, stride = arena + field(like, table, "VALUES"), count * size
            non_finite = _stage_values(like, table, arena, v, begin, keys, d, count, hides)
        result, weights = results + d * size, arena + field(like, table, "SCORES")
        left = rows
        while left > 0:
            if left == 1:
                weigh_few(
                    like, 1, result, result_row, count, values, stride, weights, weight_row, keys
                )
            else:
                weigh_few(
                    like,
                    TOGETHER,
                    result,
                    result_row,
                    count,
                    values,
                    stride,
                    weights,
                    weight_row,
                    keys,
                )
            left -= TOGETHER
            result += TOGETHER * result_row
            weights += TOGETHER * weight_row
        if non_finite:
            add_non_finite(
                like, table, arena, v, begin, keys, d, count,
                0, rows, lane_row(like, table, arena, "ONES"),
                arena + field(like, table, "SCORES"), weight_row, size,
                results + d * size, result_row, size,
            )  # fmt: skip


@jitted
def few_block(like, table, arena, rows, block, k, v, softcap, part):
    """Compute one block of keys for a few rows into `part`."""
    size, lanes = item_bytes(like), lane_count(like)
    hides = look_at_panel(like, table, arena, rows, 0, block)
    begin = load_word(like, panel_cell(like, table, arena, 0, "BEGIN"))
    keys = load_word(like, panel_cell(like, table, arena, 0, "END")) - begin
    peaks, sums, results = part, part + FEW_ROWS * size, part + 2 * FEW_ROWS * size
    if keys <= 0:
        fill(like, part, field(like, table, "PART_BYTES") // (lanes * size), 0.0)
        for r in range(rows):
            store_float(like, peaks + r * size, -math.inf)
        return
    _score(like, table, arena, rows, k, begin, keys)
    _hide(like, table, arena, rows, begin, keys, softcap)
    score_row, vectors = field(like, table, "SCORE_ROW_BYTES"), (keys + lanes - 1) // lanes
    scores = arena + field(like, table, "SCORES")
    for r in range(0, rows, TOGETHER):
        if rows - r == 1:
            softmax_few(
                like,
                1,
                scores + r * score_row,
                score_row,
                vectors,
                peaks + r * size,
                sums + r * size,
            )
        else:
            softmax_few(
                like,
                TOGETHER,
                scores + r * score_row,
                score_row,
                vectors,
                peaks + r * size,
                sums + r * size,
            )
    _weigh(like, table, arena, rows, v, begin, keys, results, hides)


@jitted
def join_part(like, table, arena, rows, part):
    """Join a block's part to the rows' results."""
    size, row_bytes = item_bytes(like), field(like, table, "RESULT_ROW_BYTES")
    vectors = row_bytes // (lane_count(like) * size)
    top, total = (
        state_row(like, table, arena, "TOP", 0),
        state_row(like, table, arena, "TOTAL", 0),
    )
    for r in range(rows):
        join_strips(
            like,
            top + r * size,
            total + r * size,
            arena + field(like, table, "RESULT") + r * row_bytes,
            part + r * size,
            part + (FEW_ROWS + r) * size,
            part + 2 * FEW_ROWS * size + r * row_bytes,
            vectors,
        )
