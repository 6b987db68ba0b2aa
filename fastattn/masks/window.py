"""Sliding window: a query sees `left` keys before its own position and `right` after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastattn.masks._band import EVERYTHING, Band

if TYPE_CHECKING:
    from fastattn.masks._kind import CallSpec, Problem

NAME = "window"


def band(spec: CallSpec) -> Band:
    """Keys j with i + offset - left <= j <= i + offset + right."""
    return EVERYTHING if spec.window is None else Band(*spec.window)


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool (*batch, 1, Lq, Lk); None if the call has no window."""
    g = problem.spec
    if g.window is None or problem.offsets is None:
        return None
    return band(g).visible(problem.offsets, g.length_q, g.length_k)
