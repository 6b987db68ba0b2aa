"""Rows of the call's arrays, read to the working memory.

The arrays are 4-D (batch, head, position, feature) of any strides; rows are counted through
all positions of the first head, then of the next.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from fastattn.implementations._numba.tile import helper, item_bytes


def _number(x):
    """An element as a number; of a boolean mask, the one to be added to a score."""
    raise NotImplementedError


@overload(_number)
def _typed_number(x):
    if x == types.uint8:
        return lambda x: 0.0 if x else -np.inf
    return lambda x: x


@helper
def read_row(work, at, array, b, row, first, count):
    """Copy `count` elements of a row, from `first` on."""
    h, i = row // array.shape[2], row % array.shape[2]
    to, source = work[at : at + count], array[b, h, i, first : first + count]
    if source.strides[0] == item_bytes(source):  # LLVM vectorises this one
        for j in range(count):
            to[j] = _number(source[j])
    else:
        for j in range(count):
            to[j] = _number(source[j])


@helper(fastmath={"contract", "reassoc"})
def all_finite(matrix):
    """Whether there is neither NaN nor infinity: times 0, both are NaN."""
    zero = matrix.dtype.type(0)
    total, (rows, columns) = zero, matrix.shape
    for j in range(rows):
        if matrix.strides[1] == item_bytes(matrix):
            for d in range(columns):
                total += matrix[j, d] * zero
        else:
            for d in range(columns):
                total += matrix[j, d] * zero
    return total == zero


@helper(fastmath={"reassoc"})
def prefetch(matrix, step):
    """Read a number of each cache line in the order of memory; their sum has no meaning."""
    total = matrix.dtype.type(0)
    for j in range(len(matrix)):
        for d in range(0, matrix.shape[1], step):
            total += matrix[j, d]
    return total


@helper
def clear_non_finite(row):
    """Replace NaN and infinities by 0; return whether there were any."""
    found = False
    for j in range(row.size):
        found |= not np.isfinite(row[j])
        row[j] = row[j] if np.isfinite(row[j]) else 0.0
    return found
