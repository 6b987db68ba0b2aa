"""Whether a result is right: a few of its rows are compared with the same rows in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn._dtypes import lookup
from fastattn._spec import CallSpec

__all__ = ["Expected", "disagreement", "expect"]

_ROWS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """Rows of a result, and how far each element may be from them.

    Attributes
    ----------
    places : tuple of ndarray of int, (rows,) each
        Batch entry, query head and query of each row.
    exact, bound : ndarray of float64, (rows, Dv)
    """

    places: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
    exact: NDArray[np.float64]
    bound: NDArray[np.float64]


def expect(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], spec: CallSpec, rng: np.random.Generator
) -> Expected:
    """Rows to compare with: the first, the last, and some at random.

    Parameters
    ----------
    q, k, v : ndarray, (B, Hq, Lq, D), (B, Hkv, Lk, D), (B, Hkv, Lk, Dv)
    spec : CallSpec
        CallSpec of the call.  A causal mask is aligned bottom-right.
    rng : Generator
        Chooses rows.
    """
    g = spec
    last = np.array([g.batch, g.heads_q, g.length_q]) - 1
    drawn = rng.integers(0, last + 1, (_ROWS - 2, 3))
    places = np.vstack([np.zeros(3, drawn.dtype), last, drawn]).T
    exact: NDArray[np.float64] = np.array([_row(q, k, v, g, *place) for place in places.T.tolist()])
    row = lookup(q.dtype)
    assert row is not None
    eps = float(np.finfo(row.compute).eps)
    # The result is rounded to its own type once.  Before that come the roundings of the softmax
    # and of two sums, in the compute type; those of a score, a sum of D products of normally
    # distributed numbers, grow with sqrt(D).
    storage_eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(row.name, eps)
    largest = float(np.abs(exact).max(initial=1.0))
    bound = storage_eps * np.abs(exact) + (64 + 4 * g.dim**0.5) * eps * largest
    return Expected((places[0], places[1], places[2]), exact, bound)


def _row(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], g: CallSpec, b: int, h: int, i: int
) -> NDArray[np.float64]:
    """Row i of the result of batch entry b and query head h, in float64."""
    seen = max(0, min(g.length_k, i + 1 + g.length_k - g.length_q)) if g.causal else g.length_k
    if seen == 0:
        return np.zeros(g.dim_v)
    keys, values = k[b, h // g.group, :seen], v[b, h // g.group, :seen]
    s = g.scale * _product("kd,d->k", keys, q[b, h, i])
    e = np.exp(s - s.max())
    out: NDArray[np.float64] = _product("kd,k->d", values, e) / e.sum()
    return out


def _product(subscripts: str, *factors: NDArray[Any]) -> NDArray[np.float64]:
    """A product in float64 whose factors are converted piece by piece, not as whole copies."""
    product: NDArray[np.float64] = np.einsum(
        subscripts, *factors, dtype=np.float64, casting="unsafe"
    )
    return product


def disagreement(out: NDArray[Any], expected: Expected) -> str | None:
    """What is wrong with a result; None if it is right as far as it was checked."""
    if not np.isfinite(out).all():
        return "the result has elements that were not written, or are not finite"
    error = np.abs(out[expected.places].astype(np.float64) - expected.exact)
    if (error <= expected.bound).all():
        return None
    return f"the result is off by up to {error.max():.2g}"
