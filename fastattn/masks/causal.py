"""Causal mask: a query sees its own key position and what comes before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastattn.masks._band import EVERYTHING, Band

if TYPE_CHECKING:
    from fastattn.masks._kind import CallSpec, Problem

NAME = "causal"


def band(spec: CallSpec) -> Band:
    """Keys j <= i + offset, if the call is causal."""
    return Band(right=0) if spec.causal else EVERYTHING


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool (*batch, 1, Lq, Lk); None if the call is not causal."""
    g = problem.spec
    if not g.causal or problem.offsets is None:
        return None
    return band(g).visible(problem.offsets, g.length_q, g.length_k)
