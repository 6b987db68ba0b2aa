"""Numba intrinsics of the attention kernel's arithmetic: what runs once per tile or panel.

Purpose: the micro-kernel of both matrix products, the online softmax of a panel,
transposition into and out of panels.
Non-goals: blocking and the meaning of masks (`block`), formulas (`formulas`),
how intrinsics are written and called (`intrinsics`).

panel   up to `panel_width` queries side by side, one per lane.  A panel row is one key or
        feature for all of them: `panel_width` numbers, one after the other.
table   int64 array of row addresses, one for each lane
"""

from __future__ import annotations

from llvmlite import ir

from fastattn.implementations._numba.formulas import exp, finite_shift, joined, tanh, transpose
from fastattn.implementations._numba.intrinsics import written_intrinsic
from fastattn.implementations._numba.ir import TILE_VECTORS, Emitter, Num, itemsize, lanes

__all__ = [
    "add_mask_tile",
    "cap_scores",
    "finish_panel",
    "gather_tile",
    "multiply_tile",
    "scatter_tile",
    "softmax_panel",
]

_WORD = ir.IntType(64)
_UNROLL = 4  # steps of a product per branch
_INFINITY = float("inf")


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
    beta: Num,
) -> None:
    """``c[r] = (0 if fresh else c[r] * alpha) + beta * sum_t a[r, t] * b[t]``: the micro-kernel.

    `c`, `b`, `alpha` and `beta` (1 if fresh) are panel rows (`vectors` registers of them),
    `a` holds numbers at ``a + min(r, used - 1) * a_row + t * a_step``: rows past `used` repeat
    the last one.

    Each sum is one chain in the order of t, whatever `rows` and `vectors` are, and is added
    to `c` as a whole: the error grows with the length of a block and with the number of blocks,
    not with their product.
    """
    width, size = lanes(element), itemsize(element)
    step = TILE_VECTORS * width * size
    last = used - 1
    row_addresses = [a] + [a + last.at_most(r) * a_row for r in range(1, rows)]
    cells = [(r, v) for r in range(rows) for v in range(vectors)]
    places = [c + (r * step + v * width * size) for r, v in cells]

    sums = [emit.variable(emit.constant(element, 0.0, width)) for _ in cells]

    def advance(a_offset: Num, b_row: Num) -> None:
        columns = [emit.load(b_row + v * width * size, element, width) for v in range(vectors)]
        for r in range(rows):
            scalar = emit.spread(emit.load(row_addresses[r] + a_offset, element), width)
            for v in range(vectors):
                total = sums[r * vectors + v]
                total.set(scalar.times_plus(columns[v], total.get()))

    # Narrow tiles are rare: unrolling them would not pay for the compile time.
    done = emit.index(0)
    if rows * vectors > 8:
        rounds = count >> (_UNROLL.bit_length() - 1)
        with emit.loop(rounds) as i:
            for t in range(_UNROLL):
                advance((i * _UNROLL + t) * a_step, b + (i * _UNROLL + t) * step)
        done = rounds * _UNROLL
    with emit.loop(count - done) as i:
        advance((done + i) * a_step, b + (done + i) * step)
    with emit.when(fresh.equals(0)):
        old, new = (
            [emit.load(factors + v * width * size, element, width) for v in range(vectors)]
            for factors in (alpha, beta)
        )
        for (_, v), place, total in zip(cells, places, sums, strict=True):
            before = emit.load(place, element, width)
            total.set(before.times_plus(old[v], total.get() * new[v]))
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
        # Adding 0 turns the -0 of an underflow into +0, as adding hidden keys does elsewhere.
        emit.load(panel + j * (TILE_VECTORS * width * size), element, width) * factor + 0.0
        for j in range(width)
    ]
    for lane, row in enumerate(transpose(columns)):
        emit.store(row, emit.load(table + 8 * lane, _WORD) + offset)


@written_intrinsic("nothing")
def add_mask_tile(emit: Emitter, element: ir.Type, rows: Num, row_stride: Num, scores: Num) -> None:
    """Add a square tile of mask rows (one for each lane) to scores; -inf hides."""
    width, size = lanes(element), itemsize(element)
    tile = [emit.load(rows + row_stride * lane, element, width) for lane in range(width)]
    for j, added in enumerate(transpose(tile)):
        place = scores + j * (TILE_VECTORS * width * size)
        total = emit.load(place, element, width) + added
        # Adding -inf would not hide a score that is NaN or +inf, so -inf replaces it.
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
    beta: Num,
) -> None:
    """One step of the online softmax; scores become weights relative to their own maximum.

    `low`, `high`, `top`, `total`, `alpha` and `beta` are panel rows: the first visible key and
    one past the last (counted from the first row, read only if `partial`), the running maximum,
    the running sum, and the factors for what was summed before and for what these weights sum.
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
        peak = largest.get()
        shift = finite_shift(peak)
        added = emit.variable(vector(0.0))
        with emit.loop(keys) as j:
            weight = exp(emit.load(first + j * row, element, width) - shift)
            emit.store(weight, first + j * row)
            added.set(added.get() + weight)
        before = emit.load(top + lane, element, width)
        now, old, new = joined(before, peak)
        emit.store(now, top + lane)
        emit.store(old, alpha + lane)
        emit.store(new, beta + lane)
        sum_before = emit.load(total + lane, element, width)
        emit.store(sum_before.times_plus(old, added.get() * new), total + lane)


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
        seen = emit.load(total + lane, element, width)
        m = emit.load(top + lane, element, width)
        # Nothing seen: the sum is 0, and any finite factor leaves it.
        nothing, one = seen.equals(0.0), seen.like(1.0)
        with emit.either(with_sinks.equals(0)) as (plain, sunk):
            with plain:
                emit.store(one.where(nothing, one / seen), factors + lane)
            with sunk:
                sink = emit.load(sinks + lane, element, width)
                highest = sink.at_least(m).where(seen > 0.0, sink)
                weight = exp(m - highest)
                result = weight / seen.times_plus(weight, exp(sink - highest))
                emit.store(one.where(nothing, result), factors + lane)
