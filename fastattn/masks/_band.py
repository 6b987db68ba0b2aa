"""`Band`: the keys that a query may see around its own key position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["EVERYTHING", "Band"]


@dataclass(frozen=True, slots=True)
class Band:
    """Keys j with ``p - left <= j <= p + right``, where p is the query's key position.

    ``p = i + offset`` for query i; a `left` or `right` of None sets no limit on that side.
    """

    left: int | None = None
    right: int | None = None

    def __and__(self, other: Band) -> Band:
        """Keys that both bands see."""
        return Band(_least(self.left, other.left), _least(self.right, other.right))

    @property
    def limited(self) -> bool:
        """Whether some key can be outside the band."""
        return self.left is not None or self.right is not None

    def visible(self, offsets: np.ndarray, length_q: int, length_k: int) -> np.ndarray:
        """Keys in the band, bool (*batch, 1, Lq, Lk), for `offsets` int64 (*batch)."""
        position = np.arange(length_q)[:, None] + offsets[..., None, None, None]
        key = np.arange(length_k)
        seen = np.ones(np.broadcast_shapes(position.shape, key.shape), dtype=bool)
        if self.left is not None:
            seen &= key >= position - self.left
        if self.right is not None:
            seen &= key <= position + self.right
        return seen


EVERYTHING = Band()


def _least(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)
