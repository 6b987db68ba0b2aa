"""`spec_of` and `SPECS`: what can be checked of a call without its arrays, as a `CallSpec`."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastattn import masks
from fastattn._arithmetic import in_default_arithmetic
from fastattn._dtypes import DTYPES, DType, lookup
from fastattn._errors import ArgumentError, DTypeError, ShapeError
from fastattn._spec import CallSpec
from fastattn.masks import dense

__all__ = ["AXES", "SHAPE", "SPECS", "Shape", "parse_shape", "spec_of"]

SHAPE = "B,Hq,Hkv,Lq,Lk,D[,Dv]"
"""A call's shape as people write it."""
AXES = "batch, query heads, key heads, queries, keys, head size[, head size of the values]"
"""What the axes of `SHAPE` are."""

_REMEMBERED = 4096  # specs
_WORK_LIMIT = 2**62  # below it, counts and byte offsets of a call fit int64


class Shape(NamedTuple):
    """The axes of a call with one batch axis."""

    batch: int
    heads_q: int
    heads_kv: int
    length_q: int
    length_k: int
    dim: int
    dim_v: int

    @property
    def arrays(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of q, k and v."""
        return (
            (self.batch, self.heads_q, self.length_q, self.dim),
            (self.batch, self.heads_kv, self.length_k, self.dim),
            (self.batch, self.heads_kv, self.length_k, self.dim_v),
        )


def parse_shape(shape: str | Sequence[int], least: int = 0) -> Shape:
    """The axes of a call from 6 or 7 whole numbers, or a text of them; Dv is D if left out.

    ArgumentError if it is anything else, or a number is below `least`.
    """
    try:
        if isinstance(shape, str):
            axes = [int(text) for text in shape.split(",")]
        else:
            axes = [operator.index(axis) for axis in shape]
    except (TypeError, ValueError):
        axes = []
    if len(axes) not in (6, 7) or min(axes) < least:
        raise ArgumentError(
            "shape",
            repr(shape),
            f"6 or 7 whole numbers from {least} up: {SHAPE}",
            "write 1,8,8,2048,2048,64 on a command line, (1, 8, 8, 2048, 2048, 64) in Python",
        )
    return Shape(*(*axes, axes[5])[:7])


def spec_of(
    shape: str | Sequence[int],
    dtype: str = "float32",
    *,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
) -> CallSpec:
    """Spec of a call of that shape (see `parse_shape`), without any array.

    FastattnError if such a call would be refused.
    """
    if dtype not in DTYPES:
        raise ArgumentError("dtype", repr(dtype), ", ".join(DTYPES), "correct the name")
    return _checked(*parse_shape(shape).arrays, DTYPES[dtype], causal=causal, window=window)


class _Specs(dict[tuple[Any, ...], CallSpec]):
    """Cache of specs by the arguments of `_spec_of_arrays`; emptied when there are too many.

    Looking a key up in a dict takes less time than functools.lru_cache does.
    """

    def __missing__(self, key: tuple[Any, ...]) -> CallSpec:
        spec = in_default_arithmetic(_spec_of_arrays, *key)
        if len(self) >= _REMEMBERED:
            self.clear()
        return self.setdefault(key, spec)  # another thread may have been faster


SPECS = _Specs()
"""Specs by what `normalise` knows of a call; only it uses them."""


def _spec_of_arrays(
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
    mask_dtype: np.dtype | None,
    has_lengths: bool,
    has_sinks: bool,
    returns_lse: bool,
    further_masks: tuple[str, ...] | None,
) -> CallSpec:
    """Spec of a call with arrays of these shapes and data types.

    `aligned` tells whether the call names an alignment.  Unless they are None, `scale` and
    `softcap` are finite floats, `softcap` above 0, and a side of `window` is a whole number
    from 0 up.
    """
    dtype = _common_dtype(q_dtype, k_dtype, v_dtype)
    spec = _checked(
        q_shape,
        k_shape,
        v_shape,
        dtype,
        causal=causal,
        window=window,
        scale=scale,
        softcap=softcap,
        mask_dtype=None if mask_dtype is None else dense.check_dtype(mask_dtype, dtype.name),
        has_lengths=has_lengths,
        has_sinks=has_sinks,
        returns_lse=returns_lse,
        further_masks=further_masks or (),
    )
    length_q, length_k = spec.length_q, spec.length_k
    if (causal or window is not None) and length_q != length_k and not aligned:
        raise ArgumentError(
            "align",
            f"None with a causal or window mask, Lq = {length_q} and Lk = {length_k}",
            "'top_left', 'bottom_right' or the key position of query 0",
            "align='bottom_right' lets the last query see the last key (decoding with a "
            "cache); align='top_left' lets the first query see only the first key",
        )
    return spec


def _checked(
    q_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    v_shape: tuple[int, ...],
    dtype: DType,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    further_masks: tuple[str, ...] = (),
    **features: Any,
) -> CallSpec:
    """Check that axes fit together and numbers fit the compute type, and build the spec."""
    _check_ranks(q_shape, k_shape, v_shape)
    _check_axes(q_shape, k_shape, v_shape)
    _check_numbers(dtype, scale, softcap)
    two_dimensional = len(q_shape) == 2
    try:
        batch_shape = np.broadcast_shapes(q_shape[:-3], k_shape[:-3], v_shape[:-3])
    except ValueError:
        raise ShapeError(
            "q, k, v",
            f"batch axes {q_shape[:-3]}, {k_shape[:-3]} and {v_shape[:-3]}",
            "leading axes that broadcast together as NumPy's do",
            "make them equal, or 1",
        ) from None
    length_q, dim = q_shape[-2:]
    length_k, dim_v = v_shape[-2:]
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
        scale=1.0 / math.sqrt(dim) if scale is None else scale,
        softcap=softcap,
        **features,
    )
    # An empty axis makes the result empty, but NumPy still counts the others in a view's strides.
    axes = (*spec.scores_shape, dim + dim_v, dtype.compute.itemsize)
    if math.prod(max(1, extent) for extent in axes) >= _WORK_LIMIT:
        raise ShapeError(
            "q, k, v",
            f"shapes {q_shape}, {k_shape} and {v_shape}",
            "problems whose B * Hq * Lq * Lk * (D + Dv) takes fewer than 2**62 bytes",
            "split the problem along a batch axis",
        )
    return masks.with_masks(spec, further_masks)


def _check_numbers(dtype: DType, scale: float | None, softcap: float | None) -> None:
    largest = float(np.finfo(dtype.compute).max)
    for name, value in (("scale", scale), ("softcap", softcap)):
        if value is not None and abs(value) > largest:
            raise ArgumentError(
                name,
                repr(value),
                f"a number within the range of {dtype.compute.name} (+-{largest:.3g}), in "
                f"which {dtype.name} is computed",
                "use float64 arrays",
            )
    if softcap is not None and dtype.compute.type(softcap) == 0:
        raise ArgumentError(
            "softcap",
            repr(softcap),
            f"a number that does not round to 0 in {dtype.compute.name}",
            "pass None for no cap",
        )


def _common_dtype(q: np.dtype, k: np.dtype, v: np.dtype) -> DType:
    row = lookup(q)
    if row is None or k != q or v != q:
        raise DTypeError(
            "q, k, v",
            f"data types {q.str if row is None else q}, {k} and {v}",
            f"one data type for all three, among {', '.join(DTYPES)}, in native byte order",
            "convert with .astype (bfloat16 comes with the package ml_dtypes)",
        )
    return row


def _check_ranks(*shapes: tuple[int, ...]) -> None:
    ranks = [len(shape) for shape in shapes]
    if min(ranks) < 2 or (min(ranks) == 2 and max(ranks) > 2):
        raise ShapeError(
            "q, k, v",
            f"shapes {shapes[0]}, {shapes[1]} and {shapes[2]}",
            "three arrays (L, D), or arrays of 3 or more axes (..., H, L, D)",
            "add a head axis with x[None]",
        )


def _check_axes(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...], v_shape: tuple[int, ...]
) -> None:
    if q_shape[-1] != k_shape[-1]:
        raise ShapeError(
            "q, k",
            f"{q_shape[-1]} features in q {q_shape} and {k_shape[-1]} in k {k_shape}",
            "the same last axis D",
            "check that the arrays are (..., H, L, D) and not (..., L, H, D); "
            "x.swapaxes(-2, -3) fixes that without a copy",
        )
    if k_shape[-2] != v_shape[-2]:
        raise ShapeError(
            "k, v",
            f"{k_shape[-2]} keys in k {k_shape} and {v_shape[-2]} values in v {v_shape}",
            "the same number of keys Lk",
            "give each key its value",
        )
    if q_shape[-1] < 1 or v_shape[-1] < 1:
        raise ShapeError(
            "q, k, v",
            f"shapes {q_shape}, {k_shape} and {v_shape}",
            "at least one feature in D and Dv (lengths and batch axes may be 0)",
            "check the last axis",
        )
    if len(q_shape) == 2:
        return
    heads_q, heads_k, heads_v = q_shape[-3], k_shape[-3], v_shape[-3]
    if heads_k != heads_v or min(heads_q, heads_k) < 1 or heads_q % heads_k:
        raise ShapeError(
            "q, k, v",
            f"{heads_q} query heads, {heads_k} key heads and {heads_v} value heads",
            "as many key as value heads (1 or more), dividing the number of query heads",
            "check that the head axis is the third from the end: (..., H, L, D)",
        )
