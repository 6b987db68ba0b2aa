"""Integers over the batch axes: the alignment of bands, and what it shares with lengths."""

from __future__ import annotations

import functools

import numpy as np

from fastattn._arrays import plain_array
from fastattn._errors import ArgumentError, ArgumentTypeError, ShapeError
from fastattn._spec import CallSpec

__all__ = ["POSITION_LIMIT", "constant", "integers", "offsets"]

POSITION_LIMIT = 2**48  # of |align|: beyond any array's length, and sums of a few fit int64
_ALIGNMENTS = ("top_left", "bottom_right")


def offsets(align: object, lengths: np.ndarray | None, spec: CallSpec) -> np.ndarray | None:
    """Key position of query 0 for each batch entry; None if no band needs it."""
    shape = spec.batch_shape
    if align is None or isinstance(align, str):
        if align is not None and align not in _ALIGNMENTS:
            raise ArgumentError(
                "align",
                repr(align),
                "'top_left', 'bottom_right', or the key position of query 0",
                "top_left lets the first query see only the first key; bottom_right lets "
                "the last query see the last key",
            )
        if align != "bottom_right":
            found = constant(0, shape)
        elif lengths is None:
            found = constant(spec.length_k - spec.length_q, shape)
        else:
            found = np.asarray(lengths - spec.length_q)  # without batch axes, a scalar
    else:
        accepted = (
            "'top_left', 'bottom_right', or whole numbers below 2**48 in magnitude, "
            "the key position of query 0"
        )
        found = integers("align", align, spec, accepted)
        if found.size and max(-int(found.min()), int(found.max())) >= POSITION_LIMIT:
            raise ArgumentError(
                "align", repr(align), accepted, "count positions from the first key"
            )
        found = found.astype(np.int64)
    return found if spec.band.limited else None


def integers(name: str, value: object, spec: CallSpec, accepted: str) -> np.ndarray:
    """`value` as integers broadcast to the batch axes, not yet int64."""
    if isinstance(value, np.ma.MaskedArray):
        plain_array(name, value)
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "iu":
        raise ArgumentTypeError(name, repr(value), accepted, "pass an int or an integer array")
    try:
        return np.broadcast_to(array, spec.batch_shape)
    except ValueError:
        raise ShapeError(
            name,
            f"shape {array.shape}",
            f"a shape that broadcasts to the batch axes {spec.batch_shape}",
            "give one number for each batch entry, or one for all",
        ) from None


@functools.lru_cache(maxsize=256)
def constant(value: int, shape: tuple[int, ...]) -> np.ndarray:
    """Read-only int64 array that is `value` everywhere."""
    return np.broadcast_to(np.int64(value), shape)
