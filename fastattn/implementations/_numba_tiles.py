"""Numba intrinsics of the attention kernel: what runs once per tile, row or panel.

Purpose: the micro-kernel of both matrix products, the online softmax of a panel,
transposition into and out of panels, conversion of rows.
Non-goals: blocking and the meaning of masks (`_numba_kernel`), formulas (`_numba_math`).

Every intrinsic takes `like` first, a float32 or float64 of any value: its type is the
compute type, and the kernel is compiled once for each.  Addresses, strides and counts are
int64; strides are in bytes.  A parameter annotated ``int`` or ``str`` is a
compile-time constant; names are those of `_numba_shape`.

panel   up to `panel_width` queries side by side, one per lane.  A panel row is one key or
        feature for all of them: `panel_width` numbers, one after the other.
table   int64 array of row addresses, one for each lane
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastattn.implementations import _numba_shape as shape
from fastattn.implementations._numba_ir import (
    LANES_BYTES,
    TILE_VECTORS,
    Emitter,
    Num,
    float_type,
    itemsize,
    lanes,
)
from fastattn.implementations._numba_math import exp, tanh, transpose

__all__ = [
    "add_mask_tile",
    "batch_table",
    "cap_scores",
    "claim",
    "clamp",
    "data_address",
    "field",
    "fill",
    "finish_panel",
    "gather_tile",
    "item_bytes",
    "lane_count",
    "lane_row",
    "load_float",
    "load_word",
    "multiply_tile",
    "panel_cell",
    "panel_width",
    "place_of",
    "row_table",
    "scatter_tile",
    "softmax_panel",
    "state_row",
    "store_float",
    "store_word",
    "used_vectors",
    "written_intrinsic",
]

_WORD = ir.IntType(64)
_OBJECT_HEADER = object.__basicsize__
_UNROLL = 4  # steps of a product per branch
_INFINITY = float("inf")


def written_intrinsic(returns: str) -> Callable[[Callable[..., Num | None]], Any]:
    """Make a Numba intrinsic of ``body(emit, element, *parameters)``.

    Parameters
    ----------
    returns : {"nothing", "word", "float"}
        What `body` gives: None, an int64, or a number of the compute type.
    """

    def decorate(body: Callable[..., Num | None]) -> Any:
        parameters = list(inspect.signature(body).parameters.values())[2:]
        static = [parameter.annotation in ("int", "str") for parameter in parameters]

        def typer(_context: Any, like: Any, *given: Any) -> Any:
            if not all(
                isinstance(kind, types.Literal) or not constant
                for kind, constant in zip(given, static, strict=True)
            ):
                return None  # Numba asks again without literals where these do not fit
            kinds = [
                kind if constant else like if isinstance(kind, types.Float) else types.int64
                for kind, constant in zip(given, static, strict=True)
            ]
            result = {"nothing": types.void, "word": types.int64, "float": like}[returns]

            def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
                emit = Emitter(builder)
                numbers = [
                    kind.literal_value if constant else emit.number(value)
                    for kind, constant, value in zip(kinds, static, values[1:], strict=True)
                ]
                produced = body(emit, float_type(like), *numbers)
                return context.get_dummy_value() if produced is None else produced.ir

            return result(like, *kinds), generate

        names = ["context", "like", *(parameter.name for parameter in parameters)]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind) for name in names]
        )
        typer.__name__, typer.__doc__ = body.__name__, body.__doc__
        return intrinsic(prefer_literal=True)(typer)

    return decorate


@written_intrinsic("word")
def lane_count(emit: Emitter, element: ir.Type) -> Num:
    """Numbers in one SIMD register."""
    return emit.index(lanes(element))


@written_intrinsic("word")
def panel_width(emit: Emitter, element: ir.Type) -> Num:
    """Queries in a panel."""
    return emit.index(TILE_VECTORS * lanes(element))


@written_intrinsic("word")
def used_vectors(emit: Emitter, element: ir.Type, rows: Num, panel: Num) -> Num:
    """Registers of a panel that hold some of the block's rows: 1 or 2."""
    left = rows - panel * (TILE_VECTORS * lanes(element))
    return emit.index(2).where(left > lanes(element), 1)


@written_intrinsic("word")
def clamp(emit: Emitter, element: ir.Type, value: Num, low: Num, high: Num) -> Num:
    """The number of [low, high] nearest to `value`."""
    return value.at_least(low).at_most(high)


@written_intrinsic("word")
def item_bytes(emit: Emitter, element: ir.Type) -> Num:
    """Bytes of a number of the compute type."""
    return emit.index(itemsize(element))


@written_intrinsic("word")
def load_word(emit: Emitter, element: ir.Type, address: Num) -> Num:
    """The int64 at an address."""
    return emit.load(address, _WORD)


@written_intrinsic("nothing")
def store_word(emit: Emitter, element: ir.Type, address: Num, value: Num) -> None:
    """Write an int64."""
    emit.store(value, address)


@written_intrinsic("float")
def load_float(emit: Emitter, element: ir.Type, address: Num) -> Num:
    """The number at an address."""
    return emit.load(address, element)


@written_intrinsic("nothing")
def store_float(emit: Emitter, element: ir.Type, address: Num, value: Num) -> None:
    """Write a number; `value` is of the compute type."""
    emit.store(value, address)


@written_intrinsic("word")
def data_address(emit: Emitter, element: ir.Type, identity: Num) -> Num:
    """Address of the data of the ndarray whose ``id`` is given.

    In NumPy's binary interface an array object is a Python object's header and then the
    data pointer (``PyArrayObject_fields``, numpy/ndarraytypes.h).
    """
    return emit.load(identity + _OBJECT_HEADER, _WORD)


@written_intrinsic("word")
def claim(emit: Emitter, element: ir.Type, counter: Num) -> Num:
    """Add 1 to the int64 at an address, atomically; its value before."""
    pointer = emit.builder.inttoptr(counter.ir, _WORD.as_pointer())
    return emit.number(emit.builder.atomic_rmw("add", pointer, _WORD(1), "monotonic"))


def _word(emit: Emitter, table: Num, name: str) -> Num:
    return emit.load(table + 8 * shape.TABLE.index(name), _WORD)


@written_intrinsic("word")
def field(emit: Emitter, element: ir.Type, table: Num, name: str) -> Num:
    """A number of the call's table."""
    return _word(emit, table, name)


@written_intrinsic("word")
def place_of(emit: Emitter, element: ir.Type, table: Num, name: str) -> Num:
    """Address of a number of the call's table."""
    return table + 8 * shape.TABLE.index(name)


@written_intrinsic("word")
def batch_table(emit: Emitter, element: ir.Type, table: Num) -> Num:
    """Address of the batch axes in the call's table."""
    return table + 8 * len(shape.TABLE)


@written_intrinsic("word")
def row_table(emit: Emitter, element: ir.Type, table: Num, arena: Num, name: str) -> Num:
    """Address of one of `ROW_TABLE`."""
    skipped = _word(emit, table, "ROW_TABLE_BYTES") * shape.ROW_TABLE.index(name)
    return arena + _word(emit, table, "ROW_TABLES") + skipped


@written_intrinsic("word")
def state_row(
    emit: Emitter, element: ir.Type, table: Num, arena: Num, name: str, panel: Num
) -> Num:
    """Address of a panel's part of one of `STATE_ROW`."""
    skipped = _word(emit, table, "ROW_TABLE_BYTES") * shape.STATE_ROW.index(name)
    row = arena + _word(emit, table, "STATE") + skipped
    return row + panel * (TILE_VECTORS * LANES_BYTES)


@written_intrinsic("word")
def lane_row(emit: Emitter, element: ir.Type, table: Num, arena: Num, name: str) -> Num:
    """Address of one of `LANE_ROW`."""
    row = arena + _word(emit, table, "LANES")
    return row + shape.LANE_ROW.index(name) * TILE_VECTORS * LANES_BYTES


@written_intrinsic("word")
def panel_cell(
    emit: Emitter, element: ir.Type, table: Num, arena: Num, panel: Num, name: str
) -> Num:
    """Address of a panel's one of `PANEL_CELL`."""
    cells = shape.PANEL_CELL
    cell = panel * (8 * len(cells)) + 8 * cells.index(name)
    return arena + _word(emit, table, "PANEL_TABLE") + cell


@written_intrinsic("nothing")
def fill(emit: Emitter, element: ir.Type, address: Num, vectors: Num, value: Num) -> None:
    """Set so many whole registers' worth of numbers to `value`."""
    count = lanes(element)
    spread = emit.spread(value, count)
    with emit.loop(vectors) as i:
        emit.store(spread, address + i * (count * itemsize(element)))


@written_intrinsic("nothing")
def multiply_tile(
    emit: Emitter,
    element: ir.Type,
    rows: int,
    vectors: int,
    used: Num,
    c: Num,
    a: Num,
    a_row: Num,
    a_step: Num,
    b: Num,
    count: Num,
    fresh: Num,
    alpha: Num,
) -> None:
    """``c[r] = (0 if fresh else c[r] * alpha) + sum_t a[r, t] * b[t]``: the micro-kernel.

    `c`, `b` and `alpha` are panel rows (`vectors` registers of them), `a` holds numbers at
    ``a + min(r, used - 1) * a_row + t * a_step``: rows past `used` repeat the last one.
    Each sum is one chain in the order of t, whatever `rows` and `vectors` are.
    """
    width, size = lanes(element), itemsize(element)
    step = TILE_VECTORS * width * size
    last = used - 1
    row_addresses = [a] + [a + last.at_most(r) * a_row for r in range(1, rows)]
    cells = [(r, v) for r in range(rows) for v in range(vectors)]
    places = [c + (r * step + v * width * size) for r, v in cells]

    sums = [emit.variable(emit.constant(element, 0.0, width)) for _ in cells]
    with emit.when(fresh.equals(0)):
        factors = [emit.load(alpha + v * width * size, element, width) for v in range(vectors)]
        for (_, v), place, total in zip(cells, places, sums, strict=True):
            total.set(emit.load(place, element, width) * factors[v])

    def advance(a_offset: Num, b_row: Num) -> None:
        columns = [emit.load(b_row + v * width * size, element, width) for v in range(vectors)]
        for r in range(rows):
            scalar = emit.spread(emit.load(row_addresses[r] + a_offset, element), width)
            for v in range(vectors):
                total = sums[r * vectors + v]
                total.set(scalar.times_plus(columns[v], total.get()))

    # Narrow tiles are met once in a while: unrolling them pays for no compile time.
    done = emit.index(0)
    if rows * vectors > 8:
        rounds = count >> (_UNROLL.bit_length() - 1)
        with emit.loop(rounds) as i:
            for t in range(_UNROLL):
                advance((i * _UNROLL + t) * a_step, b + (i * _UNROLL + t) * step)
        done = rounds * _UNROLL
    with emit.loop(count - done) as i:
        advance((done + i) * a_step, b + (done + i) * step)
    for place, total in zip(places, sums, strict=True):
        emit.store(total.get(), place)


@written_intrinsic("nothing")
def gather_tile(
    emit: Emitter, element: ir.Type, table: Num, offset: Num, panel: Num, scale: Num
) -> None:
    """``panel[j][lane] = scale * row[lane][j]`` for a square tile of one register's lanes.

    `offset` is where the tile starts in each row; `panel` the address of its first number.
    """
    width, size = lanes(element), itemsize(element)
    factor = emit.spread(scale, width)
    rows = [
        emit.load(emit.load(table + 8 * lane, _WORD) + offset, element, width) * factor
        for lane in range(width)
    ]
    for j, column in enumerate(transpose(rows)):
        emit.store(column, panel + j * (TILE_VECTORS * width * size))


@written_intrinsic("nothing")
def scatter_tile(
    emit: Emitter, element: ir.Type, panel: Num, factors: Num, table: Num, offset: Num
) -> None:
    """``row[lane][j] = panel[j][lane] * factors[lane]`` for a square tile."""
    width, size = lanes(element), itemsize(element)
    factor = emit.load(factors, element, width)
    columns = [
        # Adding 0 makes -0 of an underflow +0, as it is where hidden keys were added to it.
        emit.load(panel + j * (TILE_VECTORS * width * size), element, width) * factor + 0.0
        for j in range(width)
    ]
    for lane, row in enumerate(transpose(columns)):
        emit.store(row, emit.load(table + 8 * lane, _WORD) + offset)


@written_intrinsic("nothing")
def add_mask_tile(
    emit: Emitter, element: ir.Type, rows: Num, row_stride: Num, scores: Num
) -> None:
    """Add a square tile of mask rows (one for each lane) to scores; -inf hides."""
    width, size = lanes(element), itemsize(element)
    tile = [emit.load(rows + row_stride * lane, element, width) for lane in range(width)]
    for j, added in enumerate(transpose(tile)):
        place = scores + j * (TILE_VECTORS * width * size)
        total = emit.load(place, element, width) + added
        # A hidden score may be NaN or +inf, which no sum with -inf would hide.
        emit.store(added.where(added.equals(-_INFINITY), total), place)


@written_intrinsic("nothing")
def cap_scores(
    emit: Emitter, element: ir.Type, scores: Num, keys: Num, vectors: Num, softcap: Num
) -> None:
    """``s = softcap * tanh(s / softcap)`` for `keys` panel rows."""
    width, size = lanes(element), itemsize(element)
    cap = emit.spread(softcap, width)
    with emit.loop(vectors) as v, emit.loop(keys) as j:
        place = scores + v * (width * size) + j * (TILE_VECTORS * width * size)
        emit.store(cap * tanh(emit.load(place, element, width) / cap), place)


@written_intrinsic("nothing")
def softmax_panel(
    emit: Emitter,
    element: ir.Type,
    scores: Num,
    keys: Num,
    vectors: Num,
    partial: Num,
    low: Num,
    high: Num,
    top: Num,
    total: Num,
    alpha: Num,
) -> None:
    """One step of the online softmax; scores become weights relative to the new maximum.

    `low`, `high`, `top`, `total` and `alpha` are panel rows: the first and one past the
    last visible key (counted from the first row, read if `partial`), the running maximum,
    the running sum, and the factor that what was summed before is to be multiplied by.
    """
    width, size = lanes(element), itemsize(element)
    row = TILE_VECTORS * width * size

    def vector(value: float) -> Num:
        return emit.constant(element, value, width)

    with emit.loop(vectors) as v:
        lane = v * (width * size)
        first = scores + lane
        largest = emit.variable(vector(-_INFINITY))
        with emit.either(partial.equals(0)) as (whole, some):
            with whole, emit.loop(keys) as j:
                s = emit.load(first + j * row, element, width)
                largest.set(s.at_least(largest.get()))
            with some:
                lowest = emit.load(low + lane, element, width)
                highest = emit.load(high + lane, element, width)
                key = emit.variable(vector(0.0))
                with emit.loop(keys) as j:
                    s = emit.load(first + j * row, element, width)
                    position = key.get()
                    s = s.where(position >= lowest, -_INFINITY)
                    s = s.where(position < highest, -_INFINITY)
                    emit.store(s, first + j * row)
                    largest.set(s.at_least(largest.get()))
                    key.set(position + 1.0)
        before = emit.load(top + lane, element, width)
        now = largest.get().at_least(before)
        emit.store(now, top + lane)
        # A row that has seen nothing: exp(-inf - 0) = 0 for each of its keys.
        shift = now.like(0.0).where(now.equals(-_INFINITY), now)
        factor = exp(before - shift)
        emit.store(factor, alpha + lane)
        added = emit.variable(vector(0.0))
        with emit.loop(keys) as j:
            weight = exp(emit.load(first + j * row, element, width) - shift)
            emit.store(weight, first + j * row)
            added.set(added.get() + weight)
        sum_before = emit.load(total + lane, element, width)
        emit.store(sum_before.times_plus(factor, added.get()), total + lane)


@written_intrinsic("nothing")
def finish_panel(
    emit: Emitter,
    element: ir.Type,
    vectors: Num,
    with_sinks: Num,
    sinks: Num,
    top: Num,
    total: Num,
    factors: Num,
) -> None:
    """Factor that turns each lane's weighted sum into its result; all are panel rows."""
    width, size = lanes(element), itemsize(element)
    with emit.loop(vectors) as v:
        lane = v * (width * size)
        l = emit.load(total + lane, element, width)
        m = emit.load(top + lane, element, width)
        # Nothing seen: the sum is 0, and any finite factor leaves it.
        nothing = l.equals(0.0)
        with emit.either(with_sinks.equals(0)) as (plain, sunk):
            with plain:
                emit.store(l.like(1.0).where(nothing, l.like(1.0) / l), factors + lane)
            with sunk:
                sink = emit.load(sinks + lane, element, width)
                highest = sink.at_least(m).where(l > 0.0, sink)
                weight = exp(m - highest)
                result = weight / l.times_plus(weight, exp(sink - highest))
                emit.store(l.like(1.0).where(nothing, result), factors + lane)
