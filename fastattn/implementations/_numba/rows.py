"""Numba intrinsics that move one row of numbers: conversion, packing, a look for NaN.

Purpose: whatever layout and type a caller's row has, make it a row of the compute type
at unit stride, or the reverse.
Non-goals: tiles and panels (`tiles`).

kind    what a row in memory holds: one of the numbers `FLOAT32` ... `BOOL`
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (Numba infers the types: `like` is of the compute type, all else int64.)

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from fastattn.implementations._numba import formulas
from fastattn.implementations._numba.intrinsics import jitted, written_intrinsic
from fastattn.implementations._numba.ir import LANES_BYTES, Emitter, Num, itemsize, lanes
from fastattn.implementations._numba.shape import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64

__all__ = ["find_seen", "pack_row", "read_any", "row_is_finite", "write_any"]

_STORED: dict[int, ir.Type] = {
    FLOAT32: ir.FloatType(),
    FLOAT64: ir.DoubleType(),
    FLOAT16: ir.IntType(16),
    BFLOAT16: ir.IntType(16),
    BOOL: ir.IntType(8),
}


def _read(stored: Num, kind: int, element: ir.Type) -> Num:
    if kind == FLOAT16:
        return formulas.float16_to_float32(stored).extended(element)
    if kind == BFLOAT16:
        return formulas.bfloat16_to_float32(stored).extended(element)
    if kind == BOOL:
        # True adds nothing to a score, False hides its key.
        zero = stored.emit.constant(element, 0.0, stored.count)
        return zero.where(stored > 0, float("-inf"))
    return stored.extended(element)


def _written(number: Num, kind: int) -> Num:
    if kind == FLOAT16:
        return formulas.float32_to_float16(number)
    if kind == BFLOAT16:
        return formulas.float32_to_bfloat16(number)
    return number


def _along(
    emit: Emitter, count: Num, width: int, dense: Num, body: Callable[[Num, int], None]
) -> None:
    """Run ``body(start, lanes)`` over a row: whole registers if it is dense, then singly."""
    wholes = emit.variable(emit.index(0))
    with emit.when(dense):
        wholes.set(count >> (width.bit_length() - 1))
    with emit.loop(wholes.get()) as i:
        body(i * width, width)
    done = wholes.get() * width
    with emit.loop(count - done) as i:
        body(done + i, 1)


@written_intrinsic("nothing")
def read_row(
    emit: Emitter, element: ir.Type, kind: int, row: Num, source: Num, stride: Num, count: Num
) -> None:
    """Convert `count` numbers of `kind` at `stride` into a row of the compute type."""
    stored = _STORED[kind]
    if kind == FLOAT64 and itemsize(element) == 4:
        return  # no call holds float64 beside a narrower compute type

    def convert(start: Num, width: int) -> None:
        number = _read(emit.load(source + start * stride, stored, width), kind, element)
        emit.store(number, row + start * itemsize(element))

    _along(emit, count, lanes(element), stride.equals(itemsize(stored)), convert)


@written_intrinsic("nothing")
def write_row(
    emit: Emitter, element: ir.Type, kind: int, target: Num, stride: Num, row: Num, count: Num
) -> None:
    """Round `count` numbers of a row into `kind` at `stride`."""
    stored = _STORED[kind]
    if (kind == FLOAT64) != (itemsize(element) == 8):
        return  # no call computes in another type

    def convert(start: Num, width: int) -> None:
        number = emit.load(row + start * itemsize(element), element, width)
        emit.store(_written(number, kind), target + start * stride)

    _along(emit, count, lanes(element), stride.equals(itemsize(stored)), convert)


@written_intrinsic("word")
def row_is_finite(emit: Emitter, element: ir.Type, row: Num, count: Num) -> Num:
    """1 if no number of a row is NaN or infinite, else 0."""
    width = lanes(element)
    poison = {n: emit.variable(emit.constant(element, 0.0, n)) for n in (1, width)}

    def look(start: Num, n: int) -> None:
        number = emit.load(row + start * itemsize(element), element, n)
        # x * 0 is 0 if x is finite, else NaN, which stays in the sum.
        poison[n].set(number.times_plus(0.0, poison[n].get()))

    _along(emit, count, width, count.equals(count), look)
    total = poison[1].get()
    for lane in range(width):
        total = total + poison[width].get().lane(lane)
    return emit.number(emit.builder.zext(total.equals(total).ir, ir.IntType(64)))


@written_intrinsic("nothing")
def find_seen(
    emit: Emitter, element: ir.Type, table: Num, rows: Num, offset: Num, keys: Num, found: Num
) -> None:
    """Find which of `keys` keys the boolean masks of `rows` rows, at unit stride, leave visible.

    `table` holds the rows' addresses, to which `offset` is added.  Writes three words to
    `found`: the first key that some row sees (`keys` if none), one past the last (0 if none),
    and whether every row sees every key.
    """
    byte = ir.IntType(8)
    first, past = emit.variable(keys), emit.variable(emit.index(0))
    every = emit.variable(emit.index(1))

    def look(start: Num, width: int) -> None:
        some = emit.variable(emit.constant(byte, 0, width))
        each = emit.variable(emit.constant(byte, 255, width))
        with emit.loop(rows) as r:
            row = emit.load(emit.load(table + r * 8, ir.IntType(64)) + offset + start, byte, width)
            some.set(some.get() | row)
            each.set(each.get() & row)
        seen = some.get().nonzero_lanes()
        with emit.when(seen > 0):
            first.set(first.get().at_most(start + seen.trailing_zeros()))
            past.set(past.get().at_least(start + seen.significant_bits()))
        full = emit.index((1 << width) - 1).equals(each.get().nonzero_lanes())
        every.set(every.get().where(full, 0))

    # At most 32 keys at once, so that their bits are one positive word.
    _along(emit, keys, min(32, LANES_BYTES), keys.equals(keys), look)
    for n, variable in enumerate((first, past, every)):
        emit.store(variable.get(), found + 8 * n)


@written_intrinsic("nothing")
def pack_row(
    emit: Emitter, element: ir.Type, rows: int, packed: Num, stride: Num, row: Num, count: Num
) -> None:
    """Deal a row out to blocks of `rows` numbers, `stride` apart; zeros fill the last one."""
    size = itemsize(element)
    wholes = emit.number(emit.builder.sdiv(count.ir, emit.index(rows).ir))
    with emit.loop(wholes) as i:
        emit.store(emit.load(row + i * (rows * size), element, rows), packed + i * stride)
    done = wholes * rows
    with emit.when(done < count):
        last = packed + wholes * stride
        emit.store(emit.constant(element, 0.0, rows), last)
        with emit.loop(count - done) as i:
            emit.store(emit.load(row + (done + i) * size, element), last + i * size)


@jitted
def read_any(like, kind, row, source, stride, count):
    """`read_row` for a kind that is known only at run time."""
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


@jitted
def write_any(like, kind, target, stride, row, count):
    """`write_row` for a kind that is known only at run time."""
    if kind == FLOAT32:
        write_row(like, FLOAT32, target, stride, row, count)
    elif kind == FLOAT64:
        write_row(like, FLOAT64, target, stride, row, count)
    elif kind == FLOAT16:
        write_row(like, FLOAT16, target, stride, row, count)
    else:
        write_row(like, BFLOAT16, target, stride, row, count)
