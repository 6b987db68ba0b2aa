"""`normalise`: the arguments of a call, checked, as one frozen `Problem`.

Whatever can be refused about a call's arrays and mathematics is refused here or in
`_shapes`, before the result is allocated or `out` is touched.  What a call computes is
resolved here; how it is computed is resolved by `_plan`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import empty, ndarray  # looked up by name alone, for small calls

from fastattn import masks
from fastattn._arrays import checked_out, fits_scores, plain_array
from fastattn._errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    ShapeError,
)
from fastattn._problem import Problem
from fastattn._shapes import SPECS
from fastattn._spec import CallSpec
from fastattn.masks import dense, lengths
from fastattn.masks._positions import offsets
from fastattn.masks.window import sides

__all__ = ["normalise"]


def normalise(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    align: str | int | np.ndarray | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    kv_lengths: int | np.ndarray | None = None,
    sinks: np.ndarray | None = None,
    return_lse: bool = False,
    out: np.ndarray | None = None,
    further_masks: Mapping[str, Any] | None = None,
    lse: np.ndarray | None = None,
) -> Problem:
    """Check the arguments of `fastattn.attention`; FastattnError if one is refused.

    Usual values (None, False, plain arrays) are recognised by identity, without a function call.

    Parameters
    ----------
    q, k, v, mask, causal, window, align, scale, softcap, kv_lengths, sinks, return_lse, out
        As for `fastattn.attention`, in its order; but q, k and v are ndarrays, of no subclass.
    further_masks : mapping, optional
        What the call passes to mask kinds beyond `mask`, `causal`, `window` and `kv_lengths`,
        by the kind's name.
    lse : ndarray, optional
        Where to write the log-sum-exp, in any layout; an adapter's, so it is not checked.

    Returns
    -------
    Problem
        The checked call, with `out` and, if it is wanted, `lse` allocated.
    """
    if mask is not None and type(mask) is not ndarray:
        mask = plain_array("mask", mask)
    if return_lse is not False:
        return_lse = _flag("return_lse", return_lse)
    spec = SPECS[
        q.shape,
        k.shape,
        v.shape,
        q.dtype,
        k.dtype,
        v.dtype,
        causal if causal is False else _flag("causal", causal),
        None if window is None else sides(window),
        align is not None,
        None if scale is None else _real("scale", scale),
        None if softcap is None else _softcap(softcap),
        None if mask is None else mask.dtype,
        kv_lengths is not None,
        sinks is not None,
        return_lse,
        None if further_masks is None else tuple(further_masks),
    ]
    if mask is not None:
        mask = dense.check(mask, spec)
    if sinks is not None:
        sinks = _sinks(sinks, spec)
    key_lengths = None if kv_lengths is None else lengths.check(kv_lengths, spec)
    positions = None
    if causal is not False or window is not None or align is not None:
        positions = offsets(align, key_lengths, spec)
    operands = None if further_masks is None else masks.operands(further_masks, spec)
    if out is None:
        out = empty(spec.out_shape, q.dtype)
    else:
        inputs = {"q": q, "k": k, "v": v, "mask": mask, "sinks": sinks}
        out = checked_out(out, q.dtype, spec, inputs)
    if return_lse and lse is None:
        lse = empty(spec.lse_shape, spec.dtype.compute)
    if sinks is not None:
        with np.errstate(all="ignore"):  # NaN is data
            sinks = sinks.astype(np.float64)
    return Problem(spec, q, k, v, out, lse, mask, positions, key_lengths, sinks, operands)


def _flag(name: str, value: object) -> bool:
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise ArgumentTypeError(name, repr(value), "True or False", "write one of them")


def _real(name: str, value: object) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise ArgumentTypeError(name, repr(value), "a finite real number or None", "pass a float")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ArgumentError(
            name, repr(value), "a finite real number or None", "leave it out for the default"
        )
    return number


def _softcap(value: object) -> float:
    number = _real("softcap", value)
    if number <= 0:
        raise ArgumentError(
            "softcap", repr(value), "a number above 0, or None", "pass None for no cap"
        )
    return number


def _sinks(value: object, spec: CallSpec) -> np.ndarray:
    sinks = plain_array("sinks", value)
    if not fits_scores(sinks.dtype, spec.dtype.name):
        raise DTypeError(
            "sinks",
            f"data type {sinks.dtype}",
            f"{spec.dtype.name} or float32",
            "convert with .astype",
        )
    if sinks.shape != (spec.heads_q,):
        raise ShapeError(
            "sinks",
            f"shape {sinks.shape}",
            f"one logit for each query head, ({spec.heads_q},)",
            "use numpy.full for one value that all heads share",
        )
    return sinks
