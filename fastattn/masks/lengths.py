"""Key lengths: of each batch entry's keys, only those before its length are visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastattn.masks._band import EVERYTHING, Band

if TYPE_CHECKING:
    from fastattn.masks._kind import CallSpec, Problem

NAME = "lengths"


def band(spec: CallSpec) -> Band:
    """Everything: lengths do not move with the query, so the kernels read them as they are."""
    return EVERYTHING


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool (*batch, 1, 1, Lk); None if the call gives no lengths."""
    if problem.lengths is None:
        return None
    return np.arange(problem.spec.length_k) < problem.lengths[..., None, None, None]
