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

from fastattn.implementations._numba.formulas import exp, tanh, transpose
from fastattn.implementations._numba.intrinsics import written_intrinsic
from fastattn.implementations._numba.ir import TILE_VECTORS, Emitter, Num, itemsize, lanes

__all__ = [
    "add_mask_tile",
    "cap_scores",
    "finish_panel",
    "gather_tile",
    "multiply_tile",
    "scatter_tile",
    "score_one",
    "softmax_panel",
    "weigh_one",
]

_WORD = ir.IntType(64)
_UNROLL = 4  # steps of a product per branch
_AHEAD = 8  # values between the one that is read and the one that is asked for
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
) -> None:
    """``c[r] = (0 if fresh else c[r] * alpha) + sum_t a[r, t] * b[t]``: the micro-kernel.

    `c`, `b` and `alpha` are panel rows (`vectors` registers of them), `a` holds numbers at
    ``a + min(r, used - 1) * a_row + t * a_step``: rows past `used` repeat the last one.
    Each sum is one chain in the order of t, whatever `rows` and `vectors` are, and is added
    to `c` as a whole: the error grows with the length of a block and with their number, not
    with the product.
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
    with emit.when(fresh.equals(0)):
        factors = [emit.load(alpha + v * width * size, element, width) for v in range(vectors)]
        for (_, v), place, total in zip(cells, places, sums, strict=True):
            total.set(emit.load(place, element, width).times_plus(factors[v], total.get()))
    for place, total in zip(places, sums, strict=True):
        emit.store(total.get(), place)


@written_intrinsic("nothing")
def score_one(
    emit: Emitter,
    element: ir.Type,
    scores: Num,
    keys: Num,
    rows: Num,
    stride: Num,
    query: Num,
    count: Num,
    fresh: Num,
) -> None:
    """`multiply_tile` of keys for the query in a panel's first lane alone, with equal results.

    Keys run along the lanes here, transposed as they are read.  `count` is a multiple of the
    lanes; scores are written up to the next multiple of twice the lanes.
    """
    width, size = lanes(element), itemsize(element)
    row = TILE_VECTORS * width * size
    per_round = 2 * width  # two chains of sums hide each other's latency
    last = keys - 1
    rounds = (keys + (per_round - 1)) >> (per_round.bit_length() - 1)
    with emit.loop(rounds) as i:
        first = i * per_round
        addresses = [rows + (first + n).at_most(last) * stride for n in range(per_round)]
        sums = [emit.variable(emit.constant(element, 0.0, width)) for _ in range(2)]
        with emit.loop(count >> (width.bit_length() - 1)) as tile:
            start = tile * (width * size)
            for half, total in enumerate(sums):
                of_half = addresses[half * width : (half + 1) * width]
                for address in of_half:
                    emit.prefetch(address + stride * per_round + start)
                key_rows = [emit.load(address + start, element, width) for address in of_half]
                for j, column in enumerate(transpose(key_rows)):
                    feature = emit.load(query + (tile * width + j) * row, element)
                    total.set(column.times_plus(emit.spread(feature, width), total.get()))
        for n in range(per_round):
            place = scores + (first + n) * row
            number = sums[n // width].get().lane(n % width)
            before = number.like(0.0).where(fresh.equals(1), emit.load(place, element))
            emit.store(before + number, place)


@written_intrinsic("nothing")
def weigh_one(
    emit: Emitter,
    element: ir.Type,
    result: Num,
    count: Num,
    values: Num,
    stride: Num,
    weights: Num,
    keys: Num,
    alpha: Num,
) -> None:
    """`multiply_tile` of values for the query in a panel's first lane alone, equal results.

    Features run along the lanes, as they lie in memory.
    """
    width, size = lanes(element), itemsize(element)
    row = TILE_VECTORS * width * size
    factor = emit.load(alpha, element)
    done = emit.index(0)
    for vectors, lanes_each in ((8, width), (1, width), (1, 1)):
        per_round = vectors * lanes_each
        rounds = (count - done) >> (per_round.bit_length() - 1)
        with emit.loop(rounds) as i:
            first = done + i * per_round
            zero = emit.constant(element, 0.0, lanes_each)
            sums = [emit.variable(zero) for _ in range(vectors)]
            with emit.loop(keys) as j:
                weight = emit.load(weights + j * row, element)
                weight = weight if lanes_each == 1 else emit.spread(weight, width)
                place = values + j * stride + first * size
                for ahead in range(0, per_round * size, 64):
                    emit.prefetch(place + stride * _AHEAD + ahead)
                for v, total in enumerate(sums):
                    value = emit.load(place + v * lanes_each * size, element, lanes_each)
                    total.set(value.times_plus(weight, total.get()))
            for n in range(per_round):
                number = sums[n // lanes_each].get()
                number = number if lanes_each == 1 else number.lane(n % lanes_each)
                place = result + (first + n) * row
                emit.store(emit.load(place, element).times_plus(factor, number), place)
        done = done + rounds * per_round


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
def add_mask_tile(emit: Emitter, element: ir.Type, rows: Num, row_stride: Num, scores: Num) -> None:
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
