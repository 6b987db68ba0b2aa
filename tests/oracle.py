"""What attention means, worked out without fastattn, and how far a result may be from it.

`definition` is the plain three-step computation, softmax(q k^T) v, head by head, in any
working type.  In a wider type than the call's it is the oracle; in the call's own
compute type it is the naive computation whose error sets the bound.

The bound
---------
An element's error may be twice the largest error of the naive computation in this call
(taken in its two usual orders, the scale applied before or after the sum of products),
plus a floor, because on tiny problems the naive one is exact by luck (one key, say):

- one unit in the last place of the storage type at the largest |v|: the rounding of the
  result, and no more than twice the best possible;
- two units of the compute type at the largest |v| for the softmax, and sqrt(n) / 4 for
  the sum over n <= 256 keys in whatever order: its roundings are a random walk, of which
  the naive product's parallel lanes take fewer steps.  Longer sums get no more: they are
  to be taken block by block, as matrix products take them;
- a score that is a sum of products of total magnitude S cannot be known better than
  S * eps in the compute type, whatever the order of the sum.  It is exponentiated, so
  its weight moves by that factor: another 2 S eps of the largest |v|.

`strict` leaves the third part out, for scores that are exact in every order.
The log-sum-exp's floor is the same without v: eps * (2 + |lse| + sqrt(n) / 4 + 2 S).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

COMPUTE = {"float32": np.float32, "float64": np.float64, "float16": np.float32}
COMPUTE["bfloat16"] = np.float32
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Answer:
    """Result, log-sum-exp and magnitude of the scores, in the working type."""

    out: np.ndarray
    lse: np.ndarray
    magnitude: np.ndarray


def definition(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    working: type,
    mask: np.ndarray | None = None,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    align: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    kv_lengths: Any = None,
    sinks: np.ndarray | None = None,
    scale_first: bool = False,
) -> Answer:
    """Attention as the paper writes it, one head after the other, all in `working`."""
    two_dimensional = q.ndim == 2
    if two_dimensional:
        q, k, v = q[None], k[None], v[None]
    batch = np.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3])
    (heads, length_q, dim), (heads_kv, length_k, dim_v) = q.shape[-3:], v.shape[-3:]
    q, k, v = (np.broadcast_to(x, batch + x.shape[-3:]) for x in (q, k, v))
    if mask is not None:
        mask = np.broadcast_to(mask, (*batch, heads, length_q, length_k))
    counts = np.broadcast_to(length_k if kv_lengths is None else kv_lengths, batch).astype(int)
    if align is None or (isinstance(align, str) and align == "top_left"):
        offsets = np.zeros(batch, int)
    elif isinstance(align, str):
        offsets = counts - length_q
    else:
        offsets = np.broadcast_to(align, batch).astype(int)
    scale = 1 / np.sqrt(np.float64(dim)) if scale is None else scale

    i, j = np.arange(length_q)[:, None], np.arange(length_k)[None, :]
    out = np.zeros((*batch, heads, length_q, dim_v), working)
    lse = np.zeros(out.shape[:-1], working)
    magnitude = np.zeros(out.shape[:-1], np.float64)
    for b in np.ndindex(batch):
        position = i + offsets[b]
        sees = np.broadcast_to(j < counts[b], (length_q, length_k)).copy()
        if causal:
            sees &= j <= position
        if window is not None and window[0] is not None:
            sees &= j >= position - window[0]
        if window is not None and window[1] is not None:
            sees &= j <= position + window[1]
        for h in range(heads):
            kv = h // (heads // heads_kv)
            bias = None if mask is None else mask[b][h]
            sink = None if sinks is None else working(sinks[h])
            with np.errstate(all="ignore"):
                out[b][h], lse[b][h], magnitude[b][h] = _head(
                    q[b][h].astype(working),
                    k[b][kv].astype(working),
                    v[b][kv].astype(working),
                    sees,
                    bias,
                    sink,
                    working(scale),
                    None if softcap is None else working(softcap),
                    scale_first,
                )
    if two_dimensional:
        out, lse, magnitude = out[0], lse[0], magnitude[0]
    return Answer(out, lse, magnitude)


def _head(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    sees: np.ndarray,
    bias: np.ndarray | None,
    sink: Any,
    scale: Any,
    softcap: Any,
    scale_first: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    s = (q * scale) @ k.T if scale_first else (q @ k.T) * scale
    size = np.abs(q.astype(float)) @ np.abs(k.astype(float).T) * abs(float(scale))
    if softcap is not None:
        s = softcap * np.tanh(s / softcap)
    if bias is not None and bias.dtype == np.bool_:
        sees = sees & bias
    elif bias is not None:
        sees = sees & (bias != -np.inf)
        s = s + bias.astype(q.dtype)
        size = size + np.abs(bias.astype(float))
    s = np.where(sees, s, -np.inf).astype(q.dtype)

    top = s.max(axis=1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, q.dtype.type(0), top)
    e = np.exp(s - top)
    total = e.sum(axis=1, keepdims=True)
    lse = (top + np.log(total))[:, 0]
    if sink is not None and sink > -np.inf:
        higher = np.maximum(np.where(total > 0, top, sink), sink)
        e = e * np.exp(top - higher)
        total = total * np.exp(top - higher) + np.exp(sink - higher)
    p = e / np.where(total == 0, q.dtype.type(1), total)
    if np.isfinite(v).all():
        out = p @ v
    else:  # a hidden value, whatever it is, takes no part
        rows = [row[seen] @ v[seen] for row, seen in zip(p, sees, strict=True)]
        out = np.stack(rows) if rows else np.zeros((0, v.shape[1]), v.dtype)
    magnitude = np.where(sees, size, 0).max(axis=1, initial=0)
    return out, lse, magnitude


@dataclass(frozen=True)
class Expected:
    """The oracle's answer to a call, and the error allowed to each element."""

    out: np.ndarray
    lse: np.ndarray
    out_bound: np.ndarray
    lse_bound: np.ndarray


def expect(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, strict: bool = False, **arguments: Any
) -> Expected:
    """Answer and bounds, see the module's text."""
    compute = COMPUTE[q.dtype.name]
    wider = np.longdouble if compute is np.float64 else np.float64
    exact = definition(q, k, v, working=wider, **arguments)
    naive = [
        definition(q, k, v, working=compute, scale_first=first, **arguments)
        for first in (False, True)
    ]
    largest = float(np.abs(v.astype(float)).max(initial=0, where=np.isfinite(v.astype(float))))
    eps, eps_storage = EPSILON[np.dtype(compute).name], EPSILON[q.dtype.name]
    with np.errstate(all="ignore"):
        wobble = np.zeros_like(exact.lse) if strict else 2 * exact.magnitude
        walk = min(v.shape[-2], 256) ** 0.5 / 4
        floor = (eps_storage + eps * (2 + walk + wobble)) * largest
        lse_floor = eps * (
            2 + np.abs(np.where(np.isfinite(exact.lse), exact.lse, 0)) + walk + wobble
        )
        out_error = max(_largest_error(n.out.astype(q.dtype), exact.out) for n in naive)
        lse_error = max(_largest_error(n.lse, exact.lse) for n in naive)
    return Expected(
        exact.out, exact.lse, 2 * out_error + floor[..., None], 2 * lse_error + lse_floor
    )


def _largest_error(got: np.ndarray, exact: np.ndarray) -> float:
    error = np.abs(got.astype(exact.dtype) - exact)
    return float(error.max(initial=0, where=np.isfinite(error)))


def assert_close(got: np.ndarray, exact: np.ndarray, bound: np.ndarray | float, what: str) -> None:
    """Every element of `got` is within `bound` of `exact`; NaN and infinity are the same."""
    assert got.shape == exact.shape, f"{what}: shape {got.shape}, expected {exact.shape}"
    if got.size == 0:
        return
    wide = got.astype(exact.dtype)
    with np.errstate(all="ignore"):
        error = np.where(wide == exact, 0, np.abs(wide - exact))
        error = np.where(np.isnan(wide) & np.isnan(exact), 0, error)
        wrong = ~(error <= bound)
    if wrong.any():
        bound = np.broadcast_to(np.asarray(bound, float), error.shape)
        with np.errstate(all="ignore"):
            excess = np.where(wrong, np.where(np.isnan(error), np.inf, error / bound), -1)
        at = tuple(int(a) for a in np.unravel_index(np.argmax(excess), error.shape))
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} elements are off; at {at} got {wide[at]!r}, "
            f"expected {exact[at]!r}: error {error[at]:.3g}, allowed {bound[at]:.3g}"
        )


def assert_agrees(
    got: tuple[np.ndarray, np.ndarray | None], *arrays: np.ndarray, **arguments: Any
) -> None:
    """`got` (result, log-sum-exp or None) is the call's answer within its bound."""
    assert_expected(got, expect(*arrays, **arguments), arrays[0].dtype)


def assert_expected(
    got: tuple[np.ndarray, np.ndarray | None], expected: Expected, dtype: np.dtype
) -> None:
    """The same for an answer that is known, of a call in `dtype`."""
    out, lse = got
    assert out.dtype == dtype
    assert_close(out, expected.out, expected.out_bound, "out")
    if lse is not None:
        assert lse.dtype == COMPUTE[dtype.name]
        assert_close(lse, expected.lse, expected.lse_bound, "lse")
