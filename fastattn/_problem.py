"""`Problem`: a checked call with its arrays, as `normalise` hands it to an implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fastattn._spec import CallSpec

__all__ = ["Problem"]


# Frozen for the type checker only (`Final`): freezing at run time would slow small calls.
@dataclass(slots=True, eq=False, repr=False)  # a repr would show whole arrays
class Problem:
    """A checked call.

    `q`, `k`, `v`, `out` and `lse` have the shapes that the caller gave or expects; the
    others are broadcast to their full shape; the mask is not copied for that.

    Attributes
    ----------
    spec : CallSpec
    q, k, v : ndarray
        (..., Hq, Lq, D), (..., Hkv, Lk, D), (..., Hkv, Lk, Dv); or all 2-D.
    out : ndarray
        (..., Hq, Lq, Dv), to be written.
    lse : ndarray or None
        (..., Hq, Lq) in the compute type, to be written.
    mask : ndarray or None
        (*batch, Hq, Lq, Lk), bool or floating.
    offsets : ndarray of int64 or None
        (*batch): key position of query 0; None if the band is not limited.
    lengths : ndarray of int64 or None
        (*batch): keys at or past the length are masked.
    sinks : ndarray or None
        (Hq,), contiguous float64.
    operands : dict or None
        Operands of further mask kinds, by the kind's name.
    """

    spec: Final[CallSpec]
    q: Final[np.ndarray]
    k: Final[np.ndarray]
    v: Final[np.ndarray]
    out: Final[np.ndarray]
    lse: Final[np.ndarray | None]
    mask: Final[np.ndarray | None]
    offsets: Final[np.ndarray | None]
    lengths: Final[np.ndarray | None]
    sinks: Final[np.ndarray | None]
    operands: Final[dict[str, Any] | None]

    def full(self, name: str) -> np.ndarray:
        """`q`, `k`, `v`, `out` or `lse` with the axes (*batch, H, L, ...), as a view."""
        array: np.ndarray = getattr(self, name)
        if self.spec.two_dimensional:
            return array[None]
        tail = array.shape[-2:] if name == "lse" else array.shape[-3:]
        shape = (*self.spec.batch_shape, *tail)
        return array if array.shape == shape else np.broadcast_to(array, shape)
