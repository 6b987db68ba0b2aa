"""Dense mask: an array of booleans (True = may attend) or of numbers added to the scores.

Minus infinity in a floating mask hides its key; every other value, ``finfo.min``
included, is only a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastattn.masks._band import EVERYTHING, Band

if TYPE_CHECKING:
    from fastattn.masks._kind import CallSpec, Problem

NAME = "dense"


def band(spec: CallSpec) -> Band:
    """Everything: no shape is assumed, so the kernels read the array tile by tile."""
    return EVERYTHING


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool (*batch, Hq, Lq, Lk), a view if possible; None without a mask."""
    mask = problem.mask
    if mask is None or mask.dtype == np.bool_:
        return mask
    return np.asarray(mask != -np.inf)
