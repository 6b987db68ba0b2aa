"""Accuracy of a 16-bit result: how much worse it is than the exact one, rounded once."""

from __future__ import annotations

from typing import Any

from benchmarks import oracle
from benchmarks.common import Case

HEADS, ROWS = 4, 64  # compared at most; drawn with a fixed seed


def over_one_rounding(case: Case, arrays: tuple[Any, Any, Any], result: Any) -> float | None:
    """Root mean square of the error, over that of rounding the exact result; None for wide types.

    The largest error, which the oracle compares, is much the same for everyone in 16 bits: that of
    rounding the largest result.
    """
    import numpy as np

    q, k, v = arrays
    if q.dtype.itemsize > 2:
        return None
    group = case.heads_q // case.heads_kv
    rng = np.random.default_rng(1)
    squares = rounded = 0.0
    for head in rng.permutation(case.batch * case.heads_q)[:HEADS]:
        b, h = divmod(int(head), case.heads_q)
        rows = rng.permutation(case.length_q)[:ROWS]
        operands = q[b, h, rows], k[b, h // group], v[b, h // group]
        exact = oracle.attention(*operands, case.seen(rows), np.dtype(np.float64))
        squares += float(np.square(result[b, h, rows].astype(np.float64) - exact).sum())
        rounded += float(np.square(exact.astype(q.dtype).astype(np.float64) - exact).sum())
    return float(np.sqrt(squares / rounded))
