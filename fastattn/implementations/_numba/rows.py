"""Rows of the call's arrays, read to and written from the working memory.

The arrays are 4-D (batch, head, position, feature) of any strides; rows are counted through
all positions of the first head, then of the next.  16-bit numbers come as their
bits, uint16: `half` tells whether they are float16 (1) or bfloat16 (2).
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from fastattn.implementations._numba.tile import item_bytes

FLOAT16, BFLOAT16 = 1, 2


@njit
def _half_to_float(bits, half):
    if half == BFLOAT16:
        return np.uint32(bits << 16).view(np.float32)
    magnitude = (bits & 0x7FFF) << 13
    # The product moves the exponent's bias by 127 - 15, and normalises subnormal numbers.
    finite = np.float32(np.uint32(magnitude).view(np.float32) * np.float32(2.0**112))
    value = magnitude | 0x7F800000 if magnitude >= 0x0F800000 else np.int64(finite.view(np.uint32))
    return np.uint32(value | ((bits & 0x8000) << 16)).view(np.float32)


@njit
def _float_to_half(x, half):
    """Nearest, ties to even; NaN stays a NaN."""
    bits = np.int64(np.float32(x).view(np.uint32))
    if half == BFLOAT16:
        rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
        return np.uint16(rounded if x == x else (bits >> 16) | 0x40)
    magnitude = bits & 0x7FFFFFFF
    # Adding 0.5 rounds what is below 2^-14 to multiples of 2^-24; 65520 rounds to infinity.
    subnormal = np.float32(np.uint32(magnitude).view(np.float32) + np.float32(0.5))
    value = (magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13
    if magnitude < 0x38800000:
        value = np.int64(subnormal.view(np.uint32)) - 0x3F000000
    elif magnitude >= 0x477FF000:
        value = 0x7C00 if x == x else 0x7E00
    return np.uint16(value | ((bits >> 16) & 0x8000))


def _widen(x, half):
    """A number of an array in the compute type."""
    raise NotImplementedError


@overload(_widen)
def _typed_widen(x, half):
    if x == types.uint16:
        return lambda x, half: _half_to_float(x, half)
    if x == types.uint8:  # a boolean mask, to be added
        return lambda x, half: 0.0 if x else -np.inf
    return lambda x, half: x


def _to_storage(x, like, half):
    """A number of the compute type as one of an array whose element `like` is."""
    raise NotImplementedError


@overload(_to_storage)
def _typed_to_storage(x, like, half):
    if like == types.uint16:
        return lambda x, like, half: _float_to_half(x, half)
    return lambda x, like, half: x


@njit
def read_row(work, at, array, b, row, first, count, half):
    """Copy `count` elements of a row, from `first` on."""
    h, i = row // array.shape[2], row % array.shape[2]
    to, source = work[at : at + count], array[b, h, i, first : first + count]
    if source.strides[0] == item_bytes(source):  # LLVM vectorises this one
        for j in range(count):
            to[j] = _widen(source[j], half)
    else:
        for j in range(count):
            to[j] = _widen(source[j], half)


@njit
def write_row(work, at, array, b, row, count, half):
    """Write a row of the result."""
    h, i = row // array.shape[2], row % array.shape[2]
    source, to = work[at : at + count], array[b, h, i]
    if to.strides[0] == item_bytes(to):
        for j in range(count):
            to[j] = _to_storage(source[j], to[j], half)
    else:
        for j in range(count):
            to[j] = _to_storage(source[j], to[j], half)


@njit
def clear_non_finite(row):
    """Replace NaN and infinities by 0; return whether there were any."""
    found = False
    for j in range(row.size):
        found |= not np.isfinite(row[j])
    if found:
        for j in range(row.size):
            row[j] = row[j] if np.isfinite(row[j]) else 0.0
    return found
