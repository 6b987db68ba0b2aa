"""The register tile of both matrix products, and the transposition of a square tile.

A panel is `PANEL_VECTORS` registers wide: a row of it has one number for each of so many queries.
Panels lie in the working memory `work`; arguments are indices of its elements.

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

helper = functools.partial(
    njit, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)
"""Compiles a function that compiled functions call, without the wrappers that others need."""


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

    def broadcast(self, pointer):
        """One number, which need not be aligned, in all lanes."""
        number = self.builder.load(pointer, align=1)
        first = self.builder.insert_element(self.vector(ir.Undefined), number, _WORD(0))
        return self.shuffle(first, first, [0] * self.lanes)

    def shuffle(self, x, y, order):
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), order)
        return self.builder.shuffle_vector(x, y, mask)

    def fma(self, x, y, z):
        """``x * y + z``, in one rounding where the CPU can."""
        return self.builder.call(self._fma, [x, y, z])


@intrinsic(prefer_literal=True)
def _multiply_tile(typingctx, vectors, work, c, a, row, term, count, b, factor, accumulate):
    """``c[r] = factor * c[r] + sum_t a[row + r, term + t] * b[t]`` for TILE_ROWS rows r.

    `a` is a matrix of any strides, whose last row stands for rows beyond it.  `c`, `b` and
    `factor` are panel rows of `work`, of which `vectors` registers are computed.  If `accumulate`
    is 0, c is not read.  Each sum is one chain in the order of t, and added to c as a whole.
    """
    cells = [(r, v) for r in range(TILE_ROWS) for v in range(vectors.literal_value)]

    def codegen(context, builder, signature, values):
        _, array, c, matrix, row, term, count, b, factor, accumulate = values
        emit = _Emitter(context, builder, work, array)
        matrix = context.make_array(a)(context, builder, matrix)
        row_step, term_step = cgutils.unpack_tuple(builder, matrix.strides)
        last = builder.sub(cgutils.unpack_tuple(builder, matrix.shape)[0], _WORD(1))
        column = [_WORD(v * emit.lanes) for v in range(PANEL_VECTORS)]
        panel_row = [_WORD(r * PANEL_VECTORS * emit.lanes) for r in range(TILE_ROWS)]
        zero = emit.vector([0.0] * emit.lanes)
        accumulators = {cell: cgutils.alloca_once_value(builder, zero) for cell in cells}
        rows, start = [], builder.mul(term, term_step)
        for r in range(TILE_ROWS):
            index = builder.add(row, _WORD(r))
            index = builder.select(builder.icmp_signed("<", index, last), index, last)
            index = builder.add(builder.mul(index, row_step), start)
            rows.append(cgutils.pointer_add(builder, matrix.data, index))

        def add(x, y, cell):
            builder.store(emit.fma(x, y, builder.load(accumulators[cell])), accumulators[cell])

        with cgutils.for_range(builder, count) as loop:
            at = builder.add(b, builder.mul(loop.index, _WORD(PANEL_VECTORS * emit.lanes)))
            right = [emit.load(at, column[v]) for v in range(vectors.literal_value)]
            offset = builder.mul(loop.index, term_step)
            for r, v in cells:
                add(emit.broadcast(cgutils.pointer_add(builder, rows[r], offset)), right[v], (r, v))
        with builder.if_then(builder.icmp_signed("!=", accumulate, _WORD(0))):
            for r, v in cells:
                add(emit.load(c, panel_row[r], column[v]), emit.load(factor, column[v]), (r, v))
        for r, v in cells:
            emit.store(builder.load(accumulators[r, v]), c, panel_row[r], column[v])
        return context.get_dummy_value()

    return types.void(vectors, work, types.intp, a, *[types.intp] * 6), codegen


@helper
def multiply(work, vectors, c, a, row, rows, term, count, b, factor, accumulate):
    """`_multiply_tile` for any number of rows of `a`, from `row` on; whole tiles."""
    width = PANEL_VECTORS * (REGISTER_BYTES // item_bytes(work))
    for r in range(0, rows, TILE_ROWS):
        to, at = c + r * width, row + r
        if vectors == 1:
            _multiply_tile(1, work, to, a, at, term, count, b, factor, accumulate)
        else:
            _multiply_tile(2, work, to, a, at, term, count, b, factor, accumulate)


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
            pairs = [(rows[i // 2], rows[i // 2 + half], orders[i % 2]) for i in range(n)]
            rows = [emit.shuffle(*pair) for pair in pairs]
        for i, row in enumerate(rows):
            emit.store(row, to, builder.mul(to_step, _WORD(i)))
        return context.get_dummy_value()

    return types.void(work, *[types.intp] * 4), codegen


@helper
def transpose(work, to, to_step, to_next, source, source_step, source_next, count):
    """Transpose whole tiles, at least `count` rows or columns; `next` are from tile to tile."""
    for i in range(0, count, REGISTER_BYTES // item_bytes(work)):
        _transpose_tile(work, to + i * to_next, to_step, source + i * source_next, source_step)
