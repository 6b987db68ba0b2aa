"""`CallSpec`: the static facts of a call, checked, without its arrays.

Axes: B = all batch axes, Hq and Hkv = query and key-value heads, Lq and Lk = query
and key positions, D and Dv = features of a key and of a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastattn import masks
from fastattn._dtypes import DTYPES, DType, lookup
from fastattn._errors import ArgumentError, DTypeError, ShapeError, format_error
from fastattn.masks import Band

__all__ = ["SPECS", "CallSpec"]

_REMEMBERED = 4096  # specs
_WORK_LIMIT = 2**62  # below it, counts and byte offsets of a call fit int64


@dataclass(frozen=True, slots=True, eq=False)
class CallSpec:
    """Static facts of a call: everything but the arrays.

    Calls with equal facts share one object, compared by identity, so that whatever follows
    from the facts, above all the plan, is worked out only once.

    `band`, `lse_shape` (..., Hq, Lq) and `out_shape` (..., Hq, Lq, Dv) follow from the other
    fields; the two shapes have no heads for 2-D inputs.
    """

    dtype: DType
    two_dimensional: bool
    batch_shape: tuple[int, ...]
    heads_q: int
    heads_kv: int
    length_q: int
    length_k: int
    dim: int
    dim_v: int
    causal: bool
    window: tuple[int | None, int | None] | None
    scale: float
    softcap: float | None
    band: Band = field(init=False)
    lse_shape: tuple[int, ...] = field(init=False)
    out_shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        lse_shape: tuple[int, ...] = (self.length_q,)
        if not self.two_dimensional:
            lse_shape = (*self.batch_shape, self.heads_q, self.length_q)
        object.__setattr__(self, "band", masks.band(self))
        object.__setattr__(self, "lse_shape", lse_shape)
        object.__setattr__(self, "out_shape", (*lse_shape, self.dim_v))

    def __str__(self) -> str:
        return (
            f"B={self.batch} Hq={self.heads_q} Hkv={self.heads_kv} Lq={self.length_q} "
            f"Lk={self.length_k} D={self.dim} Dv={self.dim_v} {self.dtype.name}"
        )

    @property
    def batch(self) -> int:
        """Product of the batch axes."""
        return math.prod(self.batch_shape)

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads_q // self.heads_kv

    @property
    def scores_shape(self) -> tuple[int, ...]:
        """(*batch, Hq, Lq, Lk)."""
        return (*self.batch_shape, self.heads_q, self.length_q, self.length_k)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the two matrix products if nothing is masked."""
        return math.prod(self.scores_shape) * (self.dim + self.dim_v)


class _Specs(dict[tuple[Any, ...], CallSpec]):
    """Cache of specs by the arguments of `_spec_of`; emptied when there are too many.

    Looking a key up in a dict takes less time than functools.lru_cache does.
    """

    def __missing__(self, key: tuple[Any, ...]) -> CallSpec:
        spec = _spec_of(*key)
        if len(self) >= _REMEMBERED:
            self.clear()
        return self.setdefault(key, spec)  # another thread may have been faster


SPECS = _Specs()


def _spec_of(
    q_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    v_shape: tuple[int, ...],
    q_dtype: np.dtype,
    k_dtype: np.dtype,
    v_dtype: np.dtype,
    causal: bool,
    window: tuple[int | None, int | None] | None,
    aligned: bool,
    scale: float | None,
    softcap: float | None,
) -> CallSpec:
    """Check what can be checked without the arrays, and build the spec.

    `SPECS` caches the result for each set of arguments.

    `aligned` tells whether the call names an alignment.  Unless they are None, `scale` and
    `softcap` are finite floats, `softcap` above 0, and a side of `window` is a whole number
    from 0 up.

    Raises
    ------
    FastattnError
        Data types or axes do not fit together, or a number does not fit the compute type.
    """
    dtype = _common_dtype(q_dtype, k_dtype, v_dtype)
    _check_ranks(q_shape, k_shape, v_shape)
    _check_axes(q_shape, k_shape, v_shape)
    two_dimensional = len(q_shape) == 2
    try:
        batch_shape = np.broadcast_shapes(q_shape[:-3], k_shape[:-3], v_shape[:-3])
    except ValueError:
        raise ShapeError(
            format_error(
                "q, k, v",
                f"batch axes {q_shape[:-3]}, {k_shape[:-3]} and {v_shape[:-3]}",
                "leading axes that broadcast together as NumPy's do",
                "make them equal, or 1",
            )
        ) from None
    length_q, dim = q_shape[-2:]
    length_k, dim_v = v_shape[-2:]
    if (causal or window is not None) and length_q != length_k and not aligned:
        raise ArgumentError(
            format_error(
                "align",
                f"None with a causal or window mask, Lq = {length_q} and Lk = {length_k}",
                "'top_left', 'bottom_right' or the key position of query 0",
                "align='bottom_right' lets the last query see the last key (decoding with a "
                "cache); align='top_left' lets the first query see only the first key",
            )
        )
    largest = float(np.finfo(dtype.compute).max)
    for name, value in (("scale", scale), ("softcap", softcap)):
        if value is not None and abs(value) > largest:
            raise ArgumentError(
                format_error(
                    name,
                    repr(value),
                    f"a number within the range of {dtype.compute.name} (+-{largest:.3g}), in "
                    f"which {dtype.name} is computed",
                    "use float64 arrays",
                )
            )
    if softcap is not None and dtype.compute.type(softcap) == 0:
        raise ArgumentError(
            format_error(
                "softcap",
                repr(softcap),
                f"a number that does not round to 0 in {dtype.compute.name}",
                "pass None for no cap",
            )
        )
    spec = CallSpec(
        dtype=dtype,
        two_dimensional=two_dimensional,
        batch_shape=batch_shape,
        heads_q=1 if two_dimensional else q_shape[-3],
        heads_kv=1 if two_dimensional else k_shape[-3],
        length_q=length_q,
        length_k=length_k,
        dim=dim,
        dim_v=dim_v,
        causal=causal,
        window=window,
        scale=1.0 / math.sqrt(dim) if scale is None else scale,
        softcap=softcap,
    )
    # An empty axis makes the result empty, but NumPy still counts the others in a view's strides.
    axes = (*spec.scores_shape, dim + dim_v, dtype.compute.itemsize)
    if math.prod(max(1, extent) for extent in axes) >= _WORK_LIMIT:
        raise ShapeError(
            format_error(
                "q, k, v",
                f"shapes {q_shape}, {k_shape} and {v_shape}",
                "problems whose B * Hq * Lq * Lk * (D + Dv) takes fewer than 2**62 bytes",
                "split the problem along a batch axis",
            )
        )
    return spec


def _common_dtype(q: np.dtype, k: np.dtype, v: np.dtype) -> DType:
    row = lookup(q)
    if row is None or k != q or v != q:
        raise DTypeError(
            format_error(
                "q, k, v",
                f"data types {q.str if row is None else q}, {k} and {v}",
                f"one data type for all three, among {', '.join(DTYPES)}, in native byte order",
                "convert with .astype (bfloat16 comes with the package ml_dtypes)",
            )
        )
    return row


def _check_ranks(*shapes: tuple[int, ...]) -> None:
    ranks = [len(shape) for shape in shapes]
    if min(ranks) < 2 or (min(ranks) == 2 and max(ranks) > 2):
        raise ShapeError(
            format_error(
                "q, k, v",
                f"shapes {shapes[0]}, {shapes[1]} and {shapes[2]}",
                "three arrays (L, D), or arrays of 3 or more axes (..., H, L, D)",
                "add a head axis with x[None]",
            )
        )


def _check_axes(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...], v_shape: tuple[int, ...]
) -> None:
    if q_shape[-1] != k_shape[-1]:
        raise ShapeError(
            format_error(
                "q, k",
                f"{q_shape[-1]} features in q {q_shape} and {k_shape[-1]} in k {k_shape}",
                "the same last axis D",
                "check that the arrays are (..., H, L, D) and not (..., L, H, D); "
                "x.swapaxes(-2, -3) mends that without a copy",
            )
        )
    if k_shape[-2] != v_shape[-2]:
        raise ShapeError(
            format_error(
                "k, v",
                f"{k_shape[-2]} keys in k {k_shape} and {v_shape[-2]} values in v {v_shape}",
                "the same number of keys Lk",
                "give each key its value",
            )
        )
    if q_shape[-1] < 1 or v_shape[-1] < 1:
        raise ShapeError(
            format_error(
                "q, k, v",
                f"shapes {q_shape}, {k_shape} and {v_shape}",
                "at least one feature in D and Dv (lengths and batch axes may be 0)",
                "check the last axis",
            )
        )
    if len(q_shape) == 2:
        return
    heads_q, heads_k, heads_v = q_shape[-3], k_shape[-3], v_shape[-3]
    if heads_k != heads_v or min(heads_q, heads_k) < 1 or heads_q % heads_k:
        raise ShapeError(
            format_error(
                "q, k, v",
                f"{heads_q} query heads, {heads_k} key heads and {heads_v} value heads",
                "as many key as value heads (1 or more), dividing the number of query heads",
                "check that the head axis is the third from the end: (..., H, L, D)",
            )
        )
