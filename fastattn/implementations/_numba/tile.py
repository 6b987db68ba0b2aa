"""The register tile of both matrix products, and the transposition of a square tile.

A panel is `PANEL_VECTORS` registers wide: a row of it has one number for each of so many queries.
All arrays here are one-dimensional and contiguous; arguments are indices of their elements.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastattn.implementations._numba.vectors import (
    FEW_REGISTERS,
    REGISTER_BYTES,
    Vector,
    call_fma,
    pointer,
    spread_value,
)

PANEL_VECTORS = 2
TILE_ROWS = 6 if FEW_REGISTERS else 8
"""6 x 2 accumulators, a row of the panel and a broadcast number take 15 of 16 registers."""
_WORD = ir.IntType(64)


@intrinsic(prefer_literal=True)
def _multiply_tile(typingctx, vectors, work, c, a, a_row, a_step, b, count, factor, overwrite):
    """``c[r] = factor * c[r] + sum_t a[r, t] * b[t]`` for TILE_ROWS rows r.

    `c`, `b` and `factor` are panel rows, of which `vectors` registers are computed;
    ``a[r, t]`` is a number, at ``a + r * a_row + t * a_step``.  If `overwrite`, c is not read.
    Each sum is one chain in the order of t, and added to c as a whole.
    """
    vector, columns = Vector(work.dtype), vectors.literal_value
    width, align = PANEL_VECTORS * vector.lanes, vector.align
    cells = [(r, v) for r in range(TILE_ROWS) for v in range(columns)]

    def codegen(context, builder, signature, values):
        _, array, c, a, a_row, a_step, b, count, factor, overwrite = values
        data = context.make_array(work)(context, builder, array).data

        def address(row, offset):
            at = builder.add(row, _WORD(offset))
            return pointer(context, builder, work, array, at, vector)

        zero = vector.ir([0.0] * vector.lanes)
        accumulators = {cell: cgutils.alloca_once_value(builder, zero) for cell in cells}
        starts = [builder.add(a, builder.mul(a_row, _WORD(r))) for r in range(TILE_ROWS)]
        with cgutils.for_range(builder, count) as loop:
            row = builder.add(b, builder.mul(loop.index, _WORD(width)))
            step = builder.mul(loop.index, a_step)
            offsets = [v * vector.lanes for v in range(columns)]
            right = [builder.load(address(row, offset), align=align) for offset in offsets]
            for r, v in cells:
                scalar = builder.load(builder.gep(data, [builder.add(starts[r], step)]))
                left = spread_value(builder, vector, scalar)
                total = call_fma(builder, vector, left, right[v], builder.load(accumulators[r, v]))
                builder.store(total, accumulators[r, v])
        with builder.if_then(builder.icmp_signed("==", overwrite, _WORD(0))):
            for r, v in cells:
                before = builder.load(address(c, r * width + v * vector.lanes), align=align)
                scale = builder.load(address(factor, v * vector.lanes), align=align)
                total = call_fma(builder, vector, before, scale, builder.load(accumulators[r, v]))
                builder.store(total, accumulators[r, v])
        for r, v in cells:
            at = address(c, r * width + v * vector.lanes)
            builder.store(builder.load(accumulators[r, v]), at, align=align)
        return context.get_dummy_value()

    return types.void(vectors, work, *[types.intp] * 8), codegen


@njit
def multiply(work, vectors, c, rows, a, a_group, a_row, a_step, b, count, factor, overwrite):
    """`_multiply_tile` for any number of rows, which `a` has in groups of TILE_ROWS."""
    width = PANEL_VECTORS * (REGISTER_BYTES // work.itemsize)
    for group in range((rows + TILE_ROWS - 1) // TILE_ROWS):
        at, left = c + group * TILE_ROWS * width, a + group * a_group
        if vectors == 1:
            _multiply_tile(1, work, at, left, a_row, a_step, b, count, factor, overwrite)
        else:
            _multiply_tile(2, work, at, left, a_row, a_step, b, count, factor, overwrite)


@intrinsic
def transpose_tile(typingctx, work, to, to_step, source, source_step):
    """Transpose a square of as many rows as a register has lanes; steps are from row to row."""
    vector = Vector(work.dtype)
    lanes, half = vector.lanes, vector.lanes // 2

    def codegen(context, builder, signature, values):
        def address(start, step, i):
            at = builder.add(start, builder.mul(step, _WORD(i)))
            return pointer(context, builder, work, values[0], at, vector)

        def interleaved(x, y, first):
            order = [n * lanes + first + i for i in range(half) for n in range(2)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), order)
            return builder.shuffle_vector(x, y, mask)

        rows = [builder.load(address(*values[3:], i), align=vector.align) for i in range(lanes)]
        for _ in range(lanes.bit_length() - 1):  # perfect shuffles
            pairs = [(rows[i // 2], rows[i // 2 + half], i % 2 * half) for i in range(lanes)]
            rows = [interleaved(*pair) for pair in pairs]
        for i, row in enumerate(rows):
            builder.store(row, address(*values[1:3], i), align=vector.align)
        return context.get_dummy_value()

    return types.void(work, *[types.intp] * 4), codegen


@njit
def transpose(work, to, to_step, source, source_step, rows, columns):
    """Transpose whole tiles, at least rows x columns."""
    lanes = REGISTER_BYTES // work.itemsize
    for r in range(0, rows, lanes):
        for c in range(0, columns, lanes):
            at, tile = to + c * to_step + r, source + r * source_step + c
            transpose_tile(work, at, to_step, tile, source_step)
