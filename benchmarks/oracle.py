"""Agreement with a wider type, checked before anything is timed.

A few rows of a few heads are enough to tell a wrong kernel from a right one, and cost less
than the call itself; the package's own tests check the error bound everywhere.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import Case, dtype_of

HEADS, ROWS = 4, 64  # compared at most; drawn with a fixed seed
LIMIT = 8.0  # times the naive error: beyond it a result is wrong, not rounded


def relative_error(case: Case, q: Any, k: Any, v: Any, result: Any) -> float | None:
    """Maximum error over that of the plain three steps in the same type.

    Parameters
    ----------
    q : ndarray, (B, Hq, Lq, D)
    k, v : ndarray, (B, Hkv, Lk, D)
    result : ndarray, (B, Hq, Lq, D)
        What the implementation returned.

    Returns
    -------
    float or None
        Over the compared rows; None if this machine has no type wider than float64.

    Raises
    ------
    ArithmeticError
        The result is not finite, or its error exceeds `LIMIT`.

    Notes
    -----
    The oracle computes in float64, or in extended precision if the data type is float64.  For the
    16-bit types, the plain three steps are taken in float32 and their result is rounded.
    """
    import numpy as np

    dtype = dtype_of(case)
    compute: Any = np.dtype(np.float32) if dtype.itemsize < 4 else dtype
    wide: Any = np.dtype(np.float64 if dtype.itemsize < 8 else np.longdouble)
    group = case.heads_q // case.heads_kv
    rng = np.random.default_rng(0)
    heads = rng.permutation(case.batch * case.heads_q)[:HEADS]
    errors, naive_errors, sizes = [], [], []
    for b, h in (divmod(int(head), case.heads_q) for head in heads):
        rows = rng.permutation(case.length_q)[:ROWS]
        seen = case.seen(rows)
        operands = q[b, h, rows], k[b, h // group], v[b, h // group]
        exact = attention(*operands, seen, wide)
        naive = attention(*operands, seen, compute).astype(dtype).astype(wide)
        errors.append(np.abs(result[b, h, rows].astype(wide) - exact).max())
        naive_errors.append(np.abs(naive - exact).max())
        sizes.append(np.abs(exact).max())
    # The naive result may happen to be exact (one key): then half a unit in the last place counts.
    unit = float(np.spacing(np.ones((), dtype)))
    half_unit = np.max(sizes) * unit / 2
    relative = float(np.max(errors) / max(np.max(naive_errors), half_unit))
    if np.finfo(wide).eps < unit:
        if not relative <= LIMIT:  # NaN is refused too
            raise ArithmeticError(f"error {relative:.3g} times the naive one")
        return relative
    if not np.max(errors) <= 1e3 * half_unit:
        raise ArithmeticError(f"error {np.max(errors):.3g}")
    return None


def attention(q: Any, k: Any, v: Any, seen: Any, dtype: Any) -> Any:
    """Rows of one head, (L, D): the plain three steps, in the given type."""
    import numpy as np

    q, k, v = (array.astype(dtype) for array in (q, k, v))
    s = q @ k.T / np.sqrt(dtype.type(q.shape[-1]))
    if seen is not None:
        s = np.where(seen, s, -np.inf)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e @ v / e.sum(axis=-1, keepdims=True)
