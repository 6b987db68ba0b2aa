"""The data types of a call: one row each.

A row's `name` and `itemsize` are those of the storage type, which q, k, v and the result
have; `compute` is the type in which scores, sums and the log-sum-exp are held; `code` is
the type's number in ``src_cpp/abi.hpp`` (a test compares the two lists).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

__all__ = ["DTYPES", "DType", "lookup"]


class DType(NamedTuple):
    """One accepted data type."""

    name: str
    code: int
    itemsize: int
    compute: np.dtype[np.floating]


DTYPES: dict[str, DType] = {
    row.name: row
    for row in (
        DType("float32", 0, 4, np.dtype(np.float32)),
        DType("float64", 1, 8, np.dtype(np.float64)),
        DType("float16", 2, 2, np.dtype(np.float32)),
        DType("bfloat16", 3, 2, np.dtype(np.float32)),
    )
}


# Cached, because np.dtype.name builds a new string at each access.
@functools.lru_cache(maxsize=256)
def lookup(dtype: np.dtype) -> DType | None:
    """Row of a NumPy data type, or None if fastattn does not accept it.

    bfloat16 is recognised by its name, so that ``ml_dtypes`` is never imported here.
    """
    return DTYPES.get(dtype.name) if dtype.isnative else None
