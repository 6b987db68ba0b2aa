"""The register tile of both matrix products, and the transposition of a square tile.

A panel is `PANEL_VECTORS` registers wide: a row of it has one number for each of so many queries.
All arrays here are one-dimensional and contiguous; arguments are indices of their elements.

The two intrinsics emit LLVM vectors, because LLVM prefers 256-bit vectors on CPUs that have 512-bit
ones, and keeps no tile of accumulators in registers by itself.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

# What Numba compiles for: the host, unless NUMBA_CPU_NAME or NUMBA_CPU_FEATURES say otherwise.
_TRIPLE, _, _FEATURES = cpu_target.target_context.codegen().magic_tuple()
_WIDE = "+avx512f" in _FEATURES.split(",")
REGISTER_BYTES = 64 if _WIDE else 32 if "+avx2" in _FEATURES.split(",") else 16
PANEL_VECTORS = 2
TILE_ROWS = 6 if _TRIPLE.startswith(("x86_64", "i686")) and not _WIDE else 8
"""6 x 2 accumulators, a row of the panel and a broadcast number take 15 of 16 registers."""
_WORD = ir.IntType(64)


def item_bytes(array):
    """Bytes of an element as a constant, which ``array.itemsize`` is not."""
    raise NotImplementedError


@overload(item_bytes)
def _typed_item_bytes(array):
    size = array.dtype.bitwidth // 8
    return lambda array: size


class _Emitter:
    """Emits code for registers full of an array's elements."""

    def __init__(self, context, builder, kind, array):
        bits, self.builder = kind.dtype.bitwidth, builder
        self.lanes, self.align = REGISTER_BYTES * 8 // bits, bits // 8
        self.vector = ir.VectorType(ir.FloatType() if bits == 32 else ir.DoubleType(), self.lanes)
        self.data = context.make_array(kind)(context, builder, array).data
        fma, name = ir.FunctionType(self.vector, [self.vector] * 3), f"v{self.lanes}f{bits}"
        self._fma = cgutils.get_or_insert_function(builder.module, fma, f"llvm.fmuladd.{name}")

    def _pointer(self, terms):
        at = self.builder.gep(self.data, [functools.reduce(self.builder.add, terms)])
        return self.builder.bitcast(at, self.vector.as_pointer())

    def load(self, *terms):
        """The register that begins at the sum of some indices."""
        return self.builder.load(self._pointer(terms), align=self.align)

    def store(self, value, *terms):
        self.builder.store(value, self._pointer(terms), align=self.align)

    def broadcast(self, *terms):
        """One element in all lanes."""
        number = self.builder.gep(self.data, [functools.reduce(self.builder.add, terms)])
        number = self.builder.load(number)
        first = self.builder.insert_element(self.vector(ir.Undefined), number, _WORD(0))
        return self.shuffle(first, first, [0] * self.lanes)

    def shuffle(self, x, y, order):
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), order)
        return self.builder.shuffle_vector(x, y, mask)

    def fma(self, x, y, z):
        """``x * y + z``, in one rounding where the CPU can."""
        return self.builder.call(self._fma, [x, y, z])


@intrinsic(prefer_literal=True)
def _multiply_tile(typingctx, vectors, work, c, a, a_step, b, count, factor, accumulate):
    """``c[r] = factor * c[r] + sum_t a[t, r] * b[t]`` for TILE_ROWS rows r.

    `c`, `b` and `factor` are panel rows, of which `vectors` registers are computed; rows of `a`
    are `a_step` apart.  If `accumulate` is 0, c is not read.  Each sum is one chain in the order
    of t, and added to c as a whole.
    """
    cells = [(r, v) for r in range(TILE_ROWS) for v in range(vectors.literal_value)]

    def codegen(context, builder, signature, values):
        _, array, c, a, a_step, b, count, factor, accumulate = values
        emit = _Emitter(context, builder, work, array)
        column = [_WORD(v * emit.lanes) for v in range(PANEL_VECTORS)]
        row = [_WORD(r * PANEL_VECTORS * emit.lanes) for r in range(TILE_ROWS)]
        zero = emit.vector([0.0] * emit.lanes)
        accumulators = {cell: cgutils.alloca_once_value(builder, zero) for cell in cells}

        def add(x, y, cell):
            builder.store(emit.fma(x, y, builder.load(accumulators[cell])), accumulators[cell])

        with cgutils.for_range(builder, count) as loop:
            at = builder.add(b, builder.mul(loop.index, _WORD(PANEL_VECTORS * emit.lanes)))
            right = [emit.load(at, column[v]) for v in range(vectors.literal_value)]
            left = builder.add(a, builder.mul(loop.index, a_step))
            for r, v in cells:
                add(emit.broadcast(left, _WORD(r)), right[v], (r, v))
        with builder.if_then(builder.icmp_signed("!=", accumulate, _WORD(0))):
            for r, v in cells:
                add(emit.load(c, row[r], column[v]), emit.load(factor, column[v]), (r, v))
        for r, v in cells:
            emit.store(builder.load(accumulators[r, v]), c, row[r], column[v])
        return context.get_dummy_value()

    return types.void(vectors, work, *[types.intp] * 7), codegen


@njit
def multiply(work, vectors, c, rows, a, a_step, a_group, b, count, factor, accumulate):
    """`_multiply_tile` for any number of rows, of which `a` has groups of `a_step`; whole tiles."""
    width = PANEL_VECTORS * (REGISTER_BYTES // item_bytes(work))
    for r in range(0, rows, TILE_ROWS):
        at, left = c + r * width, a + r // a_step * a_group + r % a_step
        if vectors == 1:
            _multiply_tile(1, work, at, left, a_step, b, count, factor, accumulate)
        else:
            _multiply_tile(2, work, at, left, a_step, b, count, factor, accumulate)


@intrinsic
def _transpose_tile(typingctx, work, to, to_step, source, source_step):
    """Transpose a square of as many rows as a register has lanes; steps are from row to row."""

    def codegen(context, builder, signature, values):
        array, to, to_step, source, source_step = values
        emit = _Emitter(context, builder, work, array)
        n, half = emit.lanes, emit.lanes // 2
        rows = [emit.load(source, builder.mul(source_step, _WORD(i))) for i in range(n)]
        orders = [[x * n + first + i for i in range(half) for x in range(2)] for first in (0, half)]
        for _ in range(n.bit_length() - 1):  # perfect shuffles
            rows = [
                emit.shuffle(rows[i // 2], rows[i // 2 + half], orders[i % 2]) for i in range(n)
            ]
        for i, row in enumerate(rows):
            emit.store(row, to, builder.mul(to_step, _WORD(i)))
        return context.get_dummy_value()

    return types.void(work, *[types.intp] * 4), codegen


@njit
def transpose(work, to, to_step, source, source_step, rows, columns):
    """Transpose whole tiles, at least rows x columns."""
    lanes = REGISTER_BYTES // item_bytes(work)
    for r in range(0, rows, lanes):
        for c in range(0, columns, lanes):
            at, tile = to + c * to_step + r, source + r * source_step + c
            _transpose_tile(work, at, to_step, tile, source_step)
