"""Numba intrinsics for a few rows that lie as in memory: keys or features along the lanes.

Purpose: what `tiles` does for a panel, to the last bit, where lanes of a panel would be empty.
Every sum is taken in the same order as there.
Non-goals: which keys, and whose rows (`few`).

rows    a compile-time number of rows, which share each read of a key or value; `score_row`,
        `query_row` and so on are the bytes from one row to the next
"""

from __future__ import annotations

import math

from llvmlite import ir

from fastattn.implementations._numba.formulas import exp, finite_shift, joined, transpose
from fastattn.implementations._numba.intrinsics import written_intrinsic
from fastattn.implementations._numba.ir import Emitter, Num, itemsize, lanes

__all__ = ["add_mask_strip", "join_strips", "scale_strip", "score_few", "softmax_few", "weigh_few"]

_LINE_BYTES = 64
_RUN = 16  # values that go through all features while they are in the nearest cache


@written_intrinsic("nothing")
def score_few(
    emit: Emitter,
    element: ir.Type,
    rows: int,
    scores: Num,
    score_row: Num,
    keys: Num,
    k: Num,
    stride: Num,
    queries: Num,
    query_row: Num,
    count: Num,
    fresh: Num,
) -> None:
    """Scores of keys `stride` apart, which are transposed as they are read.

    `keys` is a multiple of twice the lanes, `count` a multiple of the lanes.
    """
    width, size = lanes(element), itemsize(element)
    per_round = 2 * width  # two chains of sums for each row hide each other's latency
    tiles_per_line = max(1, _LINE_BYTES // (width * size))
    asked = per_round // tiles_per_line
    with emit.loop(keys >> (per_round.bit_length() - 1)) as i:
        first = i * per_round
        addresses = [k + first * stride + stride * n for n in range(per_round)]
        zero = emit.constant(element, 0.0, width)
        sums = [[emit.variable(zero) for _ in range(rows)] for _ in range(2)]
        ahead = k + (first + per_round) * stride
        with emit.loop(count >> (width.bit_length() - 1)) as tile:
            start = tile * (width * size)
            # Each tile asks for its part of the cache lines of the next round.
            line = tile >> (tiles_per_line.bit_length() - 1)
            part = ahead + (tile & (tiles_per_line - 1)) * asked * stride + line * _LINE_BYTES
            for n in range(asked):
                emit.prefetch(part + stride * n)
            for half, of_rows in enumerate(sums):
                of_half = addresses[half * width : (half + 1) * width]
                columns = transpose([emit.load(a + start, element, width) for a in of_half])
                for j, column in enumerate(columns):
                    for r, total in enumerate(of_rows):
                        place = queries + query_row * r + start + j * size
                        feature = emit.spread(emit.load(place, element), width)
                        total.set(column.times_plus(feature, total.get()))
        for half, of_rows in enumerate(sums):
            for r, total in enumerate(of_rows):
                place = scores + score_row * r + (first + half * width) * size
                with emit.when(fresh.equals(0)):
                    total.set(emit.load(place, element, width) + total.get())
                emit.store(total.get(), place)


@written_intrinsic("nothing")
def add_mask_strip(emit: Emitter, element: ir.Type, scores: Num, mask: Num, vectors: Num) -> None:
    """Add a row of the mask to a row of scores; -inf hides."""
    width, size = lanes(element), itemsize(element)
    with emit.loop(vectors) as v:
        place = scores + v * (width * size)
        added = emit.load(mask + v * (width * size), element, width)
        total = emit.load(place, element, width) + added
        # Adding -inf would not hide a score that is NaN or +inf, so -inf replaces it.
        emit.store(added.where(added.equals(-math.inf), total), place)


@written_intrinsic("nothing")
def softmax_few(
    emit: Emitter,
    element: ir.Type,
    rows: int,
    scores: Num,
    score_row: Num,
    vectors: Num,
    peaks: Num,
    sums: Num,
) -> None:
    """Scores become weights relative to their row's maximum.

    `peaks` and `sums` get one number per row.  Hidden scores are -inf, up to the last lane.
    """
    width, size = lanes(element), itemsize(element)
    for r in range(rows):
        largest = emit.variable(emit.constant(element, -math.inf, width))
        with emit.loop(vectors) as v:
            s = emit.load(scores + score_row * r + v * (width * size), element, width)
            largest.set(s.at_least(largest.get()))
        peak = largest.get().lane(0)
        for lane in range(1, width):
            peak = largest.get().lane(lane).at_least(peak)
        emit.store(peak, peaks + r * size)
    shifts = [
        emit.spread(finite_shift(emit.load(peaks + r * size, element)), width) for r in range(rows)
    ]
    added = [emit.variable(emit.constant(element, 0.0)) for _ in range(rows)]
    with emit.loop(vectors) as v:
        for r in range(rows):
            place = scores + score_row * r + v * (width * size)
            weight = exp(emit.load(place, element, width) - shifts[r])
            emit.store(weight, place)
            for lane in range(width):
                added[r].set(added[r].get() + weight.lane(lane))
    for r in range(rows):
        emit.store(added[r].get(), sums + r * size)


@written_intrinsic("nothing")
def weigh_few(
    emit: Emitter,
    element: ir.Type,
    rows: int,
    result: Num,
    result_row: Num,
    count: Num,
    values: Num,
    stride: Num,
    weights: Num,
    weight_row: Num,
    keys: Num,
) -> None:
    """``result[r] = sum_t weights[r, t] * values[t]``, one run of values after the other."""
    width, size = lanes(element), itemsize(element)
    with emit.loop((keys + (_RUN - 1)) >> (_RUN.bit_length() - 1)) as run:
        key = run * _RUN
        present = (keys - key).at_most(_RUN)
        run_values, run_weights = values + key * stride, weights + key * size
        done = emit.index(0)
        for vectors, n in ((8 // rows, width), (1, width), (1, 1)):
            per_round = vectors * n
            rounds = (count - done) >> (per_round.bit_length() - 1)
            with emit.loop(rounds) as i:
                first = (done + i * per_round) * size
                cells = [(r, v) for r in range(rows) for v in range(vectors)]
                places = [result + result_row * r + first + v * n * size for r, v in cells]
                totals = [emit.variable(emit.constant(element, 0.0, n)) for _ in cells]
                with emit.when(key > 0):
                    for place, total in zip(places, totals, strict=True):
                        total.set(emit.load(place, element, n))
                with emit.loop(present) as j:
                    row = run_values + j * stride + first
                    for ahead in range(0, per_round * size, _LINE_BYTES):
                        emit.prefetch(row + stride * _RUN + ahead)
                    loaded = [emit.load(row + v * n * size, element, n) for v in range(vectors)]
                    for r in range(rows):
                        weight = emit.load(run_weights + weight_row * r + j * size, element)
                        weight = weight if n == 1 else emit.spread(weight, n)
                        for v in range(vectors):
                            total = totals[r * vectors + v]
                            total.set(loaded[v].times_plus(weight, total.get()))
                for place, total in zip(places, totals, strict=True):
                    emit.store(total.get(), place)
            done = done + rounds * per_round


@written_intrinsic("nothing")
def join_strips(
    emit: Emitter,
    element: ir.Type,
    top: Num,
    total: Num,
    result: Num,
    peak: Num,
    added: Num,
    part: Num,
    vectors: Num,
) -> None:
    """Join a part of a row's keys to what was summed before.

    `top`, `total` and `result` are the addresses of the running maximum, sum and result; `peak`,
    `added` and `part` are those of the part itself.
    """
    width, size = lanes(element), itemsize(element)
    now, old, new = joined(emit.load(top, element), emit.load(peak, element))
    emit.store(now, top)
    before = emit.load(total, element)
    emit.store(before.times_plus(old, emit.load(added, element) * new), total)
    old, new = emit.spread(old, width), emit.spread(new, width)
    with emit.loop(vectors) as v:
        place = result + v * (width * size)
        sums = emit.load(part + v * (width * size), element, width) * new
        emit.store(emit.load(place, element, width).times_plus(old, sums), place)


@written_intrinsic("nothing")
def scale_strip(
    emit: Emitter, element: ir.Type, target: Num, source: Num, factor: Num, vectors: Num
) -> None:
    """Whole registers of ``target = source * factor``; the -0 of an underflow becomes +0."""
    width, size = lanes(element), itemsize(element)
    spread = emit.spread(factor, width)
    with emit.loop(vectors) as v:
        number = emit.load(source + v * (width * size), element, width) * spread + 0.0
        emit.store(number, target + v * (width * size))
