"""Sliding window: a query attends to `left` keys before its own position and `right` after it."""

from __future__ import annotations

import operator

import numpy as np

from fastattn._errors import ArgumentError, ArgumentTypeError
from fastattn._problem import Problem
from fastattn._spec import EVERYTHING, Band, CallSpec
from fastattn.masks._positions import POSITION_LIMIT

NAME = "window"


def label(spec: CallSpec) -> str | None:
    """The pair (left, right)."""
    return None if spec.window is None else f"window {spec.window}"


def sides(value: object) -> tuple[int | None, int | None]:
    """The argument `window` as whole numbers, or None for no limit on that side."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ArgumentTypeError(
            "window",
            repr(value),
            "a pair (left, right), either None for no limit on that side",
            "write window=(left, right)",
        )
    left, right = (_side(side, value) for side in value)
    return left, right


def _side(side: object, window: object) -> int | None:
    if side is None:
        return None
    try:
        number = -1 if isinstance(side, (bool, np.bool_)) else operator.index(side)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0:
        raise ArgumentError(
            "window",
            repr(window),
            "a pair of whole numbers from 0 up, or None for no limit",
            "count the keys before and after a query's own position",
        )
    # Positions are below 2 * POSITION_LIMIT: a wider window limits nothing.
    return number if number < 4 * POSITION_LIMIT else None


def band(spec: CallSpec) -> Band:
    """Keys j with i + offset - left <= j <= i + offset + right."""
    return EVERYTHING if spec.window is None else Band(*spec.window)


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool (*batch, 1, Lq, Lk); None if the call has no window."""
    spec = problem.spec
    if spec.window is None or problem.offsets is None:
        return None
    return band(spec).visible(problem.offsets, spec.length_q, spec.length_k)
