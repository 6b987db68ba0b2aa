"""`CallSpec`: all that a call asks for, checked, without its arrays.

Axes: B = all batch axes, Hq and Hkv = query and key-value heads, Lq and Lk = query
and key positions, D and Dv = features of a key and of a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fastattn._dtypes import DType

__all__ = ["EVERYTHING", "Band", "CallSpec"]


@dataclass(frozen=True, slots=True)
class Band:
    """Keys j with ``p - left <= j <= p + right``, where p is the query's key position.

    ``p = i + offset`` for query i; a `left` or `right` of None sets no limit on that side.
    """

    left: int | None = None
    right: int | None = None

    def __and__(self, other: Band) -> Band:
        """Keys that are in both bands."""
        return Band(_least(self.left, other.left), _least(self.right, other.right))

    @property
    def limited(self) -> bool:
        """Whether some key can be outside the band."""
        return self.left is not None or self.right is not None

    def visible(self, offsets: np.ndarray, length_q: int, length_k: int) -> np.ndarray:
        """Keys in the band, bool (*batch, 1, Lq, Lk), for `offsets` int64 (*batch)."""
        position = np.arange(length_q)[:, None] + offsets[..., None, None, None]
        key = np.arange(length_k)
        visible = np.ones(np.broadcast_shapes(position.shape, key.shape), dtype=bool)
        if self.left is not None:
            visible &= key >= position - self.left
        if self.right is not None:
            visible &= key <= position + self.right
        return visible


EVERYTHING = Band()

_SMALL_SCALE = 2.0**-16  # D of 2**32 has this one


def _least(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CallSpec:
    """All that a call asks for, without its arrays: what a planner chooses by.

    Calls that ask for the same share one object, compared by identity, so that whatever
    follows from it, above all the plan, is worked out only once.

    Attributes
    ----------
    operation : {"forward"}
        What is computed.
    mask_dtype : str or None
        Name of the dense mask's data type; None without one.
    masks : tuple of str
        Names of the mask kinds at work, in the order of `fastattn.masks.KINDS`.
    has_lengths, has_sinks, returns_lse : bool
        Whether the call passes `kv_lengths` and `sinks`, and wants the log-sum-exp.
    band : Band
        No key outside it is visible.
    lse_shape, out_shape : tuple of int
        (..., Hq, Lq) and (..., Hq, Lq, Dv); without heads for 2-D inputs.
    """

    dtype: DType
    two_dimensional: bool
    batch_shape: tuple[int, ...]
    heads_q: int
    heads_kv: int
    length_q: int
    length_k: int
    dim: int
    dim_v: int
    scale: float
    softcap: float | None
    causal: bool
    window: tuple[int | None, int | None] | None
    operation: Literal["forward"] = "forward"
    mask_dtype: str | None = None
    has_lengths: bool = False
    has_sinks: bool = False
    returns_lse: bool = False
    masks: tuple[str, ...] = ()
    band: Band = EVERYTHING
    lse_shape: tuple[int, ...] = field(init=False)
    out_shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        lse_shape: tuple[int, ...] = (self.length_q,)
        if not self.two_dimensional:
            lse_shape = (*self.batch_shape, self.heads_q, self.length_q)
        object.__setattr__(self, "lse_shape", lse_shape)
        object.__setattr__(self, "out_shape", (*lse_shape, self.dim_v))

    def __str__(self) -> str:
        return (
            f"B={self.batch} Hq={self.heads_q} Hkv={self.heads_kv} Lq={self.length_q} "
            f"Lk={self.length_k} D={self.dim} Dv={self.dim_v} {self.dtype.name}"
        )

    @property
    def batch(self) -> int:
        """Product of the batch axes."""
        return math.prod(self.batch_shape)

    @property
    def factors(self) -> tuple[float, float]:
        """What queries and then scores are multiplied by, which together is `scale`.

        Where queries times the scale could overflow or lose bits, most of it is left to the
        scores, as a power of two: all else keeps its bits.
        """
        if self.scale == 0 or _SMALL_SCALE <= abs(self.scale) <= 1:
            return self.scale, 1.0
        _, exponent = math.frexp(self.scale)
        exponent = exponent if exponent > 0 else exponent // 2
        factor = math.ldexp(1.0, min(exponent, int(np.finfo(self.dtype.compute).maxexp) - 1))
        return self.scale / factor, factor

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads_q // self.heads_kv

    @property
    def scores_shape(self) -> tuple[int, ...]:
        """(*batch, Hq, Lq, Lk)."""
        return (*self.batch_shape, self.heads_q, self.length_q, self.length_k)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the two matrix products if nothing is masked."""
        return math.prod(self.scores_shape) * (self.dim + self.dim_v)
