"""Mask kinds, one file each, and their registry `KINDS`.

A key is visible to a query if every kind lets it be seen.  The ``numpy``
implementation uses `visible`, and the numbers of a floating mask; the compiled ones
read `band`, the lengths and the dense array in their own order, tile by tile.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING

import numpy as np

from fastattn.masks import causal, dense, lengths, window
from fastattn.masks._band import EVERYTHING, Band

if TYPE_CHECKING:
    from fastattn.masks._kind import CallSpec, Kind, Problem

__all__ = ["KINDS", "Band", "band", "visible"]

KINDS: tuple[Kind, ...] = (dense, causal, window, lengths)


def band(spec: CallSpec) -> Band:
    """Band that every kind agrees on: no query sees a key outside it."""
    return functools.reduce(operator.and_, (kind.band(spec) for kind in KINDS), EVERYTHING)


def visible(problem: Problem) -> np.ndarray | None:
    """Visibility of each key to each query.

    Returns
    -------
    ndarray of bool, or None
        Broadcasts to (*batch, Hq, Lq, Lk); None where every key is visible.
    """
    seen = [array for kind in KINDS if (array := kind.visible(problem)) is not None]
    return functools.reduce(np.logical_and, seen) if seen else None
