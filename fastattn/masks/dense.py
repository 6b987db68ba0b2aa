"""Dense mask: an array of booleans (True = may attend) or of numbers added to the scores.

A number of minus infinity hides its key; every other number, ``finfo.min``
included, is only a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastattn.masks._band import EVERYTHING, Band

if TYPE_CHECKING:
    from fastattn.masks._kind import Geometry, Problem

NAME = "dense"


def band(geometry: Geometry) -> Band:
    """No shape is assumed: the kernels read the array tile by tile."""
    return EVERYTHING


def visible(problem: Problem) -> np.ndarray | None:
    """Meaning, bool (*batch, Hq, Lq, Lk), a view where it can be; None without a mask."""
    mask = problem.mask
    if mask is None or mask.dtype == np.bool_:
        return mask
    return np.asarray(mask != -np.inf)
