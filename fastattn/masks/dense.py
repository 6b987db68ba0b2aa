"""Dense mask: an array of booleans (True = may attend) or of numbers added to the scores.

Minus infinity in a floating mask masks its key; every other value, ``finfo.min``
included, is only a number.
"""

from __future__ import annotations

import numpy as np

from fastattn._arrays import fits_scores, plain_array
from fastattn._errors import DTypeError, ShapeError
from fastattn._problem import Problem
from fastattn._spec import EVERYTHING, Band, CallSpec

NAME = "dense"


def label(spec: CallSpec) -> str | None:
    """The mask's data type."""
    return None if spec.mask_dtype is None else f"dense {spec.mask_dtype}"


def check_dtype(dtype: np.dtype, call: str) -> str:
    """Name of a mask's data type, for a call of the data type `call`."""
    if dtype.kind != "b" and not fits_scores(dtype, call):
        raise DTypeError(
            "mask",
            f"data type {dtype}",
            f"bool (True = may attend), {call} or float32 (added to scores)",
            "convert with .astype; an integer 0/1 mask with .astype(bool)",
        )
    return dtype.name


def check(value: object, spec: CallSpec) -> np.ndarray:
    """The argument `mask` as a view of shape (*batch, Hq, Lq, Lk)."""
    mask = plain_array("mask", value)
    scores = spec.scores_shape
    expected = scores[1:] if spec.two_dimensional else scores
    if mask.shape == expected == scores:
        return mask
    try:
        return np.broadcast_to(mask, scores if mask.ndim <= len(expected) else expected)
    except ValueError:
        raise ShapeError(
            "mask",
            f"shape {mask.shape}",
            f"a shape that broadcasts to the scores' {expected}",
            "insert axes of length 1 where it is the same for all, as in mask[:, None]",
        ) from None


def band(spec: CallSpec) -> Band:
    """Everything: no shape is assumed, so the kernels read the array tile by tile."""
    return EVERYTHING


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool (*batch, Hq, Lq, Lk), a view if possible; None without a mask."""
    mask = problem.mask
    if mask is None or mask.dtype == np.bool_:
        return mask
    return np.asarray(mask != -np.inf)
