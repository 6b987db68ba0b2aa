"""Arrays at chosen places in memory: any order of axes, step, sign and odd strides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NAMES = (
    "contiguous",
    "swapped",  # (..., L, H, D) in memory
    "fused",  # a third of a (..., L, 3, H, D) buffer
    "fortran",
    "stepped",  # every second element along an axis
    "reversed",  # a negative stride along an axis
    "unaligned",  # a packed record's field: odd strides, odd addresses
    "broadcast",  # a zero stride along an axis: not for results
)

_FILL = 0xA5


@dataclass(frozen=True)
class Placed:
    """A view and the bytes it lies in."""

    raw: np.ndarray
    view: np.ndarray

    def only_the_view_differs(self, before: np.ndarray) -> bool:
        """Whether `raw` is `before` but for the elements of `view`."""
        expected = before.copy()
        np.ndarray(
            self.view.shape, self.view.dtype, expected.data, self._offset(), self.view.strides
        )[...] = self.view
        return np.array_equal(expected, self.raw)

    def _offset(self) -> int:
        return self.view.ctypes.data - self.raw.ctypes.data


def place(
    shape: tuple[int, ...], dtype: np.dtype, layout: str = "contiguous", axis: int = 0
) -> Placed:
    """Array of `shape` laid out as `layout` (one of `NAMES`); `axis` is what it may act on.

    Its elements, and the bytes between them, are filled with a pattern: NaN to none of
    the types, but far from any result.
    """
    rank = len(shape)
    axis = axis % max(1, rank)
    order = list(range(rank))
    step = [1] * rank
    gap = 1 if layout == "unaligned" else 0
    if layout in ("swapped", "fused") and rank >= 3:
        order[-3], order[-2] = order[-2], order[-3]
    if layout == "fused" and rank >= 2:
        step[-2] = 3
    if layout == "fortran":
        order.reverse()
    if layout == "stepped" and rank:
        step[axis] = 2
    strides = [0] * rank
    stride = dtype.itemsize + gap
    for a in reversed(order):
        if layout == "broadcast" and a == axis:
            continue
        strides[a] = stride * step[a]
        stride *= step[a] * max(1, shape[a])
    offset = gap
    if layout == "reversed" and rank and shape[axis]:
        offset += strides[axis] * (shape[axis] - 1)
        strides[axis] = -strides[axis]
    raw = np.full(stride + gap + dtype.itemsize, _FILL, np.uint8)
    return Placed(raw, np.ndarray(shape, dtype, raw.data, offset, tuple(strides)))


def filled(
    values: np.ndarray, dtype: np.dtype, layout: str = "contiguous", axis: int = 0
) -> np.ndarray:
    """`values` rounded to `dtype` and laid out as `layout`."""
    view = place(values.shape, dtype, layout, axis).view
    with np.errstate(all="ignore"):
        view[...] = values.astype(dtype)
    return view
