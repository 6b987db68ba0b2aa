"""Causal mask: a query attends to its own key position and those before it."""

from __future__ import annotations

import numpy as np

from fastattn._problem import Problem
from fastattn._spec import EVERYTHING, Band, CallSpec

NAME = "causal"


def label(spec: CallSpec) -> str | None:
    """``causal``."""
    return NAME if spec.causal else None


def band(spec: CallSpec) -> Band:
    """Keys j <= i + offset, if the call is causal."""
    return Band(right=0) if spec.causal else EVERYTHING


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool (*batch, 1, Lq, Lk); None if the call is not causal."""
    spec = problem.spec
    if not spec.causal or problem.offsets is None:
        return None
    return band(spec).visible(problem.offsets, spec.length_q, spec.length_k)
