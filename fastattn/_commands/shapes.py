"""A call's shape and data type as words on a command line, and arrays of them."""

from __future__ import annotations

import numpy as np

from fastattn._dtypes import DTYPES
from fastattn._errors import ArgumentError, format_error
from fastattn.tuner import workload

__all__ = ["DTYPE_HELP", "METAVAR", "arrays", "axes"]

METAVAR = "B,Hq,Hkv,Lq,Lk,D[,Dv]"
DTYPE_HELP = ", ".join(DTYPES)


def axes(shape: str) -> tuple[int, ...]:
    """B, Hq, Hkv, Lq, Lk, D and, if it is given, Dv.

    Raises
    ------
    ArgumentError
        `shape` is not understood.
    """
    try:
        found = tuple(int(part) for part in shape.split(","))
    except ValueError:
        found = ()
    if len(found) not in (6, 7) or min(found) < 0:
        raise ArgumentError(
            format_error(
                "--shape",
                repr(shape),
                f"6 or 7 whole numbers from 0 up: {METAVAR}",
                "write --shape 1,8,8,2048,2048,64",
            )
        )
    return found


def arrays(shape: str, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k and v of that shape that take no memory.

    Raises
    ------
    ArgumentError
        `shape` or `dtype` is not understood.
    UnavailableError
        `dtype` needs a package that is not installed.
    """
    return workload.arrays(axes(shape), dtype)
