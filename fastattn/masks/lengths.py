"""Key lengths: of each batch entry's keys, only those before its length are visible."""

from __future__ import annotations

import numpy as np

from fastattn._errors import ArgumentError
from fastattn._problem import Problem
from fastattn._spec import EVERYTHING, Band, CallSpec
from fastattn.masks._positions import constant, integers

NAME = "lengths"


def label(spec: CallSpec) -> str | None:
    """``kv_lengths``, the argument."""
    return "kv_lengths" if spec.has_lengths else None


def check(value: object, spec: CallSpec) -> np.ndarray:
    """The argument `kv_lengths` as int64 (*batch)."""
    if type(value) is int and 0 <= value <= spec.length_k:
        return constant(value, spec.batch_shape)
    accepted = f"whole numbers from 0 to Lk = {spec.length_k}"
    lengths = integers("kv_lengths", value, spec, accepted)
    if lengths.size and (lengths.min() < 0 or lengths.max() > spec.length_k):
        raise ArgumentError(
            "kv_lengths",
            f"values from {lengths.min()} to {lengths.max()}",
            accepted,
            "count the keys that are there",
        )
    return lengths.astype(np.int64)


def band(spec: CallSpec) -> Band:
    """Everything: lengths do not move with the query, so the kernels read them as they are."""
    return EVERYTHING


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool (*batch, 1, 1, Lk); None if the call gives no lengths."""
    if problem.lengths is None:
        return None
    return np.arange(problem.spec.length_k) < problem.lengths[..., None, None, None]
