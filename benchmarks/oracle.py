"""Agreement with a wider type, checked before anything is timed.

Few rows of few heads are enough to tell a wrong kernel from a right one, and cost less
than the call itself; the tests of the package hold it to its error bound everywhere.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import Case, numpy_dtype

HEADS, ROWS = 4, 64  # compared at most, drawn with a fixed seed
LIMIT = 8.0  # times the naive error: beyond it a result is wrong, not rounded


def relative_error(case: Case, q: Any, k: Any, v: Any, result: Any) -> float | None:
    """Maximum error over that of the plain three steps in the same type.

    Parameters
    ----------
    q : ndarray, (B, Hq, Lq, D)
    k, v : ndarray, (B, Hkv, Lk, D)
    result : ndarray, (B, Hq, Lq, D)
        What the implementation gave.

    Returns
    -------
    float or None
        Over the compared rows; None where this machine has no type wider than float64.

    Raises
    ------
    ArithmeticError
        The result is not finite, or its error is beyond `LIMIT`.

    Notes
    -----
    The oracle computes in extended precision for float64, else in float64.  The plain three
    steps of a 16-bit type are those of float32, rounded: so its users compute.
    """
    import numpy as np

    dtype: Any = numpy_dtype(case.dtype)
    plain: Any = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)
    wide: Any = np.dtype(np.float64 if dtype.itemsize < 8 else np.longdouble)
    group = case.heads_q // case.heads_kv
    rng = np.random.default_rng(0)
    heads = rng.permutation(case.batch * case.heads_q)[:HEADS]
    errors, naive_errors, sizes = [], [], []
    for b, h in (divmod(int(head), case.heads_q) for head in heads):
        rows = rng.permutation(case.length_q)[:ROWS]
        seen = np.arange(case.length_k) <= rows[:, None] if case.causal else None
        operands = q[b, h, rows], k[b, h // group], v[b, h // group]
        exact = _attention(*operands, seen, wide)
        naive = _attention(*operands, seen, plain).astype(dtype).astype(wide)
        errors.append(np.abs(result[b, h, rows].astype(wide) - exact).max())
        naive_errors.append(np.abs(naive - exact).max())
        sizes.append(np.abs(exact).max())
    # Where the naive result happens to be exact (one key), half a unit in the last place.
    half_unit = np.max(sizes) * epsilon(dtype) / 2
    relative = float(np.max(errors) / max(np.max(naive_errors), half_unit))
    if np.finfo(wide).eps < epsilon(dtype):
        if not relative <= LIMIT:  # NaN is refused too
            raise ArithmeticError(f"error {relative:.3g} times the naive one")
        return relative
    if not np.max(errors) <= 1e3 * half_unit:
        raise ArithmeticError(f"error {np.max(errors):.3g}")
    return None


def epsilon(dtype: Any) -> float:
    """Distance from 1 to the next larger number of a type."""
    import numpy as np

    if dtype.name == "bfloat16":  # a type that np.finfo does not know
        import ml_dtypes

        return float(ml_dtypes.finfo(dtype).eps)
    return float(np.finfo(dtype).eps)


def _attention(q: Any, k: Any, v: Any, seen: Any, dtype: Any) -> Any:
    """Rows of one head, (L, D): the plain three steps, in the given type."""
    import numpy as np

    q, k, v = (array.astype(dtype) for array in (q, k, v))
    s = q @ k.T / np.sqrt(dtype.type(q.shape[-1]))
    if seen is not None:
        s = np.where(seen, s, -np.inf)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e @ v / e.sum(axis=-1, keepdims=True)
