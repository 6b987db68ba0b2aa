"""`normalise`: the arguments of a call, checked, as one frozen `Problem`.

Whatever can be refused about a call's arrays and mathematics is refused here or in
`_spec`, before the result is allocated or `out` is touched.  What a call computes is
settled here; how it is computed is settled by `_plan`.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fastattn._dtypes import lookup
from fastattn._errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    OutputError,
    ShapeError,
    format_error,
)
from fastattn._spec import SPECS, CallSpec

__all__ = ["Problem", "normalise"]

_ALIGNMENTS = ("top_left", "bottom_right")
_POSITION_LIMIT = 2**48  # of |align|: beyond any array's length, and sums of a few fit int64
_OVERLAP_EFFORT = 100_000  # candidate solutions numpy.shares_memory may look at


# Frozen for the type checker only (`Final`): freezing at run time would slow small calls.
@dataclass(slots=True, eq=False, repr=False)  # a repr would show whole arrays
class Problem:
    """A checked call.

    `q`, `k`, `v`, `out` and `lse` have the shapes that the caller gave or expects; the
    others are broadcast to their full shape; the mask is not copied for that.

    Attributes
    ----------
    spec : CallSpec
    q, k, v : ndarray
        (..., Hq, Lq, D), (..., Hkv, Lk, D), (..., Hkv, Lk, Dv); or all 2-D.
    out : ndarray
        (..., Hq, Lq, Dv), to be written.
    lse : ndarray or None
        (..., Hq, Lq) in the compute type, to be written.
    mask : ndarray or None
        (*batch, Hq, Lq, Lk), bool or floating.
    offsets : ndarray of int64 or None
        (*batch): key position of query 0; None if the band is not limited.
    lengths : ndarray of int64 or None
        (*batch): keys at or past the length are hidden.
    sinks : ndarray or None
        (Hq,), in the storage type or float32.
    """

    spec: Final[CallSpec]
    q: Final[np.ndarray]
    k: Final[np.ndarray]
    v: Final[np.ndarray]
    out: Final[np.ndarray]
    lse: Final[np.ndarray | None]
    mask: Final[np.ndarray | None]
    offsets: Final[np.ndarray | None]
    lengths: Final[np.ndarray | None]
    sinks: Final[np.ndarray | None]

    def full(self, name: str) -> np.ndarray:
        """`q`, `k`, `v`, `out` or `lse` with the axes (*batch, H, L, ...), as a view."""
        array: np.ndarray = getattr(self, name)
        if self.spec.two_dimensional:
            return array[None]
        tail = array.shape[-2:] if name == "lse" else array.shape[-3:]
        shape = (*self.spec.batch_shape, *tail)
        return array if array.shape == shape else np.broadcast_to(array, shape)


def normalise(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None,
    causal: bool,
    window: tuple[int | None, int | None] | None,
    align: str | int | np.ndarray | None,
    scale: float | None,
    softcap: float | None,
    kv_lengths: int | np.ndarray | None,
    sinks: np.ndarray | None,
    return_lse: bool,
    out: np.ndarray | None,
) -> Problem:
    """Check the arguments of `fastattn.attention`, in its order, and bring them into one form.

    Usual values (None, False, plain arrays) are recognised by identity, without a function call.

    Raises
    ------
    FastattnError
        An argument is refused; the message tells which, and what is accepted.
    """
    if not type(q) is type(k) is type(v) is np.ndarray:
        q, k, v = _array("q", q), _array("k", k), _array("v", v)
    spec = SPECS[
        q.shape,
        k.shape,
        v.shape,
        q.dtype,
        k.dtype,
        v.dtype,
        causal if causal is False else _flag("causal", causal),
        None if window is None else _window(window),
        align is not None,
        None if scale is None else _real("scale", scale),
        None if softcap is None else _softcap(softcap),
    ]
    if mask is not None:
        mask = _mask(mask, spec)
    if sinks is not None:
        sinks = _sinks(sinks, spec)
    lengths = None if kv_lengths is None else _lengths(kv_lengths, spec)
    offsets = None
    if causal is not False or window is not None or align is not None:
        offsets = _offsets(align, lengths, spec)
    if return_lse is not False:
        return_lse = _flag("return_lse", return_lse)
    if out is None:
        out = np.empty(spec.out_shape, q.dtype)
    else:
        inputs = {"q": q, "k": k, "v": v, "mask": mask, "sinks": sinks}
        out = _out(out, q.dtype, spec, inputs)
    lse = np.empty(spec.lse_shape, spec.dtype.compute) if return_lse else None
    return Problem(spec, q, k, v, out, lse, mask, offsets, lengths, sinks)


def _array(name: str, value: object) -> np.ndarray:
    """`value` as a plain ndarray, not copied."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        hide = ", and hide keys with `mask` (True = may attend)" if name in ("q", "k", "v") else ""
        raise DTypeError(
            format_error(
                name, "a numpy.ma.MaskedArray", "a plain NumPy array", f"pass {name}.data{hide}"
            )
        )
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    kind = type(value)
    raise DTypeError(
        format_error(
            name,
            f"an object of type {kind.__module__}.{kind.__qualname__}",
            "a NumPy array in this machine's memory",
            "convert it with numpy.asarray; copy a tensor of another device to the CPU first",
        )
    )


def _flag(name: str, value: object) -> bool:
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise ArgumentTypeError(format_error(name, repr(value), "True or False", "write one of them"))


def _real(name: str, value: object) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise ArgumentTypeError(
            format_error(name, repr(value), "a finite real number or None", "pass a float")
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ArgumentError(
            format_error(
                name, repr(value), "a finite real number or None", "leave it out for the default"
            )
        )
    return number


def _softcap(value: object) -> float:
    number = _real("softcap", value)
    if number <= 0:
        raise ArgumentError(
            format_error(
                "softcap", repr(value), "a number above 0, or None", "pass None for no cap"
            )
        )
    return number


def _window(value: object) -> tuple[int | None, int | None]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ArgumentTypeError(
            format_error(
                "window",
                repr(value),
                "a pair (left, right), either None for no limit on that side",
                "write window=(left, right)",
            )
        )
    return _window_side(value, 0), _window_side(value, 1)


def _window_side(window: Sequence[Any], side: int) -> int | None:
    value = window[side]
    if value is None:
        return None
    try:
        number = -1 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ArgumentError(
            format_error(
                "window",
                repr(window),
                "a pair of whole numbers from 0 up, or None for no limit",
                "count the keys before and after a query's own position",
            )
        )
    # Positions are below 2 * _POSITION_LIMIT: a wider window limits nothing.
    return number if number < 4 * _POSITION_LIMIT else None


def _mask(value: object, spec: CallSpec) -> np.ndarray:
    mask = _array("mask", value)
    if mask.dtype.kind != "b" and not _floats(mask.dtype, spec):
        raise DTypeError(
            format_error(
                "mask",
                f"data type {mask.dtype}",
                f"bool (True = may attend), {spec.dtype.name} or float32 (added to scores)",
                "convert with .astype; an integer 0/1 mask with .astype(bool)",
            )
        )
    scores = spec.scores_shape
    expected = scores[1:] if spec.two_dimensional else scores
    if mask.shape == expected == scores:
        return mask
    try:
        return np.broadcast_to(mask, scores if mask.ndim <= len(expected) else expected)
    except ValueError:
        raise ShapeError(
            format_error(
                "mask",
                f"shape {mask.shape}",
                f"a shape that broadcasts to the scores' {expected}",
                "insert axes of length 1 where it is the same for all, as in mask[:, None]",
            )
        ) from None


def _floats(dtype: np.dtype, spec: CallSpec) -> bool:
    """Whether `dtype` is the call's type or float32, in native byte order."""
    row = lookup(dtype)
    return row is not None and row.name in (spec.dtype.name, "float32")


def _sinks(value: object, spec: CallSpec) -> np.ndarray:
    sinks = _array("sinks", value)
    if not _floats(sinks.dtype, spec):
        raise DTypeError(
            format_error(
                "sinks",
                f"data type {sinks.dtype}",
                f"{spec.dtype.name} or float32",
                "convert with .astype",
            )
        )
    if sinks.shape != (spec.heads_q,):
        raise ShapeError(
            format_error(
                "sinks",
                f"shape {sinks.shape}",
                f"one logit for each query head, ({spec.heads_q},)",
                "use numpy.full for one value that all heads share",
            )
        )
    return sinks


def _integers(name: str, value: object, spec: CallSpec, accepted: str) -> np.ndarray:
    """`value` as integers broadcast to the batch axes, not yet int64."""
    if isinstance(value, np.ma.MaskedArray):
        _array(name, value)
    try:
        numbers_ = np.asarray(value)
    except ValueError:  # a ragged list
        numbers_ = np.empty(0, dtype=object)
    if numbers_.dtype.kind not in "iu":
        raise ArgumentTypeError(
            format_error(name, repr(value), accepted, "pass an int or an integer array")
        )
    try:
        return np.broadcast_to(numbers_, spec.batch_shape)
    except ValueError:
        raise ShapeError(
            format_error(
                name,
                f"shape {numbers_.shape}",
                f"a shape that broadcasts to the batch axes {spec.batch_shape}",
                "give one number for each batch entry, or one for all",
            )
        ) from None


def _lengths(value: object, spec: CallSpec) -> np.ndarray:
    if type(value) is int and 0 <= value <= spec.length_k:
        return _constant(value, spec.batch_shape)
    accepted = f"whole numbers from 0 to Lk = {spec.length_k}"
    lengths = _integers("kv_lengths", value, spec, accepted)
    if lengths.size and (lengths.min() < 0 or lengths.max() > spec.length_k):
        raise ArgumentError(
            format_error(
                "kv_lengths",
                f"values from {lengths.min()} to {lengths.max()}",
                accepted,
                "count the keys that are there",
            )
        )
    return lengths.astype(np.int64)


def _offsets(align: object, lengths: np.ndarray | None, spec: CallSpec) -> np.ndarray | None:
    """Key position of query 0 for each batch entry; None if no band needs it."""
    shape = spec.batch_shape
    if align is None or isinstance(align, str):
        if align is not None and align not in _ALIGNMENTS:
            raise ArgumentError(
                format_error(
                    "align",
                    repr(align),
                    "'top_left', 'bottom_right', or the key position of query 0",
                    "top_left lets the first query see only the first key; bottom_right lets "
                    "the last query see the last key",
                )
            )
        if align != "bottom_right":
            offsets = _constant(0, shape)
        elif lengths is None:
            offsets = _constant(spec.length_k - spec.length_q, shape)
        else:
            offsets = np.asarray(lengths - spec.length_q)  # without batch axes, a scalar
    else:
        accepted = (
            "'top_left', 'bottom_right', or whole numbers below 2**48 in magnitude, "
            "the key position of query 0"
        )
        offsets = _integers("align", align, spec, accepted)
        if offsets.size and max(-int(offsets.min()), int(offsets.max())) >= _POSITION_LIMIT:
            raise ArgumentError(
                format_error("align", repr(align), accepted, "count positions from the first key")
            )
        offsets = offsets.astype(np.int64)
    return offsets if spec.band.limited else None


@functools.lru_cache(maxsize=256)
def _constant(value: int, shape: tuple[int, ...]) -> np.ndarray:
    """Read-only int64 array that is `value` everywhere."""
    return np.broadcast_to(np.int64(value), shape)


def _out(
    value: object, dtype: np.dtype, spec: CallSpec, inputs: dict[str, np.ndarray | None]
) -> np.ndarray:
    out = _array("out", value)
    received = _unfit(out, dtype, spec, inputs)
    if received is not None:
        raise OutputError(
            format_error(
                "out",
                received,
                f"a writeable {dtype} array of shape {spec.out_shape}",
                f"allocate it with numpy.empty({spec.out_shape}, q.dtype)",
            )
        )
    return out


def _unfit(
    out: np.ndarray, dtype: np.dtype, spec: CallSpec, inputs: dict[str, np.ndarray | None]
) -> str | None:
    """Why the result cannot be written to `out`; None if it can."""
    if out.dtype != dtype:
        return f"data type {out.dtype}"
    if out.shape != spec.out_shape:
        return f"shape {out.shape}"
    flags = out.flags
    if not flags.writeable:
        return "a read-only array"
    if not flags.c_contiguous and _overlaps_itself(out):
        return f"strides {out.strides}, which visit a byte twice"
    for name, array in inputs.items():
        if array is None:
            continue
        # Arrays that both own their memory cannot overlap; comparing extents takes much longer.
        if flags.owndata and array is not out and array.flags.owndata:
            continue
        if not np.may_share_memory(out, array):
            continue
        try:
            shared = np.shares_memory(out, array, max_work=_OVERLAP_EFFORT)  # type: ignore[arg-type]
        except np.exceptions.TooHardError:
            shared = True
        if shared:
            return f"an array that overlaps `{name}` in memory"
    return None


def _overlaps_itself(array: np.ndarray) -> bool:
    """Whether two elements may share a byte; never False if they do."""
    span = array.itemsize
    axes = sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
    for stride, count in axes:
        if stride < span:
            return array.size > 0
        span += stride * (count - 1)
    return False
