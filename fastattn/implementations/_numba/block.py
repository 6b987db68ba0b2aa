"""The key block of the Numba kernel: scores, masks, softmax and weighted sum.

Purpose: `key_block`, one step of the online softmax for all panels of a row block.
Non-goals: queries and results (`panels`), what runs within a tile (`tiles`), a few rows
alone (`few`).

Hidden keys weigh exactly 0, and adding 0 changes nothing: of a block's keys, a panel computes
only those from the first to the last that one of its rows sees.

BEGIN, END      those keys, absolute; row 0 of a panel's scores is key BEGIN
first, past     the same for the row block; row 0 of staged keys and values is key `first`
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (Numba infers the types: `like` is of the compute type, all else int64.)

from __future__ import annotations

import math

from fastattn.implementations._numba.intrinsics import (
    clamp,
    field,
    inlined,
    item_bytes,
    jitted,
    lane_count,
    lane_row,
    load_float,
    load_word,
    panel_cell,
    panel_width,
    row_table,
    state_row,
    store_float,
    store_word,
    used_vectors,
)
from fastattn.implementations._numba.ir import TILE_ROWS
from fastattn.implementations._numba.rows import find_seen, pack_row, read_any, row_is_finite
from fastattn.implementations._numba.shape import BOOL, NO_KIND
from fastattn.implementations._numba.tiles import (
    add_mask_tile,
    cap_scores,
    multiply_tile,
    softmax_panel,
)

__all__ = ["add_non_finite", "all_finite", "key_block", "look_at_panel", "sees", "value_row"]


@jitted
def _multiply(like, vectors, c, rows, a, a_row, a_group, a_step, b, count, fresh, alpha, beta):
    """`multiply_tile` for any number of rows: `a` holds them in groups, `a_group` apart.

    Writes rows of ``c`` up to a multiple of TILE_ROWS.
    """
    group_bytes = TILE_ROWS * panel_width(like) * item_bytes(like)
    left = rows
    while left > 0:
        used = min(left, TILE_ROWS)
        if vectors == 1:
            multiply_tile(
                like, TILE_ROWS, 1, used, c, a, a_row, a_step, b, count, fresh, alpha, beta
            )
        elif used > 4:
            multiply_tile(
                like, TILE_ROWS, 2, used, c, a, a_row, a_step, b, count, fresh, alpha, beta
            )
        else:
            multiply_tile(like, 4, 2, used, c, a, a_row, a_step, b, count, fresh, alpha, beta)
        c += group_bytes
        a += a_group
        left -= TILE_ROWS


@inlined
def _stage_keys(like, table, arena, k, begin, keys, feature, count):
    """Copy `count` features from `feature` on, of keys from `begin` on, to rows of the arena."""
    kind, stride = field(like, table, "KIND"), field(like, table, "K_E")
    k_r, key_bytes = field(like, table, "K_R"), field(like, table, "KEY_BYTES")
    staged = arena + field(like, table, "KEYS")
    source = k + begin * k_r + feature * stride
    for j in range(keys):
        read_any(like, kind, staged + j * key_bytes, source + j * k_r, stride, count)


@jitted
def value_row(like, table, arena, v, key, feature, count):
    """Address of `count` features of a value, at unit stride and in the compute type."""
    stride = field(like, table, "V_E")
    source = v + key * field(like, table, "V_R") + feature * stride
    if field(like, table, "IN_PLACE") != 0 and stride == item_bytes(like):
        return source
    row = arena + field(like, table, "STAGE")
    read_any(like, field(like, table, "KIND"), row, source, stride, count)
    return row


@jitted
def all_finite(like, row, rows, stride, count):
    """Whether no number of `rows` rows, `stride` apart, is NaN or infinite."""
    finite = True
    for j in range(rows):
        finite = finite and row_is_finite(like, row + j * stride, count) != 0
    return finite


@inlined
def _pack_values(like, table, arena, v, begin, keys, feature, count, hides):
    """Pack values in groups of TILE_ROWS features, key after key in each.

    If a key is hidden from a row that meets it (`hides`), NaN and infinities are packed as 0
    and `add_non_finite` adds them to the rows that see them.  Returns whether there were any.
    """
    group_bytes = field(like, table, "VALUE_GROUP_BYTES")
    size = item_bytes(like)
    packed = arena + field(like, table, "VALUES")
    clean = arena + field(like, table, "STAGE") + field(like, table, "STAGE_BYTES")
    found = False
    for j in range(keys):
        row = value_row(like, table, arena, v, begin + j, feature, count)
        if hides and row_is_finite(like, row, count) == 0:
            found = True
            for d in range(count):
                value = load_float(like, row + d * size)
                store_float(like, clean + d * size, value if math.isfinite(value) else 0.0)
            row = clean
        pack_row(like, TILE_ROWS, packed + j * TILE_ROWS * size, group_bytes, row, count)
    return found


@jitted
def sees(like, table, arena, row, key):
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
    read_any(like, kind, added, source + key * stride, stride, 1)
    return load_float(like, added) != -math.inf


@jitted
def add_non_finite(
    like, table, arena, v, begin, keys, feature, count, first_row, rows, betas,
    weights, weight_row, weight_step, results, result_row, result_step,
):  # fmt: skip
    """Add NaN and infinities, for which 0 stood in the sums, to the rows that see them.

    Weights lie `weight_row` bytes apart from row to row and `weight_step` from key to key,
    results `result_row` from row to row and `result_step` from feature to feature.
    """
    size = item_bytes(like)
    for j in range(keys):
        row = value_row(like, table, arena, v, begin + j, feature, count)
        if row_is_finite(like, row, count) != 0:
            continue
        for r in range(rows):
            if not sees(like, table, arena, first_row + r, begin + j):
                continue
            weight = load_float(like, weights + r * weight_row + j * weight_step)
            beta = load_float(like, betas + r * size)
            for d in range(count):
                value = load_float(like, row + d * size)
                if not math.isfinite(value):
                    place = results + r * result_row + d * result_step
                    store_float(like, place, load_float(like, place) + weight * value * beta)


@inlined
def _add_mask(like, table, arena, rows, panel, scores, begin, keys):
    """Add the dense mask to a panel's scores."""
    width, lanes, size = panel_width(like), lane_count(like), item_bytes(like)
    kind, stride = field(like, table, "MASK_KIND"), field(like, table, "MASK_E")
    staged, row_bytes = arena + field(like, table, "MASK"), field(like, table, "MASK_ROW_BYTES")
    mask_rows = row_table(like, table, arena, "MASK") + 8 * panel * width
    used = min(width, rows - panel * width)
    for lane in range(used):
        source = load_word(like, mask_rows + 8 * lane) + begin * stride
        read_any(like, kind, staged + lane * row_bytes, source, stride, keys)
    # Lanes past `used` add whatever lies there, and keep it to themselves.
    for j in range(0, keys, lanes):
        for lane in range(0, used, lanes):
            tile = staged + lane * row_bytes + j * size
            add_mask_tile(like, tile, row_bytes, scores + (j * width + lane) * size)


@jitted
def _band_hides(like, table, arena, panel, begin, end):
    """Whether the band of some row of a panel leaves out some of these keys."""
    low_max = load_word(like, panel_cell(like, table, arena, panel, "LOW_MAX"))
    high_min = load_word(like, panel_cell(like, table, arena, panel, "HIGH_MIN"))
    return low_max > begin or high_min < end


@jitted
def look_at_panel(like, table, arena, rows, panel, block):
    """Settle which keys of the block a panel computes; return whether any is hidden from a row.

    Fills BEGIN, END and FULL.  Keys at either end that a boolean mask hides from all rows are
    left out; a tile in which it hides none is computed as without a mask.
    """
    block_k, width = field(like, table, "BLOCK_K"), panel_width(like)
    low = load_word(like, panel_cell(like, table, arena, panel, "LOW_MIN"))
    high = load_word(like, panel_cell(like, table, arena, panel, "HIGH_MAX"))
    begin, end = max(low, block * block_k), min(high, (block + 1) * block_k)
    kind = field(like, table, "MASK_KIND")
    full = kind == NO_KIND
    if kind == BOOL and field(like, table, "MASK_E") == 1 and begin < end:
        found = panel_cell(like, table, arena, panel, "BEGIN")
        mask_rows = row_table(like, table, arena, "MASK") + 8 * panel * width
        used = min(width, rows - panel * width)
        find_seen(like, mask_rows, used, begin, end - begin, found)
        end = begin + load_word(like, found + 8)
        begin += load_word(like, found)
        full = load_word(like, found + 16) != 0
    store_word(like, panel_cell(like, table, arena, panel, "BEGIN"), begin)
    store_word(like, panel_cell(like, table, arena, panel, "END"), end)
    store_word(like, panel_cell(like, table, arena, panel, "FULL"), 1 if full else 0)
    return begin < end and (not full or _band_hides(like, table, arena, panel, begin, end))


@inlined
def _softmax(like, table, arena, rows, panel, scores, softcap):
    """Masks and the online softmax for a panel's part of a key block."""
    width, size = panel_width(like), item_bytes(like)
    vectors = used_vectors(like, rows, panel)
    begin = load_word(like, panel_cell(like, table, arena, panel, "BEGIN"))
    keys = load_word(like, panel_cell(like, table, arena, panel, "END")) - begin
    if softcap > 0.0:
        cap_scores(like, scores, keys, vectors, softcap)
    full = load_word(like, panel_cell(like, table, arena, panel, "FULL")) != 0
    if not full and field(like, table, "MASK_KIND") != NO_KIND:
        _add_mask(like, table, arena, rows, panel, scores, begin, keys)
    partial = _band_hides(like, table, arena, panel, begin, begin + keys)
    first, past = lane_row(like, table, arena, "FIRST"), lane_row(like, table, arena, "PAST")
    if partial:
        lows, highs = row_table(like, table, arena, "LOW"), row_table(like, table, arena, "HIGH")
        for lane in range(width):
            r = panel * width + lane
            low = clamp(like, load_word(like, lows + 8 * r) - begin, 0, keys)
            high = clamp(like, load_word(like, highs + 8 * r) - begin, 0, keys)
            # Exact in the compute type: block_k is at most 2**16.
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
        state_row(like, table, arena, "BETA", panel),
    )


@jitted
def key_block(like, table, arena, rows, block, k, v, softcap):
    """Scores, softmax and weighted sum of one block of keys for a row block."""
    width, size = panel_width(like), item_bytes(like)
    panels = (rows + width - 1) // width
    chunk = field(like, table, "CHUNK")
    dim, dim_v = field(like, table, "DIM"), field(like, table, "DIM_V")

    first, past, hides = field(like, table, "LENGTH_K"), 0, False
    for panel in range(panels):
        if look_at_panel(like, table, arena, rows, panel, block):
            hides = True
        begin = load_word(like, panel_cell(like, table, arena, panel, "BEGIN"))
        end = load_word(like, panel_cell(like, table, arena, panel, "END"))
        if begin < end:
            first, past = min(first, begin), max(past, end)
    if first >= past:
        return

    # If one chunk holds all features, panels go through all steps one after the other while
    # their scores are in the nearest cache; else all panels meet each chunk of K and V in turn,
    # and keys are staged a chunk at a time.
    one_chunk = dim <= chunk and dim_v <= chunk
    together = 1 if one_chunk else panels
    keys_at, key_stride = k + first * field(like, table, "K_R"), field(like, table, "K_R")
    key_step = field(like, table, "K_E")
    staged = field(like, table, "KEY_BYTES") != 0
    if staged:
        keys_at, key_step = arena + field(like, table, "KEYS"), size
        key_stride = field(like, table, "KEY_BYTES")
    # A single panel reads each value once: packing would cost more than it saves.
    stride = field(like, table, "V_R")
    in_place = panels == 1 and field(like, table, "IN_PLACE") != 0
    in_place = in_place and field(like, table, "V_E") == size
    if in_place and hides:
        in_place = all_finite(like, v + first * stride, past - first, stride, dim_v)
    value_group, value_step = field(like, table, "VALUE_GROUP_BYTES"), TILE_ROWS * size
    if in_place:
        value_group, value_step = TILE_ROWS * size, stride
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
                scores = arena + field(like, table, "SCORES") + (panel - panel_0) * score_panel
                keys_of = keys_at + (begin - first) * key_stride
                queries = arena + field(like, table, "QUERIES") + panel * query_panel
                queries += d * width * size
                fresh = 1 if d == 0 else 0
                _multiply(
                    like,
                    used_vectors(like, rows, panel),
                    scores,
                    end - begin,
                    keys_of,
                    key_stride,
                    TILE_ROWS * key_stride,
                    key_step,
                    queries,
                    count,
                    fresh,
                    ones,
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
            values_at = arena + field(like, table, "VALUES")
            if in_place:
                values_at = v + first * stride + d * size
            elif panel_0 == 0:
                non_finite = _pack_values(
                    like, table, arena, v, first, past - first, d, count, hides
                )
            for panel in range(panel_0, panel_1):
                begin = load_word(like, panel_cell(like, table, arena, panel, "BEGIN"))
                end = load_word(like, panel_cell(like, table, arena, panel, "END"))
                if begin >= end:
                    continue
                weights = arena + field(like, table, "SCORES")
                weights += (panel - panel_0) * score_panel
                values_of = values_at + (begin - first) * value_step
                result = arena + field(like, table, "RESULT") + panel * result_panel
                result += d * width * size
                alpha = state_row(like, table, arena, "ALPHA", panel)
                beta = state_row(like, table, arena, "BETA", panel)
                _multiply(
                    like,
                    used_vectors(like, rows, panel),
                    result,
                    count,
                    values_of,
                    size,
                    value_group,
                    value_step,
                    weights,
                    end - begin,
                    0,
                    alpha,
                    beta,
                )
                if non_finite:
                    add_non_finite(
                        like, table, arena, v, begin, end - begin, d, count,
                        panel * width, min(width, rows - panel * width), beta,
                        weights, size, width * size, result, size, width * size,
                    )  # fmt: skip
