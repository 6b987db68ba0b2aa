"""The row block of the Numba kernel: where its rows lie, queries in, results out.

Purpose: fill the tables of a row block, pack its queries as panels, write its results.
Non-goals: keys and values (`block`).

arena   a thread's working memory, laid out by `numba_`; its parts are named in
        `shape`
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (Numba infers the types: `like` is of the compute type, all else int64.)

from __future__ import annotations

import math

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
    panel_width,
    row_table,
    state_row,
    store_float,
    store_word,
    used_vectors,
)
from fastattn.implementations._numba.rows import read_any, write_any
from fastattn.implementations._numba.shape import NO_KIND, TOGETHER
from fastattn.implementations._numba.strips import scale_strip
from fastattn.implementations._numba.tiles import (
    finish_panel,
    gather_tile,
    scatter_tile,
)

__all__ = ["lay_out_rows", "pack_queries", "prepare", "read_few_queries", "write_results"]


@inlined
def prepare(like, table, arena):
    """Fill the parts of a thread's arena that all its items share."""
    lanes = lane_count(like)
    stage = arena + field(like, table, "STAGE")
    stage_table = arena + field(like, table, "STAGE_TABLE")
    for lane in range(lanes):
        row = stage + lane * field(like, table, "STAGE_BYTES")
        store_word(like, stage_table + 8 * lane, row)
    width = panel_width(like)
    fill(like, lane_row(like, table, arena, "ONES"), width // lanes, 1.0)


@jitted
def few_lanes(like, rows):
    """Rows that are computed if `rows` are asked for: the last one is repeated."""
    return 1 if rows == 1 else (rows + TOGETHER - 1) // TOGETHER * TOGETHER


@inlined
def lay_out_rows(like, table, arena, first, rows, head, q, out, lse, mask, offset, length):
    """Fill the tables of a row block; return the first key that it sees and one past the last."""
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
    # Lanes past the last row repeat it, but write to a place that nobody reads.
    unread = arena + field(like, table, "STAGE")
    unread += lane_count(like) * field(like, table, "STAGE_BYTES")
    block_low, block_high = length_k, 0
    lanes = width if field(like, table, "FEW") == 0 else few_lanes(like, rows)
    for panel in range((rows + width - 1) // width):
        low_min, low_max, high_min, high_max = length_k, 0, length_k, 0
        for r in range(panel * width, panel * width + lanes):
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


@inlined
def pack_queries(like, table, arena, rows, scale):
    """Pack Q, multiplied by `scale`, as panels with one panel row per feature."""
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
                    read_any(like, kind, stage + lane * stage_bytes, source, stride, dim)
                q_rows = stage_table
            for d in range(0, dim, lanes):
                # In place, the last tile overlaps the one before; staged rows are long enough.
                start = min(d, dim - lanes) if in_place else d
                target = packed + (start * width + vector * lanes) * size
                gather_tile(like, q_rows, start * size, target, scale)


@inlined
def read_few_queries(like, table, arena, rows, scale):
    """Read Q row by row, multiplied by `scale`, with zeros up to whole registers."""
    kind, stride = field(like, table, "KIND"), field(like, table, "Q_E")
    row_bytes, size = field(like, table, "QUERY_ROW_BYTES"), item_bytes(like)
    vectors = row_bytes // (lane_count(like) * size)
    q_rows = row_table(like, table, arena, "Q")
    for r in range(few_lanes(like, rows)):
        row = arena + field(like, table, "QUERIES") + r * row_bytes
        fill(like, row, vectors, 0.0)
        read_any(
            like, kind, row, load_word(like, q_rows + 8 * r), stride, field(like, table, "DIM")
        )
        scale_strip(like, row, row, scale, vectors)


@inlined
def _write_few(like, table, arena, rows, factors):
    """Write each row's result, multiplied by its factor."""
    size, row_bytes = item_bytes(like), field(like, table, "RESULT_ROW_BYTES")
    kind, stride = field(like, table, "KIND"), field(like, table, "OUT_E")
    for r in range(rows):
        result = arena + field(like, table, "RESULT") + r * row_bytes
        factor = load_float(like, factors + r * size)
        scale_strip(like, result, result, factor, row_bytes // (lane_count(like) * size))
        target = load_word(like, row_table(like, table, arena, "OUT") + 8 * r)
        write_any(like, kind, target, stride, result, field(like, table, "DIM_V"))


@inlined
def write_results(like, table, arena, rows, first, head, sinks, lse):
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
        top = state_row(like, table, arena, "TOP", panel)
        total = state_row(like, table, arena, "TOTAL", panel)
        used = min(width, rows - panel * width)
        with_sinks = sink_kind != NO_KIND
        sink_row = state_row(like, table, arena, "SINK", panel)
        if with_sinks:
            for lane in range(width):
                row = first + min(panel * width + lane, rows - 1)
                source = sinks + (head * group + row // length_q) * sink_stride
                read_any(like, sink_kind, sink_row + lane * size, source, sink_stride, 1)
        if lse != 0:
            lse_rows = row_table(like, table, arena, "LSE") + 8 * panel * width
            for lane in range(used):
                value = load_float(like, top + lane * size)
                value += math.log(load_float(like, total + lane * size))
                store_float(like, load_word(like, lse_rows + 8 * lane), value)
        vectors = used_vectors(like, rows, panel)
        finish_panel(like, vectors, 1 if with_sinks else 0, sink_row, top, total, factors)
        if field(like, table, "FEW") != 0:
            _write_few(like, table, arena, rows, factors)
            return
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
                    write_any(like, kind, target, stride, stage + lane * stage_bytes, dim_v)
