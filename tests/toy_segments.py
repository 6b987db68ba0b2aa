"""A mask kind for the tests: a query sees only the keys of its own segment."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn._errors import ShapeError
from fastattn._problem import Problem
from fastattn._spec import EVERYTHING, Band, CallSpec

NAME = "segments"


def label(spec: CallSpec) -> str | None:
    """``segments``."""
    return NAME if NAME in spec.masks else None


def check(value: Any, spec: CallSpec) -> tuple[np.ndarray, np.ndarray]:
    """Segment numbers of the queries (*batch, Lq) and of the keys (*batch, Lk)."""
    ids_q, ids_k = (np.asarray(ids) for ids in value)
    try:
        return (
            np.broadcast_to(ids_q, (*spec.batch_shape, spec.length_q)),
            np.broadcast_to(ids_k, (*spec.batch_shape, spec.length_k)),
        )
    except ValueError:
        raise ShapeError(
            NAME, f"shapes {ids_q.shape}, {ids_k.shape}", "one each", "count them"
        ) from None


def band(spec: CallSpec) -> Band:
    """Segments may lie anywhere."""
    return EVERYTHING


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool (*batch, 1, Lq, Lk)."""
    if problem.operands is None:
        return None
    ids_q, ids_k = problem.operands[NAME]
    return np.asarray(ids_q[..., None, :, None] == ids_k[..., None, None, :])
