"""Check of a result: some of its rows are compared with the definition's, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn._api import attention
from fastattn._dtypes import lookup
from fastattn._spec import CallSpec

__all__ = ["Expected", "find_error", "reference_rows"]

_ROWS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """Rows of a result, and how far each element may be from them.

    Attributes
    ----------
    rows : tuple of ndarray of int, (rows,) each
        Batch entry, query head and query of each row.
    exact, bound : ndarray of float64, (rows, Dv)
    """

    rows: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
    exact: NDArray[np.float64]
    bound: NDArray[np.float64]


def reference_rows(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], spec: CallSpec, rng: np.random.Generator
) -> Expected:
    """Compute the first row, the last, and some random ones in float64.

    Shapes are (B, Hq, Lq, D), (B, Hkv, Lk, D) and (B, Hkv, Lk, Dv); a causal mask is aligned
    bottom-right.
    """
    last = np.array([spec.batch, spec.heads_q, spec.length_q]) - 1
    drawn = rng.integers(0, last + 1, (_ROWS - 2, 3))
    rows = np.vstack([np.zeros(3, drawn.dtype), last, drawn]).T
    exact: NDArray[np.float64] = np.array([_row(q, k, v, spec, *row) for row in rows.T.tolist()])
    dtype = lookup(q.dtype)
    assert dtype is not None
    eps = float(np.finfo(dtype.compute).eps)
    # The result is rounded to its own type once.  Before that come the roundings of the softmax
    # and of two sums, in the compute type; those of a score, a sum of D products of normally
    # distributed numbers, grow with sqrt(D).
    storage_eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype.name, eps)
    largest = float(np.abs(exact).max(initial=1.0))
    bound = storage_eps * np.abs(exact) + (64 + 4 * spec.dim**0.5) * eps * largest
    return Expected((rows[0], rows[1], rows[2]), exact, bound)


def _row(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], spec: CallSpec, b: int, h: int, i: int
) -> NDArray[np.float64]:
    """Row i of the result of batch entry b and query head h, in float64."""
    head = h // spec.group
    wide = (array.astype(np.float64) for array in (q[b, h, i : i + 1], k[b, head], v[b, head]))
    align = i + spec.length_k - spec.length_q if spec.causal else None
    rows: NDArray[np.float64] = attention(*wide, causal=spec.causal, align=align, impl="numpy")
    return rows.reshape(-1)


def find_error(out: NDArray[Any], expected: Expected) -> str | None:
    """Describe what is wrong with a result; None if all checked rows are right."""
    if not np.isfinite(out).all():
        return "the result has elements that were not written, or are not finite"
    error = np.abs(out[expected.rows].astype(np.float64) - expected.exact)
    if (error <= expected.bound).all():
        return None
    return f"the result is off by up to {error.max():.2g}"
